"""Another adapter whose answers are long, as those of metrics with many series are: memory is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from adapter.apiserver import delegation
from tests.adapter.apiserver.test_delegation import BASE, bare, before
from tests.fakes import kubernetes_stand_in as stand_ins
from tests.fakes.cluster_world import until

MIB = 2**20
PATH = f"{BASE}/namespaces/ns"


async def test_long_answers_at_once_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 requests for one of 32 MiB took 2 GiB; short ones are answered meanwhile, and long ones later."""
    monkeypatch.setattr(delegation, "KEPT_BYTES", 4 * MIB)
    rest = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.path.endswith("long"):
            return web.json_response({"resources": []})
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(b"x" * MIB)
        await rest.wait()
        return response

    stand_ins.certificates(tmp_path)
    async with bare(tmp_path, answer) as other, before(tmp_path, other) as pair:
        asked = [asyncio.create_task(pair.get(f"{PATH}/{number}-long")) for number in range(12)]
        await until(lambda: sum(item.done() for item in asked) >= 8)
        assert (await pair.get(f"{PATH}/short"))[0] == 200
        rest.set()
        answers = [await item for item in asked]
        assert (await pair.get(f"{PATH}/long"))[0] == 200
    refused = [document for status, document, _ in answers if status == 503]
    assert 8 <= len(refused) < len(asked)
    assert all("too many long answers at once" in item["message"] for item in refused)

"""The connection to the API server: watches that send without end, and credentials that are half there."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from kubernetes_asyncio.config import incluster_config

from adapter.kube import client, errors
from adapter.kube.bodies import documents
from tests.fakes import kubernetes_stand_in as stand_ins

PODS = "/api/v1/pods"
PIECE = b"x" * 2**16


@contextlib.asynccontextmanager
async def watched(pieces: list[bytes]) -> AsyncIterator[client.Cluster]:
    """A cluster whose watch of pods sends these pieces."""

    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                await response.write(piece)
        return response

    async def authorize(_: dict[str, str]) -> None:
        return None

    app = web.Application()
    app.router.add_get(PODS, serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            server = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield client.Cluster(
                client.Connection(session=session, server=server, authorize=authorize)
            )
    finally:
        await runner.cleanup()


async def test_a_watch_line_without_end_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more than the limit is kept of it, however much comes."""
    monkeypatch.setattr(documents, "_LINE_BYTES", 2**20)
    async with watched([PIECE] * 1024) as cluster:
        tracemalloc.start()
        try:
            with pytest.raises(
                errors.Unavailable, match="a line of the watch is longer than 1 MiB"
            ):
                [event async for event in cluster.watch_objects(PODS, "1")]
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        finally:
            tracemalloc.stop()


async def test_lines_of_a_watch_are_put_together() -> None:
    """Wherever the pieces end, also within a line, at its end, and with blank lines in between."""
    text = b'\n{"type":"A","object":{}}\n\n{"type":"B","object":{"a":"b"}}\n{"type":"C'
    for size in (1, 7, 26, 100):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        async with watched(pieces) as cluster:
            events = [event async for event in cluster.watch_objects(PODS, "1")]
        assert [event["type"] for event in events] == ["A", "B"]


async def test_a_token_file_that_is_empty_for_a_moment_is_a_failed_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is none of the errors that end the election or a task; the next request reads the file again."""
    stand_ins.certificates(tmp_path)
    token, authority = tmp_path / "token", tmp_path / "serving.crt"
    token.write_text("one")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(incluster_config, "TOKEN_REFRESH_PERIOD", timedelta(0))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    async with client.connected(None) as cluster:
        for text in ("", "secret-\udcff", "a\nsecret-b"):
            token.write_text(text, errors="surrogateescape")
            with pytest.raises(errors.Unavailable) as caught:
                await cluster.request("GET", PODS)
            assert "secret" not in str(caught.value)
            if not text:
                assert "credentials of this pod cannot be read" in str(caught.value)
        token.write_text("two")
        headers: dict[str, str] = {}
        await cluster._connection.authorize(headers)
        assert "Bearer two" in headers.values()
    await asyncio.sleep(0)

"""Pods and gateways with https: their authority, and a token that goes nowhere else."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector import exposition
from adapter.collector.transport.access import Access

PAGE = """vllm:num_requests_running{model_name="m"} 1
vllm:num_requests_waiting{model_name="m"} 0
vllm:request_success_total{model_name="m"} 5
"""


class Server:
    """A page that wants a token, and what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.url = ""

    async def page(self, request: web.Request) -> web.Response:
        self.given.append(request.headers.get("Authorization", ""))
        return web.Response(text=PAGE)


@contextlib.asynccontextmanager
async def serving(
    authority: trustme.CA | None,
) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    """A server, by https where there is an authority; its certificate does not name its address."""
    server, context = Server(), None
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("llm.team.svc").configure_cert(context)
    app = web.Application()
    app.router.add_get("/metrics", server.page)
    test = TestServer(app, scheme="https" if context else "http")
    await test.start_server(ssl=context)
    async with test, aiohttp.ClientSession() as session:
        server.url = str(test.make_url("/metrics"))
        yield server, session


async def test_a_pod_with_an_authority_of_its_own_is_read(tmp_path: Path) -> None:
    """With its authority, or unverified by the explicit setting; otherwise the error names the flag."""
    authority, other = trustme.CA(), trustme.CA()
    own, wrong = tmp_path / "own.pem", tmp_path / "wrong.pem"
    authority.cert_pem.write_to_path(str(own))
    other.cert_pem.write_to_path(str(wrong))
    async with serving(authority) as (server, session):
        for by in (Access(ca_file=own), Access(insecure=True)):
            page, _ = await exposition.fetch(session, server.url, "m", by=by)
            assert page.finished == 5
        for by in (Access(), Access(ca_file=wrong)):
            with pytest.raises(exposition.ScrapeError, match="--pods-ca-file"):
                await exposition.fetch(session, server.url, "m", by=by)
        with pytest.raises(exposition.ScrapeError, match=r"CA file .* cannot be used"):
            await exposition.fetch(session, server.url, "m", by=Access(ca_file=tmp_path / "none"))


async def test_the_token_is_read_again_and_goes_over_https_only(tmp_path: Path) -> None:
    """A rotated file counts at the next request; plain http gets none."""
    authority, token = trustme.CA(), tmp_path / "token"
    by = Access(insecure=True, token_file=token)
    async with serving(authority) as (server, session):
        for text in ("one", "two"):
            token.write_text(f"{text}\n")
            await exposition.fetch(session, server.url, "m", by=by)
        assert server.given == ["Bearer one", "Bearer two"]
        token.write_text("")
        with pytest.raises(exposition.ScrapeError, match="has no token"):
            await exposition.fetch(session, server.url, "m", by=by)
    token.write_text("three")
    async with serving(None) as (server, session):
        await exposition.fetch(session, server.url, "m", by=by)
        assert server.given == [""]

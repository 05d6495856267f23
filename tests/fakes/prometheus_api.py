"""A fake of the query API of Prometheus over real sockets: one that answers, and one that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.prometheus import PrometheusClient, PrometheusError, PrometheusOptions

QUERY = " or ".join(f"sum by (namespace, pod) (vllm:metric_number_{n})" for n in range(40))
"""Longer than what an error repeats of a response."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Dialogue = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def vector(*items: tuple[dict[str, str], str], at: float = 1.5, **more: Any) -> dict[str, Any]:
    """An answer as Prometheus gives it."""
    result = [{"metric": labels, "value": [at, value]} for labels, value in items]
    return {
        "status": "success",
        "data": {"resultType": "vector", "result": result},
        **more,
    }


ONE = vector(({"pod": "p"}, "1"))


class Server:
    """Answers `/api/v1/query`, and records the requests."""

    def __init__(self, answer: Handler | dict[str, Any] | web.Response = ONE) -> None:
        self.answer = answer
        self.methods: list[str] = []
        self.bodies: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.clients: set[Any] = set()

    async def _query(self, request: web.Request) -> web.StreamResponse:
        self.methods.append(request.method)
        self.paths.append(request.path_qs)
        self.bodies.append({key: str(value) for key, value in (await request.post()).items()})
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.clients.add(request.transport.get_extra_info("peername"))
        if isinstance(self.answer, dict):
            return web.json_response(self.answer)
        if isinstance(self.answer, web.Response):
            # A response can be sent once.
            sent = self.answer
            return web.Response(status=sent.status, body=sent.body, headers=sent.headers)
        return await self.answer(request)

    @contextlib.asynccontextmanager
    async def running(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield its base URL."""
        app = web.Application()
        app.router.add_route("*", f"{prefix}/api/v1/query", self._query)
        async with TestServer(app) as server:
            yield f"http://127.0.0.1:{server.port}{prefix}"


@contextlib.asynccontextmanager
async def raw(talk: Dialogue) -> AsyncIterator[str]:
    """A server that writes what no HTTP library would: `talk` runs after each request; yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(url: str, **more: Any) -> AsyncIterator[PrometheusClient]:
    """A client with a session of its own."""
    options = PrometheusOptions(**{"timeout_seconds": 60.0, **more, "url": url})
    async with aiohttp.ClientSession() as session:
        yield PrometheusClient(session, options)


async def failing(url: str, *, named: str | None = None, query: str = QUERY, **more: Any) -> str:
    """The text of the error, which has the form that each has."""
    async with connected(url, **more) as client:
        with pytest.raises(PrometheusError) as caught:
            await client.query(query)
        assert (client.queries, client.failures) == (1, 1)
    text = str(caught.value)
    assert text.startswith(f"Prometheus {named or url}: ")
    assert "\n" not in text
    assert len(text) < 500
    assert query not in text
    return text


def refused() -> str:
    """A URL where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"

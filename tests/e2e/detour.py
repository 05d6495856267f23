"""A way to the API server on which chosen requests arrive late, or none at all, as a network can have it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.e2e.control_plane import ControlPlane

_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
"""Headers of one connection."""


class Detour:
    """What passes on a replica's requests.

    Attributes:
        url: Address of it.
        holds: Whether a request, by method and path, waits for `let_go`; its sender is then cut off.
        holding: Set once a request is kept.
        arrived: Statuses of the requests that were kept.

    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._cut = False
        self._streams: set[asyncio.Task[None]] = set()
        self._kept: set[asyncio.Task[None]] = set()
        self.url = ""
        self.holds: Callable[[str, str], bool] = lambda _method, _path: False
        self.holding = asyncio.Event()
        self.let_go = asyncio.Event()
        self.arrived: list[int] = []

    def kubeconfig(self, original: Path) -> Path:
        """A kubeconfig of the same user, by this way."""
        path = original.with_name("detour.kubeconfig")
        path.write_text(original.read_text().replace(self._plane.url, self.url))
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if not self._cut and self.holds(request.method, request.path):
            self._cut = True
            for stream in self._streams:
                stream.cancel()
            kept = asyncio.create_task(self._arrive_late(request, body))
            self._kept.add(kept)
            self.holding.set()
        if self._cut:
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPServiceUnavailable
        response = web.StreamResponse()
        async with self._sent(request, body) as answer:
            response.set_status(answer.status, answer.reason)
            response.headers.extend(
                (name, value) for name, value in answer.headers.items() if name.lower() not in _HOP
            )
            await response.prepare(request)
            passing = asyncio.create_task(self._pass(answer, response))
            self._streams.add(passing)
            passing.add_done_callback(self._streams.discard)
            await passing
        return response

    @staticmethod
    async def _pass(answer: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        async for piece in answer.content.iter_any():
            await response.write(piece)

    async def _arrive_late(self, request: web.Request, body: bytes) -> None:
        await self.let_go.wait()
        async with self._sent(request, body) as answer:
            self.arrived.append(answer.status)

    @contextlib.asynccontextmanager
    async def _sent(
        self, request: web.Request, body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: text for name, text in request.headers.items() if name.lower() not in _HOP}
        context = ssl.create_default_context(cafile=str(self._plane.folder / "ca.crt"))
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"{self._plane.url}{request.path_qs}",
                data=body, headers=headers, ssl=context, timeout=aiohttp.ClientTimeout(total=None),
            ) as answer,
        ):  # fmt: skip
            yield answer

    async def close(self) -> None:
        """End what is still kept."""
        for task in [*self._kept, *self._streams]:
            task.cancel()


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[Detour]:
    """A detour to a control plane."""
    way = Detour(plane)
    app = web.Application(client_max_size=8 * 2**20)
    app.router.add_route("*", "/{path:.*}", way.handle)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(plane.folder / "kas.crt", plane.folder / "kas.key")
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    way.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield way
    finally:
        await way.close()
        await runner.cleanup()

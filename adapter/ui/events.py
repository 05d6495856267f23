"""Server-sent events: a tick to every open page when there is something new to fetch.

The number of streams is bounded, each holds at most one tick that is not sent yet, and one whose client does
not read is closed. Beyond the bound the address with most streams loses its oldest one for one of another
address, so that one client's pages do not lock out others. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass

import structlog
from aiohttp import web

from adapter.ui import guard

log = structlog.get_logger()

MOST_STREAMS = 32
"""Pages that are kept up to date at the same time."""

BEAT_SECONDS = 20.0
"""Seconds without a tick after which a comment keeps the stream open."""

WRITE_SECONDS = 10.0
"""Seconds in which a client must take what is sent, or it is dropped."""

BUFFER_BYTES = 1024
"""Bytes of one stream that wait to be taken before its client counts as slow."""

LIFE_SECONDS = 3600.0
"""Seconds after which a stream ends; the browser opens another one by itself."""

RETRY_MS = 5000

TICK = "event: tick\ndata: {}\n\n"

HEADERS = {
    **guard.HEADERS,
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",
}


@dataclass(slots=True)
class _Stream:
    """One open stream.

    Attributes:
        peer: Address of its client.
        displaced: Whether another address has taken its place, so that it ends.

    """

    peer: str
    displaced: bool = False


class Streams:
    """All open streams."""

    def __init__(self) -> None:
        self._open: dict[asyncio.Event, _Stream] = {}
        self._number = 0
        self._ended = False
        self._viewed = asyncio.Event()

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._open)

    async def viewed(self) -> None:
        """Wait until a stream is open."""
        await self._viewed.wait()

    def tick(self, number: int) -> None:
        """Tell every page that a snapshot of that number can be fetched."""
        self._number = number
        for waiting in self._open:
            waiting.set()

    def again(self) -> None:
        """Tell every page that it can fetch more of the same snapshot."""
        self.tick(self._number)

    def end(self) -> None:
        """End every stream; there will be no more."""
        self._ended = True
        for waiting in self._open:
            waiting.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send ticks until the client is gone, too slow, or the stream has lived long enough."""
        peer = request.remote or ""
        if self._ended or not self._make_room(peer):
            # 204 tells the browser not to try again by itself.
            return web.Response(status=204)
        response = web.StreamResponse(headers=HEADERS)
        waiting = asyncio.Event()
        stream = self._open[waiting] = _Stream(peer)
        self._viewed.set()
        try:
            await response.prepare(request)
            if request.transport is not None:
                # `write` then waits until the client has taken nearly all.
                request.transport.set_write_buffer_limits(high=BUFFER_BYTES)
            await self._send(response, f"retry: {RETRY_MS}\n\n")
            await self._pump(response, waiting, stream)
        except TimeoutError:
            log.info("page does not take its updates; closing its stream", peer=request.remote)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            log.debug("page is gone; closing its stream", peer=request.remote)
        finally:
            self._open.pop(waiting, None)
            if not self._open:
                self._viewed.clear()
        return response

    def _make_room(self, peer: str) -> bool:
        """Whether one more stream of an address may open; it may take the place of another one."""
        if len(self._open) < MOST_STREAMS:
            return True
        count = Counter(stream.peer for stream in self._open.values())
        most, number = count.most_common(1)[0]
        if number <= count[peer] + 1:
            return False
        # The first is the oldest.
        waiting = next(key for key, stream in self._open.items() if stream.peer == most)
        self._open.pop(waiting).displaced = True
        waiting.set()
        log.info("too many pages are open; closing the oldest stream of an address", peer=most)
        return True

    async def _pump(
        self, response: web.StreamResponse, waiting: asyncio.Event, stream: _Stream
    ) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + LIFE_SECONDS
        while not (self._ended or stream.displaced) and loop.time() < ends:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await waiting.wait()
            if stream.displaced:
                return
            if waiting.is_set():
                waiting.clear()
                await self._send(response, TICK.format(self._number))
            else:
                await self._send(response, ": still there\n\n")

    async def _send(self, response: web.StreamResponse, text: str) -> None:
        async with asyncio.timeout(WRITE_SECONDS):
            await response.write(text.encode())

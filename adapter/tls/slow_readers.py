"""Clients that take their answers slowly or not at all: how far each is, and how much is kept for them.

An answer is in memory until its client has taken the last piece of it, however small what waits in the
connection's buffer is; some are made anew for each request and have some MiB.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

PIECE_BYTES = 64 * 1024
"""Longer answers are sent in pieces of that many bytes, each when those before it have been taken."""

KEPT_BYTES = 64 * 2**20
"""Bytes of all answers of one listener together whose clients have to be waited for."""

ASKED_BYTES = 80 * 1024
"""Most bytes between two blank lines of what is received: of a request's head, or of its body. A head that
has not ended is kept, and takes up to five times as much."""

MOST_HEADERS = 512
"""Most headers of a request: a front proxy sends one for each group of a user, and some have hundreds."""

_BLANK_LINE = b"\r\n\r\n"


@dataclass(slots=True, eq=False)
class Progress:
    """How a client takes what is sent to it.

    Attributes:
        paused_since: time of the event loop since which its buffer is full; None while it is not.
        answer_bytes: bytes of the last answer if it is a long one, else 0.
        asked: whether something was received since the last answer began.

    """

    paused_since: float | None = None
    answer_bytes: int = 0
    asked: bool = False

    def takes_nothing(self, now: float, seconds: float) -> bool:
        """Whether its buffer has been full for that many seconds, and never had room in between."""
        return self.paused_since is not None and now - self.paused_since >= seconds


class Noting(asyncio.Protocol):
    """The protocol of a connection, and since when it may not write.

    Who looked now and then would always find a slow client's buffer full, though it has room in between.
    """

    def __init__(
        self,
        progress: Progress,
        served: RequestHandler,
        paused: Callable[[], None],
        *,
        half_open_seconds: float,
    ) -> None:
        """Follow a connection.

        Args:
            progress: where it is noted how the client takes what is sent.
            served: protocol of the server.
            paused: called after the buffer has become full.
            half_open_seconds: seconds for which one who sends no more can wait for an answer; 0 with TLS,
                where the event loop closes the connection in any case.

        """
        self._progress = progress
        self._served = served
        self._paused = paused
        self._half_open_seconds = half_open_seconds
        self._transport: asyncio.BaseTransport | None = None
        self._end: asyncio.TimerHandle | None = None
        self._asked_bytes, self._last_bytes = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._served.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        if self._end is not None:
            self._end.cancel()
        self._served.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; close the connection instead once a request is longer than any that is meant."""
        seen = self._last_bytes + data
        end = seen.rfind(_BLANK_LINE)
        self._last_bytes = seen[1 - len(_BLANK_LINE) :]
        self._asked_bytes += len(data)
        if end >= 0:
            self._asked_bytes = len(seen) - end - len(_BLANK_LINE)
        if self._asked_bytes > ASKED_BYTES and self._transport is not None:
            self._transport.close()
            return
        self._progress.asked = True
        self._served.data_received(data)
        _drop_frames(self._served)

    def eof_received(self) -> bool:
        """Read the end; whether the connection stays open for an answer that is due, or is being sent.

        Some clients shut down their sending side once they have asked.
        """
        self._served.eof_received()
        due = self._progress.asked or self._progress.answer_bytes
        if not due or not self._half_open_seconds or self._transport is None:
            return False
        # No answer comes to half a request.
        loop, end = asyncio.get_running_loop(), self._transport.close
        self._end = loop.call_later(self._half_open_seconds, end)
        self._served.close()  # after the answer
        return True

    def pause_writing(self) -> None:
        """Note that the buffer is full."""
        self._progress.paused_since = asyncio.get_running_loop().time()
        self._served.pause_writing()
        if self._progress.answer_bytes:
            asyncio.get_running_loop().call_soon(self._paused)

    def resume_writing(self) -> None:
        """Note that the client has taken most of it."""
        self._progress.paused_since = None
        self._served.resume_writing()


def _drop_frames(served: RequestHandler) -> None:
    """Drop the traceback of the error that is answered last, if it is one.

    Its frames, of the event loop too, hold a quarter of a MiB several times, in a cycle with the error, until
    the collector runs: hundreds of MiB after some hundred connections.
    """
    waiting = served._messages  # noqa: SLF001 - errors stand there until they are answered
    error = getattr(waiting[-1][0], "exc", None) if waiting else None
    if isinstance(error, BaseException):
        error.__traceback__ = None


def too_many(waited_for: Iterable[Progress]) -> list[Progress]:
    """Those of some clients that are closed, so that what is kept for the others has at most KEPT_BYTES.

    Who has taken nothing for longest goes first; one that takes piece after piece is hardly ever among them.
    """
    paused = [item for item in waited_for if item.paused_since is not None and item.answer_bytes]
    kept = sum(item.answer_bytes for item in paused)
    if kept <= KEPT_BYTES:
        return []
    closed = []
    for item in sorted(paused, key=lambda item: item.paused_since or 0.0):
        closed.append(item)
        kept -= item.answer_bytes
        if kept <= KEPT_BYTES:
            break
    return closed


def length(response: web.StreamResponse) -> int:
    """Bytes of an answer that is long; 0 for others, such as streams, which keep nothing."""
    if not isinstance(response, web.Response):
        return 0
    body = response.body
    known = body.size if isinstance(body, aiohttp.Payload) else len(body or b"")
    return known if known is not None and known > PIECE_BYTES else 0


def cut(response: web.StreamResponse) -> None:
    """Have a long answer sent in pieces: all at once, it would wait in the buffer of a slow client."""
    if isinstance(response, web.Response) and not response.compression and length(response):
        body = response.body
        if isinstance(body, bytes | bytearray):
            response.body = io.BytesIO(body)

"""Listeners: TLS with certificates that are reloaded, or plain; bounded connections, timeouts, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import ClientConnectionResetError, web
from aiohttp.http import HttpProcessingError

from adapter import errors, tasks
from adapter.tls import slow_readers
from adapter.tls.certificates import Certificates
from adapter.tls.connections import (
    CONNECTIONS,
    DEFAULT_LIMITS,
    LOG_SECONDS,
    ConnectionLimits,
    Connections,
)

log = structlog.get_logger()

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 1024
"""Connections that the kernel keeps until they are accepted."""


class Drain:
    """The end of a server in two steps: first it is not ready, while it still answers, then it stops."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        """Fail the readiness check from now on."""
        self._begun = True

    def begun(self) -> bool:
        """Whether the end has begun."""
        return self._begun

    def check(self) -> str | None:
        """Readiness check: fails once the end has begun."""
        return "shutting down" if self._begun else None


class _ServerLog(logging.Handler):
    """What the HTTP server logs, in the program's log: of what everybody can cause, once a minute the number.

    Those are requests that are no HTTP, each of which would be a traceback that holds parts of it, and
    clients that go while their requests are handled. Requests whose handling raises an error are logged
    once a minute for each type of error, with one traceback: who has found such a request can repeat it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._counts: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._count("requests that are no HTTP refused")
        elif isinstance(error, ClientConnectionResetError):
            self._count("clients closed connections before their answers")
        elif number := self._due(kind := type(error).__name__ if error else record.getMessage()):
            log.error("requests failed", requests=number, problem=kind, exc_info=error)

    def _count(self, event: str) -> None:
        if number := self._due(event):
            log.warning(event, requests=number)

    def _due(self, kind: str) -> int:
        """Count one of a kind; how many there were since the last line of it, 0 where none is due yet."""
        self._counts[kind] += 1
        now = time.monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < LOG_SECONDS:
            return 0
        self._logged_at[kind] = now
        return self._counts.pop(kind)


def _logger() -> logging.Logger:
    """A logger of one listener."""
    logger = logging.Logger("aiohttp.server")  # noqa: LOG001 - not that of other listeners
    logger.addHandler(_ServerLog())
    return logger


@contextlib.asynccontextmanager
async def listening(
    application: web.Application,
    *,
    host: str,
    port: int,
    certificates: Certificates | None,
    limits: ConnectionLimits = DEFAULT_LIMITS,
    flag: str = "--port",
) -> AsyncIterator[int]:
    """Serve until the context ends, and give the port; requests in flight then finish, or time out.

    Args:
        application: what is served.
        host: address or name to listen on.
        port: port; 0 picks a free one.
        certificates: serving certificate and client authorities; None serves without TLS.
        limits: limits of connections.
        flag: flag that chooses the port, for the error message.

    Raises:
        StartupError: the address is in use, or not of this machine.

    """
    application.on_response_prepare.append(_send_in_pieces)
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=_logger(),
        keepalive_timeout=limits.idle_seconds,  # for a whole request, of clients that are slow too
        shutdown_timeout=limits.drain_seconds,
        max_headers=slow_readers.MOST_HEADERS,
        auto_decompress=False,  # a kilobyte may be a megabyte, whose unpacking takes the time of all
        lingering_time=0.0,  # bodies are not read behind their answers: small chunks take the time of all
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - setup() makes it
    runner.server.request_handler = _refusing_odd_expectations(runner.server.request_handler)
    context = None if certificates is None else certificates.listening
    connections = Connections(runner.server, context=context, limits=limits)
    application[CONNECTIONS].append(connections)
    loop = asyncio.get_running_loop()
    try:
        sockets = await _listen(host, port, flag)
        for item in sockets:
            loop.add_reader(item, connections.accept, item)
        reloading = certificates is not None and asyncio.create_task(
            certificates.follow_files(), name="reload certificates"
        )
        try:
            yield sockets[0].getsockname()[1]
        finally:
            for item in sockets:
                loop.remove_reader(item)
                item.close()
            connections.close()
            if reloading:
                await tasks.cancel(reloading)
    finally:
        connections.close()  # again where no address could be listened on
        await runner.cleanup()


def _refusing_odd_expectations(handle: Handler) -> Handler:
    """Refuse what the server would quote in its refusal and cannot encode: each would be an error."""

    async def checked(request: web.BaseRequest) -> web.StreamResponse:
        if not request.headers.get("Expect", "").isascii():
            return web.Response(status=417, text="417: Expectation Failed")
        return await handle(request)

    return checked


async def _send_in_pieces(request: web.Request, response: web.StreamResponse) -> None:
    """Have a long answer sent piece by piece, and what is kept for slow clients bounded."""
    length = slow_readers.length(response)
    if length:
        slow_readers.cut(response)
    for connections in request.app[CONNECTIONS]:
        connections.answering(request.protocol, length)


async def _listen(host: str, port: int, flag: str) -> list[socket.socket]:
    """Listening sockets of every address of the host.

    Raises:
        StartupError: an address is in use, or not of this machine.

    """
    sockets: list[socket.socket] = []
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(addresses):
            item = socket.create_server((address[0], address[1]), family=family, backlog=BACKLOG)
            item.setblocking(False)
            sockets.append(item)
    except OSError as error:
        for item in sockets:
            item.close()
        fix = f"; is another adapter running? choose another port with {flag}"
        raise errors.StartupError(
            f"cannot listen on {host}:{port}: {error.strerror or error}"
            + (fix if error.errno == errno.EADDRINUSE else "")
        ) from error
    return sockets

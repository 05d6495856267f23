"""The TLS listener: certificates exchanged while it serves, a bound on connections, timeouts, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from aiohttp import web

from adapter import errors
from adapter.tls.certificates import Certificates

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take.

    Attributes:
        connections: open at the same time; more are closed at once.
        handshake_seconds: for the TLS handshake.
        idle_seconds: for a request to arrive whole, on a new connection or after the last one. More than the
            90 s after which kube-apiserver closes: a server that closes first makes clients fail.
        drain_seconds: that requests in flight have to finish when the server ends.
        shutdown_seconds: for the end of TLS.

    """

    connections: int = 1000
    handshake_seconds: float = 10.0
    idle_seconds: float = 100.0
    drain_seconds: float = 10.0
    shutdown_seconds: float = 2.0


DEFAULT_LIMITS = Limits()


class Bounded:
    """Makes handlers for new connections, and ends those that are too many."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server = server
        self._most = most
        self._warned = False

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        if len(self._server.connections) < self._most:
            self._warned = False
            return self._server()
        if not self._warned:
            log.warning("too many connections; new ones are closed", limit=self._most)
            self._warned = True
        return _Refusal()


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Drain:
    """The end of a server in two steps: first it is not ready, while it still answers, then it stops."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        """Fail the readiness check from now on."""
        self._begun = True

    def check(self) -> str | None:
        """Readiness check: fails once the end has begun."""
        return "shutting down" if self._begun else None


@contextlib.asynccontextmanager
async def listening(
    application: web.Application,
    *,
    host: str,
    port: int,
    certificates: Certificates,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[int]:
    """Serve until the context ends; gives the port. Requests in flight then finish, or time out.

    Raises:
        StartupError: the address cannot be listened on.

    """
    runner = web.AppRunner(
        application,
        access_log=None,
        # A connection without a whole request after this long is closed, be it idle or trickling.
        keepalive_timeout=limits.idle_seconds,
        shutdown_timeout=limits.drain_seconds,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - set up makes it
    loop = asyncio.get_running_loop()
    try:
        try:
            server = await loop.create_server(
                Bounded(runner.server, limits.connections),
                host,
                port,
                ssl=certificates.listening,
                ssl_handshake_timeout=limits.handshake_seconds,
                ssl_shutdown_timeout=limits.shutdown_seconds,
                backlog=1024,
            )
        except OSError as error:
            fix = "; is another adapter running? choose one with --port"
            raise errors.StartupError(
                f"cannot listen on {host}:{port}: {error.strerror or error}"
                + (fix if error.errno == errno.EADDRINUSE else "")
            ) from error
        files = asyncio.create_task(certificates.follow_files(), name="follow certificates")
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            files.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await files
    finally:
        await runner.cleanup()

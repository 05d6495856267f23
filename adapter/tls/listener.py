"""The TLS listener: certificates that are reloaded, a limit of connections, timeouts, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from aiohttp import web

from adapter import errors, tasks
from adapter.tls.certificates import Certificates

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: Connections that are open at the same time; further ones are closed at once. Default
            1,000.
        handshake_seconds: Seconds for the TLS handshake. Default 10.
        idle_seconds: Seconds for a whole request to arrive, on a new connection or after the last request.
            Default 100, more than the 90 s after which kube-apiserver closes: requests fail where the server
            closes first.
        drain_seconds: Seconds for requests in flight to finish when the server ends. Default 10.
        shutdown_seconds: Seconds for the TLS shutdown of a connection. Default 2.

    """

    connections: int = 1000
    handshake_seconds: float = 10.0
    idle_seconds: float = 100.0
    drain_seconds: float = 10.0
    shutdown_seconds: float = 2.0


DEFAULT_LIMITS = ConnectionLimits()


class Bounded:
    """Makes protocols for new connections, and closes those above the limit."""

    def __init__(self, server: web.Server, limit: int) -> None:
        self._server = server
        self._limit = limit
        self._warned = False

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        if len(self._server.connections) < self._limit:
            self._warned = False
            return self._server()
        if not self._warned:
            log.warning("connection limit reached; closing new connections", limit=self._limit)
            self._warned = True
        return _Closed()


class _Closed(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


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


@contextlib.asynccontextmanager
async def listening(
    application: web.Application,
    *,
    host: str,
    port: int,
    certificates: Certificates,
    limits: ConnectionLimits = DEFAULT_LIMITS,
) -> AsyncIterator[int]:
    """Serve until the context ends, and give the port; requests in flight then finish, or time out.

    Raises:
        StartupError: the address is in use, or not of this machine.

    """
    runner = web.AppRunner(
        application,
        access_log=None,
        # Closes connections without a whole request in this time, be they idle or slow.
        keepalive_timeout=limits.idle_seconds,
        shutdown_timeout=limits.drain_seconds,
    )
    await runner.setup()
    assert runner.server is not None  # noqa: S101 - setup() makes it
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
            fix = "; is another adapter running? choose another port with --port"
            raise errors.StartupError(
                f"cannot listen on {host}:{port}: {error.strerror or error}"
                + (fix if error.errno == errno.EADDRINUSE else "")
            ) from error
        files = asyncio.create_task(certificates.follow_files(), name="reload certificates")
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await tasks.cancel(files)
    finally:
        await runner.cleanup()

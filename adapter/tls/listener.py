"""The TLS listener: certificates exchanged while it serves, a bound on connections, timeouts, drain."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from adapter import errors

log = structlog.get_logger()

RELOAD_SECONDS = 1.0
"""Between looks at certificate files."""


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


class Certificates:
    """Serving certificate and client authorities, exchanged without dropping a connection.

    Handshakes use whatever was loaded last: the listening context hands each one over to the current context
    (server name callback, called with and without a name). What cannot be loaded is not used.
    """

    def __init__(self, certificate: Path, key: Path, client_cas: bytes) -> None:
        self.certificate = certificate
        self.key = key
        self._client_cas = client_cas
        self._seen = self._bytes()
        self._current = server_context(certificate, key, client_cas)
        self.listening = server_context(certificate, key, client_cas)
        # Whether a client certificate is asked for is not exchanged with the context, the rest is.
        self.listening.verify_mode = ssl.CERT_OPTIONAL
        self.listening.sni_callback = self._hand_over

    def _hand_over(self, connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def trust(self, client_cas: bytes) -> None:
        """Take other client authorities for new connections.

        Raises:
            StartupError: they are no PEM certificates; the former stay.

        """
        self._current = server_context(self.certificate, self.key, client_cas)
        self._client_cas = client_cas

    async def follow_files(self) -> None:
        """Load certificate and key again whenever a file changes, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            seen = await asyncio.to_thread(self._bytes)
            if seen == self._seen:
                continue
            try:
                self._current = server_context(self.certificate, self.key, self._client_cas)
            except errors.StartupError as error:
                # Half-written: certificate and key change one after the other.
                log.warning("serving certificate not loaded; the last stays", error=str(error))
            else:
                log.info("serving certificate loaded again", file=str(self.certificate))
                self._seen = seen

    def _bytes(self) -> tuple[bytes, bytes]:
        found = []
        for path in (self.certificate, self.key):
            try:
                found.append(path.read_bytes())
            except OSError:
                found.append(b"")
        return found[0], found[1]


def server_context(certificate: Path, key: Path, client_cas: bytes) -> ssl.SSLContext:
    """TLS 1.2 or newer; asks for a client certificate of these authorities, and takes none too.

    Raises:
        StartupError: a file is unreadable, no PEM, or certificate and key do not belong together.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise errors.StartupError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise errors.StartupError(
            f"{certificate}, {key}: no PEM certificate and key that belong together"
            f" ({error.reason or error})"
        ) from error
    if client_cas:
        try:
            context.load_verify_locations(cadata=client_cas.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise errors.StartupError(f"client CA: no PEM certificates in it ({error})") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


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
    """Whether the server is about to end: then it is not ready, and still answers."""

    def __init__(self) -> None:
        self.ending = False

    def check(self) -> str | None:
        """Readiness check."""
        return "shutting down" if self.ending else None


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

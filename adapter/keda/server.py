"""The port of the external scaler: gRPC over TLS, with limits that a stranger cannot lift.

Imports grpc, which is in the extra `keda`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import structlog
from grpc import aio

from adapter import errors
from adapter.keda.options import KedaOptions
from adapter.keda.protocol import externalscaler_pb2_grpc as contract
from adapter.keda.relay import Relay
from adapter.keda.requests import RequestsInTime
from adapter.keda.service import STREAMS, ExternalScaler
from adapter.tls.certificates import server_context

log = structlog.get_logger()

CALLS = 256
"""Calls in progress at most, besides streams."""

MESSAGE_BYTES = 16 * 1024
"""Bytes of the largest request, and of a call's metadata: a trigger's metadata is far below."""

RELOAD_SECONDS = 1.0
"""Seconds between two looks at the certificate files, and so the least between two of them."""

DRAIN_SECONDS = 1.0
"""Seconds that calls in progress have at the end."""

OPTIONS = (
    ("grpc.so_reuseport", 0),  # an address in use is an error
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", STREAMS + CALLS),
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    # A peer that is gone is noticed, and one that pings too often is cut off.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 60_000),
    ("grpc.http2.max_ping_strikes", 2),
)


class CertificateFiles:
    """Serving certificate, key and client authorities, read again when they are replaced."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Read them.

        Raises:
            StartupError: a file cannot be read or used.

        """
        self._paths = (certificate, key, client_ca)
        self._read_at = time.monotonic()
        self._seen = self._bytes()
        self._check()
        self.first = self._configuration()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' new contents; None where they are as before, or cannot be used."""
        now = time.monotonic()
        if now - self._read_at < RELOAD_SECONDS:
            return None
        self._read_at = now
        try:
            seen = self._bytes()
            if seen == self._seen:
                return None
            self._check()
        except errors.StartupError as error:
            # They change one after the other, so some may be new and some old.
            log.warning("certificate of the KEDA port unusable; keeping the last", error=str(error))
            return None
        self._seen = seen
        log.info("certificate of the KEDA port reloaded", file=str(self._paths[0]))
        return self._configuration()

    def _bytes(self) -> tuple[bytes, ...]:
        contents = []
        for path in self._paths:
            try:
                contents.append(b"" if path is None else path.read_bytes())
            except OSError as error:
                raise errors.StartupError(f"{path}: cannot be read: {error.strerror}") from error
        return tuple(contents)

    def _check(self) -> None:
        """Check that the files on disk belong together.

        Raises:
            StartupError: they do not, or are not PEM.

        """
        certificate, key, client_ca = self._paths
        assert certificate is not None  # noqa: S101 - only the authorities may be missing
        assert key is not None  # noqa: S101 - as above
        authorities = b"" if client_ca is None else client_ca.read_bytes()
        if client_ca is not None and not authorities.strip():
            raise errors.StartupError(f"{client_ca}: is empty; put the client authorities into it")
        server_context(certificate, key, authorities)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._seen
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=client_ca or None
        )


@contextlib.asynccontextmanager
async def listening(
    service: ExternalScaler, options: KedaOptions, *, certificate: Path, key: Path
) -> AsyncIterator[int]:
    """Serve until the context ends, and give the port.

    Args:
        service: what is served.
        options: address, port and files.
        certificate: serving certificate where the options name none.
        key: its private key.

    Raises:
        StartupError: the address cannot be used, or a file is unusable.

    """
    mutual = options.callers == "certificate"
    files = CertificateFiles(
        options.certificate or certificate,
        options.key or key,
        options.client_ca if mutual else None,
    )
    credentials = grpc.dynamic_ssl_server_credentials(
        files.first, files.changed, require_client_authentication=mutual
    )
    server = aio.server(
        options=OPTIONS,
        maximum_concurrent_rpcs=STREAMS + CALLS,
        interceptors=[RequestsInTime(service.address)],
    )
    contract.add_ExternalScalerServicer_to_server(service, server)
    # Its own port is on loopback: connections are accepted and counted by the relay.
    relay = Relay(server.add_secure_port("127.0.0.1:0", credentials))
    service.use_addresses(relay.address)
    host = f"[{options.host}]" if ":" in options.host else options.host
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop, DRAIN_SECONDS)
        try:
            port = await stack.enter_async_context(relay.listening(options.host, options.port))
        except OSError as error:
            raise errors.StartupError(
                f"cannot listen on {host}:{options.port} for KEDA; choose another port with --keda-port"
            ) from error
        log.info(
            "external scaler for KEDA is open", address=f"{host}:{port}", callers=options.callers
        )
        try:
            yield port
        finally:
            # Calls in progress end before the connections that they came by.
            await server.stop(DRAIN_SECONDS)

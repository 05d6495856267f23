"""Serving certificates, exchanged while the server runs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import structlog

from adapter import errors

log = structlog.get_logger()

RELOAD_SECONDS = 1.0
"""Between looks at certificate files."""


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

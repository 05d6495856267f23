"""Serving certificate and client authorities, reloaded while the server runs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from adapter import errors, logs

log = logs.LazyLogger()

RELOAD_SECONDS = 1.0
"""Seconds between checks of the certificate files for changes."""


class Certificates:
    """Serving certificate and client authorities, replaced without dropping a connection.

    Handshakes use what was loaded last: the listening context hands each one over to the current context, in
    the server name callback, which is called with and without a name. What cannot be loaded is not used.

    Attributes:
        certificate: Path of the serving certificate, PEM.
        key: Path of its private key, PEM.
        listening: Context for the listener.

    """

    def __init__(self, certificate: Path, key: Path, client_cas: bytes) -> None:
        self.certificate = certificate
        self.key = key
        self._client_cas = client_cas
        self._seen = self._bytes()
        self._current = server_context(certificate, key, client_cas)
        self.listening = server_context(certificate, key, client_cas)
        # Whether a client certificate is requested is decided by this context, all else by the current one.
        self.listening.verify_mode = ssl.CERT_OPTIONAL
        self.listening.sni_callback = self._hand_over

    def _hand_over(self, connection: ssl.SSLObject, _name: str, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def trust(self, client_cas: bytes) -> None:
        """Use other client authorities for new connections.

        Raises:
            StartupError: they are not PEM certificates; the last ones stay in use.

        """
        self._current = server_context(self.certificate, self.key, client_cas)
        self._client_cas = client_cas

    @property
    def expires_at(self) -> float | None:
        """End of the serving certificate's validity, Unix seconds; None where it cannot be read."""
        try:
            certificate = x509.load_pem_x509_certificate(self._seen[0])
        except ValueError:
            return None
        return certificate.not_valid_after_utc.timestamp()

    async def follow_files(self) -> None:
        """Reload certificate and key whenever a file changes, until cancelled."""
        problem = ""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            seen = await asyncio.to_thread(self._bytes)
            if seen == self._seen:
                continue
            try:
                self._current = server_context(self.certificate, self.key, self._client_cas)
            except errors.StartupError as error:
                # Certificate and key change one after the other, so one may be new and one old.
                if str(error) != problem:
                    log.warning("serving certificate unusable; keeping the last", error=str(error))
                problem = str(error)
            else:
                problem = ""
                log.info("serving certificate reloaded", file=str(self.certificate))
                self._seen = seen

    def _bytes(self) -> tuple[bytes, bytes]:
        contents = []
        for path in (self.certificate, self.key):
            try:
                contents.append(path.read_bytes())
            except OSError:
                contents.append(b"")
        return contents[0], contents[1]


def server_context(certificate: Path, key: Path, client_cas: bytes) -> ssl.SSLContext:
    """Make a server context: TLS 1.2 or newer, with an optional client certificate of these authorities.

    Args:
        certificate: path of the serving certificate, PEM.
        key: path of its private key, PEM.
        client_cas: authorities of client certificates, PEM; empty requests no client certificate.

    Raises:
        StartupError: a file cannot be read, is not PEM, or certificate and key do not belong together.

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
    except OSError as error:
        # Read a second time: a file that is being replaced may be gone by now.
        raise errors.StartupError(
            f"{certificate}, {key}: cannot be read: {error.strerror}"
        ) from error
    if client_cas:
        try:
            context.load_verify_locations(cadata=client_cas.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise errors.StartupError(f"client CA: no PEM certificates in it ({error})") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context

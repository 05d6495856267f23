"""TLS settings of connections to other servers, reloaded when one of their files changes."""

from __future__ import annotations

import ssl
from pathlib import Path


class ClientContext:
    """Provides the `SSLContext` of the files as they are now.

    Files are compared by content: mounted Secrets change by a swapped symbolic link, and the time and size
    of a file can stay the same.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        insecure: bool = False,
    ) -> None:
        """`ca_file` None: the system's authorities; `key` None: the certificate's file holds it."""
        self._ca_file = ca_file
        self._certificate = certificate
        self._key = key
        self._insecure = insecure
        self._contents: tuple[bytes, ...] = ()
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The same context as before as long as no file has changed.

        Raises:
            OSError: a file cannot be read (`filename` is set), or holds no certificate or key (SSLError).

        """
        files = [file for file in (self._ca_file, self._certificate, self._key) if file is not None]
        contents = tuple(file.read_bytes() for file in files)
        if self._context is None or contents != self._contents:
            self._context, self._contents = self._made(), contents
        return self._context

    def _made(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)
        if self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key)
        return context

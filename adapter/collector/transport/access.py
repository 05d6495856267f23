"""How servers and gateways are reached over https: authorities, and a token from a file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

_MOST_TOKEN_BYTES = 64 * 1024


class AccessError(ValueError):
    """A file that is needed to reach servers cannot be used; names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What servers of one kind are reached with.

    Attributes:
        ca_file: Certificate authorities (PEM) of their certificates; None for those of the system. Addresses
            need not be in the certificates then: pods have them for names.
        insecure: Whether certificates are not verified.
        token_file: File with a bearer token, read before each request; it goes over https only.
        token_over_http: Whether the token goes over http too.
        trusted: Whether the operator named the servers; others get no token, for tenants may run them.

    """

    ca_file: Path | None = None
    insecure: bool = False
    token_file: Path | None = None
    token_over_http: bool = False
    trusted: bool = True

    def withheld(self, url: str) -> str:
        """Why there is a token that does not go to that URL, with the flag; empty where it does."""
        if self.token_file is None:
            return ""
        if not self.trusted:
            return "its namespace gets no token (--gateways-token-namespaces)"
        if urlsplit(url).scheme != "https" and not self.token_over_http:
            return "its token goes over https only (--gateways-token-over-http)"
        return ""

    def headers(self, url: str) -> dict[str, str]:
        """Headers of a request to that URL.

        Raises:
            AccessError: the file cannot be read, or has no token.

        """
        if self.token_file is None or self.withheld(url):
            return {}
        try:
            with self.token_file.open("rb") as file:
                token = file.read(_MOST_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeError) as error:
            raise AccessError(f"token file {self.token_file} cannot be read") from error
        if not token or not token.isprintable():
            raise AccessError(f"token file {self.token_file} has no token")
        return {"Authorization": f"Bearer {token}"}

    def tls(self, url: str) -> ssl.SSLContext | bool:
        """The context of a connection to that URL; a file that was replaced counts at once.

        Raises:
            AccessError: the authorities cannot be read.

        """
        if urlsplit(url).scheme != "https":
            return True
        if self.insecure:
            return False
        if self.ca_file is None:
            return True
        try:
            file_status = self.ca_file.stat()
            return _context(self.ca_file, file_status.st_mtime_ns, file_status.st_size)
        except OSError as error:
            raise AccessError(f"CA file {self.ca_file} cannot be used") from error


@lru_cache(maxsize=8)
def _context(path: Path, _changed: int, _size: int) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(path))
    context.check_hostname = False
    return context


PLAIN = Access()
"""The authorities of the system, and no token."""

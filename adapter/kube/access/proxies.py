"""The HTTP proxy that the environment names for an API server, by HTTPS_PROXY and NO_PROXY as for kubectl.

aiohttp's own reading of the environment takes credentials from `.netrc` too, with which a request that has a
token is refused, and hands work to a thread twice for every request.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def of_environment(server: str) -> str | None:
    """URL of the proxy for requests to a server of that URL; None: the environment names none for it."""
    try:
        parts = urlsplit(server)
    except ValueError:
        return None  # The first request says what is wrong with the URL.
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)

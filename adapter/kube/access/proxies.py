"""The HTTP proxy that the environment names for an API server, by HTTPS_PROXY and NO_PROXY as for kubectl.

aiohttp's own reading of the environment takes credentials from `.netrc` too, with which a request that has a
token is refused, and hands work to a thread twice for every request. Python's reading of NO_PROXY has no
networks (`10.0.0.0/8`), by which clusters name their Services, and sends requests to this machine to a proxy.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}

_SCHEMES = ("http://", "https://", "socks5://", "socks5h://")


def of_environment(server: str) -> str | None:
    """URL of the proxy for requests to a server of that URL; None: the environment names none for it."""
    try:
        parts = urlsplit(server)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None  # The first request says what is wrong with the URL.
    if parts.hostname is None or port is None or _direct(parts.hostname, port):
        return None
    proxy = _variable(f"{parts.scheme}_PROXY")
    if not proxy:
        return None
    return proxy if proxy.lower().startswith(_SCHEMES) else f"http://{proxy}"


def _variable(name: str) -> str:
    return (os.environ.get(name.upper()) or os.environ.get(name.lower()) or "").strip()


def _direct(host: str, port: int) -> bool:
    """Whether requests to a host in lower case go to it without a proxy: to this machine always."""
    host = host.removesuffix(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (item.strip().lower() for item in _variable("NO_PROXY").split(","))
    return any(_names(entry, host, port) for entry in entries if entry)


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY, `*`, a network, an address or a domain, is of a host.

    An address and a domain may have a port. A domain is that of the hosts below it too; one with a dot before
    it, of these alone.
    """
    address = _address(host)
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):
        # Also a single address, whose network has nothing else.
        network = ipaddress.ip_network(entry, strict=False)
        return address is not None and address in network
    try:
        named = urlsplit(f"//{entry}")
        name, own_port = named.hostname or "", named.port
    except ValueError:
        return False
    if own_port not in {None, port}:
        return False
    if (own := _address(name)) is not None:
        return own == address
    domain = name.removeprefix("*").removesuffix(".")
    below = domain if domain.startswith(".") else f".{domain}"
    return domain.strip(".") != "" and (host == domain or host.endswith(below))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None

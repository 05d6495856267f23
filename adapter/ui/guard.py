"""What a browser may do with the pages: headers of every response, and requests of other sites refused.

The pages may be open to whoever can reach a forwarded port, so a page of another site in the same browser
must be able neither to read them, by a name that it lets resolve to the loopback address, nor to send a form
to them, nor to make the server work.
"""

from __future__ import annotations

import ipaddress
import urllib.parse

from aiohttp import web

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


FOREIGN_NAME = "a forwarded port must be opened by the name localhost or by a loopback address"
"""Reason to refuse a request over loopback by any other name."""


def refusal(request: web.Request, *, loopback: bool) -> str:
    """Reason to refuse a request; empty for one of the pages themselves, or of no page.

    Args:
        request: Request for a page.
        loopback: Whether it came from this machine or pod, which needs no token.

    """
    if loopback and not names_loopback(request.host):
        return FOREIGN_NAME
    site = request.headers.get("Sec-Fetch-Site", "")
    if request.method not in {"GET", "HEAD"}:
        return _form_refusal(request, site)
    navigates = request.headers.get("Sec-Fetch-Mode", "") == "navigate"
    return (
        "pages of other sites may not load this" if site == "cross-site" and not navigates else ""
    )


def _form_refusal(request: web.Request, site: str) -> str:
    origin = request.headers.get("Origin", "")
    # Every browser sends one of both with a form.
    if not site and not origin:
        return "a form needs the header Origin or Sec-Fetch-Site, as browsers send them"
    try:
        other = bool(origin) and urllib.parse.urlsplit(origin).netloc != request.host
    except ValueError:
        other = True
    return (
        "forms are accepted of these pages only" if other or site not in {"", "same-origin"} else ""
    )


def names_loopback(host: str) -> bool:
    """Whether a Host header names this machine by a name that nobody else can let resolve."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

"""Pages of a list, of some MiB each, so that a collection is never in memory as a whole.

A page is read and parsed in one go, during which nothing else has its turn, and parsed JSON takes several
times its bytes. Objects of tenants may be 1.5 MiB each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from adapter.kube.errors import Unavailable

FIRST, LEAST, MOST = 100, 2, 500
"""Objects of the first page of a list, and the bounds of later ones."""

WANTED_BYTES = 4 * 2**20
"""Bytes that a page should have: parsing them takes some hundredths of a second."""

MOST_BYTES = 2 * WANTED_BYTES
"""Most bytes that are read of one page of a list. A longer page is dropped, and the same place of the list is
requested again with a smaller `limit`: the objects before say nothing of the size of those that follow.
"""

FEWER = 4
"""Divisor of `limit`, the number of objects of a page, after a page that is too long."""


EMPTY_SECONDS = 0.5
"""Seconds that a page without objects takes where more follow: a server may have any number of them."""


class TooLongError(Exception):
    """A response is longer than it may be."""


async def body(response: aiohttp.ClientResponse, most: int | None) -> bytes:
    """The body of a response.

    Args:
        response: Response of which nothing was read.
        most: Most bytes that it may have; None for any number.

    Raises:
        TooLongError: It has more of them; what is left of it is not read.

    """
    if most is None:
        return await response.read()
    read = bytearray()
    async for piece in response.content.iter_any():
        read += piece
        if len(read) > most:
            response.close()
            raise TooLongError
    return bytes(read)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list.

    Attributes:
        items: its objects.
        version: resource version of the list, to watch from.

    """

    items: list[dict[str, Any]]
    version: str


def longest(asked: int) -> int | None:
    """Most bytes of a page of so many objects; one alone may be as long as it is."""
    return MOST_BYTES if asked > 1 else None


def following(asked: int, length: int) -> int:
    """Objects to ask for after a page that was asked for so many and had that many bytes."""
    fit = asked * WANTED_BYTES // max(length, 1)
    return max(LEAST, min(fit, 2 * asked, MOST))


async def read(document: Mapping[str, Any], *, path: str, after: str) -> tuple[Page, str]:
    """A page, and the token that continues the list; empty at its end.

    Args:
        document: the response.
        path: URL path of the list.
        after: `continue` token with which the page was requested; empty for the first page.

    Raises:
        Unavailable: the page is followed by itself.

    """
    metadata = document.get("metadata") or {}
    items = [item for item in document.get("items") or () if isinstance(item, dict)]
    page = Page(items, str(metadata.get("resourceVersion") or ""))
    token = str(metadata.get("continue") or "")
    if token and token == after:
        raise Unavailable(f"{path}: a page of the list is followed by itself", path=path)
    if token and not items:
        await asyncio.sleep(EMPTY_SECONDS)
    return page, token

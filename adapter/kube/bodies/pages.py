"""Pages of a list, of some MiB each, so that a collection is never in memory as a whole.

A page is read and parsed in one go, during which nothing else has its turn, and parsed JSON takes several
times its bytes. Objects of tenants may be 1.5 MiB each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIRST, LEAST, MOST = 100, 5, 500
"""Objects of the first page of a list, and the bounds of later ones."""

WANTED_BYTES = 4 * 2**20
"""Bytes that a page should have: parsing them takes some hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list.

    Attributes:
        items: its objects.
        version: resource version of the list, to watch from.

    """

    items: list[dict[str, Any]]
    version: str


def following(asked: int, length: int) -> int:
    """Objects to ask for after a page that was asked for so many and had that many bytes."""
    fit = asked * WANTED_BYTES // max(length, 1)
    return max(LEAST, min(fit, 2 * asked, MOST))


def read(document: Mapping[str, Any]) -> tuple[Page, str]:
    """A page, and the token that continues the list; empty at its end."""
    metadata = document.get("metadata") or {}
    items = [item for item in document.get("items") or () if isinstance(item, dict)]
    page = Page(items, str(metadata.get("resourceVersion") or ""))
    return page, str(metadata.get("continue") or "")

"""The fleet page: what is asked for by its query, and what the template shows."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter.tasks import Pieces
from adapter.ui import groups as grouping
from adapter.ui import rows
from adapter.ui.snapshots import Snapshot

PAGE_ROWS = 100
"""Variants of one page."""

_NEAR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a query asks for; what has no meaning counts as not asked.

    Attributes:
        words: Words that names must have.
        state: State; empty for any.
        service_class: Class; empty for any.
        sort: One of `rows.SORTS`.
        page: Page, from 1.

    """

    words: str
    state: str
    service_class: str
    sort: str
    page: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Selection:
        """Read a query."""
        page, sort, state = query.get("page", ""), query.get("sort", ""), query.get("state", "")
        number = int(page) if page.isascii() and page.isdigit() and len(page) <= 6 else 1
        return cls(
            words=query.get("q", "")[:100],
            state=state if state in rows.STATES else "",
            service_class=query.get("class", "")[:253],
            sort=sort if sort in rows.SORTS else "attention",
            page=max(number, 1),
        )

    def query(self, page: int, sort: str = "") -> str:
        """The query of another page of the same, or of another order."""
        sort = sort or self.sort
        fields = {
            "q": self.words,
            "state": self.state,
            "class": self.service_class,
            "sort": "" if sort == "attention" else sort,
            "page": str(page),
        }
        some = {name: value for name, value in fields.items() if value}
        return urllib.parse.urlencode(some, errors="replace")


async def context(snapshot: Snapshot, selection: Selection, pieces: Pieces) -> dict[str, Any]:
    """What the template needs."""
    everything, sums = snapshot.rows, snapshot.sums
    some = rows.selected(
        everything,
        words=selection.words,
        state=selection.state,
        service_class=selection.service_class,
    )
    await pieces.breathe()
    order = rows.ordered(some, selection.sort)
    await pieces.breathe()
    pages = max(-(-len(order) // PAGE_ROWS), 1)
    page = min(selection.page, pages)
    shown = order[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    headed = selection.sort == "attention"
    groups = grouping.grouped(shown, everything) if headed else [grouping.alone(shown)]
    return {
        "here": "fleet",
        "asked": selection,
        "states": rows.STATES,
        "sorts": rows.SORTS,
        "classes": [part.label for part in sums.by_class if part.label],
        "by_state": sums.by_state,
        "by_class": sums.by_class,
        "by_accelerator": sums.by_accelerator,
        "whole": sums.whole,
        "matching": len(order),
        "groups": groups,
        "headed": headed,
        "rows_shown": len(shown),
        "page": page,
        "pages": pages,
        "shown_pages": _near(page, pages),
        **common(snapshot),
    }


def common(snapshot: Snapshot) -> dict[str, Any]:
    """What every page shows of the process."""
    return {
        "at": snapshot.at,
        "leading": snapshot.leading,
        "leader": snapshot.leader,
        "problem": snapshot.problem,
        "capacity": snapshot.capacity,
        "states": rows.STATES,
    }


def _near(page: int, pages: int) -> list[int | None]:
    """Numbers of pages to link to; None where some are left out."""
    numbers = {1, pages, *range(max(page - _NEAR, 1), min(page + _NEAR, pages) + 1)}
    links: list[int | None] = []
    for number in sorted(numbers):
        last = links[-1] if links else 0
        if last is not None and number > last + 1:
            links.append(None)
        links.append(number)
    return links

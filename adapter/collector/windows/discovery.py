"""When to query Prometheus for further servers of pods whose own metrics pages are scraped directly.

A pod may have several servers of which its objects name one. Prometheus knows those that it scrapes, and one
query has the pods of the whole fleet: it is made now and then, and sooner after new pods came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

INTERVAL_SECONDS = 300.0
"""Time between two such queries."""

NEW_PODS_SECONDS = 60.0
"""The same where pods came since the last one: Prometheus has scraped them by then."""

LOOKS, LOOKS_SECONDS = 5, 15.0
"""Most queries in a row, and the time between them, while addresses of a pod may be of one server or of two:
several looks tell them apart."""


class Discovery:
    """The last query, and the pods that there were."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._more_looks = 0
        self._known: frozenset[str] = frozenset()

    def due(self, endpoints: Mapping[str, Sequence[str]], *, now: float) -> frozenset[str]:
        """Keys of the variants to ask for: all of these, or none where no query is due.

        Args:
            endpoints: Endpoints of the pods that answer, by key of their variant.
            now: Monotonic seconds.

        """
        present = frozenset(one for row in endpoints.values() for one in row)
        if not present:
            return frozenset()
        if self._at is None:
            self._at = now
        wait = INTERVAL_SECONDS
        if self._more_looks:
            wait = LOOKS_SECONDS
        elif not present <= self._known:
            wait = NEW_PODS_SECONDS
        if now - self._at < wait:
            return frozenset()
        self._at, self._known = now, present
        return frozenset(endpoints)

    def done(self, *, undecided: bool) -> None:
        """Note the answer to a query; `undecided`: whether another look may tell servers apart."""
        looks = self._more_looks or LOOKS
        self._more_looks = looks - 1 if undecided else 0

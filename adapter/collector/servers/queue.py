"""Queue gauges that are too high because they keep requests whose clients disconnected.

Requests are taken up in the order in which they came, so one that is served while others wait was waiting at
the page before, and its time to first token says so. Where first tokens come at once instead, and the server
has room for more, the requests that its gauge has are none: they would have been taken up.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics

PAGES = 2
"""Pages in a row that say so, before the queue is not counted any more."""

_SHARE = 0.1
"""Largest share of the wait that the order of service would need, for it to be none."""

_ROOM = 0.5
"""Largest share of the KV cache in use that leaves room, where no profile says how large a batch may be."""

LEFT = (
    "its queue of {number:.0f} is not counted: first tokens come without a wait, and there is room in the"
    " batch (the gauge keeps requests of disconnected clients; a restart of the pod clears it)"
)


@dataclass(slots=True)
class Queue:
    """What the pages of one address say of its queue.

    Attributes:
        left: Requests in the gauge that do not wait; 0 where the gauge agrees with the times to first token.

    """

    left: float = 0.0
    _pages: int = 0

    def note(self, before: PodMetrics, page: PodMetrics, *, seconds: float, batch: float) -> None:
        """Compare a page with the one before it.

        Args:
            before: Last page of the same process.
            page: This page.
            seconds: Time between the two.
            batch: Largest batch that a profile has; 0 without one.

        """
        least = min(before.waiting, page.waiting)
        served, waited = page.ttft[1] - before.ttft[1], page.ttft[0] - before.ttft[0]
        if served < 0 or waited < 0:
            self.left, self._pages = 0.0, 0  # it began anew
            return
        # What was found to be none stays none, also while others wait behind it.
        self.left = min(self.left, page.waiting)
        if served == 0 or seconds <= 0:
            return  # says nothing of who waits
        # Spread over the time: each waited from the page before until it was served.
        ordered = 0.5 * min(served, before.waiting) * seconds
        if least <= 0 or waited > _SHARE * ordered or not _has_room(page, batch):
            self._pages = 0
            return
        self._pages += 1
        if self._pages >= PAGES:
            self.left = max(self.left, least)


def _has_room(page: PodMetrics, batch: float) -> bool:
    """Whether a server can take up more requests."""
    if batch > 0 and page.running >= batch:
        return False
    full = 1.0 if page.kv_cache is None else page.kv_cache
    return full <= _ROOM or (page.kv_cache is None and batch > 0)

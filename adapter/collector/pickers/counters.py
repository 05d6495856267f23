"""Growth of the counters of a gateway from one scrape to the next, and which of it counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

DOUBTFUL_SCRAPES = 20
"""Scrapes that must follow from each other after a counter fell without beginning anew."""

_SUDDEN, _TIMES_FASTEST = 100.0, 4.0
"""Requests per second, and times the highest rate so far, beyond which growth counts when the next scrape
shows a quarter of it or more: another picker behind an address, with counters of its own, is a jump once."""

_LONGEST_SCRAPE = 120.0
"""Longest interval, seconds, at which Prometheus is taken to scrape a gateway: it shows a sample until the
next one, and what that one adds came since."""

_BURST_SECONDS = 10.0
"""Least time over which such a rate is taken: a gateway is scraped several times a second while a model
sleeps, and requests that are sent together are no other picker's."""


@dataclass(slots=True)
class Counter:
    """Counters of one model at one gateway, as of its last scrape.

    Attributes:
        since: Monotonic seconds from which on they follow from each other.
        at: Monotonic seconds of the scrape.
        forwarded: Requests that were forwarded.
        waiting: Requests in the queue.
        rejected: Requests that were turned away.
        grew_at: Monotonic seconds of the last scrape that showed more forwarded than the one before.
        growth: Monotonic seconds, requests that came and requests that were turned away.
        doubtful: Further scrapes that give no rate.
        fastest: Highest rate of requests per second so far.
        sudden: Rate that is held until it goes on; 0 for none.
        held: Requests of it.

    """

    since: float
    at: float
    forwarded: float
    waiting: float
    rejected: float
    grew_at: float
    growth: deque[tuple[float, float, float]] = field(default_factory=deque)
    doubtful: int = 0
    fastest: float = 0.0
    sudden: float = 0.0
    held: float = 0.0

    def doubt(self) -> None:
        """Give no rate until so many scrapes follow from each other."""
        self.doubtful, self.sudden, self.held = DOUBTFUL_SCRAPES, 0.0, 0.0
        self.growth.clear()

    def confirmed(self, forwarded: float, *, now: float, sampled: bool) -> float:
        """What of the growth counts; the rest is held until the next scrape says whether it goes on.

        Args:
            forwarded: Requests that were forwarded since the last scrape.
            now: Monotonic seconds.
            sampled: Whether a scrape may show an earlier sample again, as those of Prometheus do.

        """
        if sampled and forwarded <= 0:
            return 0.0
        since = max(min(self.grew_at, self.at), now - _LONGEST_SCRAPE) if sampled else self.at
        seconds, self.grew_at = now - since, now
        rate = forwarded / max(seconds, _BURST_SECONDS)
        goes_on = self.sudden > 0 and rate >= self.sudden / _TIMES_FASTEST
        if not goes_on and rate > max(_SUDDEN, _TIMES_FASTEST * self.fastest):
            self.sudden, self.held = rate, forwarded
            return 0.0
        before = self.held if goes_on else 0.0
        self.sudden, self.held, self.fastest = 0.0, 0.0, max(self.fastest, rate)
        return before + forwarded

"""Whether the counters of a page are those of the process of the page before it, or began anew."""

from __future__ import annotations

from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics

NEAR_ZERO_SHARE = 0.1
"""Largest share of a counter that a restarted server has again at its first scrape."""

FEW = 10.0
"""Requests that a restarted server may have finished at its first scrape, whatever the one before had."""

_TIMES_THERE, _MORE_THERE = 4.0, 64.0
"""Requests in service at once that a new server's counters may imply: so many times those that are there, and
as many more."""

_FASTEST_TOKENS = 2000.0
"""Tokens per second that no request gets."""


START_SECONDS = 2.0
"""Tolerance between the start of a container as Kubernetes has it, and times of pages."""

SAME_START_SECONDS = 2.0
"""Tolerance between two reports of one start time: servers report it by a clock of their own."""

REGAIN_PAGES = 40
"""Pages within which a counter that fell without a restart may have again what it lost."""


@dataclass(slots=True)
class Lost:
    """What counters of one address fell by without a restart, for it may come back."""

    _fell: tuple[float, ...] = ()
    _pages: int = 0

    def note(self, before: PodMetrics, after: PodMetrics) -> None:
        """Note by how much counters are less than on the page before."""
        pairs = zip(counts(before), counts(after), strict=True)
        self._fell, self._pages = tuple(max(was - now, 0.0) for was, now in pairs), 0

    def regained(self, before: PodMetrics, after: PodMetrics) -> bool:
        """Whether a counter has at once what it lost, asked once a page: that is not what came in between."""
        self._pages += 1
        pairs = zip(counts(before), counts(after), strict=True)
        grown = (now - was for was, now in pairs)
        regained = any(0 < fell <= more for fell, more in zip(self._fell, grown, strict=False))
        if regained or self._pages > REGAIN_PAGES:
            self._fell = ()
        return regained


def counts(page: PodMetrics) -> tuple[float, ...]:
    """What may fall without a restart, and come back."""
    return page.finished, page.ttft[1], page.prompt_tokens[0], page.generation_tokens[0]


def fell(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether one of its two counts of requests is smaller."""
    return after.finished < before.finished or after.ttft[1] < before.ttft[1]


def another_start(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether both pages show when their process started, and not the same time."""
    was, start = before.started_at, after.started_at
    return was is not None and start is not None and abs(start - was) > SAME_START_SECONDS


def counts_fell(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether a count of lengths or times is smaller."""
    names = ("prompt_tokens", "generation_tokens", "ttft", "itl")
    return any(getattr(after, name)[1] < getattr(before, name)[1] for name in names)


def again(
    before: PodMetrics, after: PodMetrics, started: float | None, *, since: float, now: float
) -> bool:
    """Whether counters fell, or are few, as the container had `started` after the last page, at `since`.

    Not where they hold more than a server can have served since then: that is what is left of older counts.
    All monotonic seconds; Kubernetes reports starts in whole ones, by the clock of the node. A server that
    ends again and again after few requests may have as many at each page.
    """
    if started is None or not since - START_SECONDS <= started <= now + START_SECONDS:
        return False
    if after.started_at is not None or not (fell(before, after) or after.finished <= FEW):
        return False
    return _served_in(after, seconds=now - started + START_SECONDS)


def went_on(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether all counts are at least what they were, which those of a process that began anew are not."""
    pairs = zip(counts(before), counts(after), strict=True)
    return before.finished > FEW and all(now >= was for was, now in pairs)


def fell_alone(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether one of two counts of requests fell and the other did not, which no restart does."""
    counts = (before.finished, after.finished), (before.ttft[1], after.ttft[1])
    return all(was > FEW for was, _ in counts) and any(now >= was for was, now in counts)


def copied(before: PodMetrics, after: PodMetrics) -> bool:
    """Whether a page that stood was a copy of an older one: more ended since than it had."""
    return 0 < before.stock < after.finished - before.finished


def since_start(
    page: PodMetrics, started: float | None, *, after: float, now: float
) -> float | None:
    """Its start where all that a server's first page counts came since then, later than `after`; else None.

    What took more time in service than there was since then did not: that is the start of another process,
    such as a proxy that writes the page, or by a clock that moved. Times are monotonic seconds.
    """
    if started is None or not after < started <= now:
        return None
    return started if _served_in(page, seconds=max(now - started, 1.0)) else None


def _served_in(page: PodMetrics, *, seconds: float) -> bool:
    """Whether a server can have served all that its page counts within so many seconds."""
    served = max(page.itl[0], page.generation_tokens[0] / _FASTEST_TOKENS)
    return served <= seconds * (_TIMES_THERE * page.stock + _MORE_THERE)

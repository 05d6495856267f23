"""Load that falls and comes back: how long replicas are kept for it, as a problem of renting or buying.

Keeping replicas costs their price for that time; giving them back too early costs a start-up in which all
requests are late, and the replicas that work off their queue. How long load stays away is not known beforehand,
but how long it did before is: the hold is the one that would have cost least then (Karlin, Manasse, McGeoch and
Owicki, "Competitive randomized algorithms for nonuniform problems", Algorithmica 11, 1994, for known times).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

SHARE = 0.8
"""Share of the replicas before a fall below which load is away, and from which on it is back."""

LEAST_REPLICAS = 2
"""Replicas that a fall must take away: one more or less may be the noise of the rate."""

MOST_WINDOWS = 8.0
"""Windows after which load that is away is no longer waited for: the longest hold."""

MARGIN = 1.25
"""Hold over the time away that it is to outlast: times away differ."""

REMEMBERED_SECONDS = 3600.0
"""Time for which a return is remembered."""

LATE_SHARE = 0.01
"""Share of the requests that may be late: what makes more of them late in the time that is remembered is worth
more than the replicas alone."""


@dataclass(frozen=True, slots=True)
class Need:
    """Replicas that the arrivals need at a time, in seconds."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Away:
    """Load that was away: until when, and for how many seconds; infinite where it was not waited for."""

    until: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Returns:
    """What is known of the falls and returns of one variant's load.

    Attributes:
        needs: Replicas that the arrivals needed within the last window, the oldest first.
        level: Replicas that they needed before they fell the last time.
        lowest: Fewest that they needed since, until they were back.
        peak: Most that were recommended since they were back, those for a queue included.
        away_at: When they fell, seconds; None while they are not away.
        times: When load was away, the last time last.

    """

    needs: tuple[Need, ...] = ()
    level: int = 0
    lowest: int = 0
    peak: int = 0
    away_at: float | None = None
    times: tuple[Away, ...] = ()


def seen(before: Returns, needed: int, recommended: int, *, now: float, window: float) -> Returns:
    """What is known after one more cycle.

    Args:
        before: What was known.
        needed: Replicas that the arrivals need.
        recommended: Replicas that were recommended, those for a queue included.
        now: Seconds, not less than before.
        window: Stabilization window, seconds.

    """
    needs = tuple(item for item in before.needs if item.at > now - window)
    after = replace(before, needs=(*needs, Need(now, needed)), peak=max(before.peak, recommended))
    if before.away_at is None:
        level = max((min(a.replicas, b.replicas) for a, b in pairwise(needs)), default=0)
        if _below(needed, level):
            return replace(after, level=level, lowest=needed, away_at=now)
        return after
    away = now - before.away_at
    if _below(needed, before.level):
        if away > MOST_WINDOWS * window:
            return replace(after, away_at=None, times=_with(before, Away(now, math.inf)))
        return replace(after, lowest=min(before.lowest, needed))
    return replace(after, away_at=None, peak=recommended, times=_with(before, Away(now, away)))


def hold_seconds(returns: Returns, *, now: float, window: float) -> float:
    """Seconds for which fewer replicas must suffice before they go: the window, or longer where it pays.

    The hold of least cost for the times away that are remembered, and one for ever: load need not come back.
    A return costs a window of all replicas that it took, in units of the replicas that would have been kept;
    more, where returns make more requests late than may be, half a window's each time.
    """
    times = [item.seconds for item in returns.times if item.until > now - REMEMBERED_SECONDS]
    known = list(filter(math.isfinite, times))
    if not known or window <= 0:
        return window
    late = len(known) * 0.5 * window / REMEMBERED_SECONDS
    price = window * returns.peak / (returns.level - returns.lowest) * (1.0 + late / LATE_SHARE)

    def cost(hold: float) -> float:
        return sum(away if away <= hold else hold + price for away in (*times, math.inf))

    holds = sorted(min(MARGIN * item, MOST_WINDOWS * window) for item in known)
    return min((window, *(item for item in holds if item > window)), key=cost)


def _below(replicas: int, level: int) -> bool:
    return replicas <= min(SHARE * level, level - LEAST_REPLICAS)


def _with(returns: Returns, away: Away) -> tuple[Away, ...]:
    oldest = away.until - REMEMBERED_SECONDS
    return (*(item for item in returns.times if item.until > oldest), away)

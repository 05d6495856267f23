"""Load that falls and comes back: how long replicas are kept for it, as a problem of renting or buying.

Keeping replicas costs their price for that time; giving them back too early costs a start-up in which all
requests are late, and the replicas that work off their queue. How long load stays away is not known before,
but how long it did the last times is: the hold is the one that would have cost least then (for known times:
Karlin, Manasse, McGeoch and Owicki, "Competitive randomized algorithms for nonuniform problems", Algorithmica
11, 1994). Of n times that are alike, the next one is the longest so far with probability 1 / (n + 1): it
counts as one more, and nothing is known of how much longer it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

LEAST_FALL = 0.2
"""Share of its level that load must fall by to be away, and up to which it is back."""

LEAST_REPLICAS = 2.0
"""Replicas of which it must leave no need: one more or less may be the noise of the rate."""

MOST_WINDOWS = 8.0
"""Windows after which load that is away is no longer waited for: the longest hold."""

NOTICED = 0.5
"""Part of the window within which a fall is noticed after the last need for more."""

MARGIN = 1.25
"""Hold over the time away that it is to outlast: times away differ."""

REMEMBERED_SECONDS = 3600.0
"""Time for which a return is remembered."""

LATE_SHARE = 0.003
"""Share of the requests that returns may make late: a third of what the 99th percentile leaves, for ordinary
load takes the rest. More of them cost more than replicas alone."""

LATE_WINDOWS = 0.5
"""Part of the window for which the requests of a return are late."""


@dataclass(frozen=True, slots=True)
class Load:
    """Arrivals at a time, in seconds, and what was recommended for them.

    Attributes:
        rate_rps: requests per second, without what works off a queue.
        replicas: those that the arrivals asked for; 0 where that is not known, as a queue asked for some.

    """

    at: float
    rate_rps: float
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
        loads: Load of the last window, the oldest first.
        level_rps: Requests per second before they fell the last time.
        lowest_rps: Fewest since, until they were back.
        replicas: Replicas that the arrivals needed before they fell.
        peak: Most replicas recommended since they were back, those for a queue included.
        away_at: When they fell, seconds; None while they are not away.
        times: When load was away, the last time last.
        mean_rps: Mean rate so far, of about the last `REMEMBERED_SECONDS`.
        known_seconds: Time that it is of, at most `REMEMBERED_SECONDS`.

    """

    loads: tuple[Load, ...] = ()
    level_rps: float = 0.0
    lowest_rps: float = 0.0
    replicas: int = 0
    peak: int = 0
    away_at: float | None = None
    times: tuple[Away, ...] = ()
    mean_rps: float = 0.0
    known_seconds: float = 0.0

    @property
    def kept(self) -> float:
        """Replicas of those before the fall that the arrivals did not need meanwhile."""
        return _fallen(self.lowest_rps, self.level_rps) * self.replicas

    @property
    def concentration(self) -> float:
        """The level over the mean rate: the more of the requests arrive while load is there."""
        return self.level_rps / self.mean_rps if self.mean_rps > 0 else 1.0


def seen(
    before: Returns,
    rate_rps: float,
    replicas: int,
    *,
    queued: bool,
    lasting: int = 0,
    now: float,
    window: float,
) -> Returns:
    """What is known after one more cycle.

    Args:
        before: What was known.
        rate_rps: Requests per second, without what works off a queue.
        replicas: Replicas that were recommended.
        queued: Whether a queue asked for some of them.
        lasting: Replicas that the arrivals asked for by themselves, where it did; 0 where that is not known.
        now: Seconds, not less than before.
        window: Stabilization window, seconds.

    """
    before = _averaged(before, rate_rps, now)
    loads = tuple(item for item in before.loads if item.at > now - window)
    latest = Load(now, rate_rps, lasting if queued else replicas)
    after = replace(before, loads=(*loads, latest), peak=max(before.peak, replicas))
    if before.away_at is None:
        level = max((min(a.rate_rps, b.rate_rps) for a, b in pairwise(loads)), default=0.0)
        most = max((item.replicas for item in loads), default=0) or after.peak
        fallen = _fallen(rate_rps, level)
        if fallen >= LEAST_FALL and fallen * most >= LEAST_REPLICAS:
            return replace(after, level_rps=level, lowest_rps=rate_rps, replicas=most, away_at=now)
        return after
    away = now - before.away_at
    if _fallen(rate_rps, before.level_rps) < LEAST_FALL:
        return replace(after, away_at=None, peak=replicas, times=_with(before, Away(now, away)))
    if away > MOST_WINDOWS * window:
        return replace(after, away_at=None, times=_with(before, Away(now, math.inf)))
    return replace(after, lowest_rps=min(before.lowest_rps, rate_rps))


def remembered(returns: Returns, *, now: float) -> bool:
    """Whether load that was away came back within `REMEMBERED_SECONDS`."""
    return any(
        item.seconds < math.inf and item.until > now - REMEMBERED_SECONDS for item in returns.times
    )


def hold_seconds(returns: Returns, *, now: float, window: float) -> float:
    """Seconds for which fewer replicas must suffice before they go: the window, or longer where it pays.

    The hold of least cost for the times away that are remembered, one that is longer than these, and one for
    ever: load need not come back. Only times that the window may not cover say that it is too short. A return
    costs a window of all the replicas that it took, in units of those that would have been kept; more, where
    returns make more requests late than may be: those of half a window at the level before each time.
    """
    times = [item.seconds for item in returns.times if item.until > now - REMEMBERED_SECONDS]
    known = [item for item in times if NOTICED * window < item < math.inf]
    if not known or window <= 0:
        return window
    late = len(known) * LATE_WINDOWS * window / REMEMBERED_SECONDS * returns.concentration
    price = window * returns.peak / returns.kept * (1.0 + late / LATE_SHARE)
    longest = max(known)

    def cost(hold: float) -> float:
        seen_again = sum(away if away <= hold else hold + price for away in (*times, math.inf))
        return seen_again + _cost_beyond(longest, hold, price)

    forever = 1.0 + sum(math.isinf(item) for item in times)
    holds = [*(MARGIN * item for item in known), _hold_beyond(longest, price, forever)]
    holds = sorted(min(item, MOST_WINDOWS * window) for item in holds)
    return min((window, *(item for item in holds if item > window)), key=cost)


def _cost_beyond(longest: float, hold: float, price: float) -> float:
    """Mean cost of a hold where load is away for longer than ever, with P(longer than t) = longest / t."""
    if hold <= longest:
        return hold + price
    return longest * (1.0 + math.log(hold / longest) + price / hold)


def _hold_beyond(longest: float, price: float, forever: float) -> float:
    """The hold at which its cost and that of `forever` times without an end are least together."""
    return (math.sqrt(longest * (longest + 4.0 * forever * price)) - longest) / (2.0 * forever)


def _averaged(returns: Returns, rate_rps: float, now: float) -> Returns:
    """The mean rate with one more."""
    if not returns.loads:
        return returns
    passed = max(now - returns.loads[-1].at, 0.0)
    known = min(returns.known_seconds + passed, REMEMBERED_SECONDS)
    if known <= 0:
        return returns
    mean = returns.mean_rps + min(passed / known, 1.0) * (rate_rps - returns.mean_rps)
    return replace(returns, mean_rps=mean, known_seconds=known)


def _fallen(rate_rps: float, level_rps: float) -> float:
    """Share of a level that a rate is below it, 0 to 1."""
    return 1.0 - min(rate_rps / level_rps, 1.0) if level_rps > 0 else 0.0


def _with(returns: Returns, away: Away) -> tuple[Away, ...]:
    oldest = away.until - REMEMBERED_SECONDS
    return (*(item for item in returns.times if item.until > oldest), away)

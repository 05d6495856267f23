"""Load that falls and comes back: how long replicas are kept for it, as a problem of renting or buying.

Keeping replicas costs their price for that time; giving them back too early costs a start-up in which all
requests are late, and the replicas that work off their queue. How long load stays away is not known before,
but how long it did the last times is: the hold is the one that would have cost least then (for known times:
Karlin, Manasse, McGeoch and Owicki, "Competitive randomized algorithms for nonuniform problems", Algorithmica
11, 1994). Of n times that are alike, the next one is the longest so far with probability 1 / (n + 1): it
counts as one more, and nothing is known of how much longer it is. Likewise load that returned n times, m of
them with so many replicas, does so the next time with probability m / (n + 1) (the m-th largest of n draws
that are alike): replicas that load seldom took are given back sooner than those that every return takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

LEAST_FALL = 0.2
"""Share of its level that load must fall by to be away, and up to which it is back; it also is where its
arrivals need as many replicas as before."""

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


@dataclass(frozen=True, slots=True)
class Stay:
    """Load that was there until it fell: until when, for how many seconds, and how much.

    Attributes:
        rate_rps: its level, requests per second.
        replicas: those that its arrivals needed.

    """

    until: float
    seconds: float
    rate_rps: float
    replicas: int


_Remembered = TypeVar("_Remembered", Away, Stay)


@dataclass(frozen=True, slots=True)
class Hold:
    """Seconds for which that many replicas are kept after the last need of them."""

    replicas: int
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
        stays: Load before each fall, the last one last.
        back_at: When it was back, or first seen, seconds; None before.
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
    stays: tuple[Stay, ...] = ()
    back_at: float | None = None
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
    alike: bool = True,
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
        alike: Whether one replica does as much as another, so that their number says what load needs.
        now: Seconds, not less than before.
        window: Stabilization window, seconds.

    """
    before = _averaged(before, rate_rps, now)
    back_at = now if before.back_at is None else before.back_at
    loads = tuple(item for item in before.loads if item.at > now - window)
    latest = Load(now, rate_rps, lasting if queued else replicas)
    peak = max(before.peak, replicas)
    after = replace(before, loads=(*loads, latest), peak=peak, back_at=back_at)
    if before.away_at is None:
        level = max((min(a.rate_rps, b.rate_rps) for a, b in pairwise(loads)), default=0.0)
        most = max((item.replicas for item in loads), default=0) or after.peak
        fallen = _fallen(rate_rps, level)
        unneeded = not (alike and 0 < most <= latest.replicas)
        if unneeded and fallen >= LEAST_FALL and fallen * most >= LEAST_REPLICAS:
            stay = Stay(now, now - back_at, level, most)
            stays = (*_recent(before.stays, now), stay)
            after = replace(after, level_rps=level, lowest_rps=rate_rps, stays=stays)
            return replace(after, replicas=most, away_at=now)
        return after
    away = now - before.away_at
    # The level may be a peak of seconds, or of shorter requests: what needs all its replicas is back.
    taken = alike and 0 < before.replicas <= latest.replicas
    if taken or _fallen(rate_rps, before.level_rps) < LEAST_FALL:
        times = (*_recent(before.times, now), Away(now, away))
        return replace(after, away_at=None, back_at=now, peak=replicas, times=times)
    if away > MOST_WINDOWS * window:
        times = (*_recent(before.times, now), Away(now, math.inf))
        return replace(after, away_at=None, back_at=now, times=times)
    return replace(after, lowest_rps=min(before.lowest_rps, rate_rps))


def remembered(returns: Returns, *, now: float) -> bool:
    """Whether load that was away came back within `REMEMBERED_SECONDS`."""
    return any(item.seconds < math.inf for item in _recent(returns.times, now))


def hold_seconds(returns: Returns, *, now: float, window: float) -> float:
    """Seconds for which fewer replicas must suffice before they go: the window, or longer where it pays.

    The hold of least cost for the times away that are remembered, one that is longer than these, and one for
    ever: load need not come back. Only times that the window may not cover say that it is too short. A return
    costs a window of all the replicas that it took, in units of those that would have been kept; more, where
    returns make more requests late than may be: those of half a window at the level before each time.
    """
    times = [item.seconds for item in _recent(returns.times, now)]
    returned = sum(NOTICED * window < item < math.inf for item in times)
    late = returned * LATE_WINDOWS * window / REMEMBERED_SECONDS * returns.concentration
    return _cheapest(times, late=late, returns=returns, window=window)


def holds(returns: Returns, *, now: float, window: float) -> tuple[Hold, ...]:
    """The same by replicas, fewest first: those that not every return took are away for longer.

    One hold for each number of replicas that load took, which also counts for what is between the number
    before and it; the last one counts for more, too. Empty where nothing is known of returns. What is late
    is counted while load that takes them was there.
    """
    remembered_times = _recent(returns.times, now)
    times = [item.seconds for item in remembered_times]
    stays = _recent(returns.stays, now)
    if not any(NOTICED * window < item < math.inf for item in times) or window <= 0:
        return ()
    # Load that was there before did not come back.
    returned_at = min(item.until for item in remembered_times if item.seconds < math.inf)
    requests = returns.mean_rps * REMEMBERED_SECONDS
    levels = []
    for replicas in sorted({item.replicas for item in stays}):
        least = (1.0 - LEAST_FALL) * replicas
        took = [item for item in stays if item.replicas >= least]
        late = sum(
            min(item.seconds, LATE_WINDOWS * window) * item.rate_rps
            for item in took
            if item.until > returned_at
        )
        # Of what every return took nothing says that the next one takes less.
        again = 1.0 if len(took) == len(stays) else len(took) / (len(stays) + 1.0)
        share = late / requests if requests > 0 else 0.0
        seconds = _cheapest(times, late=share, returns=returns, window=window, again=again)
        levels.append(Hold(replicas, seconds))
    return tuple(levels)


def _cheapest(
    times: Sequence[float], *, late: float, returns: Returns, window: float, again: float = 1.0
) -> float:
    """The hold of least cost, seconds; `again` is the share of the returns that take what is held.

    Away for times that are `again` of those of what is held, on average: a return that does not take it ends
    no time away.
    """
    known = [item / again for item in times if NOTICED * window < item < math.inf]
    if not known or window <= 0:
        return window
    times = [item / again for item in times]
    price = window * returns.peak / returns.kept * (1.0 + late / LATE_SHARE)
    longest = max(known)

    def cost(hold: float) -> float:
        seen_again = sum(away if away <= hold else hold + price for away in (*times, math.inf))
        return seen_again + _cost_beyond(longest, hold, price)

    forever = 1.0 + sum(math.isinf(item) for item in times)
    candidates = [*(MARGIN * item for item in known), _hold_beyond(longest, price, forever)]
    candidates = sorted(min(item, MOST_WINDOWS * window) for item in candidates)
    return min((window, *(item for item in candidates if item > window)), key=cost)


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


def _recent(items: tuple[_Remembered, ...], now: float) -> tuple[_Remembered, ...]:
    """Those that are remembered."""
    return tuple(item for item in items if item.until > now - REMEMBERED_SECONDS)

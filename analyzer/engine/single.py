"""Largest rate of one replica: what `sizing.size_engines` finds for rows, in a fraction of the time.

The formulas are those of the other modules (`floats.py`), and so are the ends of the search. Its result is
within `NEAR` of the rate at which the worst latency is at its target, as that for rows is.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

from analyzer.engine import search
from analyzer.engine.columns import Engine, within_bounds
from analyzer.engine.floats import columns_of, compiled_test, formulas
from analyzer.engine.nodes import bins_of_one
from analyzer.engine.occupancy import FULL
from analyzer.engine.search import Targets

NEAR = 5e-4
"""Relative distance of two rates, and logarithm of a mean latency over its target, that is near enough."""

MISSES_NEAR = 5e-4
"""Logarithm of misses over those allowed that is: misses rise steeply, so the rate is nearer."""

_TOP = FULL - 1e-6
_STEPS = 60
_normal_score = NormalDist().inv_cdf
_RARE = 1e-14
_LEAST_SCORE = _normal_score(_RARE)
_LOWEST = -6.0
_HALVED = 9
_IDLE = 0.05
_FAR_FROM_MISSED = 0.5
_FAR_BESIDE_KV = 0.1
_RISE = 7.0
"""Rise of a score with the logarithm of the rate, with which the second rate is guessed."""

_FALL = 0.55
"""Logarithm of the rate by that of misses of the ITL over those allowed, with which the second is guessed."""

_MOST_RISE = 1.3
_APART = 3.0
"""Ratio of two rates from which on misses go rather by a power of the rate between them."""

_LEAST_MISSES = 1e-12

_AT_TOP = 0.97
"""Part of the largest stable rate from which on that itself is tested."""

_BESIDE = 0.4
"""Distance of a tested rate, over what is kept free, that tells the misses at the latter's end: scores are
nearly straight there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """What one replica holds; see `sizing.EngineCapacity`."""

    rate_rps: float
    reason: int
    kv_batch: float
    max_batch: float
    best_ms: float


def largest(engine: Engine, targets: Targets, headroom: float) -> Largest | None:
    """Largest rate within targets, less the headroom; NaN where nothing is held.

    None where arrays have to answer: a parameter is not valid, floats cannot express a number that occurs, or
    less load misses more, so that what is kept free would be more than there is.
    """
    given, bins = _columns(engine), bins_of_one(engine.lengths.short_answers)
    if given is None or bins is None:
        return None
    try:
        columns = columns_of(short=bool(bins))(given, bins)
        search_ = _Single(columns, targets)
        pair = search_.largest(headroom)
        lost = search_.lost() if pair is None else None
    except (ArithmeticError, ValueError):
        return None
    if lost is not None:
        pair, best = (math.nan, lost[0]), lost[1]
    elif pair is not None and 0.0 < pair[0] < math.inf:
        best = math.nan
    else:
        return None
    return Largest(
        rate_rps=pair[0],
        reason=pair[1],
        best_ms=best,
        kv_batch=columns.kv_batch,
        max_batch=columns.max_batch,
    )


def _columns(engine: Engine) -> dict[str, float] | None:
    """Parameters by name; None where one is out of its range."""
    steps, limits, lengths = engine.step_times, engine.limits, engine.lengths
    values: tuple[Any, ...] = (
        steps.base_ms,
        steps.per_request_ms,
        steps.per_prefill_token_ms,
        steps.per_context_token_ms,
        steps.per_sqrt_request_ms,
        steps.per_prompt_ms,
        limits.max_num_seqs,
        limits.max_num_batched_tokens,
        math.inf if limits.kv_tokens is None else limits.kv_tokens,
        lengths.input_tokens,
        lengths.output_tokens,
        lengths.input_cv,
        lengths.output_cv,
        lengths.cached_tokens,
    )
    return within_bounds(values)


def _score(share: float) -> float:
    """Standard score of a share."""
    return _normal_score(min(max(share, _RARE), 1.0 - _RARE))


def _zero(points: list[tuple[float, float]]) -> float:
    """Where the inverse polynomial through up to three points is zero.

    Points that tell only a sign do not count; NaN where fewer than two are left.
    """
    known = [point for point in dict.fromkeys(points) if abs(point[1]) < -_LOWEST]
    if len(known) < 2 or len({value for _, value in known}) < len(known):
        return math.nan
    total = 0.0
    for place, value in known:
        part = 1.0
        for _, its in known:
            if its != value:
                part *= its / (its - value)
        total += place * part
    return total


def _next(
    count: int,
    tested: tuple[float, float],
    ends: tuple[float, float],
    points: list[tuple[float, float]],
    by_powers: float,
) -> float:
    """Rate between the ends that is tested after so many; the first one tells the second by a usual rise.

    `by_powers` is what `_powers` has of the last tests.
    """
    low, high = ends
    apart = high > _APART * low
    if count == 1:
        rate, value = tested
        usual = rate * min(max(1.0 - value / _RISE, 0.6), _MOST_RISE)
        point = usual if math.isnan(by_powers) else by_powers
    else:
        point = _zero(points)
        if not low < point < high or (low > 0.0 and apart):
            point = by_powers
    if low < point < high and count % _HALVED:
        return point
    return math.sqrt(low * high) if low > 0.0 and apart else 0.5 * (low + high)


def _by_powers(one: _Missed, other: _Missed) -> float:
    """Rate at which the first target is missed as often as allowed, if misses are powers of the rate.

    As they are where requests meet seldom: who meets another misses.
    """
    first, apart = math.inf, math.log(one.rate / other.rate)
    for misses, others in ((one.ttft, other.ttft), (one.itl, other.itl)):
        log = math.log(max(misses, _LEAST_MISSES))
        rise = (log - math.log(max(others, _LEAST_MISSES))) / apart
        if rise > 0.0:
            first = min(first, one.rate * math.exp(min(-log / rise, 1.0)))
        elif log > 0.0:
            return 0.0
    return first


class Seen(NamedTuple):
    """What `search.excess` reads of a state."""

    stable: bool
    slot_waits: float


class _Missed(NamedTuple):
    """One rate, rps: see `search.excess` for `over` and `reason`, and its arguments."""

    rate: float
    over: float
    reason: int
    state: Seen
    ttft: float
    itl: float


class _Single:
    """Search of the largest rate of one engine."""

    def __init__(self, columns: Any, targets: Targets) -> None:
        self._engine = columns
        self._targets = targets
        self._limit = search.KV if columns.kv_binds else search.STABILITY
        self._tails = targets.percentile is not None
        self._late, self._slow = math.isfinite(targets.ttft_ms), math.isfinite(targets.itl_ms)
        self._formulas = formulas()
        self._test = compiled_test(tails=self._tails, short=bool(columns.short))(columns, targets)
        self._tested: list[tuple[float, tuple[float, float, float]]] = []
        self._cliff = False
        self._lost: int | None = None
        self._goal = _score(1.0 - targets.percentile) if targets.percentile is not None else 0.0
        # What delays for the KV cache counts up to a little beyond what else is missed.
        self._far = _FAR_BESIDE_KV if columns.kv_binds else _FAR_FROM_MISSED

    def largest(self, headroom: float) -> tuple[float, int] | None:
        """Rate less the headroom, and what binds; None where nothing is held."""
        engine, kept = self._engine, self._formulas.kept_free
        high = 1000.0 * min(engine.full_rate, 1.0 / (engine.prefill_ms * engine.input_tokens))
        root = self._root(high)
        if root is None:
            return None
        rate, reason = root
        if rate < search.IDLE * high:
            idle = self._missed(search.IDLE * high)
            self._lost = idle.reason if idle.over > 0.0 else None
            return None
        if not self._tails:
            rate *= 1.0 - headroom
        elif headroom > 0.0:
            rate *= self._held(rate, headroom, high)
        most = kept.drained(engine, headroom)
        return (most, search.KV) if rate > most else (rate, reason)

    def lost(self) -> tuple[int, float] | None:
        """What is missed at hardly any load, and what it is then, ms; None where that is not known."""
        if self._lost is None:
            return None
        engine, percentiles, share = (
            self._engine,
            self._formulas.percentiles,
            self._targets.percentile,
        )
        state = self._formulas.state.at_rate(engine, search.IDLE * 1000.0 * engine.full_rate)
        slow = search.BINDINGS[self._lost] == "itl"
        if share is None:
            return self._lost, float(percentiles.means(engine, state)[slow])
        times = percentiles.latency(engine, state)
        quantile = times.itl_quantile if slow else times.ttft_quantile
        return self._lost, float(quantile(share))

    def _held(self, rate: float, headroom: float, high: float) -> float:
        """Rate of a percentile with what is kept free over the one at which it is just met."""
        kept, binds = self._formulas.kept_free, self._engine.kv_binds
        most = kept.most_kept(headroom, self._engine.kv_tail)
        at, less = self._misses(rate), self._misses(rate * (1.0 - most))
        limit = 0.0 if self._cliff else FULL * high / rate - 1.0
        allowed = 1.0 - (self._targets.percentile or 0.0)
        part = kept.held(kept.Ends(at, less, most, most, limit), allowed, headroom, binds)
        if kept.looked_at_again(part, most, binds):
            span = 1.0 - part
            ends = kept.Ends(at, self._misses(rate * part), span, most, limit)
            part = kept.held(ends, allowed, headroom, binds)
        return float(part)

    def _missed(self, rate_rps: float) -> _Missed:
        stable, waits, ttft, itl = self._test(rate_rps, self._late, self._slow)
        state = Seen(stable, waits)
        over, reason = self._formulas.search.excess(self._engine, state, ttft, itl)
        return _Missed(rate_rps, over, reason, state, ttft, itl)

    def _root(self, most: float) -> tuple[float, int] | None:
        """Largest rate that is held, and what is missed beyond it; None where nothing is held."""
        top = high = _TOP * most
        low, reason, held, beyond = 0.0, self._limit, False, False
        below, above = (low, _LOWEST), (high, -_LOWEST)
        before = above
        point = search.first_rate(self._engine, self._targets, (self._late, self._slow), high)
        last = None
        for count in range(1, _STEPS):
            earlier, last = last, self._missed(point)
            if self._tails and last.state.stable:
                self._tested.append((point, self._scores(last)))
            value = self._straight(last)
            if abs(last.over) <= (MISSES_NEAR if self._tails else NEAR):
                self._cliff = False
                return point, self._reason(last)
            if last.over > 0.0:
                before, above = above, (point, value)
                high, reason, beyond = point, last.reason, True
                # What is far from being missed is farther at every lower rate.
                self._cliff = not last.state.stable
                if self._tails and last.state.stable:
                    self._late &= last.ttft > self._far
                    self._slow &= last.itl > self._far
            else:
                if point >= top:
                    self._cliff = True
                    return top, self._limit
                before, below, held = below, (point, value), True
                low = point
            if high - low <= NEAR * high:
                break
            tested = point
            powers = self._powers(last, earlier)
            point = _next(count, (tested, value), (low, high), [below, above, before], powers)
            if abs(point - tested) <= 0.5 * NEAR * tested:
                return point, self._reason(last)
            if not beyond and point > _AT_TOP * top:
                point = top
            if not held and count > 2 and tested < _IDLE * most:
                idle = self._missed(search.IDLE * most)
                if idle.over > 0.0:
                    self._lost = idle.reason
                    return None
                low, held = idle.rate, True
        return low, reason

    def _powers(self, last: _Missed, earlier: _Missed | None) -> float:
        """Rate that powers of it tell: those of `_by_powers`, or a usual one after one test of the ITL.

        NaN where the tests are none of misses.
        """
        if not (self._tails and last.state.stable):
            return math.nan
        if earlier is None:
            usual = min(math.exp(-_FALL * last.over), _MOST_RISE)
            return last.rate * usual if last.itl > last.ttft else math.nan
        if not earlier.state.stable:
            return math.nan
        return _by_powers(last, earlier)

    def _misses(self, rate_rps: float) -> Any:
        """Scores of misses at a rate, by the rates that were tested where they are near."""
        near = sorted(self._tested, key=lambda one: abs(one[0] - rate_rps))[:3]
        places = [one[0] for one in near]
        if rate_rps in places:
            # Tested again it would be there twice, and count twice.
            return self._formulas.kept_free.Misses(*near[0][1])
        step = _BESIDE * (max(places, default=rate_rps) - rate_rps)
        if len(near) < 3 or not (min(places) <= rate_rps or min(places) - rate_rps <= step):
            return self._tested_misses(rate_rps)
        weights = []
        for place in places:
            weight = 1.0
            for other in places:
                if other != place:
                    weight *= (rate_rps - other) / (place - other)
            weights.append(weight)
        needed = (self._late, self._slow, self._engine.kv_binds)
        scores = []
        for need, known in zip(needed, zip(*(one[1] for one in near), strict=True), strict=True):
            scores.append(sum(map(operator.mul, weights, known)) if need else _LEAST_SCORE)
            # Where that bends back it is no guide.
            if places[0] > rate_rps and scores[-1] > known[0]:
                return self._tested_misses(rate_rps)
        return self._formulas.kept_free.Misses(*scores)

    def _tested_misses(self, rate_rps: float) -> Any:
        """The same by a test of that rate."""
        scores = self._scores(self._missed(rate_rps))
        self._tested.append((rate_rps, scores))
        return self._formulas.kept_free.Misses(*scores)

    def _scores(self, at: _Missed) -> tuple[float, float, float]:
        """Of the shares that miss the TTFT, that miss the ITL, and that wait for a place."""
        allowed = 1.0 - (self._targets.percentile or 0.0)
        waits = _score(at.state.slot_waits) if self._engine.kv_binds else _LEAST_SCORE
        return _score(at.ttft * allowed), _score(at.itl * allowed), waits

    def _straight(self, at: _Missed) -> float:
        """What rises evenly with the rate: of means the target over the latency, of misses their score."""
        if not at.state.stable:
            return -_LOWEST
        if not self._tails:
            return 1.0 - 1.0 / max(at.ttft, at.itl, 1e-3)
        late, slow, _ = self._tested[-1][1]
        return min(max(late - self._goal, slow - self._goal, _LOWEST), -_LOWEST)

    def _reason(self, at: _Missed) -> int:
        """What is missed a little beyond a rate at which nearly something is."""
        more = math.exp(NEAR - at.over)
        excess = self._formulas.search.excess
        return int(excess(self._engine, at.state, at.ttft * more, at.itl * more)[1])

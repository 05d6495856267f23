"""Search of the largest rates within targets; see `sizing.py` for what they mean.

How far the worst latency is from its target (its logarithm) rises with the rate, so there is one largest
rate. Of few replicas many rates are tested in one call; of many the rates approach it by secants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from analyzer.engine.kept_free import (
    FULL_WAITS,
    Ends,
    Misses,
    drained,
    held,
    looked_at_again,
    most_kept,
    scored,
)
from analyzer.engine.nodes import NODE_WEIGHTS, SHORT_DECODES
from analyzer.engine.occupancy import FULL
from analyzer.engine.percentiles import latency, means
from analyzer.replicas import FloatArray

Binding = Literal["ttft", "itl", "tps", "kv", "stability"]
BINDINGS: tuple[Binding, ...] = ("ttft", "itl", "tps", "kv", "stability")
_TTFT, _ITL, TPS, KV, STABILITY = range(5)
_STEPS = 30  # few rows need more than a dozen, where misses bend
_SECTIONS = 160
_SHARES = (np.arange(_SECTIONS) / _SECTIONS)[:, None]
_FEW = 4
"""Rows up to which all rates are tested in one call: the call costs more than its numbers."""

_COARSE = 2
"""Sections from no load up whose ends are a multiple of each other, so that no line is a guide."""

_NEAR = 5e-4
"""Logarithm of that, and relative distance of two rates, that is near enough."""

FAR = 4.0
"""Largest logarithm of latency over target, or of misses over those allowed, that a search looks at."""

_ROWS = 2**12
"""Rows that are worked on together: their columns fit in the processor's cache."""

IDLE = 1e-4

_EARLY, _LEAST = 0.8, 0.02
"""Bounds of the rate at which a search begins over the largest stable one, by means."""

_TAIL_OF_ITL = 0.85
_TAIL_OF_WAITS = 2.5
"""Means over percentiles, nearly enough to begin with."""

_HALVES = 7
_OF_ROUGH = 0.75
"""Root over the rate at which `_roughly_slow` is what may be: other requests make the ITL differ, too."""

_LEAST_FREE, _ROOT_HALF = 1e-3, math.sqrt(0.5)
_WEIGHTS = tuple(NODE_WEIGHTS.tolist())
_SHORT = tuple(SHORT_DECODES.ravel().tolist())


class _Root(NamedTuple):
    """Rates beyond which something is missed, each field of shape (M,); see `kept_free.Ends`.

    Attributes:
        rate: requests per second.
        reason: what is missed beyond it, index into `BINDINGS`.
        limit: largest stable rate over this, less 1.
        at: what is missed at it.

    """

    rate: FloatArray
    reason: NDArray[np.int64]
    limit: FloatArray
    at: Misses


class Search:
    """Largest rates within the targets, for M engines of one width."""

    def __init__(
        self, engines: Engines, ttft_ms: FloatArray, itl_ms: FloatArray, share: FloatArray
    ) -> None:
        self._engines = engines
        self._ttft = np.where(np.isnan(ttft_ms), 1e15, ttft_ms)
        self._itl = np.where(np.isnan(itl_ms), 1e15, itl_ms)
        self._mean = np.isnan(share)
        self._tails = not bool(self._mean.all())
        self._share = share

    def largest(self, headroom: FloatArray) -> tuple[FloatArray, NDArray[np.int8], FloatArray]:
        """Rates less the headroom, bindings and the best latencies, each of shape (M,)."""
        engines = self._engines
        high = 1000.0 * np.minimum(
            engines.full_rate, 1.0 / (engines.prefill_ms * engines.input_tokens)
        )
        low = high * IDLE
        search = self._sections if low.size <= _FEW else self.secants
        rate, binding, lost = search(low, high, headroom)
        best = self._best(lost, binding)
        most = drained(engines, headroom)
        binding = np.where(rate > most, KV, binding)
        rate = np.minimum(rate, most)
        return np.where(lost, np.nan, rate), binding.astype(np.int8), best

    @staticmethod
    def stable_rates(engines: Engines) -> FloatArray:
        """Largest stable rates, requests per second, shape (M,)."""
        none = np.full(len(engines), np.nan)
        return np.asarray(Search(engines, none, none, none).largest(np.zeros(len(engines)))[0])

    def _sections(
        self, low: FloatArray, high: FloatArray, headroom: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Rate, what binds, and whether nothing is held: from many rates that are tested in one call."""
        rows = np.arange(low.size)
        rates = low + (high - low) * _SHARES
        # The columns of one engine hold for every rate as they are.
        search = self if rows.size == 1 else self.rows(np.tile(rows, _SECTIONS))
        over, reasons, misses = search.tested(rates.ravel())
        over, reasons = over.reshape(rates.shape), reasons.reshape(rates.shape)
        over = np.vstack([over, np.full(rows.size, FAR)])
        crossing = (over > 0.0).argmax(axis=0)
        reason = reasons[np.minimum(crossing, _SECTIONS - 1), rows]
        reason = np.where(crossing < _SECTIONS, reason, self._limit())
        before = np.maximum(crossing - 1, 0)
        below, above = over[before, rows], over[crossing, rows]
        # Where the replica no longer keeps up, the lower end is right.
        part = np.where(above < FAR, -below / np.maximum(above - below, 1e-12), 0.0)
        rate = rates[before, rows] + (high - low) / _SECTIONS * np.clip(part, 0.0, 1.0)
        limit = np.where(above < FAR, FULL * high / rate - 1.0, 0.0)

        def misses_at(where: FloatArray) -> Misses:
            shape = rates.shape
            return Misses(*(_between(rates, score.reshape(shape), where) for score in misses))

        root = _Root(rate, reason, limit, misses_at(rate))
        held, lost = self._kept_free(root, headroom, misses_at), crossing == 0
        near = np.flatnonzero(~lost & (crossing <= _COARSE))
        if near.size:
            ends, some = rates[crossing[near], near], self.rows(near)
            by_secants = some.secants(low[near], ends, headroom[near], high[near])
            held[near], reason[near], lost[near] = by_secants
        return held, reason, lost

    def secants(
        self,
        low: FloatArray,
        high: FloatArray,
        headroom: FloatArray,
        most: FloatArray | None = None,
    ) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
        """The same by secants that keep the root between their ends (Illinois), and by halves at times.

        `most` are the largest stable rates where `high` is less.
        """
        least, top = low.copy(), FULL * (high if most is None else most)
        below, first, misses = self.tested(low)
        lost, cliff = below > 0.0, np.ones(low.size, dtype=np.bool_)
        at = Misses(*(score.copy() for score in misses))
        above = np.full(low.size, FAR)
        reason = np.where(lost, first, self._limit())
        rows, search = np.flatnonzero(~lost), self.rows(~lost) if lost.any() else self
        for step in range(_STEPS):
            if not rows.size:
                break
            half = step % 3 == 0
            begin, end, under, beyond = low[rows], high[rows], below[rows], above[rows]
            part = np.clip(-under / np.maximum(beyond - under, 1e-12), 0.02, 0.98)
            middle = begin + (end - begin) * (0.5 if half else part)
            over, why, misses = search.tested(middle)
            missed = over > _NEAR
            for score, now in zip(at, misses, strict=True) if self._tails else ():
                score[rows] = np.where(missed, score[rows], now)
            reason[rows] = np.where(missed, why, reason[rows])
            cliff[rows] = np.where(missed, over >= FAR, cliff[rows])
            # An end that stays counts half.
            stays = 1.0 if half else 0.5
            above[rows] = np.where(missed, over, stays * beyond)
            below[rows] = np.where(missed, stays * under, np.minimum(over, 0.0))
            low[rows] = begin = np.where(missed, begin, middle)
            high[rows] = end = np.where(missed, middle, end)
            open_ = (np.abs(over) > _NEAR) & (end - begin > _NEAR * end)
            if step > 2 and not open_.all():
                rows, search = rows[open_], search.rows(open_)
        limit = np.where(cliff, 0.0, top / low - 1.0)

        def misses_at(where: FloatArray) -> Misses:
            return self.tested(where)[2]

        root = _Root(low, reason, limit, at)
        rate = self._kept_free(root, headroom, misses_at)
        less = low * (1.0 - most_kept(headroom, self._engines.kv_tail))
        again = np.flatnonzero((rate <= 0.0) & (less > least))
        if again.size:
            # Less load misses more: that root is beyond rates at which the replica does not keep up.
            lower = self.rows(again).secants(least[again], less[again], headroom[again])
            rate[again], reason[again], lost[again] = lower
        return rate, reason, lost

    def _limit(self) -> NDArray[np.int64]:
        """What ends the rates that are looked at, shape (M,)."""
        return np.where(self._engines.kv_binds, KV, STABILITY)

    def rows(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Search:
        """The same search for those rows."""
        its = self._ttft[rows], self._itl[rows], self._share[rows]
        return Search(self._engines.take(rows), *its)

    def _kept_free(
        self, root: _Root, headroom: FloatArray, misses_at: Callable[[FloatArray], Misses]
    ) -> FloatArray:
        """The rates less what is kept free."""
        rate = root.rate
        part = 1.0 - headroom
        tails = ~self._mean & (headroom > 0.0)
        if not tails.any():
            return rate * part
        binds, allowed = self._engines.kv_binds, np.where(self._mean, 0.5, 1.0 - self._share)
        most = most_kept(headroom, self._engines.kv_tail)
        less = misses_at(rate * (1.0 - most))
        ends = Ends(root.at, less, np.maximum(most, _NEAR), most, root.limit)
        some = held(ends, allowed, headroom, binds)
        again = looked_at_again(some, most, binds & tails)
        if again.any():
            span = np.where(again, 1.0 - some, ends.span)
            ends = ends._replace(less=misses_at(rate * (1.0 - span)), span=span)
            some = np.where(again, held(ends, allowed, headroom, binds), some)
        return rate * np.where(tails, some, part)

    def over(self, rate_rps: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Logarithm of what is missed the most, within `FAR`, and its index in `BINDINGS`; shape (M,).

        Means: latency over target; percentiles: share of misses over those allowed.
        """
        return self.tested(rate_rps)[:2]

    def tested(self, rate_rps: FloatArray) -> tuple[FloatArray, NDArray[np.int64], Misses]:
        """The same, and scores of misses where they are percentiles."""
        state = engine_state.at_rate(self._engines, rate_rps)
        ttft, itl = np.empty(rate_rps.size), np.empty(rate_rps.size)
        late = slow = np.zeros(rate_rps.size)
        if self._mean.any():
            ttft, itl = (
                value / target
                for value, target in zip(
                    means(self._engines, state), (self._ttft, self._itl), strict=True
                )
            )
        if self._tails:
            times, allowed = latency(self._engines, state), 1.0 - self._share
            late, slow = times.ttft_exceeds(self._ttft), times.itl_exceeds(self._itl)
            ttft = np.where(self._mean, ttft, late / allowed)
            itl = np.where(self._mean, itl, slow / allowed)
        over, reason = excess(self._engines, state, ttft, itl)
        if not self._tails:
            return over, reason, Misses(late, slow, late)
        misses = (np.where(state.stable, share, 1.0) for share in (late, slow, state.slot_waits))
        return over, reason, Misses(*map(scored, misses))

    def _best(self, lost: NDArray[np.bool_], binding: NDArray[np.int64]) -> FloatArray:
        best = np.full(lost.size, np.nan)
        for slow in (False, True):
            rows = np.flatnonzero(lost & ((binding == _ITL) == slow))
            if not rows.size:
                continue
            engines, mean = self._engines.take(rows), self._mean[rows]
            state = engine_state.at_rate(engines, IDLE * 1000.0 * engines.full_rate)
            best[rows] = means(engines, state)[slow]
            if not mean.all():
                times, share = latency(engines, state), np.where(mean, 0.5, self._share[rows])
                quantile = times.itl_quantile if slow else times.ttft_quantile
                best[rows] = np.where(mean, best[rows], quantile(share))
        return best


def excess(
    engines: Engines, state: engine_state.State, ttft: FloatArray, itl: FloatArray
) -> tuple[FloatArray, NDArray[np.int64]]:
    """As `Search.over`, of the worst of what is missed of TTFT and ITL, each over what may be."""
    worst = np.log(np.maximum(np.maximum(ttft, itl), 1e-9))
    reason = np.where(itl > 1.0, _ITL, np.where(ttft > 1.0, _TTFT, STABILITY))
    reason = np.where(state.stable | (itl > 1.0), reason, STABILITY)
    full = (state.slot_waits > FULL_WAITS) | (reason == STABILITY)
    reason = np.where(full & engines.kv_binds & (reason != _ITL), KV, reason)
    return np.where(state.stable, np.clip(worst, -FAR, FAR), FAR), reason


def _between(rates: FloatArray, scores: FloatArray, rate: FloatArray) -> FloatArray:
    """Scores at a rate of each of M rows by those at K rates, (K, M)."""
    rows = zip(rate, rates.T, scores.T, strict=True)
    return np.array([np.interp(at, places, values) for at, places, values in rows])


def parts(engines: Engines) -> Iterator[NDArray[np.intp]]:
    """Rows that are worked on together: of similar batches, and few enough for the processor's cache."""
    if len(engines) == 1:
        yield np.zeros(1, dtype=np.intp)
        return
    width = np.exp2(np.ceil(np.log2(engines.room)))
    # numpy's `unique` loads a package of its own.
    for one in sorted(set(width.tolist())):
        rows = np.flatnonzero(width == one)
        for start in range(0, rows.size, _ROWS):
            yield rows[start : start + _ROWS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Bounds on latencies, ms, infinite where there is none; percentile is None where they are means."""

    ttft_ms: float
    itl_ms: float
    percentile: float | None


def first_rate(engine: Any, targets: Targets, bound: tuple[bool, bool], high_rps: float) -> float:
    """Rate near which the root is, requests per second: nothing but the number of tests depends on it.

    By the means of queues of one server, and by where prompts alone make as many miss the ITL as may.

    Args:
        engine: columns of one replica, as floats.
        targets: of which TTFT and ITL count where they are `bound`.
        bound: whether there is a target of the TTFT and of the ITL.
        high_rps: largest stable rate.

    """
    late, slow = bound
    tails = targets.percentile is not None
    work = engine.prefill_ms * engine.input_tokens
    point = _EARLY * high_rps
    if slow:
        spare = 1.0 - engine.base_ms / (targets.itl_ms * (_TAIL_OF_ITL if tails else 1.0))
        each = work + engine.decodes * engine.slope_ms
        point = min(point, 1000.0 * max(spare, 0.1) / max(each, 1e-9))
    if late:
        wait = max(targets.ttft_ms - 2.0 * engine.base_ms - work, 0.1 * work)
        wait = wait / _TAIL_OF_WAITS if tails else wait
        rest = 0.5 * (1.0 + engine.input_cv**2) * work
        point = min(point, 1000.0 * wait / ((wait + rest) * work))
    point = max(point, _LEAST * high_rps)
    if slow and targets.percentile is not None:
        point = min(
            point, _OF_ROUGH * _rate_of_misses(engine, targets, 1.0 - targets.percentile, point)
        )
    return float(point)


def _rate_of_misses(engine: Any, targets: Targets, allowed: float, most_rps: float) -> float:
    """Rate up to the largest at which so many miss the ITL, by halves of its logarithm."""
    low, high = math.log(most_rps * IDLE), math.log(most_rps)
    late_at = _roughly_late(engine, targets.itl_ms)
    for _ in range(_HALVES):
        middle = 0.5 * (low + high)
        more = late_at(math.exp(middle)) > allowed
        low, high = (low, middle) if more else (middle, high)
    return math.exp(high)


def _roughly_late(engine: Any, target_ms: float) -> Callable[[float], float]:
    """Share of requests beyond an ITL, by the rate.

    Prompts that arrive during an answer are Poisson; their sum is taken as gamma distributed (Wilson and
    Hilferty), but no more are late than meet one.
    """
    work = engine.prefill_ms * engine.input_tokens
    each_more = engine.decodes * engine.slope_ms
    ninth_of_one = (1.0 + engine.input_cv**2) / 9.0
    lengths = [(by * engine.long, at) for by, at in zip(_WEIGHTS, engine.decode_nodes, strict=True)]
    lengths += zip(engine.short, _SHORT[: len(engine.short)], strict=True)

    def late_at(rate_rps: float) -> float:
        rate = rate_rps / 1000.0
        free = max(1.0 - rate * work, _LEAST_FREE)
        step = engine.base_ms / max(1.0 - rate * each_more / free, 0.05)
        each, spare_each, late = work / free, target_ms - step, 0.0
        if spare_each <= 0.0:
            return math.fsum(share for share, _ in lengths)
        for share, steps in lengths:
            met = rate * (steps * step + work)
            ninth = ninth_of_one / met
            score = (1.0 - ninth - math.cbrt(steps * spare_each / (met * each))) / math.sqrt(ninth)
            late += share * min(0.5 * math.erfc(-score * _ROOT_HALF), -math.expm1(-met))
        return late

    return late_at

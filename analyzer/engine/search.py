"""Search of the largest rates within targets; see `sizing.py` for what they mean.

How far the worst latency is from its target (its logarithm) rises with the rate, so there is one largest
rate. Of few replicas many rates are tested in one call; of many the rates approach it by secants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from analyzer.engine.percentiles import latency, means
from analyzer.replicas import BoolArray, FloatArray

KV_HEADROOM = 0.02
KV_TAIL_HEADROOM = 0.04
"""Kept free besides where the KV cache binds, for means and for percentiles: preemption makes the fall there
a cliff, whose rate differs from run to run."""

STRICT = 0.98
"""Percentiles from here on are delivered as they are asked for: where the KV cache binds, too, no more of
the rate is kept free than `MISS_RESERVE` says."""

MISS_RESERVE = 0.2
"""CALIBRATED: share of the allowed misses of a percentile that is kept free, where that is the smaller
distance: near a cliff a little of the rate is all of the misses."""

_AIM = math.log1p(-MISS_RESERVE)

Binding = Literal["ttft", "itl", "tps", "kv", "stability"]
BINDINGS: tuple[Binding, ...] = ("ttft", "itl", "tps", "kv", "stability")
_TTFT, _ITL, TPS, KV, STABILITY = range(5)
_STEPS = 11
_SECTIONS = 160
_SHARES = (np.arange(_SECTIONS) / _SECTIONS)[:, None]
_FEW = 4
"""Rows up to which all rates are tested in one call: the call costs more than its numbers."""

_NEAR = 5e-4
"""Logarithm of that, and relative distance of two rates, that is near enough."""

FAR = 4.0
"""Largest logarithm of latency over target, or of misses over those allowed, that a search looks at."""

_ROWS = 2**12
"""Rows that are worked on together: their columns fit in the processor's cache."""

IDLE = 1e-4


class Search:
    """Largest rates within the targets, for M engines of one width."""

    def __init__(
        self, engines: Engines, ttft_ms: FloatArray, itl_ms: FloatArray, share: FloatArray
    ) -> None:
        self._engines = engines
        self._ttft = np.where(np.isnan(ttft_ms), 1e15, ttft_ms)
        self._itl = np.where(np.isnan(itl_ms), 1e15, itl_ms)
        self._mean = np.isnan(share)
        self._share = share

    def largest(self, headroom: FloatArray) -> tuple[FloatArray, NDArray[np.int8], FloatArray]:
        """Rates less the headroom, bindings and the best latencies, each of shape (M,)."""
        engines = self._engines
        high = 1000.0 * np.minimum(
            engines.full_rate, 1.0 / (engines.prefill_ms * engines.input_tokens)
        )
        low = high * IDLE
        search = self._sections if low.size <= _FEW else self._secants
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
        tested = search.over(rates.ravel())
        over, reasons = (part.reshape(rates.shape) for part in tested)
        over = np.vstack([over, np.full(rows.size, FAR)])
        held = (over > 0.0).argmax(axis=0)
        reason = reasons[np.minimum(held, _SECTIONS - 1), rows]
        reason = np.where(held < _SECTIONS, reason, self._limit())
        before = np.maximum(held - 1, 0)
        below, above = over[before, rows], over[held, rows]
        # Where the replica no longer keeps up, the lower end is right.
        part = np.where(above < FAR, -below / np.maximum(above - below, 1e-12), 0.0)
        rate = rates[before, rows] + (high - low) / _SECTIONS * np.clip(part, 0.0, 1.0)
        reserve = self._reserve(headroom, reason)
        less, aims = np.zeros(rows.size), rate * (1.0 - reserve)
        for i in np.flatnonzero(~self._mean & (reserve > 0.0)):
            less[i] = np.interp(aims[i], [*rates[:, i], high[i]], over[:, i])
        return self._with_reserve(rate, reserve, less, reason), reason, held == 0

    def _secants(
        self, low: FloatArray, high: FloatArray, headroom: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
        """The same by secants that keep the root between their ends (Illinois), and by halves at times."""
        below, first = self.over(low)
        lost = below > 0.0
        above = np.full(low.size, FAR)
        reason = np.where(lost, first, self._limit())
        rows, search = np.flatnonzero(~lost), self.rows(~lost)
        for step in range(_STEPS):
            if not rows.size:
                break
            half = step % 3 == 0
            begin, end, under, beyond = low[rows], high[rows], below[rows], above[rows]
            part = np.clip(-under / np.maximum(beyond - under, 1e-12), 0.02, 0.98)
            middle = begin + (end - begin) * (0.5 if half else part)
            over, why = search.over(middle)
            missed = over > _NEAR
            reason[rows] = np.where(missed, why, reason[rows])
            # An end that stays counts half.
            stays = 1.0 if half else 0.5
            above[rows] = np.where(missed, over, stays * beyond)
            below[rows] = np.where(missed, stays * under, np.minimum(over, 0.0))
            low[rows] = begin = np.where(missed, begin, middle)
            high[rows] = end = np.where(missed, middle, end)
            open_ = (np.abs(over) > _NEAR) & (end - begin > _NEAR * end)
            if step > 2 and not open_.all():
                rows, search = rows[open_], search.rows(open_)
        reserve = self._reserve(headroom, reason)
        tails = ~self._mean & (reserve > 0.0)
        less = self.over(low * (1.0 - reserve))[0] if tails.any() else below
        return self._with_reserve(low, reserve, less, reason), reason, lost

    def _limit(self) -> NDArray[np.int64]:
        """What ends the rates that are looked at, shape (M,)."""
        return np.where(self._engines.kv_binds, KV, STABILITY)

    def rows(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Search:
        """The same search for those rows."""
        return Search(
            self._engines.take(rows), self._ttft[rows], self._itl[rows], self._share[rows]
        )

    def _reserve(self, headroom: FloatArray, reason: NDArray[np.int64]) -> FloatArray:
        """Share of the rates that is kept free at most."""
        return reserve(self._mean, headroom, reason)

    def _with_reserve(
        self, rate: FloatArray, reserve: FloatArray, over: FloatArray, reason: NDArray[np.int64]
    ) -> FloatArray:
        """The rates less what is kept free; `over` is what is missed without all of `reserve`."""
        strict = self._share >= STRICT
        return rate * (1.0 - reserve * reserve_used(self._mean, strict, over, reason))

    def over(self, rate_rps: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Logarithm of what is missed the most, within `FAR`, and its index in `BINDINGS`; shape (M,).

        Means: latency over target; percentiles: share of misses over those allowed.
        """
        state = engine_state.at_rate(self._engines, rate_rps)
        ttft, itl = np.empty(rate_rps.size), np.empty(rate_rps.size)
        if self._mean.any():
            ttft, itl = (
                value / target
                for value, target in zip(
                    means(self._engines, state), (self._ttft, self._itl), strict=True
                )
            )
        if not self._mean.all():
            times, allowed = latency(self._engines, state), 1.0 - self._share
            late, slow = times.ttft_exceeds(self._ttft), times.itl_exceeds(self._itl)
            ttft = np.where(self._mean, ttft, late / allowed)
            itl = np.where(self._mean, itl, slow / allowed)
        return excess(self._engines, state, ttft, itl)

    def _best(self, lost: NDArray[np.bool_], binding: NDArray[np.int64]) -> FloatArray:
        best = np.full(lost.size, np.nan)
        rows = np.flatnonzero(lost)
        if rows.size:
            engines = self._engines.take(rows)
            rate = IDLE * 1000.0 * engines.full_rate
            state = engine_state.at_rate(engines, rate)
            times, (first, token) = latency(engines, state), means(engines, state)
            share = np.where(self._mean[rows], 0.5, self._share[rows])
            ttft = np.where(self._mean[rows], first, times.ttft_quantile(share))
            itl = np.where(self._mean[rows], token, times.itl_quantile(share))
            best[rows] = np.where(binding[rows] == _ITL, itl, ttft)
        return best


def excess(
    engines: Engines, state: engine_state.State, ttft: FloatArray, itl: FloatArray
) -> tuple[FloatArray, NDArray[np.int64]]:
    """As `Search.over`, of the worst of what is missed of TTFT and ITL, each over what may be."""
    worst = np.log(np.maximum(np.maximum(ttft, itl), 1e-9))
    reason = np.where(itl > 1.0, _ITL, np.where(ttft > 1.0, _TTFT, STABILITY))
    reason = np.where(state.stable | (itl > 1.0), reason, STABILITY)
    full = (state.slot_waits > 0.02) | (reason == STABILITY)
    reason = np.where(full & engines.kv_binds & (reason != _ITL), KV, reason)
    return np.where(state.stable, np.clip(worst, -FAR, FAR), FAR), reason


def reserve(mean: BoolArray, headroom: FloatArray, reason: NDArray[np.int64]) -> FloatArray:
    """Share of the rates that is kept free at most, shape (M,)."""
    more = np.where(mean, KV_HEADROOM, KV_TAIL_HEADROOM)
    more = np.where(reason == KV, more, 0.0)
    return np.where(headroom > 0.0, np.minimum(headroom + more, 0.999), 0.0)


def reserve_used(
    mean: BoolArray, strict: BoolArray, over: FloatArray, reason: NDArray[np.int64]
) -> FloatArray:
    """Part of `reserve` that is kept free, (M,); `over` is what is missed where all of it is."""
    near = np.minimum(_AIM / np.minimum(over, _AIM), 1.0)
    relieved = strict | (np.logical_not(mean) & (reason != KV))
    return np.where(relieved, near, 1.0)


def drained(engines: Engines, headroom: FloatArray) -> FloatArray:
    """Rates, shape (M,), at which a replica gets out of preemption again, with what means keep free.

    What it serves while the KV cache is full and requests are computed again (`full_rate`) is less than it
    holds before it is there, and no share of misses tells the two apart. Elsewhere infinite.
    """
    kept = np.where(headroom > 0.0, np.minimum(headroom + KV_HEADROOM, 0.999), 0.0)
    return np.where(engines.kv_binds, 1000.0 * engines.full_rate * (1.0 - kept), math.inf)


def parts(engines: Engines) -> Iterator[NDArray[np.intp]]:
    """Rows that are worked on together: of similar batches, and few enough for the processor's cache."""
    if len(engines) == 1:
        yield np.zeros(1, dtype=np.intp)
        return
    width = np.exp2(np.ceil(np.log2(engines.room)))
    for one in np.unique(width):
        rows = np.flatnonzero(width == one)
        for start in range(0, rows.size, _ROWS):
            yield rows[start : start + _ROWS]

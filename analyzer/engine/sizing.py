"""Performance of engines at a rate, and the largest rate that they hold within their targets.

Latencies rise with the rate, so the largest rate is bisected by tests at a rate; no root of a quantile is
needed: a percentile target asks whether the share of requests beyond it is small enough.

`size_engines` and `analyze_engines` work on arrays, one row per replica, and rows do not influence each
other; `size_engine` and `analyze_engine` are their views of a single one.

Units: milliseconds, requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer import errors
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engine, Engines
from analyzer.engine.percentiles import latency, means
from analyzer.replicas import FloatArray, checked

HEADROOM = 0.05
"""Default share of the largest rate that is kept free: a replica that is asked for too much breaks faster
than one that idles costs."""

KV_HEADROOM = 0.02
KV_TAIL_HEADROOM = 0.05
"""Kept free besides where the KV cache binds, for means and for percentiles: preemption makes the
fall there a cliff, whose place differs from run to run."""

STRICT = 0.98
"""Percentiles from here on are delivered as they are asked for: where the KV cache binds, too, no more of
the rate is kept free than `SPARED` says."""

SPARED = 0.2
"""CALIBRATED: share of the allowed misses of a percentile that is kept free, where that is the smaller
distance: near a cliff a little of the rate is all of the misses."""

Binding = Literal["ttft", "itl", "tps", "kv", "stability"]
BINDINGS: tuple[Binding, ...] = ("ttft", "itl", "tps", "kv", "stability")
_TTFT, _ITL, _TPS, _KV, _STABILITY = range(5)
_STEPS = 11
_SECTIONS = 160
_FEW = 4
"""Rows up to which all rates are tested in one call: the call costs more than its numbers."""

_NEAR = 5e-4
"""Logarithm of that, and relative distance of two rates, that is near enough."""

_FAR = 4.0
"""Largest logarithm of latency over target, or of misses over those allowed, that a search looks at."""

_ROWS = 2**12
"""Rows that are worked on together: their columns fit in the processor's cache."""

_IDLE = 1e-4
_PERCENTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapacity:
    """What one replica holds.

    Attributes:
        rate_rps: largest arrival rate within all targets, headroom taken off; NaN: unreachable.
        binding: what bounds it, or the target that cannot be met.
        kv_bound_batch: requests that the KV cache holds; None where its size is not known.
        max_batch: requests that run together at most: the smaller of that and max_num_seqs.
        best_ms: where a target is unreachable, what an idle replica gives; NaN elsewhere.

    """

    rate_rps: float
    binding: Binding
    kv_bound_batch: float | None
    max_batch: int
    best_ms: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineCapacityArrays:
    """What M replicas hold, every field of shape (M,); see `EngineCapacity`.

    Attributes:
        rate_rps: NaN where a target is unreachable.
        binding: index into `BINDINGS`.
        kv_bound_batch: infinite where the KV cache is not known.
        max_batch: requests.
        best_ms: NaN where every target can be met.

    """

    rate_rps: FloatArray
    binding: NDArray[np.int8]
    kv_bound_batch: FloatArray
    max_batch: FloatArray
    best_ms: FloatArray

    def __getitem__(self, row: int) -> EngineCapacity:
        """One row."""
        batch = float(self.kv_bound_batch[row])
        return EngineCapacity(
            rate_rps=float(self.rate_rps[row]),
            binding=BINDINGS[self.binding[row]],
            kv_bound_batch=batch if math.isfinite(batch) else None,
            max_batch=int(self.max_batch[row]),
            best_ms=float(self.best_ms[row]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePerformance:
    """One replica at one arrival rate; latencies are infinite where it does not keep up.

    Attributes:
        rate_rps: arrivals.
        ttft_ms: mean time to first token; the percentiles are over requests.
        itl_ms: mean over requests of their mean inter-token latency; the percentiles are over requests.
        in_service: mean number of requests that run.
        utilization: rate over the largest rate that is stable in the long run.
        kv_usage: mean share of the KV cache in use; 0 where its size is not known.

    """

    rate_rps: float
    ttft_ms: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    ttft_p95_ms: float
    ttft_p99_ms: float
    itl_ms: float
    itl_p50_ms: float
    itl_p90_ms: float
    itl_p95_ms: float
    itl_p99_ms: float
    in_service: float
    utilization: float
    kv_usage: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EnginePerformanceArrays:
    """M replicas, every field of shape (M,); see `EnginePerformance`."""

    rate_rps: FloatArray
    ttft_ms: FloatArray
    ttft_p50_ms: FloatArray
    ttft_p90_ms: FloatArray
    ttft_p95_ms: FloatArray
    ttft_p99_ms: FloatArray
    itl_ms: FloatArray
    itl_p50_ms: FloatArray
    itl_p90_ms: FloatArray
    itl_p95_ms: FloatArray
    itl_p99_ms: FloatArray
    in_service: FloatArray
    utilization: FloatArray
    kv_usage: FloatArray

    def __getitem__(self, row: int) -> EnginePerformance:
        """One row."""
        return EnginePerformance(
            **{item.name: float(getattr(self, item.name)[row]) for item in fields(self)}
        )


def size_engine(
    engine: Engine,
    *,
    ttft_ms: float | None = None,
    itl_ms: float | None = None,
    tps: float | None = None,
    percentile: float | None = None,
    headroom: float = HEADROOM,
) -> EngineCapacity:
    """Largest rate of one replica; None: no such target, the mean. See `size_engines`."""
    with errors.alone():
        return size_engines(
            Engines.of([engine]),
            ttft_ms=math.nan if ttft_ms is None else ttft_ms,
            itl_ms=math.nan if itl_ms is None else itl_ms,
            tps=math.nan if tps is None else tps,
            percentile=math.nan if percentile is None else percentile,
            headroom=headroom,
        )[0]


def size_engines(
    engines: Engines,
    *,
    ttft_ms: ArrayLike = math.nan,
    itl_ms: ArrayLike = math.nan,
    tps: ArrayLike = math.nan,
    percentile: ArrayLike = math.nan,
    headroom: ArrayLike = HEADROOM,
) -> EngineCapacityArrays:
    """Largest Poisson arrival rate of every replica with TTFT and ITL within their targets.

    Args:
        engines: M of them.
        ttft_ms: targets, shape (M,) or a number for all, > 0; NaN means there is none.
        itl_ms: the same.
        tps: tokens per second; of one replica it asks for no more than stability.
        percentile: of the latencies that must meet the targets, such as 0.95; NaN is the mean.
        headroom: share of the largest rate that is kept free, >= 0 and < 1; of percentiles no more than
            keeps `SPARED` of the allowed misses free.

    Raises:
        InvalidParameterError: one of them is out of its range; names the row.

    """
    rows = len(engines)
    ttft = checked("ttft_ms", ttft_ms, rows, above=0.0, optional=True)
    itl = checked("itl_ms", itl_ms, rows, above=0.0, optional=True)
    tokens = checked("tps", tps, rows, above=0.0, optional=True)
    share = checked("percentile", percentile, rows, above=0.0, below=1.0, optional=True)
    free = checked("headroom", headroom, rows, least=0.0, below=1.0)
    rate = np.empty(rows)
    binding = np.empty(rows, dtype=np.int8)
    best = np.full(rows, np.nan)
    for part in parts(engines):
        search = _Search(engines.take(part), ttft[part], itl[part], share[part])
        rate[part], binding[part], best[part] = search.largest(free[part])
    binding[(binding == _STABILITY) & ~np.isnan(tokens)] = _TPS
    return EngineCapacityArrays(
        rate_rps=rate,
        binding=binding,
        kv_bound_batch=engines.kv_batch,
        max_batch=engines.max_batch,
        best_ms=best,
    )


def analyze_engine(engine: Engine, rate_rps: float) -> EnginePerformance:
    """One replica at an arrival rate. See `analyze_engines`."""
    with errors.alone():
        return analyze_engines(Engines.of([engine]), rate_rps)[0]


def analyze_engines(engines: Engines, rate_rps: ArrayLike) -> EnginePerformanceArrays:
    """Every replica at its arrival rate, shape (M,) or a number for all; overload is a result, not an error.

    Raises:
        InvalidParameterError: a rate is not a number >= 0.

    """
    rates = np.maximum(checked("rate_rps", rate_rps, len(engines), least=0.0), 1e-12)
    out = {item.name: np.empty(len(engines)) for item in fields(EnginePerformanceArrays)}
    for part in parts(engines):
        some = engines.take(part)
        state = engine_state.at_rate(some, rates[part])
        times, (first, token) = latency(some, state), means(some, state)
        usage = np.minimum(state.batch * (some.context + 8.0) * 0.9 / (0.9 * some.kv_tokens), 1.0)
        values = {
            "rate_rps": rates[part],
            "ttft_ms": first,
            "itl_ms": token,
            "in_service": state.batch + state.rate * state.prompts.own_ms,
            "utilization": rates[part] / _Search.stable_rates(some),
            "kv_usage": usage,
        }
        for share in _PERCENTILES:
            shares = np.full(part.size, share)
            values[f"ttft_p{share * 100:.0f}_ms"] = times.ttft_quantile(shares)
            values[f"itl_p{share * 100:.0f}_ms"] = times.itl_quantile(shares)
        for name, value in values.items():
            late = name.endswith("_ms") and not name.startswith("itl")
            out[name][part] = np.where(state.stable, value, np.inf) if late else value
        for name in ("in_service",):
            out[name][part] = np.where(state.stable, out[name][part], some.max_batch)
    return EnginePerformanceArrays(**out)


class _Search:
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
            engine_state.full_rate(engines), 1.0 / (engines.prefill_ms * engines.input_tokens)
        )
        low = high * _IDLE
        search = self._sections if low.size <= _FEW else self._secants
        rate, binding, lost = search(low, high, headroom)
        best = self._best(lost, binding)
        return np.where(lost, np.nan, rate), binding.astype(np.int8), best

    @staticmethod
    def stable_rates(engines: Engines) -> FloatArray:
        """Largest stable rates, requests per second, shape (M,)."""
        none = np.full(len(engines), np.nan)
        return np.asarray(_Search(engines, none, none, none).largest(np.zeros(len(engines)))[0])

    def _sections(
        self, low: FloatArray, high: FloatArray, headroom: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
        """Rate, what binds, and whether nothing is held: from many rates that are tested in one call."""
        rows = np.arange(low.size)
        rates = low + (high - low) * (np.arange(_SECTIONS) / _SECTIONS)[:, None]
        again = np.tile(rows, _SECTIONS)
        tested = self._rows(again)._over(rates.ravel())
        over, reasons = (part.reshape(rates.shape) for part in tested)
        held = (np.cumsum(over > 0.0, axis=0) == 0).sum(axis=0)
        rates, over = np.vstack([rates, high]), np.vstack([over, np.full(rows.size, _FAR)])
        reason = np.vstack([reasons, self._limit()])[held, rows]
        before = np.maximum(held - 1, 0)
        below, above = over[before, rows], over[held, rows]
        # Where the replica no longer keeps up, the lower end is right.
        part = np.where(above < _FAR, -below / np.maximum(above - below, 1e-12), 0.0)
        rate = rates[before, rows] + (high - low) / _SECTIONS * np.clip(part, 0.0, 1.0)
        kept = self._kept(headroom, reason)
        less = [np.interp(rate[i] * (1.0 - kept[i]), rates[:, i], over[:, i]) for i in rows]
        return self._spared(rate, kept, np.array(less), reason), reason, held == 0

    def _secants(
        self, low: FloatArray, high: FloatArray, headroom: FloatArray
    ) -> tuple[FloatArray, NDArray[np.int64], NDArray[np.bool_]]:
        """The same by secants that keep the root between their ends (Illinois), and by halves at times."""
        below, first = self._over(low)
        lost = below > 0.0
        above = np.full(low.size, _FAR)
        reason = np.where(lost, first, self._limit())
        rows, search = np.flatnonzero(~lost), self._rows(~lost)
        for step in range(_STEPS):
            if not rows.size:
                break
            half = step % 3 == 0
            begin, end, under, beyond = low[rows], high[rows], below[rows], above[rows]
            part = np.clip(-under / np.maximum(beyond - under, 1e-12), 0.02, 0.98)
            middle = begin + (end - begin) * (0.5 if half else part)
            over, why = search._over(middle)
            missed = over > _NEAR
            reason[rows] = np.where(missed, why, reason[rows])
            # An end that stays counts half.
            stays = 1.0 if half else 0.5
            above[rows] = np.where(missed, over, stays * beyond)
            below[rows] = np.where(missed, stays * under, np.minimum(over, 0.0))
            low[rows] = begin = np.where(missed, begin, middle)
            high[rows] = end = np.where(missed, middle, end)
            left = (np.abs(over) > _NEAR) & (end - begin > _NEAR * end)
            if step > 2 and not left.all():
                rows, search = rows[left], search._rows(left)
        kept = self._kept(headroom, reason)
        tails = ~self._mean & (kept > 0.0)
        less = self._over(low * (1.0 - kept))[0] if tails.any() else below
        return self._spared(low, kept, less, reason), reason, lost

    def _limit(self) -> NDArray[np.int64]:
        """What ends the rates that are looked at, shape (M,)."""
        return np.where(self._engines.kv_binds, _KV, _STABILITY)

    def _rows(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> _Search:
        """The same search for those rows."""
        return _Search(
            self._engines.take(rows), self._ttft[rows], self._itl[rows], self._share[rows]
        )

    def _kept(self, headroom: FloatArray, reason: NDArray[np.int64]) -> FloatArray:
        """Share of the rates that is kept free at most."""
        more = np.where(self._mean, KV_HEADROOM, KV_TAIL_HEADROOM)
        more = np.where(reason == _KV, more, 0.0)
        return np.where(headroom > 0.0, np.minimum(headroom + more, 0.999), 0.0)

    def _spared(
        self, rate: FloatArray, kept: FloatArray, over: FloatArray, reason: NDArray[np.int64]
    ) -> FloatArray:
        """The rates less what is kept free; `over` is what is missed without all of `kept`."""
        aim = math.log1p(-SPARED)
        near = np.minimum(aim / np.minimum(over, aim), 1.0)
        relieved = (self._share >= STRICT) | ~(self._mean | (reason == _KV))
        return rate * (1.0 - np.where(relieved, kept * near, kept))

    def _over(self, rate_rps: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Logarithm of what is missed the most, within `_FAR`, and its index in `BINDINGS`; shape (M,).

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
        worst = np.log(np.maximum(np.maximum(ttft, itl), 1e-9))
        reason = np.where(itl > 1.0, _ITL, np.where(ttft > 1.0, _TTFT, _STABILITY))
        reason = np.where(state.stable | (itl > 1.0), reason, _STABILITY)
        full = (state.place_waits > 0.02) | (reason == _STABILITY)
        reason = np.where(full & self._engines.kv_binds & (reason != _ITL), _KV, reason)
        over = np.where(state.stable, np.clip(worst, -_FAR, _FAR), _FAR)
        return over, reason

    def _best(self, lost: NDArray[np.bool_], binding: NDArray[np.int64]) -> FloatArray:
        best = np.full(lost.size, np.nan)
        rows = np.flatnonzero(lost)
        if rows.size:
            engines = self._engines.take(rows)
            rate = _IDLE * 1000.0 * engine_state.full_rate(engines)
            state = engine_state.at_rate(engines, rate)
            times, (first, token) = latency(engines, state), means(engines, state)
            share = np.where(self._mean[rows], 0.5, self._share[rows])
            ttft = np.where(self._mean[rows], first, times.ttft_quantile(share))
            itl = np.where(self._mean[rows], token, times.itl_quantile(share))
            best[rows] = np.where(binding[rows] == _ITL, itl, ttft)
        return best


def parts(engines: Engines) -> Iterator[NDArray[np.intp]]:
    """Rows that are worked on together: of similar batches, and few enough for the processor's cache."""
    width = np.exp2(np.ceil(np.log2(engines.room)))
    for one in np.unique(width):
        rows = np.flatnonzero(width == one)
        for start in range(0, rows.size, _ROWS):
            yield rows[start : start + _ROWS]

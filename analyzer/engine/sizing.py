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
from analyzer.engine.percentiles import latency
from analyzer.replicas import FloatArray, checked

HEADROOM = 0.04
"""Default share of the largest rate that is kept free: the model's error in simulations is 0 to 5 % (one
standard deviation), and a replica that is asked for too much breaks faster than one that idles costs."""

KV_HEADROOM = 0.01
KV_TAIL_HEADROOM = 0.03
"""Kept free besides where the KV cache binds the batch, for means and for percentiles: preemption makes the
fall there a cliff."""

Binding = Literal["ttft", "itl", "tps", "kv", "stability"]
BINDINGS: tuple[Binding, ...] = ("ttft", "itl", "tps", "kv", "stability")
_TTFT, _ITL, _TPS, _KV, _STABILITY = range(5)
_HALVINGS = 12
_FEW = 64
"""Rows up to which several rates are tested in one call: the call costs more than its numbers."""

_ROWS = 2**12
"""Rows that are worked on together: their columns fit in the processor's cache."""

_IDLE = 1e-4
AIM = 1.0
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
        headroom: share of the largest rate that is kept free, >= 0 and < 1.

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
        rate[part], binding[part], best[part] = search.largest()
    binding[(binding == _STABILITY) & ~np.isnan(tokens)] = _TPS
    cliff = np.where(np.isnan(share), KV_HEADROOM, KV_TAIL_HEADROOM)
    kept = free + np.where(engines.kv_binds & (free > 0), cliff, 0.0)
    rate *= 1.0 - np.minimum(kept, 0.999)
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
        times = latency(some, state)
        usage = np.minimum(state.batch * (some.context + 8.0) * 0.9 / (0.9 * some.kv_tokens), 1.0)
        values = {
            "rate_rps": rates[part],
            "ttft_ms": times.ttft_ms,
            "itl_ms": times.itl_ms,
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
        self._ttft = np.where(np.isnan(ttft_ms), np.inf, ttft_ms)
        self._itl = np.where(np.isnan(itl_ms), np.inf, itl_ms)
        self._share = share
        self._means = bool(np.isnan(share).all())
        self._tails = bool((~np.isnan(share)).all())

    def largest(self) -> tuple[FloatArray, NDArray[np.int8], FloatArray]:
        """Rates, bindings and the best latencies, each of shape (M,)."""
        high = 1000.0 * np.minimum(
            engine_state.full_rate(self._engines),
            1.0 / (self._engines.prefill_ms * self._engines.input_tokens),
        )
        low = high * _IDLE
        idle = self._missed(low)
        lost = idle >= 0
        binding = idle
        few = self._ttft.size <= _FEW
        sections = 16 if few else 2
        for _ in range(_HALVINGS // 4 if few else _HALVINGS):
            low, high, binding = self._narrowed(low, high, binding, sections)
        binding = np.where(lost, idle, binding)
        binding = np.where(binding < 0, _STABILITY, binding)
        kv = (binding == _STABILITY) | (binding == _TTFT)
        if kv.any() and self._engines.kv_binds.any():
            waits = engine_state.at_rate(self._engines, low).place_waits > 0.02
            bound = kv & self._engines.kv_binds & ~lost & (waits | (binding == _STABILITY))
            binding = np.where(bound, _KV, binding)
        best = self._best(lost, binding)
        return np.where(lost, np.nan, low), binding.astype(np.int8), best

    @staticmethod
    def stable_rates(engines: Engines) -> FloatArray:
        """Largest stable rates, requests per second, shape (M,)."""
        none = np.full(len(engines), np.nan)
        return np.asarray(_Search(engines, none, none, none).largest()[0])

    def _narrowed(
        self, low: FloatArray, high: FloatArray, binding: NDArray[np.int64], sections: int
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
        """The section of each interval in which a target begins to be missed; all tests in one call."""
        rows, cuts = low.size, sections - 1
        steps = np.arange(1, sections) / sections
        rates = low + (high - low) * steps[:, None]
        search = self
        if cuts > 1:
            again = np.tile(np.arange(rows), cuts)
            search = _Search(
                self._engines.take(again), self._ttft[again], self._itl[again], self._share[again]
            )
        missed = search._missed(rates.ravel()).reshape(cuts, rows)
        held = (np.cumsum(missed >= 0, axis=0) == 0).sum(axis=0)
        columns = np.arange(rows)
        edges = np.vstack([low, rates, high])
        reasons = np.vstack([missed, binding])
        return edges[held, columns], edges[held + 1, columns], reasons[held, columns]

    def _missed(self, rate_rps: FloatArray) -> NDArray[np.int64]:
        """What is missed at the rate: index into `BINDINGS`, -1 where nothing is; shape (M,)."""
        state = engine_state.at_rate(self._engines, rate_rps)
        times = latency(self._engines, state)
        late = times.ttft_ms > self._ttft
        slow = times.itl_ms > self._itl
        if not self._means:
            with np.errstate(invalid="ignore"):
                many_late = times.ttft_exceeds(np.minimum(self._ttft, 1e15)) > AIM * (1.0 - self._share)
                many_slow = times.itl_exceeds(np.minimum(self._itl, 1e15)) > AIM * (1.0 - self._share)
            if self._tails:
                late, slow = many_late, many_slow
            else:
                late = np.where(np.isnan(self._share), late, many_late)
                slow = np.where(np.isnan(self._share), slow, many_slow)
        missed = np.where(slow, _ITL, np.where(late, _TTFT, -1))
        return np.where(state.stable, missed, np.where(slow & ~late, _ITL, _STABILITY))

    def _best(self, lost: NDArray[np.bool_], binding: NDArray[np.int64]) -> FloatArray:
        best = np.full(lost.size, np.nan)
        rows = np.flatnonzero(lost)
        if rows.size:
            engines = self._engines.take(rows)
            rate = _IDLE * 1000.0 * engine_state.full_rate(engines)
            times = latency(engines, engine_state.at_rate(engines, rate))
            share = np.where(np.isnan(self._share[rows]), 0.5, self._share[rows])
            mean = np.isnan(self._share[rows])
            ttft = np.where(mean, times.ttft_ms, times.ttft_quantile(share))
            itl = np.where(mean, times.itl_ms, times.itl_quantile(share))
            best[rows] = np.where(binding[rows] == _ITL, itl, ttft)
        return best


def parts(engines: Engines) -> Iterator[NDArray[np.intp]]:
    """Rows that are worked on together: of similar batches, and few enough for the processor's cache."""
    width = np.exp2(np.ceil(np.log2(engines.room)))
    for one in np.unique(width):
        rows = np.flatnonzero(width == one)
        for start in range(0, rows.size, _ROWS):
            yield rows[start : start + _ROWS]

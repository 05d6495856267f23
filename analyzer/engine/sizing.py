"""Performance of engines at a rate, and the largest rate that they hold within their targets.

Latencies rise with the rate, so the largest rate is searched by tests at a rate (`search.py`); no root of a
quantile is needed: a percentile target asks whether the share of requests beyond it is small enough.

`size_engines` and `analyze_engines` work on arrays, one row per replica, and rows do not influence each
other; `size_engine` and `analyze_engine` are their views of a single one.

Units: milliseconds, requests per second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer import defaults, errors
from analyzer.engine import single
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engine, Engines
from analyzer.engine.percentiles import latency, means
from analyzer.engine.search import BINDINGS, STABILITY, TPS, Binding, Search, Targets, parts
from analyzer.replicas import FloatArray, checked

HEADROOM = defaults.HEADROOM
"""Default share of the largest rate that is kept free."""

_PERCENTILES = (0.5, 0.9, 0.95, 0.99)
_LEAST_RATE = 1e-12


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
    """Largest rate of one replica; None: no such target, the mean. See `size_engines`.

    Searched without arrays of rows, which is several times faster.
    """
    capacity = _alone(engine, (ttft_ms, itl_ms, tps), percentile, headroom)
    if capacity is not None:
        return capacity
    with errors.alone():
        return size_engines(
            Engines.of([engine]),
            ttft_ms=math.nan if ttft_ms is None else ttft_ms,
            itl_ms=math.nan if itl_ms is None else itl_ms,
            tps=math.nan if tps is None else tps,
            percentile=math.nan if percentile is None else percentile,
            headroom=headroom,
        )[0]


def _alone(
    engine: Engine,
    targets: tuple[float | None, float | None, float | None],
    percentile: float | None,
    headroom: float,
) -> EngineCapacity | None:
    """The same on floats; None where arrays have to answer, or to say what is wrong."""
    ttft_ms, itl_ms, tps = targets
    good = all(number is None or 0.0 < number < math.inf for number in targets)
    if not (good and 0.0 <= headroom < 1.0 and (percentile is None or 0.0 < percentile < 1.0)):
        return None
    bounds = Targets(
        ttft_ms=math.inf if ttft_ms is None else float(ttft_ms),
        itl_ms=math.inf if itl_ms is None else float(itl_ms),
        # Numbers of numpy would slow all that follows from them.
        percentile=None if percentile is None else float(percentile),
    )
    held = single.largest(engine, bounds, float(headroom))
    if held is None:
        return None
    reason = TPS if held.reason == STABILITY and tps is not None else held.reason
    return EngineCapacity(
        rate_rps=held.rate_rps,
        binding=BINDINGS[reason],
        kv_bound_batch=held.kv_batch if math.isfinite(held.kv_batch) else None,
        max_batch=int(held.max_batch),
        best_ms=held.best_ms,
    )


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
            keeps `kept_free.MISS_RESERVE` of the allowed misses free.

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
        some = engines if part.size == rows else engines.take(part)
        search = Search(some, ttft[part], itl[part], share[part])
        rate[part], binding[part], best[part] = search.largest(free[part])
    binding[(binding == STABILITY) & ~np.isnan(tokens)] = TPS
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
    rates = np.maximum(checked("rate_rps", rate_rps, len(engines), least=0.0), _LEAST_RATE)
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
            "utilization": rates[part] / Search.stable_rates(some),
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


def mean_latencies(
    engines: Engines, rate_rps: FloatArray, max_queue_to_batch: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean TTFT and ITL, and the share of requests turned away, each of shape (M,), at rates of that shape.

    A replica that does not keep up has no steady state; one whose queue is bounded at that many times its
    batch turns requests away, and who gets in waits for a full queue.
    """
    rates = np.maximum(rate_rps, _LEAST_RATE)
    ttft, itl, refused = (np.zeros(len(engines)) for _ in range(3))
    for part in parts(engines):
        some = engines.take(part)
        state = engine_state.at_rate(some, rates[part])
        first, token = means(some, state)
        top = some.full_rate
        queued = max_queue_to_batch * some.max_batch / top
        late = queued + some.prefill_ms * some.input_tokens + some.decode_ms(some.max_batch)
        over = np.maximum(1.0 - 1000.0 * top / rates[part], 0.0)
        ttft[part] = np.where(state.stable, first, late)
        itl[part] = token
        refused[part] = np.where(state.stable, 0.0, over)
    return ttft, itl, refused


def quantiles(
    engines: Engines, rate_rps: FloatArray, share: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """TTFT and ITL that a share of the requests does not exceed, each of shape (M,).

    Args:
        engines: M of them.
        rate_rps: arrivals, shape (M,); a TTFT beyond what a replica keeps up with is infinite.
        share: shape (M,), > 0 and < 1.

    """
    rates = np.maximum(rate_rps, _LEAST_RATE)
    ttft, itl = np.empty(len(engines)), np.empty(len(engines))
    for part in parts(engines):
        some = engines.take(part)
        state = engine_state.at_rate(some, rates[part])
        times = latency(some, state)
        ttft[part] = np.where(state.stable, times.ttft_quantile(share[part]), np.inf)
        itl[part] = times.itl_quantile(share[part])
    return ttft, itl


def missed_alone(engines: Engines, *, ttft_ms: FloatArray, itl_ms: FloatArray) -> FloatArray:
    """Share of requests that miss a target even where a replica computes nothing else, shape (M,).

    Args:
        engines: M of them.
        ttft_ms: target, shape (M,); NaN: none.
        itl_ms: the same of the mean ITL of a request.

    """
    missed = np.zeros(len(engines))
    for part in parts(engines):
        some = engines.take(part)
        times = latency(some, engine_state.at_rate(some, np.full(part.size, _LEAST_RATE)))
        for target, exceeds in ((ttft_ms, times.ttft_exceeds), (itl_ms, times.itl_exceeds)):
            given = ~np.isnan(target[part])
            missed[part] += np.where(given, exceeds(np.where(given, target[part], np.inf)), 0.0)
    return missed

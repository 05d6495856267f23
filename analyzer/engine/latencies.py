"""Latencies of engines at a rate, without what `sizing.analyze_engines` says besides: for many rows, fast."""

from __future__ import annotations

import numpy as np

from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from analyzer.engine.percentiles import latency, means
from analyzer.engine.search import parts
from analyzer.replicas import FloatArray

_LEAST_RATE = 1e-12


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

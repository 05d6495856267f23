"""Steady state of LLM server replicas: M/M/1/K with a state-dependent service rate.

With n requests in service, decode takes alpha + beta*n per token and prefill
gamma + delta*input_tokens*n (nothing without input tokens), so one request takes
T(n) = prefill(n) + (output_tokens - 1) * decode(n) and the replica finishes mu(n) = n / T(n).
Above the max batch N requests wait and mu stays mu(N); the system holds at most K = N + max_queue.

`analyze_all` works on arrays, one row per replica; `analyze` is its view of a single one.

Units: times in milliseconds, rates in requests per second.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer import chain, errors
from analyzer.replicas import MAX_QUEUE_TO_BATCH, FloatArray, Replica, Replicas, checked
from analyzer.roots import find_roots

__all__ = [
    "MAX_QUEUE_TO_BATCH",
    "PercentileArrays",
    "Percentiles",
    "Performance",
    "PerformanceArrays",
    "Replica",
    "Replicas",
    "analyze",
    "analyze_all",
    "percentiles",
    "percentiles_all",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """Steady state of one replica at one arrival rate.

    Attributes:
        offered_rps: arrival rate.
        throughput_rps: rate of requests that are accepted and so finished (goodput).
        tokens_per_second: generated tokens.
        blocking: share of arrivals that find the queue full.
        waiting_ms: mean time in the queue of accepted requests.
        service_ms: mean time in service.
        response_ms: waiting plus service.
        in_service: mean number of requests in service.
        in_queue: mean number of requests that wait.
        batch: mean batch that accepted requests join, themselves included.
        prefill_ms: prefill time in that batch.
        itl_ms: inter-token latency in that batch.
        ttft_ms: time to first token, waiting plus prefill.
        utilization: mean requests in service over max batch.
        busy: share of time with at least one request.

    """

    offered_rps: float
    throughput_rps: float
    tokens_per_second: float
    blocking: float
    waiting_ms: float
    service_ms: float
    response_ms: float
    in_service: float
    in_queue: float
    batch: float
    prefill_ms: float
    itl_ms: float
    ttft_ms: float
    utilization: float
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerformanceArrays:
    """Steady states of M replicas, every field of shape (M,); see `Performance`."""

    offered_rps: FloatArray
    throughput_rps: FloatArray
    tokens_per_second: FloatArray
    blocking: FloatArray
    waiting_ms: FloatArray
    service_ms: FloatArray
    response_ms: FloatArray
    in_service: FloatArray
    in_queue: FloatArray
    batch: FloatArray
    prefill_ms: FloatArray
    itl_ms: FloatArray
    ttft_ms: FloatArray
    utilization: FloatArray
    busy: FloatArray

    def __getitem__(self, row: int) -> Performance:
        """One row."""
        return Performance(
            **{item.name: float(getattr(self, item.name)[row]) for item in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """One percentile of each latency at one arrival rate.

    Attributes:
        share: percentile, such as 0.95.
        waiting_ms: time in the queue that this share of accepted requests does not exceed.
        ttft_ms: the same for the time to first token.
        itl_ms: the same for the inter-token latency in the batch that requests join.

    """

    share: float
    waiting_ms: float
    ttft_ms: float
    itl_ms: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PercentileArrays:
    """Percentiles of M replicas, every field of shape (M,); see `Percentiles`."""

    share: FloatArray
    waiting_ms: FloatArray
    ttft_ms: FloatArray
    itl_ms: FloatArray

    def __getitem__(self, row: int) -> Percentiles:
        """One row."""
        return Percentiles(
            **{item.name: float(getattr(self, item.name)[row]) for item in fields(self)}
        )


def analyze(replica: Replica, arrival_rate_rps: float) -> Performance:
    """Steady state of `replica` at that arrival rate; overload is a result, not an error.

    Raises:
        InvalidParameterError: the rate is not a number >= 0.

    """
    with errors.alone():
        return analyze_all(Replicas.of([replica]), arrival_rate_rps)[0]


def analyze_all(replicas: Replicas, arrival_rate_rps: ArrayLike) -> PerformanceArrays:
    """Steady state of every replica at its arrival rate, shape (M,) or a number for all.

    Rows do not influence each other: neither their order nor the batch they are in changes a bit.

    Raises:
        InvalidParameterError: a rate is not a number >= 0.

    """
    rates = _rates(replicas, arrival_rate_rps)
    out = {item.name: np.empty(len(replicas)) for item in fields(PerformanceArrays)}
    for rows in chain.parts(replicas):
        part, rate = replicas.take(rows), rates[rows]
        seen = chain.Chain(part).seen(rate / part.max_rate_rps)
        throughput = rate * seen.accepted
        waiting = seen.queue * 1000.0 / part.max_rate_rps
        # T is linear in n, so Little's law makes the mean service time T of the mean batch joined.
        service = part.request_ms(seen.batch)
        in_service = throughput * service / 1000.0
        prefill = part.prefill_ms(seen.batch)
        later = (seen.body[:, 1:].sum(axis=1) + seen.tail) / seen.total
        values = {
            "offered_rps": rate,
            "throughput_rps": throughput,
            "tokens_per_second": throughput * part.output_tokens,
            "blocking": np.where(rate > 0, seen.blocked, 0.0),
            "waiting_ms": waiting,
            "service_ms": service,
            "response_ms": waiting + service,
            "in_service": in_service,
            "in_queue": throughput * waiting / 1000.0,
            "batch": seen.batch,
            "prefill_ms": prefill,
            "itl_ms": part.decode_ms(seen.batch),
            "ttft_ms": waiting + prefill,
            "utilization": in_service / part.max_batch,
            "busy": np.where(rate > 0, later * seen.accepted + seen.blocked, 0.0),
        }
        for name, value in values.items():
            out[name][rows] = value
    return PerformanceArrays(**out)


def percentiles(replica: Replica, arrival_rate_rps: float, share: float) -> Percentiles:
    """A percentile, such as share 0.95, of the latencies of `replica` at that arrival rate.

    Raises:
        InvalidParameterError: the rate is not a number >= 0, or the share not between 0 and 1.

    """
    with errors.alone():
        return percentiles_all(Replicas.of([replica]), arrival_rate_rps, share)[0]


def percentiles_all(
    replicas: Replicas, arrival_rate_rps: ArrayLike, share: ArrayLike
) -> PercentileArrays:
    """Percentiles of every replica's latencies, from the states that accepted arrivals see (PASTA).

    Who finds a slot in the batch does not wait; who meets state n >= max batch waits for
    n - max_batch + 1 departures, an Erlang time. A request in the queue joins a full batch, so the
    percentile of the TTFT is the one of the waiting time plus the prefill in the percentile of the batch.

    Raises:
        InvalidParameterError: a rate is not a number >= 0, or a share not between 0 and 1.

    """
    rates = _rates(replicas, arrival_rate_rps)
    shares = checked("percentile", share, len(replicas), above=0.0, below=1.0)
    batch, waiting = np.empty(len(replicas)), np.zeros(len(replicas))
    for rows in chain.parts(replicas):
        table = chain.Chain(replicas.take(rows))
        load = rates[rows] / table.replicas.max_rate_rps
        seen = table.seen(load)
        batch[rows] = table.batch_quantile(seen, shares[rows])
        waits = np.flatnonzero(seen.tail > (1.0 - shares[rows]) * seen.total)
        if waits.size:
            waiting[rows[waits]] = _waiting_quantile(
                table.take(waits), load[waits], shares[rows[waits]]
            )
    return PercentileArrays(
        share=shares,
        waiting_ms=waiting,
        ttft_ms=waiting + replicas.prefill_ms(batch),
        itl_ms=replicas.decode_ms(batch),
    )


def _waiting_quantile(table: chain.Chain, load: FloatArray, share: FloatArray) -> FloatArray:
    from scipy import special  # noqa: PLC0415 - takes long to load, and only percentiles need it

    seen = table.seen(load)

    def excess(departures: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
        longer = table.take(rows).waits_longer(seen.take(rows), load[rows], departures)
        return longer - (1.0 - share[rows])

    # Nobody waits longer than for a full queue: Erlang(max_queue).
    longest = special.gammaincinv(table.replicas.max_queue, share) * (1.0 + 1e-9)
    departures = find_roots(excess, np.zeros_like(load), longest, relative=1e-13, absolute=1e-12)
    return np.asarray(departures * 1000.0 / table.replicas.max_rate_rps, dtype=np.float64)


def _rates(replicas: Replicas, arrival_rate_rps: ArrayLike) -> FloatArray:
    return checked("arrival_rate_rps", arrival_rate_rps, len(replicas), least=0.0)

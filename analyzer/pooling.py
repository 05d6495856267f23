"""Replicas behind a router that sends each request to the least loaded one: how many are needed.

Such replicas share their queue nearly as one: with n requests in N replicas each has about n / N, so the
service rate in state n is N times that of one replica in state n / N. That is the very chain of one replica
whose beta and delta are divided by N and whose max batch and queue are multiplied by N, and so the same
analysis answers it. Join-the-shortest-queue comes close to this bound (Winston 1977, Journal of Applied
Probability 14, for its optimality; a simulation in the tests for how close).

Replicas that are sized one by one, as if requests chose them at random, need more: bursts at one of them are
not taken over by the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer import capacity
from analyzer.replicas import FloatArray, Replicas

LARGEST_BATCH = 512
"""Largest batch of the common chain. Beyond it more replicas gain little, and count as several such pools."""


def pooled(replicas: Replicas, numbers: ArrayLike) -> Replicas:
    """Each row's replica, as many times as `numbers` says, as one; `numbers` is of shape (M,), >= 1."""
    times = np.asarray(numbers, dtype=np.float64)
    return Replicas(
        alpha_ms=replicas.alpha_ms,
        beta_ms=replicas.beta_ms / times,
        gamma_ms=replicas.gamma_ms,
        delta_ms=replicas.delta_ms / times,
        input_tokens=replicas.input_tokens,
        output_tokens=replicas.output_tokens,
        max_batch=replicas.max_batch * times,
        max_queue=replicas.max_queue * times,
    )


def together(replicas: Replicas, numbers: ArrayLike) -> NDArray[np.int64]:
    """How many of each row's replicas the chain takes as one, shape (M,)."""
    most = np.maximum(LARGEST_BATCH // np.asarray(replicas.max_batch, dtype=np.int64), 1)
    return np.minimum(np.asarray(numbers, dtype=np.int64), most)


def replicas_needed(
    replicas: Replicas,
    rate_rps: FloatArray,
    alone: NDArray[np.int64],
    *,
    ttft_ms: FloatArray,
    itl_ms: FloatArray,
    percentile: FloatArray,
    stability_margin: FloatArray,
) -> NDArray[np.int64]:
    """Least number of replicas that carry the rate together within the targets.

    Args:
        replicas: M of them.
        rate_rps: to be carried, shape (M,).
        alone: numbers that are enough where each is on its own, shape (M,), >= 1; never exceeded.
        ttft_ms: targets as `capacity.size_all` takes them, each of shape (M,).
        itl_ms: the same.
        percentile: the same.
        stability_margin: the same.

    Raises:
        InvalidParameterError: one of them is out of its range; names the row.

    """
    low = np.ones_like(alone)
    high = alone.copy()
    while True:
        rows = np.flatnonzero(low < high)
        if not rows.size:
            return high
        middle = (low[rows] + high[rows]) // 2
        group = together(replicas.take(rows), middle)
        each = rate_rps[rows] * (1.0 - capacity.REPLICA_ROUNDING) * group / middle
        enough = capacity.carry_all(
            pooled(replicas.take(rows), group),
            each,
            ttft_ms=ttft_ms[rows],
            itl_ms=itl_ms[rows],
            percentile=percentile[rows],
            stability_margin=stability_margin[rows],
        )
        high[rows] = np.where(enough, middle, high[rows])
        low[rows] = np.where(enough, low[rows], middle + 1)


def carried_rps(
    replicas: Replicas,
    numbers: NDArray[np.int64],
    *,
    ttft_ms: FloatArray,
    itl_ms: FloatArray,
    percentile: FloatArray,
    stability_margin: FloatArray,
) -> FloatArray:
    """Largest rate within the targets that so many of each row's replicas carry together, shape (M,).

    No less than what they carry alone. Arguments as those of `replicas_needed`; NaN where none is within.
    """

    def largest(group: NDArray[np.int64]) -> FloatArray:
        sized = capacity.size_all(
            pooled(replicas, group),
            ttft_ms=ttft_ms,
            itl_ms=itl_ms,
            percentile=percentile,
            stability_margin=stability_margin,
            every_target=False,
        )
        return np.asarray(sized.goodput_rps / group * numbers)

    return np.asarray(np.fmax(largest(np.ones_like(numbers)), largest(together(replicas, numbers))))


def bursty(
    numbers: NDArray[np.int64], busy: FloatArray, dispersion: FloatArray
) -> NDArray[np.int64]:
    """Numbers of replicas for arrivals in bursts, from those for Poisson arrivals.

    What Poisson arrivals need beyond the load is for their variation, and grows with the standard deviation:
    the square-root rule with peakedness (Whitt 1992, Management Science 38, "Understanding the efficiency of
    multi-server service systems"). That is what is idle at the largest load which the number carries; at a
    smaller one more is idle, but by rounding up, and to count that would take replicas away when load rises.

    Args:
        numbers: for Poisson arrivals, shape (M,).
        busy: replicas that the largest load which these carry keeps busy (`carried_rps`), shape (M,).
        dispersion: variance of the arrivals' number over its mean, shape (M,); below 1 counts as 1.

    """
    more = np.sqrt(np.maximum(dispersion, 1.0)) - 1.0
    spare = np.maximum(numbers - busy, 0.0) * more
    return np.asarray(numbers + np.ceil(spare * (1.0 - capacity.REPLICA_ROUNDING)).astype(np.int64))

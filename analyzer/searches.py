"""Largest rates within one latency target, for many replicas at once; used by `capacity` only.

A target is searched between FLOOR_SHARE mu(1), below which a replica is as good as idle, and an upper end.
What an idle replica takes is no more than its target when it is as much (`allowed`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyzer import chain, queueing
from analyzer.replicas import BoolArray, FloatArray
from analyzer.roots import find_roots

LIMIT_SHARE = 0.999
"""Largest rate looked at, as a share of mu(max_batch)."""

FLOOR_SHARE = 0.001
"""Smallest rate looked at, as a share of mu(1)."""

IDLE_TOLERANCE = 1e-6
"""Share by which a latency may exceed what an idle replica takes where the target is just that.

Below it, the latency says nothing about the rate: it rises with a power of the rate, and of a rise within
some multiples of float noise (2e-16) no rate can be read.
"""

_NOISE = 1e-12
"""Excess of an idle replica that counts as none: sums over a chain differ by that much at most."""

TTFT, ITL = range(2)
_TINY = 1e-300


def allowed(at_floor: FloatArray | float) -> FloatArray:
    """Excess over a target that still counts as none, of the shape of `at_floor`.

    0, or what IDLE_TOLERANCE above an idle replica's latency exceeds the target by, if that is more: so the
    largest rate rises with the target without a step, down to a target that is what an idle replica takes.

    Args:
        at_floor: Excess of an idle replica, as `Search` and `single.SingleReplica` compute it. Above float
            noise the target is unreachable and nothing is allowed.

    """
    rise = np.maximum(at_floor + IDLE_TOLERANCE, 0.0)
    return np.where(np.less_equal(at_floor, _NOISE), rise, 0.0)


class Search:
    """Largest rates within one target, for M replicas of one chain table."""

    def __init__(
        self, table: chain.Chain, target: int, target_ms: FloatArray, percentile: FloatArray
    ) -> None:
        self._table = table
        self._target = target
        self._target_ms = target_ms
        self._share = percentile
        self._by_mean = bool(np.isnan(percentile).all())
        replicas = table.replicas
        idle = 1000.0 / replicas.request_ms(np.ones(len(replicas)))
        self._floor = FLOOR_SHARE * idle / replicas.max_rate_rps

    def largest_rates(self, most: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Rates, NaN where unreachable, and the best latencies there, NaN elsewhere; each (M,).

        Args:
            most: Largest loads looked at, as shares of mu(max_batch), shape (M,). Default LIMIT_SHARE.

        """
        replicas = self._table.replicas
        everyone = np.arange(self._target_ms.size)
        high = np.full(self._target_ms.size, LIMIT_SHARE) if most is None else most
        at_floor = self._excess(self._floor, everyone)
        zero = allowed(at_floor)
        at_floor = at_floor - zero
        at_limit = self._excess(high, everyone) - zero
        loads = np.where(at_limit <= 0.0, high, self._floor)
        loads[at_floor > 0.0] = np.nan
        between = np.flatnonzero((at_floor <= 0.0) & (at_limit > 0.0))
        if between.size:
            loads[between] = find_roots(
                lambda load, rows: self._excess(load, between[rows]) - zero[between[rows]],
                self._floor[between],
                high[between],
                relative=1e-14,
                absolute=_TINY,
                residual=2e-15,
                at_low=at_floor[between],
                at_high=at_limit[between],
            )
        best = np.full(self._target_ms.size, np.nan)
        failed = np.flatnonzero(at_floor > 0.0)
        if failed.size:
            best[failed] = self._latency(failed, self._floor[failed])
        return loads * replicas.max_rate_rps, best

    def best(self, rows: NDArray[np.intp]) -> FloatArray:
        """Latencies of replicas that are as good as idle."""
        return self._latency(rows, self._floor[rows])

    def hold(self, load: FloatArray) -> BoolArray:
        """Whether the target holds at these loads, shape (M,)."""
        everyone = np.arange(self._target_ms.size)
        excess = self._excess(np.maximum(load, self._floor), everyone)
        # Only so little can be allowed: the others need no look at the idle replica.
        near = np.flatnonzero((excess > 0.0) & (excess <= 2.0 * IDLE_TOLERANCE))
        if near.size:
            excess[near] -= allowed(self._excess(self._floor[near], near))
        return np.asarray(excess <= 0.0)

    def _excess(self, load: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
        """Logarithm of the latency over its target, or of the share that exceeds it over the allowed."""
        table, target_ms = self._table.take(rows), self._target_ms[rows]
        replicas, seen = table.replicas, table.seen(load)
        if self._target == ITL:
            value = np.log(replicas.decode_ms(seen.batch) / target_ms)
        else:
            waiting = seen.queue * 1000.0 / replicas.max_rate_rps
            # Beyond the range of floats over a tiny target: infinity, which is a miss all the same.
            with np.errstate(over="ignore"):
                over = (waiting + replicas.prefill_ms(seen.batch)) / target_ms
            value = np.log(np.maximum(over, _TINY))
        if self._by_mean:
            return value
        exceeding = self._exceeding(table, seen, load, target_ms)
        share = self._share[rows]
        tail = np.log(np.maximum(exceeding / (1.0 - share), _TINY))
        return np.where(np.isnan(share), value, tail)

    def _exceeding(
        self, table: chain.Chain, seen: chain.Seen, load: FloatArray, target_ms: FloatArray
    ) -> FloatArray:
        replicas = table.replicas
        if self._target == ITL:
            largest = _largest_batch(replicas.alpha_ms, replicas.beta_ms, target_ms)
            return table.batch_exceeds(seen, largest)
        base, slope = replicas.prefill_base_ms, replicas.prefill_slope_ms
        largest = _largest_batch(base, slope, target_ms)
        spare_ms = target_ms - replicas.prefill_ms(replicas.max_batch)
        full = largest >= replicas.max_batch
        departures = np.maximum(spare_ms, 0.0) * replicas.max_rate_rps / 1000.0
        return np.where(
            full,
            table.waits_longer(seen, load, departures),
            table.batch_exceeds(seen, largest),
        )

    def _latency(self, rows: NDArray[np.intp], load: FloatArray) -> FloatArray:
        replicas = self._table.replicas.take(rows)
        rate, share = load * replicas.max_rate_rps, self._share[rows]
        mean = queueing.analyze_all(replicas, rate)
        at = queueing.percentiles_all(replicas, rate, np.where(np.isnan(share), 0.5, share))
        means, percentiles = (
            (mean.itl_ms, at.itl_ms) if self._target == ITL else (mean.ttft_ms, at.ttft_ms)
        )
        return np.where(np.isnan(share), means, percentiles)


def _largest_batch(base: FloatArray, slope: FloatArray, target_ms: FloatArray) -> FloatArray:
    """Largest batch n with base + slope * n <= target_ms, in float noise; shape (M,)."""
    room: BoolArray = base <= target_ms
    with np.errstate(over="ignore"):
        steps = (target_ms - base) / np.maximum(slope, _TINY)
        return np.where(room, np.floor(np.minimum(steps, 2.0**53) + 1e-9), 0.0)

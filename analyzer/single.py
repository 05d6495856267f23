"""Mean targets of one replica, without arrays of rows: what `capacity.size` does in a fraction of the time.

The formulas are those of `chain` and `searches`, and so are the ends of the search; results agree with those
of `capacity.size_all` up to float noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from analyzer.replicas import Replica
from analyzer.searches import FLOOR_SHARE, LIMIT_SHARE, allowed

_SMALLEST = 1e-300
_RELATIVE = 1e-14
_RESIDUAL = 2e-15
_STEPS = 200
_BERNOULLI = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160,
    -691 / 1307674368000, 1 / 74724249600,
)  # fmt: skip
"""Coefficients of the series in `_mean_position`; those of `chain`."""


class SingleReplica:
    """Chain of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._most, self._queue = float(replica.max_batch), float(replica.max_queue)
        self.max_rate_rps = replica.max_rate_rps
        batch = np.arange(1.0, replica.max_batch + 1.0)
        full = replica.request_ms(self._most)
        first = replica.request_ms(0.0)
        times = first + (full - first) / self._most * batch
        gains = np.cumsum(np.log(self._most / batch * times / full))
        self._top = float(gains[-1])
        self._gains = np.concatenate(([0.0], gains[:-1]))
        self._states, self._batch = batch - 1.0, batch
        self.floor = FLOOR_SHARE * 1000.0 / replica.request_ms(1.0) / self.max_rate_rps

    def seen(self, load: float) -> tuple[float, float, float]:
        """Mean batch joined, mean departures waited for, and share accepted at load = rate / mu(N)."""
        most, queue = self._most, self._queue
        log_load = math.log(min(max(load, _SMALLEST), 1.0 / _SMALLEST))
        body = self._states * log_load + self._gains
        edge = self._top + most * log_load
        heaviest = edge + max(log_load, 0.0) * (queue - 1.0)
        largest = float(body.max())
        if queue > 0:
            largest = max(largest, heaviest)
        body -= largest
        np.exp(body, out=body)
        inside, joined = float(body.sum()), float(body @ self._batch)
        tail = departures = 0.0
        if queue > 0:
            decay = max(abs(log_load), _SMALLEST)
            tail = math.exp(heaviest - largest) * (math.expm1(-queue * decay) / math.expm1(-decay))
            position = _mean_position(decay, queue)
            departures = queue - position if log_load > 0 else 1.0 + position
        total = inside + tail
        log_odds = edge + queue * log_load - largest - math.log(total)
        blocked = 1.0 / (1.0 + math.exp(-log_odds)) if log_odds > -700.0 else 0.0
        return (joined + most * tail) / total, tail * departures / total, 1.0 - blocked

    def itl_ms(self, load: float) -> float:
        """Mean inter-token latency."""
        return self._replica.decode_ms(self.seen(load)[0])

    def ttft_ms(self, load: float) -> float:
        """Mean time to first token."""
        batch, queue, _ = self.seen(load)
        return queue * 1000.0 / self.max_rate_rps + self._replica.prefill_ms(batch)

    def largest_load(self, latency: Callable[[float], float], target_ms: float) -> float | None:
        """Largest load within a target; None where even an idle replica misses it."""
        zero = 0.0

        def excess(load: float) -> float:
            return math.log(max(latency(load) / target_ms, _SMALLEST)) - zero

        at_floor = excess(self.floor)
        zero = float(allowed(at_floor))
        at_floor -= zero
        if at_floor > 0.0:
            return None
        at_limit = excess(LIMIT_SHARE)
        if at_limit <= 0.0:
            return LIMIT_SHARE
        return _root(excess, (self.floor, LIMIT_SHARE), (at_floor, at_limit))


def _root(
    function: Callable[[float], float], ends: tuple[float, float], values: tuple[float, float]
) -> float:
    """Chandrupatla's method, as `roots.find_roots`."""
    (b, a), (fb, fa) = ends, values
    step = 0.5
    for _ in range(_STEPS):
        best, value = (a, fa) if abs(fa) < abs(fb) else (b, fb)
        least = 0.5 * (abs(best) * _RELATIVE + _SMALLEST) / max(abs(b - a), _SMALLEST)
        if least > 0.5 or abs(value) <= _RESIDUAL:
            return best
        point = a + min(max(step, least), 1.0 - least) * (b - a)
        at_point = function(point)
        if (at_point > 0) == (fa > 0) and at_point != 0.0:
            c, fc = a, fa
        else:
            c, fc, b, fb = b, fb, a, fa
        a, fa = point, at_point
        step = _next_step((a, b, c), (fa, fb, fc))
    return a if abs(fa) < abs(fb) else b


def _next_step(points: tuple[float, float, float], values: tuple[float, float, float]) -> float:
    (a, b, c), (fa, fb, fc) = points, values
    if c == b or fc in {fb, fa} or fb == fa:
        return 0.5
    xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
    if not (phi * phi < xi and (1.0 - phi) ** 2 < 1.0 - xi):
        return 0.5
    return fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)


def _mean_position(decay: float, count: float) -> float:
    """Mean of i under weights exp(-decay * i), i = 0..count-1; see `chain`."""
    if count * decay > 0.5:
        last = count / math.expm1(count * decay) if count * decay < 700.0 else 0.0
        return max((1.0 / math.expm1(decay) if decay < 700.0 else 0.0) - last, 0.0)
    return (count - 1.0) / 2.0 + _series(decay) - count * _series(count * decay)


def _series(x: float) -> float:
    total = 0.0
    for coefficient in reversed(_BERNOULLI):
        total = total * (x * x) + coefficient
    return total * x

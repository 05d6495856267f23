"""How much load one replica carries within its service level: the inverse of `queueing.analyze`.

TTFT and ITL never fall when the arrival rate rises (the states seen grow in likelihood-ratio order),
so each target has one largest rate, found by bracketing. Flat functions (max batch 1, beta = delta = 0)
need no root: the target is compared with both ends of the range first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scipy.optimize import brentq

from analyzer import errors, queueing

LIMIT_SHARE = 0.999
"""Largest rate looked at, as a share of mu(max_batch): beyond it the queue is always full."""

STABILITY_MARGIN = 0.1
"""Default share of mu(max_batch) kept free, so that noise in the arrivals finds room."""

Target = Literal["ttft", "itl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """A target that no arrival rate meets.

    Attributes:
        target: which one.
        wanted_ms: what was asked for.
        best_ms: what a replica with a single request gives.

    """

    target: Target
    wanted_ms: float
    best_ms: float

    def __str__(self) -> str:
        """One sentence for logs and conditions."""
        return (
            f"{self.target.upper()} target {self.wanted_ms:g} ms cannot be met: "
            f"a single request already takes {self.best_ms:g} ms"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one replica carries within its targets.

    Attributes:
        rate_rps: goodput at the largest arrival rate that meets every target.
        binding: what bounds it: a target, or stability (the replica's own speed).

    """

    rate_rps: float
    binding: Literal["ttft", "itl", "stability"]


def size(
    replica: queueing.Replica,
    *,
    ttft_ms: float = 0.0,
    itl_ms: float = 0.0,
    stability_margin: float = STABILITY_MARGIN,
) -> Capacity | Unreachable:
    """Largest load of one replica with mean TTFT and ITL within the targets (0: no such target).

    Raises:
        InvalidParameterError: a target is negative or no number, or the margin is outside 0..1.

    """
    for name, value in (("ttft_ms", ttft_ms), ("itl_ms", itl_ms)):
        if not (math.isfinite(value) and value >= 0):
            raise errors.InvalidParameterError(f"{name}: must be a number >= 0, not {value}")
    if not 0 <= stability_margin < 1:
        raise errors.InvalidParameterError(
            f"stability_margin: must be >= 0 and < 1, not {stability_margin}"
        )
    best_rate = (1.0 - stability_margin) * LIMIT_SHARE * replica.max_rate_rps
    binding: Literal["ttft", "itl", "stability"] = "stability"
    targets: tuple[tuple[Target, float], ...] = (("itl", itl_ms), ("ttft", ttft_ms))
    for target, wanted in targets:
        if wanted == 0:
            continue
        rate = max_rate(replica, target, wanted)
        if isinstance(rate, Unreachable):
            return rate
        if rate < best_rate:
            best_rate, binding = rate, target
    return Capacity(rate_rps=queueing.analyze(replica, best_rate).throughput_rps, binding=binding)


def max_rate(replica: queueing.Replica, target: Target, wanted_ms: float) -> float | Unreachable:
    """Largest arrival rate (req/s), at most 0.999 mu(max_batch), with that mean latency or less."""
    latency = _latency(replica, target)
    best_ms = replica.prefill_ms(1.0) if target == "ttft" else replica.decode_ms(1.0)
    if wanted_ms < best_ms:
        return Unreachable(target=target, wanted_ms=wanted_ms, best_ms=best_ms)
    high = LIMIT_SHARE * replica.max_rate_rps
    if latency(high) <= wanted_ms:
        return high
    low = high / 2
    while latency(low) > wanted_ms:
        low /= 2
        if low < high * 1e-15:  # the target is the idle latency itself: only a rate of 0 meets it
            return Unreachable(target=target, wanted_ms=wanted_ms, best_ms=latency(low))
    return float(brentq(lambda rate: latency(rate) - wanted_ms, low, high, xtol=1e-300, rtol=1e-14))


def _latency(replica: queueing.Replica, target: Target) -> Callable[[float], float]:
    if target == "ttft":
        return lambda rate: queueing.analyze(replica, rate).ttft_ms
    return lambda rate: queueing.analyze(replica, rate).itl_ms

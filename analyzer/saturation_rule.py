"""Replicas for a variant of which no model is known: from how full and how late its replicas are.

Each signal says by which factor the replicas are too few (above 1) or too many (below 1), as an HPA takes a
metric over its target; the largest one counts:

    KV cache      usage of the fullest replica / 0.8
    in service    running / (0.8 batch), where the largest batch is known
    queue         (running + waiting) / running, where more than one request per replica waits: requests wait
                  only where replicas are full, so what runs is what they hold
    latency       observed ITL and TTFT / (0.9 target)

A factor at most doubles the replicas, since a cycle later its effect is seen, or makes them four times as
many where requests wait, which they do until replicas have started. Below 1 its cube root counts: latencies
rise faster than the load of fewer replicas, and nobody knows where they turn. Load that is expected to grow
asks for more by as much as it grows. At most a quarter of the replicas is taken away.

Units: milliseconds, requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KV_TARGET = 0.8
"""Share of the KV cache in use that is aimed at: above it requests are soon preempted."""

BATCH_TARGET = 0.8
"""Share of the largest batch that is aimed at."""

LATENCY_TARGET = 0.9
"""Share of a latency target that is aimed at."""

LARGEST_RISE = 2.0
LARGEST_QUEUE_RISE = 4.0
LARGEST_FALL = 0.75
"""Bounds of the factor of one cycle; the second one is that of the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the replicas of one variant show.

    Attributes:
        replicas: number of replicas that the signals are of.
        running: requests in service, over all replicas.
        waiting: requests in queues, over all replicas.
        arrival_rate_rps: requests per second of the last while; short ones may all be between two looks.
        kv_usage: share of the KV cache in use, of the fullest replica; None where it is not known.
        max_batch: most requests in service of one replica; 0 where it is not known.
        itl_ms: mean inter-token latency; None without one.
        ttft_ms: mean time to first token; None without one.
        growth: load that is expected over the present one, at least 1.
        itl_target_ms: largest inter-token latency; 0 without a target.
        ttft_target_ms: largest time to first token; 0 without a target.

    """

    replicas: int
    running: float
    waiting: float
    arrival_rate_rps: float = 0.0
    kv_usage: float | None = None
    max_batch: int = 0
    growth: float = 1.0
    itl_ms: float | None = None
    ttft_ms: float | None = None
    itl_target_ms: float = 0.0
    ttft_target_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """What the rule says.

    Attributes:
        replicas: replicas to have, at least 1 where something runs or waits.
        reason: the signal that says so, as a clause.

    """

    replicas: int
    reason: str


def replicas_needed(signals: Signals) -> Saturation:
    """Replicas that the largest signal asks for; 0 where nothing runs, waits or arrives."""
    present = signals.replicas
    if signals.running + signals.waiting + signals.arrival_rate_rps <= 0:
        return Saturation(replicas=min(max(present - 1, 0), _fewest(present)), reason="no requests")
    if present < 1:
        # Nobody serves what arrives, whether a queue shows it or not.
        some = f"{signals.waiting:.0f} requests wait" if signals.waiting > 0 else "requests arrive"
        return Saturation(replicas=1, reason=f"{some} for a replica")
    factor, reason = max(_factors(signals), default=(1.0, "no signal of saturation"))
    replicas = math.ceil(present * factor - 1e-9)
    return Saturation(replicas=max(replicas, _fewest(present), 1), reason=reason)


def _fewest(present: int) -> int:
    """Fewest replicas after one cycle."""
    return min(present - 1, math.ceil(present * LARGEST_FALL)) if present > 1 else present


def _factors(signals: Signals) -> list[tuple[float, str]]:
    """Factor of the replicas within its bound, and reason, of each signal."""
    factors: list[tuple[float, str]] = []
    if signals.kv_usage is not None:
        factors.append(
            (
                signals.kv_usage / KV_TARGET,
                f"KV cache {signals.kv_usage:.0%} full, target {KV_TARGET:.0%}",
            )
        )
    running, waiting = signals.running, signals.waiting
    if signals.max_batch:
        most = signals.max_batch * signals.replicas
        factors.append(
            (
                running / (BATCH_TARGET * most),
                f"{running:.0f} of {most} possible requests in service",
            )
        )
    for name, seen, target in (
        ("ITL", signals.itl_ms, signals.itl_target_ms),
        ("TTFT", signals.ttft_ms, signals.ttft_target_ms),
    ):
        if seen is not None and target > 0:
            factors.append(
                (
                    seen / (LATENCY_TARGET * target),
                    f"{name} {seen:.0f} of {target:.0f} ms",
                )
            )
    factors = [(_replicas(factor, signals.growth), reason) for factor, reason in factors]
    if signals.growth > 1.0:
        more = f"; {signals.growth - 1.0:.0%} more load expected"
        factors = [(factor, reason + more) for factor, reason in factors]
    if waiting > signals.replicas:
        factor = min((running + waiting) / max(running, 1.0), LARGEST_QUEUE_RISE)
        factors.append((factor, f"{waiting:.0f} requests wait while {running:.0f} run"))
    return factors


def _replicas(factor: float, growth: float) -> float:
    """Factor of the replicas for a signal over its target, and for load that grows."""
    now = min(factor, LARGEST_RISE) if factor > 1.0 else math.cbrt(factor)
    return min(now * growth, LARGEST_QUEUE_RISE)

"""Names of the rivals, what their thresholds mean, and the thresholds that they are swept over by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emulator.replay import PUBLISHED, THRESHOLDS, clairvoyant
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Threshold
from emulator.replay.replicas.planner import truth_of
from emulator.replay.rivals.cost_aware import CostAware
from emulator.replay.rivals.dynamo import Dynamo
from emulator.replay.rivals.expansion import Expansion
from emulator.replay.rivals.kpa import Kpa
from emulator.replay.rivals.llmd import SloAware, TokenAware
from emulator.replay.rivals.wva import Wva
from emulator.replay.scenario import Scenario
from emulator.traces import Trace

LEAST_THRESHOLD, MOST_THRESHOLD = 0.001, 1e6
MOST_SHARE = 2.0
"""Largest threshold of a rival whose threshold is a share; who writes 80 means 80 %."""

Maker = Callable[[ReplayCluster, float], ScalingPolicy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One rival.

    Attributes:
        threshold: What the threshold is.
        make: Creates the policy for a threshold.
        published: Threshold of its guide, which the bare name has; None where each user has an own, and the
            bare name stands for a sweep.
        most: Largest threshold.

    """

    threshold: str
    make: Maker
    published: float | None = None
    most: float = MOST_THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What one replica carries with mean latencies at the SLO targets.

    Attributes:
        rate_rps: Requests per second.
        in_service: Requests in service at that rate.
        kv_usage: Share of the KV cache that these hold; of the batch where the engine has no cache.

    """

    rate_rps: float
    in_service: float
    kv_usage: float


def _threshold(metric: str) -> Maker:
    return lambda cluster, value: Threshold(cluster, metric=metric, threshold=value)


RIVALS: Mapping[str, Rival] = {
    **{
        name: Rival(
            threshold=f"{what} per pod",
            make=_threshold(name),
            most=MOST_SHARE if name == "kv" else MOST_THRESHOLD,
        )
        for name, what in THRESHOLDS.items()
    },
    "kpa": Rival(
        threshold="requests in flight per pod", make=lambda cluster, at: Kpa(cluster, target=at)
    ),
    "slo-aware": Rival(
        threshold="upper share of the SLO targets",
        make=lambda cluster, at: SloAware(cluster, up=at),
        published=PUBLISHED["slo-aware"],
        most=MOST_SHARE,
    ),
    "token-aware": Rival(
        threshold="seconds of prefill per pod",
        make=lambda cluster, at: TokenAware(cluster, seconds=at),
        published=PUBLISHED["token-aware"],
    ),
    "dynamo": Rival(
        threshold="upper KV utilization",
        make=lambda cluster, at: Dynamo(cluster, up=at),
        published=PUBLISHED["dynamo"],
        most=MOST_SHARE,
    ),
    "wva": Rival(
        threshold="factor on the SLO targets that it is told",
        make=lambda cluster, at: Wva(cluster, factor=at),
        published=PUBLISHED["wva"],
        most=MOST_SHARE,
    ),
    "cost-aware": Rival(
        threshold="share of the capacity in use from which replicas are added",
        make=lambda cluster, at: CostAware(cluster, up=at),
        published=PUBLISHED["cost-aware"],
        most=MOST_SHARE,
    ),
    "expansion": Rival(
        threshold="requests in flight per pod",
        make=lambda cluster, at: Expansion(cluster, target=at),
    ),
}
"""Rivals by name."""

_SHARES = (0.15, 0.25, 0.4, 0.6, 0.85, 1.15)
"""Shares of a replica's capacity: at high percentiles much less of it is of use than at the mean."""
_GRIDS: Mapping[str, Sequence[float]] = {
    "queue": (0.2, 1.0, 2.0, 5.0),
    "slo-aware": (PUBLISHED["slo-aware"], 0.75, 0.95),
    "token-aware": (0.5, 1.0, 2.0, 4.0),
    "wva": (0.7, 0.85, 1.0),
    "cost-aware": (0.3, 0.45, 0.6, PUBLISHED["cost-aware"]),
}


def parse(name: str) -> tuple[str, float] | None:
    """Rival and threshold of a name such as kpa@8 or slo-aware; None for anything else, also a sweep."""
    rival, at, number = name.partition("@")
    if rival not in RIVALS:
        return None
    if not at:
        published = RIVALS[rival].published
        return None if published is None else (rival, published)
    try:
        value = float(number)
    except ValueError:
        return None
    return (rival, value) if LEAST_THRESHOLD <= value <= RIVALS[rival].most else None


def is_sweep(name: str) -> bool:
    """Whether the name stands for a rival's default thresholds: in-flight, or slo-aware@sweep."""
    rival, at, number = name.partition("@")
    if rival not in RIVALS:
        return False
    return number == "sweep" if at else RIVALS[rival].published is None


def capacity(scenario: Scenario, traffic: Mapping[str, Trace]) -> dict[str, Capacity]:
    """Capacity of one replica by variant, from the engine's own parameters and the mean lengths."""
    rates = clairvoyant.replica_capacity(scenario, traffic)
    capacities = {}
    for variant in scenario.variants:
        trace = traffic[variant.model]
        slo = next(item.slo for item in scenario.models if item.model == variant.model)
        inputs, outputs = float(np.mean(trace.input_tokens)), float(np.mean(trace.output_tokens))
        truth = truth_of(variant)
        most = float(truth.max_batch)
        # Where a single request misses the targets, no rate is known; the grid is then as good as any.
        rate = rates[variant.name] if math.isfinite(rates[variant.name]) else 1.0
        service = (0.5 * slo.ttft + outputs * slo.itl) / 1000
        in_service = min(max(rate * service, 1.0), most)
        kv_tokens = None if truth.limits is None else truth.limits.kv_tokens
        kv = in_service * (inputs + outputs / 2) / kv_tokens if kv_tokens else in_service / most
        capacities[variant.name] = Capacity(
            rate_rps=rate, in_service=in_service, kv_usage=min(kv, 1.0)
        )
    return capacities


def grid(rival: str, known: Mapping[str, Capacity]) -> tuple[str, ...]:
    """Names of a rival at its default thresholds: shares of what the first variant's replica carries.

    Args:
        rival: Name of the rival.
        known: Capacity by variant.

    """
    first = next(iter(known.values()))
    whole = {
        "in-flight": first.in_service,
        "kpa": first.in_service,
        "expansion": first.in_service,
        "rps": first.rate_rps,
        "kv": first.kv_usage,
        "dynamo": first.kv_usage,
    }
    values = _GRIDS.get(rival) or tuple(share * whole[rival] for share in _SHARES)
    if rival in {"in-flight", "kpa", "expansion"}:
        values = [max(round(value), 1) for value in values]
    rounded = (min(max(float(f"{value:.2g}"), LEAST_THRESHOLD), MOST_THRESHOLD) for value in values)
    return tuple(f"{rival}@{value:g}" for value in dict.fromkeys(rounded))

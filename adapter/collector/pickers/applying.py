"""The load of a variant with what the endpoint pickers before it know."""

from __future__ import annotations

import math
from dataclasses import replace

from adapter.collector.observation import Observation
from adapter.collector.pickers.loads import InFlight, PoolLoad
from adapter.resources.variant import VariantSource

_NOISE = 3.0
"""Deviations of a Poisson number by which pods and pickers, read at two moments, may differ."""

_TIMES_SHOWN, _MORE = 2.0, 8.0
"""Most requests that wait beyond the pods': so many times what these show, and a few. A count may leak."""

_PART = (
    "its pool is saturated ({saturation:.2f}): the gateway holds requests back, so the load is a part, and"
    " the target may rise and not fall"
)


def applied(
    load: PoolLoad, source: VariantSource, observation: Observation, *, queued: bool
) -> Observation:
    """The load of a variant with what its pickers know beside its pods.

    Args:
        load: What the pickers show.
        source: The variant.
        observation: Its load by its pods.
        queued: Whether requests for its model wait at a gateway.

    """
    traffic = observation.traffic
    # A count that has leaked stands still, which one of pods that are at work need not mean.
    number = load.at(source, moving=traffic is None or traffic.arrival_rate_rps <= 0)
    saturation = load.saturation_of(source)
    shown = _shown(number, saturation)
    if not shown or traffic is None:
        return replace(observation, gateway=shown) if shown else observation
    stock = traffic.running + traffic.waiting
    if number.requests > 0:
        beyond = number.requests - stock - _NOISE * math.sqrt(max(stock, 1.0))
        beyond = min(max(beyond, 0.0), _TIMES_SHOWN * stock + _MORE)
        traffic = replace(
            traffic,
            idle=False,
            waiting=traffic.waiting + beyond,
            waiting_elsewhere=traffic.waiting_elsewhere + beyond,
        )
    observation = replace(observation, traffic=traffic, gateway=shown)
    # A pool without ready endpoints shows itself as full, and has nothing to serve.
    full = (
        saturation is not None and saturation >= 1 and (stock > 0 or queued or number.requests > 0)
    )
    if not full or observation.problem:
        return observation
    return replace(
        observation,
        complete=False,
        note="; ".join(filter(None, (observation.note, _PART.format(saturation=saturation)))),
    )


def _shown(number: InFlight, saturation: float | None) -> str:
    """Text of what pickers show; empty without anything."""
    parts = []
    if number.requests or number.tokens:
        tokens = f" ({number.tokens:.0f} tokens)" if number.tokens else ""
        parts.append(f"{number.requests:.0f} requests in flight{tokens}")
    if saturation is not None:
        parts.append(f"pool saturation {saturation:.2f}")
    return ", ".join(parts)

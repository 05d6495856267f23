"""Routing of requests to replicas, and the queue in front of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from emulator.simulation import SimulatedFleet, SimulatedVariant
from tests.emulator.small_fleets import PROFILE, trace


def test_the_last_replicas_waiting_requests_return_to_the_gateway() -> None:
    """Scaled to zero, what has not begun waits for the next replica, which serves it in order of arrival."""
    single = dataclasses.replace(PROFILE, max_batch=1)
    fleet = SimulatedFleet([SimulatedVariant(name="v", profile=single, replicas=2)])
    for moment in range(6):
        fleet.advance(moment / 10)
        fleet.offer("default", input_tokens=10, output_tokens=50)
    fleet.scale("v", 0)
    fleet.advance(30.0)
    assert fleet.gateway("default") == 4
    assert fleet.results().variant.tolist() == [0] * 2 + [-1] * 4
    fleet.scale("v", 1)
    fleet.advance(60.0)
    results = fleet.results()
    assert results.replica.tolist() == [0, 1] + [2] * 4
    assert results.start_ms[2] == 30000.0
    assert (np.diff(results.start_ms[2:]) > 0).all()


def test_routing() -> None:
    """Least-loaded fills by share of the batch over the variants of a model; round-robin takes turns."""
    wide = dataclasses.replace(PROFILE, max_batch=12)
    variants = [
        SimulatedVariant(name="narrow", profile=PROFILE, replicas=1),
        SimulatedVariant(name="wide", profile=wide, replicas=1),
    ]
    least, turns = SimulatedFleet(variants), SimulatedFleet(variants, routing="round-robin")
    for fleet in (least, turns):
        for _ in range(16):
            fleet.offer("default", input_tokens=10, output_tokens=5000)
    assert np.bincount(least.results().variant).tolist() == [4, 12]
    assert np.bincount(turns.results().variant).tolist() == [8, 8]


def test_a_router_sees_completions() -> None:
    """A replica that has finished its request is the least loaded again."""
    arrivals = [0.0, 0.1, 10.0, 10.1]
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", profile=PROFILE, replicas=2)],
        traces={"default": trace(arrivals, [0] * 4, [1000, 2, 500, 2])},
    )
    fleet.advance(60.0)
    assert fleet.results().replica.tolist() == [0, 1, 1, 0]


def test_models_do_not_share_replicas() -> None:
    """Requests of one model wait although the other's replica is idle."""
    fleet = SimulatedFleet(
        [
            SimulatedVariant(name="a", profile=PROFILE, model="m", replicas=0),
            SimulatedVariant(name="b", profile=PROFILE, model="n", replicas=1),
        ]
    )
    fleet.offer("m", input_tokens=1, output_tokens=2)
    fleet.offer("n", input_tokens=1, output_tokens=2)
    fleet.advance(5.0)
    assert (fleet.gateway("m"), fleet.gateway("n")) == (1, 0)
    assert np.isfinite(fleet.results().finish_ms).tolist() == [False, True]

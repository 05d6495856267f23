"""A profile, traces by hand and a fleet of one replica, for tests of the simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emulator.engine import EngineProfile
from emulator.simulation import SimulatedFleet, SimulatedVariant
from emulator.traces import Trace

PROFILE = EngineProfile(alpha_ms=20.58, beta_ms=0.41, gamma_ms=5.2, delta_ms=0.1, max_batch=4)


def trace(arrivals: Sequence[float], inputs: Sequence[int], outputs: Sequence[int]) -> Trace:
    return Trace(
        arrival_seconds=np.array(arrivals, dtype=np.float64),
        input_tokens=np.array(inputs, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        duration_seconds=arrivals[-1],
    )


def lone(profile: EngineProfile, offered: Trace) -> SimulatedFleet:
    """A fleet of one replica."""
    return SimulatedFleet(
        [SimulatedVariant(name="v", profile=profile, replicas=1)], traces={"default": offered}
    )

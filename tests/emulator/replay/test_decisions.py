"""What the adapter's policy decides over time, on the replicas of a replay."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator import traces
from emulator.replay import compare
from emulator.replay.results import Curves
from emulator.replay.scenario import OfferedTraffic, Scenario

TOKENS = {
    "input": {"mean": 128, "cv": 0.8, "max": 2048},
    "output": {"mean": 178, "cv": 0.6, "max": 1024},
}


def replayed(trace: dict[str, Any], *, replicas: int, startup: float = 60.0) -> Curves:
    """Curves of ours over the traffic, from that many replicas on."""
    scenario = Scenario.model_validate(
        {
            "accelerators": {"A100": {"cost": 40}},
            "models": [{"model": "m", "slo": {"ttft": 500, "itl": 24}}],
            "variants": [
                {
                    "name": "chat", "model": "m", "accelerator": "A100", "startup": startup,
                    "replicas": replicas, "maxReplicas": 40,
                    "profile": {
                        "alpha": 20.58, "beta": 0.41, "gamma": 5.2, "delta": 0.1, "maxBatchSize": 8,
                    },
                }
            ],
            "warmUp": 0,
        }
    )  # fmt: skip
    offered = OfferedTraffic(trace=traces.generate({**trace, "seed": 4, "tokens": TOKENS}))
    (result,) = compare.compare(scenario, {"m": offered}, ["ours"]).results
    return result.curves["chat"]


def test_constant_load_gives_a_constant_target() -> None:
    """Two replicas serve a little less than comes: the queue grows while more load, the target does not."""
    trace = {"kind": "constant", "duration_seconds": 600, "rate_rpm": 240}
    curves = replayed(trace, replicas=2, startup=120.0)
    wanted = curves.desired[np.isfinite(curves.desired)]
    assert curves.waiting.max() > 10
    assert wanted[0] <= 5
    assert wanted.max() == wanted[0]


def test_the_start_lowers_nothing() -> None:
    """Ten replicas at the start are not cut by the first, short requests that finish."""
    trace = {"kind": "poisson", "duration_seconds": 300, "rate_rpm": 600}
    curves = replayed(trace, replicas=10, startup=60.0)
    early = curves.desired[curves.seconds <= 120]
    assert np.nanmin(early) == 10


def test_a_flash_crowd_gets_its_full_size_soon() -> None:
    """45 s after a fourfold rise began, the target serves it; it goes within minutes once it is over."""
    trace = {
        "kind": "flash-crowd", "duration_seconds": 1500, "base_rpm": 200, "peak_rpm": 800,
        "start_seconds": 600, "rise_seconds": 30, "hold_seconds": 300, "fall_seconds": 30,
    }  # fmt: skip
    curves = replayed(trace, replicas=4)
    in_time = np.flatnonzero(curves.seconds >= 645)[0]
    assert curves.desired[in_time] >= 10
    assert curves.desired[curves.seconds >= 1200].max() <= 6

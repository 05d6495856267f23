"""A scenario of one model and generated traffic, for tests of replays."""

from __future__ import annotations

from typing import Any

from emulator import traces
from emulator.replay import scenario
from emulator.replay.scenario import OfferedTraffic, Scenario

PROFILE = {"alpha": 20.58, "beta": 0.41, "gamma": 5.2, "delta": 0.1, "maxBatchSize": 8}
TOKENS = {
    "input": {"mean": 128, "cv": 0.8, "max": 2048},
    "output": {"mean": 178, "cv": 0.6, "max": 1024},
}


def one_model(**fields: Any) -> Scenario:
    """One variant of one model, judged from the beginning."""
    document: dict[str, Any] = {
        "accelerators": {"A100": {"cost": 40}},
        "models": [{"model": "m", "slo": {"ttft": 500, "itl": 24}}],
        "variants": [
            {
                "name": "chat",
                "model": "m",
                "accelerator": "A100",
                "engine": {"kind": "profile"},
                "profile": PROFILE,
                "replicas": 2,
            }
        ],
        "warmUp": 0,
    }
    return Scenario.model_validate(document | fields)


def generated(**spec: Any) -> OfferedTraffic:
    spec = {"kind": "poisson", "seed": 5, "tokens": TOKENS} | spec
    return OfferedTraffic(trace=traces.generate(spec), steps=tuple(scenario.steps(spec)))

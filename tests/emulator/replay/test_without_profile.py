"""The adapter without a profile beside the same one with it, on an engine that schedules as vLLM does."""

from __future__ import annotations

import functools

import pytest

from emulator import traces
from emulator.replay import adapter_policy, compare, scenario
from emulator.replay.results import PolicyResult
from emulator.replay.scenario import OfferedTraffic, Scenario

MODEL = "nobody/knows-70b"
SCENARIO = Scenario.model_validate(
    {
        "name": "unknown model",
        "accelerators": {"H100": {"cost": 100}},
        "models": [{"model": MODEL, "slo": {"ttft": 2000, "itl": 70}}],
        "variants": [
            {
                "name": "chat",
                "model": MODEL,
                "accelerator": "H100",
                "engine": {
                    "kind": "vllm",
                    "stepMs": {
                        "base": 22,
                        "perRequest": 0.12,
                        "perPrefillToken": 0.067,
                        "perContextToken": 1e-4,
                    },
                    "maxNumSeqs": 256,
                    "maxNumBatchedTokens": 8192,
                    "kvTokens": 300_000,
                },
                "profile": "fit",
                "startup": {"median": 120, "sigma": 0.2},
                "replicas": 4,
                "maxReplicas": 40,
            }
        ],
        "warmUp": 0,
    }
)
RAMP = {
    "kind": "step",
    "name": "ramp",
    "seed": 1,
    "levels": [[200, rpm] for rpm in (360, 600, 840, 1080, 1200, 960)],
    "tokens": {
        "input": {"mean": 1000, "cv": 1.0, "max": 8000},
        "output": {"mean": 200, "cv": 0.8, "max": 2000},
    },
}


def replayed() -> PolicyResult:
    """The first twenty minutes of a new variant."""
    trace = OfferedTraffic(trace=traces.generate(RAMP), steps=tuple(scenario.steps(RAMP)))
    (result,) = compare.compare(SCENARIO, {MODEL: trace}, ["ours"]).results
    return result


def test_the_first_twenty_minutes_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows the model: at most three points less of the requests are within their SLO."""
    with_profile = replayed()
    unprofiled = functools.partial(adapter_policy.inputs_of, profile=lambda _: None)
    monkeypatch.setattr(adapter_policy, "inputs_of", unprofiled)
    without = replayed()
    assert with_profile.within > 0.97
    assert without.within > with_profile.within - 0.03
    assert without.gpu_hours < 1.3 * with_profile.gpu_hours

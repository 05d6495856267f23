"""Scenarios whose replicas schedule as vLLM does, for tests of replays."""

from __future__ import annotations

from typing import Any

from emulator.replay.replicas.specs import VariantSpec
from emulator.replay.scenario import Scenario
from tests.emulator.replay.small_scenarios import one_model

ENGINE: dict[str, Any] = {
    "kind": "vllm",
    "stepMs": {
        "base": 7,
        "perRequest": 0.05,
        "perPrefillToken": 0.04,
        "perContextToken": 4e-5,
    },
    "maxNumSeqs": 256,
    "maxNumBatchedTokens": 8192,
    "kvTokens": 432_000,
}
LINEAR = {"alpha": 7, "beta": 0.1, "gamma": 15, "maxBatchSize": 128}


def variant(**fields: Any) -> dict[str, Any]:
    return {
        "name": "chat",
        "model": "m",
        "accelerator": "A100",
        "engine": ENGINE,
        "profile": LINEAR,
        "replicas": 2,
    } | fields


def read_variant(**fields: Any) -> VariantSpec:
    return VariantSpec.model_validate(variant(**fields))


def vllm(**fields: Any) -> Scenario:
    """One variant of one model on vLLM engines; fields of the variant."""
    return one_model(variants=[variant(**fields)])

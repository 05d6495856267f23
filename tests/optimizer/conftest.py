"""The reference's systems as problems: its own candidates, so that only the solvers are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optimizer.problem import Candidate, Current, Problem, VariantCandidates

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "golden.json").read_text())[
    "cases"
]


@pytest.fixture(scope="session")
def systems() -> list[tuple[dict[str, Any], Problem]]:
    """Every reference case with its problem."""
    return [(case, problem(case)) for case in CASES]


def problem(case: dict[str, Any]) -> Problem:
    """One system; servers without candidates are not in it."""
    spec = case["spec"]
    accelerators = {item["name"]: item for item in spec["acceleratorData"]["accelerators"]}
    profiles = {(item["name"], item["acc"]): item for item in spec["modelData"]["models"]}
    priorities = {
        item["name"]: item.get("priority", 0) for item in spec["serviceClassData"]["serviceClasses"]
    }
    optimizer = spec["optimizerData"]["optimizer"]
    variants = []
    for server in spec["serverData"]["servers"]:
        candidates = case["candidates"].get(server["name"])
        if not candidates:
            continue
        now = server.get("currentAlloc", {})
        variants.append(
            VariantCandidates(
                name=server["name"],
                priority=priorities[server["class"]],
                current=Current(
                    accelerator=now.get("accelerator", ""),
                    replicas=now.get("numReplicas", 0),
                    cost=now.get("cost", 0),
                ),
                candidates=tuple(
                    candidate(given, accelerators[name], profiles[server["model"], name])
                    for name, given in candidates.items()
                ),
            )
        )
    return Problem(
        variants=tuple(variants),
        capacity=None
        if optimizer.get("unlimited")
        else {item["type"]: item.get("count", 0) for item in spec["capacityData"]["count"]},
        policy=optimizer["saturationPolicy"],
        delayed_best_effort=optimizer.get("delayedBestEffort", False),
    )


def candidate(given: list[Any], accelerator: dict[str, Any], profile: dict[str, Any]) -> Candidate:
    """From the reference's form; `accelerator` is empty where nothing runs."""
    name, replicas, max_batch, cost, _, itl, ttft, rate = given
    return Candidate(
        accelerator=name,
        replicas=replicas,
        max_batch=max_batch,
        cost=cost,
        itl_ms=itl,
        ttft_ms=ttft,
        max_rate_rpm=rate,
        device_type=accelerator["type"] if name else "",
        devices=max(profile.get("accCount", 0), 1) * accelerator["multiplicity"] if name else 0,
    )

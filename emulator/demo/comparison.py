"""The comparison of policies at the end of the demo: one model whose load trebles and falls again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from adapter.formats import files
from emulator.replay import compare, progress, report, tables
from emulator.replay.choices import settings
from emulator.replay.frontier import curves, terminal
from emulator.replay.results import Comparison
from emulator.replay.scenario import OfferedTraffic, Scenario, load, steps

SCENARIO = {
    "name": "one model on A100s",
    "accelerators": {"A100": {"cost": 40}},
    "models": [
        {
            "model": "default/default",
            "serviceClass": "Premium",
            "slo": {"ttft": 500, "itl": 24},
        }
    ],
    "variants": [
        {
            "name": "vllme-deployment",
            "model": "default/default",
            "accelerator": "A100",
            "engine": {
                "kind": "vllm",
                "stepMs": {"base": 20.58, "perRequest": 0.33, "perPrefillToken": 0.1},
                "maxNumSeqs": 16,
                "maxNumBatchedTokens": 2048,
                "kvTokens": 60_000,
            },
            "profile": "fit",
            "startup": "60s",
            "replicas": 2,
            "maxReplicas": 20,
        }
    ],
}

TRACE = {
    "kind": "step",
    "name": "load trebles",
    "levels": [[480, 200], [720, 600], [480, 300]],
    "arrivals": "poisson",
    "seed": 7,
    "tokens": {
        "input": {"mean": 128, "cv": 0.8, "max": 2048},
        "output": {"mean": 178, "cv": 0.6, "max": 1024},
    },
}


POLICIES = (
    "ours",
    *(f"in-flight@{threshold}" for threshold in (3, 4, 5, 7)),
    *(f"kpa@{threshold}" for threshold in (3, 4, 5)),
    "slo-aware",
    "wva",
    "clairvoyant",
)
"""Ours as a curve, rivals at several of their thresholds, and the bound: in well under a minute."""
PERCENTILES = "adapter.percentile=0.9,0.99,0.995"


def replay(console: Console) -> Comparison:
    """Replay the policies on the scenario, with a progress bar on the console."""
    traffic = {"default/default": OfferedTraffic(trace=load(TRACE), steps=tuple(steps(TRACE)))}
    with progress.bar(console) as report_progress:
        return compare.compare(
            Scenario.model_validate(SCENARIO),
            traffic,
            POLICIES,
            sweeps=(settings.parse(PERCENTILES),),
            jobs=None,
            progress=report_progress,
        )


def show(comparison: Comparison, console: Console, path: Path) -> None:
    """Print the best of each curve and the frontier, and write the report."""
    console.print()
    console.width = max(console.width, tables.WIDTH)
    shown = replace(comparison, results=curves.best_of_each(comparison.results, tables.GOAL))
    console.print(terminal.table(shown))
    console.print()
    for line in terminal.lines(comparison):
        console.print(line)
    files.write_text(path, report.html(comparison))
    console.print(f"written: {path}")

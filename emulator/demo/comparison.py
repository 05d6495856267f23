"""The comparison of policies at the end of the demo: one model whose load trebles and falls again."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from emulator.replay import compare, progress, report, tables
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
            "profile": {
                "alpha": 20.58,
                "beta": 0.41,
                "gamma": 5.2,
                "delta": 0.1,
                "maxBatchSize": 8,
            },
            "startup": "60s",
            "replicas": 2,
            "maxReplicas": 20,
        }
    ],
}

TRACE = {
    "kind": "step",
    "name": "load trebles",
    "levels": [[900, 200], [1200, 600], [900, 300]],
    "arrivals": "poisson",
    "seed": 7,
    "tokens": {
        "input": {"mean": 128, "cv": 0.8, "max": 2048},
        "output": {"mean": 178, "cv": 0.6, "max": 1024},
    },
}


def replay(console: Console) -> Comparison:
    """Replay all policies on the scenario, with a progress bar on the console."""
    traffic = {"default/default": OfferedTraffic(trace=load(TRACE), steps=tuple(steps(TRACE)))}
    with progress.bar(console) as report_progress:
        return compare.compare(Scenario.model_validate(SCENARIO), traffic, progress=report_progress)


def show(comparison: Comparison, console: Console, path: Path) -> None:
    """Print the table and write the report."""
    console.print()
    console.width = max(console.width, tables.WIDTH)
    console.print(tables.table(comparison))
    path.write_text(report.html(comparison), encoding="utf-8")
    console.print(f"written: {path}")

"""CPU time that commands take to start: one process each, user and system time, the least of some runs.

A budget that is exceeded is marked. Tests check loaded modules instead, which do not depend on the load.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 3

CASE = "--alpha=8 --beta=0.2 --max-batch=64 --output-tokens=200 --rate=2 --itl=24"

FLEET = """\
accelerators:
  - {name: A100, cost: 40}
classes:
  - {name: Premium, priority: 1, models: [{model: m, itl_ms: 24, ttft_ms: 500}]}
profiles:
  - {model: m, accelerator: A100, alpha: 8, beta: 0.2, gamma: 5, delta: 0.01, max_batch: 64}
variants:
  - {name: v, class: Premium, model: m, rate_rpm: 60, input_tokens: 128, output_tokens: 128}
"""

BUDGETS = {
    "--version": 0.3,
    "--help": 0.3,
    "explain --help": 0.8,
    "explain --url http://127.0.0.1:9": 0.8,
    "doctor --help": 0.8,
    "certs --help": 0.8,
    "certs show --kubeconfig /none": 0.8,
    "analyze --help": 1.0,
    f"analyze {CASE}": 1.0,
    "plan --help": 1.0,
    "plan -f FLEET": 1.0,
    "fit --help": None,
    "serve --help": None,
    "demo --help": None,
    "replay --help": None,
}
"""Seconds by command; None: no budget."""


def cpu_seconds(words: list[str]) -> float:
    """CPU time of one run of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-P", "-m", "adapter", *words], capture_output=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one line per command."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Path(folder) / "fleet.yaml"
        fleet.write_text(FLEET)
        print(f"{'command':<72} {'CPU s':>6}  budget")
        for command, budget in BUDGETS.items():
            words = command.replace("FLEET", str(fleet)).split()
            seconds = min(cpu_seconds(words) for _ in range(RUNS))
            mark = (
                "" if budget is None else f"{budget:.1f}{' EXCEEDED' if seconds > budget else ''}"
            )
            print(f"{command:<72} {seconds:>6.2f}  {mark}")


if __name__ == "__main__":
    main()

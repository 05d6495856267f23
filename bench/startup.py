"""CPU time that commands take to start: one process each, user and system time, the least of some runs.

Exits with status 1 when a budget is exceeded. `explain`, `doctor` and `certs` connect to an in-memory
Kubernetes API over TLS, by a kubeconfig with a client certificate and by one whose program prints it. Tests
check loaded modules instead, which do not depend on the load of the machine.

    python -P bench/startup.py [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapter.installation import SYSTEM, Names
from adapter.kube.client import connected
from adapter.tls.certificate_secret import SecretStore
from certs import rotation
from tests.fakes import kubernetes_api, kubernetes_stand_in

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
    "explain --url http://127.0.0.1:9": 0.8,
    "explain --kubeconfig KUBECONFIG": 0.8,
    "doctor --kubeconfig KUBECONFIG": 0.8,
    "certs show --kubeconfig KUBECONFIG": 0.8,
    "explain --kubeconfig PLUG-IN": 0.8,
    "doctor --kubeconfig PLUG-IN": 0.8,
    "certs show --kubeconfig PLUG-IN": 0.8,
    f"analyze {CASE}": 1.0,
    "plan -f FLEET": 1.0,
    "plan -f LIMITED": 1.0,
    "plan -f SCARCE": 1.0,
    "plan -f SAMPLE": 1.0,
    **{
        f"{command} --help": 0.8
        for command in (
            "serve", "explain", "top", "ui", "doctor", "certs", "analyze", "fit", "profile", "plan", "record",
            "demo", "replay",
        )
    },
}  # fmt: skip
"""Seconds by command.

FLEET, LIMITED: a fleet without and with a capacity that suffices. SAMPLE: the fleet of the README, whose
devices are scarce and one of whose targets is a percentile. SCARCE: the same without the percentile.
"""


ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Environment of the commands: an installed program has its modules compiled."""


def cpu_seconds(words: list[str]) -> float:
    """CPU time of one run of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-P", "-m", "adapter", *words],
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def measured(runs: int) -> list[str]:
    """Print one line per command; return those that exceed their budget."""
    exceeded = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fleet.yaml").write_text(FLEET)
        (folder / "limited.yaml").write_text(FLEET + "capacity: {A100: 4}\n")
        sample = Path(__file__).parents[1] / "manifests/samples/fleet.yaml"
        (folder / "scarce.yaml").write_text(sample.read_text().replace(", percentile: 95", ""))
        async with kubernetes_api.running(folder) as site:
            entrance = await site.entrance("bench")
            await install(entrance.kubeconfig)
            by_program = folder / "by-program"
            by_program.write_text(entrance.kubeconfig.read_text())
            kubernetes_stand_in.printed_by_program(by_program)
            paths = {
                "FLEET": folder / "fleet.yaml",
                "LIMITED": folder / "limited.yaml",
                "SCARCE": folder / "scarce.yaml",
                "SAMPLE": sample,
                "KUBECONFIG": entrance.kubeconfig,
                "PLUG-IN": by_program,
            }
            print(f"{'command':<84} {'CPU s':>6}  budget")
            for command, budget in BUDGETS.items():
                words = [str(paths.get(word, word)) for word in command.split()]
                seconds = min([await asyncio.to_thread(cpu_seconds, words) for _ in range(runs)])
                mark = " EXCEEDED" if seconds > budget else ""
                print(f"{command:<84} {seconds:>6.2f}  {budget:.1f}{mark}", flush=True)
                exceeded += [command] if mark else []
    return exceeded


async def install(kubeconfig: Path) -> None:
    """Write the Secret that `certs show` reads."""
    state = rotation.advance(
        None, names=["localhost"], now=datetime.now(UTC), times=rotation.Times(), published=None
    )
    async with connected(kubeconfig) as cluster:
        await SecretStore(cluster, namespace=SYSTEM, name=Names().secret).write(state, "")


def main() -> None:
    """Measure all commands."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="Runs of each command. Default 3")
    if exceeded := asyncio.run(measured(parser.parse_args().runs)):
        sys.exit(f"over budget: {'; '.join(exceeded)}")


if __name__ == "__main__":
    main()

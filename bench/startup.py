"""CPU time that commands take to start: one process each, user and system time, the least of some runs.

Exits with status 1 when a budget is exceeded or a command fails. `explain`, `doctor` and `certs` connect to
an in-memory Kubernetes API over TLS, by a kubeconfig with a client certificate and by one whose program
prints it; the adapter is installed there and leads, with one variant and its HPA. Tests check loaded modules
instead, which do not depend on the load of the machine.

    python -P bench/startup.py [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from yarl import URL

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapter.installation import SYSTEM
from adapter.kube.leader_election import LeaseTimes
from adapter.kube.lease import LEASES
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_stand_in
from tests.fakes.cluster_world import World
from tests.fakes.healthy_cluster import healthy

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
    "explain team-a/v --kubeconfig KUBECONFIG": 0.8,
    "doctor --kubeconfig KUBECONFIG": 0.8,
    "certs show --kubeconfig KUBECONFIG": 0.8,
    "explain --kubeconfig PLUG-IN": 0.8,
    "explain team-a/v --kubeconfig PLUG-IN": 0.8,
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


LEASE = LeaseTimes(duration=60, deadline=40.0, retry=5.0)
"""Long enough for a leader that shares the processors with what is measured."""

FAILS = frozenset({"explain --url http://127.0.0.1:9"})
"""Commands that end with an error: nothing listens there."""


def cpu_seconds(words: list[str]) -> tuple[float, int]:
    """CPU time of one run of the command, and its exit status."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "adapter", *words],
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, done.returncode


async def measured(runs: int) -> list[str]:
    """Print one line per command; return those that fail or exceed their budget."""
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fleet.yaml").write_text(FLEET)
        (folder / "limited.yaml").write_text(FLEET + "capacity: {A100: 4}\n")
        sample = Path(__file__).parents[1] / "manifests/samples/fleet.yaml"
        (folder / "scarce.yaml").write_text(sample.read_text().replace(", percentile: 95", ""))
        async with worlds.running(folder) as world, leading(world):
            entrance = await world.site.entrance("admin", user="")
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
                done = [await asyncio.to_thread(cpu_seconds, words) for _ in range(runs)]
                seconds, failed = min(item[0] for item in done), any(item[1] for item in done)
                mark = " EXCEEDED" if seconds > budget else ""
                mark += " FAILED" if failed and command not in FAILS else ""
                print(f"{command:<84} {seconds:>6.2f}  {budget:.1f}{mark}", flush=True)
                wrong += [command] if mark else []
    return wrong


@contextlib.asynccontextmanager
async def leading(world: World) -> AsyncIterator[None]:
    """An installation with one variant and its HPA, whose leader's metrics port can be forwarded."""
    await healthy(world, 1)
    world.api.objects[f"/apis/{LEASES}", "leases"].clear()
    async with world.replica("pod_1", lease=LEASE) as (endpoints, _):
        url = URL(endpoints.metrics_url)
        world.api.forwarded[SYSTEM, "pod", 8080] = (url.host or "", url.port or 0)
        await worlds.until(lambda: bool(world.api.objects[f"/apis/{LEASES}", "leases"]))
        await asyncio.sleep(5)
        yield


def main() -> None:
    """Measure all commands."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="Runs of each command. Default 3")
    if wrong := asyncio.run(measured(parser.parse_args().runs)):
        sys.exit(f"over budget, or failed: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()

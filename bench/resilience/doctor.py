"""Time that `doctor` takes in a healthy cluster of many variants; exit status 1 where it is slow or speaks.

A cluster in memory has an installation of the manifests, and variants with an HPA each. Every answer of the
API server takes some milliseconds, as over a network.

    python -P bench/resilience/doctor.py [--variants 300] [--latency-ms 20] [--limit 10]

With `--states` the command runs in each broken state of a table, and prints for each its exit status and what
it says; status 1 where it does not name one, or ends with another status than its worst finding asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapter import cli
from adapter.diagnostics import doctor
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import Cluster, connected
from tests.adapter.diagnostics.broken_states import STATES, WARNINGS, Broken
from tests.fakes import cluster_world as worlds
from tests.fakes.healthy_cluster import healthy

WIDTH = 150
"""Most characters of a row of the table."""


class SlowSite(Site):
    """An installation whose API server takes its time."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        super().__init__(cluster, Names())
        request, listed = cluster.request, cluster.list_objects

        async def slow_request(*args: Any, **more: Any) -> Mapping[str, Any]:
            await asyncio.sleep(seconds)
            return await request(*args, **more)

        async def slow_list(*args: Any, **more: Any) -> Any:
            await asyncio.sleep(seconds)
            return await listed(*args, **more)

        cluster.request = slow_request  # type: ignore[method-assign, assignment] # the same, slower
        cluster.list_objects = slow_list  # type: ignore[method-assign] # likewise


async def measured(number: int, latency: float) -> tuple[list[Finding], float]:
    """Findings, and the seconds that they took."""
    with tempfile.TemporaryDirectory() as folder:
        async with worlds.running(Path(folder)) as world:
            await healthy(world, number)
            admin = await world.site.entrance("admin", user="")
            async with connected(admin.kubeconfig) as cluster:
                started = time.monotonic()
                site = SlowSite(cluster, latency)
                findings = [item async for item in doctor.findings(site)]
                return findings, time.monotonic() - started


def run(kubeconfig: Path) -> tuple[int, list[str]]:
    """Exit status and lines of the command `doctor`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(("doctor", "--kubeconfig", str(kubeconfig)))
    return status, out.getvalue().splitlines()


async def states() -> list[tuple[str, int, str]]:
    """Name, exit status and sentence of each broken state; the sentence is empty where it is not named."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        async with worlds.running(Path(folder)) as world:
            await healthy(world, 3)
            admin = await world.site.entrance("admin", user="")
            broken = Broken(world)
            for name, (change, sentence) in {
                "healthy": (lambda _: None, "0 errors"),
                **STATES,
            }.items():
                broken.become(change)
                status, lines = await asyncio.to_thread(run, admin.kubeconfig)
                rows.append((name, status, next((one for one in lines if sentence in one), "")))
    return rows


def show_states() -> int:
    """Print the table of broken states; give 1 where one is not named, or has another exit status."""
    rows = asyncio.run(states())
    for name, status, sentence in rows:
        print(f"{name:30} {status}  {sentence or 'NOT NAMED'}"[:WIDTH])
    silent = {"healthy", *WARNINGS}
    wrong = [row for row in rows if not row[2] or row[1] != (row[0] not in silent)]
    print(f"{len(rows)} states, {len(wrong)} not named or with another exit status than expected")
    return 1 if wrong else 0


def main() -> int:
    """Measure once and print a line, or print the table of broken states."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=300, help="Number of variants. Default 300")
    parser.add_argument(
        "--latency-ms",
        type=float,
        default=20.0,
        help="Time of an answer in milliseconds. Default 20",
    )
    parser.add_argument("--limit", type=float, default=10.0, help="Most seconds. Default 10")
    parser.add_argument("--states", action="store_true", help="Print the table of broken states")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if args.states:
        return show_states()
    findings, seconds = asyncio.run(measured(args.variants, args.latency_ms / 1000.0))
    wrong = [item for item in findings if item.level != "ok"]
    print(
        f"{args.variants} variants: {len(findings)} lines, {len(wrong)} of problems, {seconds:.1f} s"
    )
    for item in wrong:
        print(f"{item.level}: {item.what}")
    return 1 if wrong or seconds > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())

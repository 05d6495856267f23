"""Time that `doctor` takes in a healthy cluster of many variants; exit status 1 where it is slow or speaks.

A cluster in memory has an installation of the manifests, and variants with an HPA each. Every answer of the
API server takes some milliseconds, as over a network.

    python -P bench/resilience/doctor.py [--variants 300] [--latency-ms 20] [--limit 10]
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

sys.path.insert(0, str(Path(__file__).parents[2]))

from adapter.diagnostics import doctor
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import Cluster, connected
from tests.fakes import cluster_world as worlds
from tests.fakes.healthy_cluster import healthy


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


def main() -> int:
    """Measure once and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=300, help="Number of variants. Default 300")
    parser.add_argument(
        "--latency-ms",
        type=float,
        default=20.0,
        help="Time of an answer in milliseconds. Default 20",
    )
    parser.add_argument("--limit", type=float, default=10.0, help="Most seconds. Default 10")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
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

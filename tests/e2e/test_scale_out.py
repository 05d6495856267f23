"""300 variants with 300 HorizontalPodAutoscalers of the real controller: what it costs the cluster and us."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.e2e import control_plane, installation
from tests.e2e.installation import SYSTEM, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds

pytestmark = [*control_plane.MARKS, pytest.mark.timeout(1200)]

COUNT = 300
MOST_REVIEWS = 0.05
"""Largest share of access reviews in the requests for metrics."""

SCALERS = "/apis/autoscaling/v2/namespaces/team-a/horizontalpodautoscalers"
QUIET = ("--interval=30s", "--scrape-interval=10s", "--window=30s", "--lease-duration=60s")
"""Times as they are by default; the Lease is long, as this machine also runs the cluster and the pods."""


async def fleet(cluster: Installation) -> None:
    """Variants, their Deployments and HPAs, a few at a time."""
    slots = asyncio.Semaphore(8)

    async def one(name: str) -> None:
        async with slots:
            await cluster.deploy(name, 1)
            await cluster.plane.create(SCALERS, worlds.scaler(name))
        cluster.pages.load[name] = 6.0

    await asyncio.gather(*(one(f"v{number}") for number in range(COUNT)))


async def reviews(cluster: Installation) -> int:
    """SubjectAccessReviews that the API server has answered."""
    _, text = await cluster.plane.call("GET", "/metrics")
    lines = re.findall(
        r'^apiserver_request_total\{[^}]*resource="subjectaccessreviews"[^}]*\} ([0-9.e+]+)$',
        text,
        re.MULTILINE,
    )
    return int(sum(float(number) for number in lines))


def cpu_seconds(replica: installation.Replica) -> float:
    """CPU time of a replica, its planning worker excepted."""
    stat = Path(f"/proc/{replica.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


async def queries(cluster: Installation, replica: installation.Replica) -> int:
    """Requests for external metrics that a replica has answered."""
    text = await replica.page("/metrics")
    (number,) = re.findall(
        r"^metrics_apiserver_metric_freshness_seconds_count\{[^}]*\} ([0-9.e+]+)$",
        text,
        re.MULTILINE,
    )
    return int(float(number))


@control_plane.needs_controllers
async def test_three_hundred_variants_with_their_hpas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All follow; reviews are at most 5 % of the requests; CPU of leader and follower is printed."""
    async with installation.running(tmp_path) as cluster:
        await fleet(cluster)
        async with (
            cluster.replica("a", *QUIET) as a,
            cluster.replica("b", *QUIET, port=control_plane.free_port()) as b,
            control_plane.controllers(cluster.plane, names=(control_plane.SCALER,), period="15s"),
        ):
            for replica in (a, b):
                await until(replica.ready, seconds=180, what="readiness", log=replica.log)

            async def followed() -> bool:
                items = (await cluster.get(installation.DEPLOYMENTS))["items"]
                there = [item for item in items if item["spec"]["replicas"] > 1]
                return len(there) >= COUNT * 9 // 10

            await until(followed, seconds=600, what="nine tenths of the fleet with more replicas")
            before = [await reviews(cluster), await queries(cluster, a)]
            used = {replica: cpu_seconds(replica) for replica in (a, b)}
            loop = asyncio.get_running_loop()
            started = loop.time()

            async def enough() -> bool:
                return await queries(cluster, a) - before[1] >= 4 * COUNT

            await until(enough, seconds=400, what="four more requests of each HPA")
            seconds = loop.time() - started
            asked, answered = (
                await reviews(cluster) - before[0],
                await queries(cluster, a) - before[1],
            )
            control_plane.measured(
                capsys,
                f"{answered} requests and {asked} access reviews"
                f" ({asked / answered:.1%}) in {seconds:.0f} s",
            )
            for replica in (a, b):
                role = "leader" if await replica.leads() else "follower"
                name = f"the {role}{', which serves' if replica is a else ''}"
                share = (cpu_seconds(replica) - used[replica]) / seconds
                control_plane.measured(capsys, f"CPU of {name}: {share:.1%} of one core")
            assert asked <= MOST_REVIEWS * answered
            items = (await cluster.get(VARIANTS))["items"]
            assert all(item["status"]["conditions"] for item in items)
            names = await cluster.kubectl("get", "lease", "-n", SYSTEM, "-o", "name")
            assert names.split() == ["lease.coordination.k8s.io/variant-adapter"]

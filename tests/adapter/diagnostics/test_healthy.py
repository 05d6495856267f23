"""A healthy cluster with many variants: the doctor is silent, and asks for several things at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest

from adapter.diagnostics import doctor
from adapter.diagnostics.site import CONCURRENT, MOST_NAMED, Site, in_order
from adapter.installation import METRICS, Names
from adapter.kube.client import connected
from adapter.resources.stored_status import CONFIGURATION
from tests.fakes import cluster_world as worlds
from tests.fakes.healthy_cluster import healthy
from tests.fakes.kubernetes_objects import VARIANTS


class CountedSite(Site):
    """An installation that counts the requests which are under way."""

    now_open, most_open = 0, 0

    def count(self) -> None:
        """Count the requests of its cluster from now on."""
        request = self.cluster.request

        async def counted(*args: Any, **more: Any) -> Mapping[str, Any]:
            self.now_open += 1
            self.most_open = max(self.most_open, self.now_open)
            try:
                return await request(*args, **more)
            finally:
                self.now_open -= 1

        self.cluster.request = counted  # type: ignore[method-assign, assignment] # the same, counted


async def test_many_variants_that_are_fine_are_two_lines(tmp_path: Path) -> None:
    """No warning and no error; what is fine is counted, and values are looked up side by side."""
    number = 2 * MOST_NAMED
    async with worlds.running(tmp_path) as world:
        await healthy(world, number)
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            site = CountedSite(cluster, Names())
            site.count()
            findings = [item async for item in doctor.findings(site)]
    assert [item for item in findings if item.level != "ok"] == []
    said = [item.what for item in findings]
    assert f"{number} VariantAutoscalings" in said
    assert f"{number} HorizontalPodAutoscalers read one target each" in said
    assert len(said) < 15
    assert 1 < site.most_open <= CONCURRENT


async def test_one_that_is_ill_among_many_is_named(tmp_path: Path) -> None:
    """Whatever is fine beside it."""
    async with worlds.running(tmp_path) as world:
        await healthy(world, 2 * MOST_NAMED)
        del world.api.external["v7"]
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            findings = [item async for item in doctor.findings(Site(cluster, Names()))]
    (wrong,) = [item.what for item in findings if item.level != "ok"]
    assert "HorizontalPodAutoscaler team-a/v7: gets 0 values" in wrong


async def test_an_api_that_is_down_is_not_said_of_each_hpa(tmp_path: Path) -> None:
    """Hundreds get the same error: it is one line with their number."""
    number = 2 * MOST_NAMED
    async with worlds.running(tmp_path) as world:
        await healthy(world, number)
        admin = await world.site.entrance("admin", user="")
        metrics = f"/apis/{METRICS}/"
        admin.answer = lambda _, path: 503 if path.startswith(metrics) else None
        async with connected(admin.kubeconfig) as cluster:
            findings = [item async for item in doctor.findings(Site(cluster, Names()))]
    (wrong,) = [item.what for item in findings if item.level != "ok"]
    assert wrong.startswith("HorizontalPodAutoscaler team-a/v and 39 more: ")
    assert "503" in wrong


async def test_what_conditions_of_many_say_alike_is_one_line(tmp_path: Path) -> None:
    """Hundreds that lack one row, or come without a price, are a line; one that says more has its own."""
    number = 2 * MOST_NAMED
    async with worlds.running(tmp_path) as world:
        await healthy(world, number)
        items = world.api.objects[(VARIANTS, "variantautoscalings")]
        for index in range(1, number):
            said = "no price" if index > 1 else "no class"
            wrong = {
                "type": CONFIGURATION,
                "status": "False",
                "reason": "PartlyUnusable",
                "message": said,
            }
            item = items["team-a", f"v{index}"]
            status = item["status"]
            items["team-a", f"v{index}"] = {
                **item,
                "status": {**status, "conditions": [*status["conditions"], wrong]},
            }
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            findings = [item async for item in doctor.findings(Site(cluster, Names()))]
    texts = {item.what for item in findings if item.level == "warning"}
    assert texts == {
        "VariantAutoscaling team-a/v1: PartlyUnusable: no class",
        f"VariantAutoscaling team-a/v10 and {number - 3} more: PartlyUnusable: no price",
    }


async def test_results_come_in_order() -> None:
    """Whatever comes first."""

    async def after(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return turns

    work: list[Awaitable[int]] = [after(turns) for turns in (9, 1, 5)]
    assert await in_order(work) == [9, 1, 5]


@pytest.mark.parametrize(("number", "most"), [(0, 0), (1, 1), (35, 5), (500, CONCURRENT)])
async def test_few_requests_share_few_connections(number: int, most: int) -> None:
    """Each one that runs beside others has a TLS handshake of its own; many requests are worth them."""
    running: list[int] = [0]

    async def one() -> None:
        running[0] += 1
        running.append(running[0])
        await asyncio.sleep(0)
        running[0] -= 1

    await in_order([one() for _ in range(number)])
    assert max(running) == most

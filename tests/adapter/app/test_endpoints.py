"""The metrics port of a replica in a cluster: explanations, health and readiness."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import SCALERS, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time


async def test_explanations_on_the_metrics_port(tmp_path: Path) -> None:
    """/variants says load, ages, what binds, and what holds the replicas back; refusals are in it."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        world.api.put(VARIANTS, "variantautoscalings", worlds.variant("lost"))
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", high=20))
        async with world.replica("a") as (endpoints, _), aiohttp.ClientSession() as session:
            await until(lambda: world.desired() == 2)
            async with session.get(f"{endpoints.metrics_url}/variants") as response:
                document = await response.json()
            by_name = {item["name"]: item for item in document["variants"]}
            assert document["leading"] is True
            assert by_name["lost"]["outcome"] == "TargetNotFound"
            item = by_name["v"]
            assert item["desiredReplicas"] == 2
            assert 50 < item["load"]["arrivalRatePerMinute"] < 70
            assert item["load"]["observedSecondsAgo"] < 5
            assert item["decision"]["binding"]
            async with session.get(f"{endpoints.metrics_url}/variants/team-a/v") as response:
                assert (await response.json())["name"] == "v"
            async with session.get(f"{endpoints.metrics_url}/variants/team-a/none") as response:
                assert response.status == 404
            for path in ("/readyz", "/healthz", "/livez"):
                async with session.get(endpoints.metrics_url + path) as response:
                    assert response.status == 200


async def test_not_ready_before_the_variants_were_read(tmp_path: Path) -> None:
    """A replica that cannot list the variants is alive, but not ready, and says what is missing."""
    rules = kubernetes_api.manifest_rules()
    role = next(r for r in rules if r["kind"] == "ClusterRole")
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["variantautoscalings"]]
    async with (
        worlds.running(tmp_path, rules=rules) as world,
        world.replica("a") as (endpoints, _),
        aiohttp.ClientSession() as session,
    ):
        text = ""
        while "manifests/base/rbac.yaml" not in text:
            async with session.get(f"{endpoints.metrics_url}/readyz") as response:
                assert response.status == 503
                text = await response.text()
            await asyncio.sleep(0.05)
        assert world.api.denied
        async with session.get(f"{endpoints.metrics_url}/healthz") as response:
            assert response.status == 200

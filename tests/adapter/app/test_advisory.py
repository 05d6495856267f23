"""Advisory mode: decided and recorded, and nothing that an autoscaler reads; the history of decisions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapter import cli
from adapter.app.endpoints import Endpoints
from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, SYSTEM, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time


def annotate(world: worlds.World, name: str, **notes: str) -> None:
    item = world.variant(name)
    item["metadata"]["annotations"] = {f"llmd.ai/{key}": value for key, value in notes.items()}
    world.api.put(VARIANTS, "variantautoscalings", item)


async def page(endpoints: Endpoints, path: str = "/metrics") -> str:
    async with aiohttp.ClientSession() as session, session.get(endpoints.metrics_url + path) as got:
        return await got.text()


def series(text: str, variant: str) -> set[str]:
    """Names of the series of a variant."""
    names = re.findall(rf'^(\w+)\{{[^}}]*variant_name="{variant}"', text, re.MULTILINE)
    return set(names)


async def test_advice_is_recorded_and_read_by_nothing(tmp_path: Path) -> None:
    """No external metric on any replica, no name that prometheus-adapter or KEDA queries, no patch."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.load |= {"v": 60.0, "w": 60.0}
        world.deploy("w", 1)
        annotate(world, "w", actuate="none")
        async with (
            world.replica("a", actuate_scale=True) as (leader, _),
            world.replica("b") as (follower, _),
        ):
            await until(lambda: world.desired("w") == world.desired("v") == 2)
            await until(
                lambda: world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 2
            )
            cycles = leader.loop.cycles
            await until(lambda: leader.loop.cycles >= cycles + 2)
            assert world.api.get(APPS, "deployments", "team-a", "w")["spec"]["replicas"] == 1
            for endpoints in (leader, follower):
                assert await world.metric(endpoints, "v") == ["2"]
                assert await world.metric(endpoints, "w") == []
            text = await page(leader)
            served, advised = series(text, "v"), series(text, "w")
            assert "inferno_desired_replicas" in served
            assert {name for name in advised if not name.startswith("variant_adapter_")} == set()
            assert "variant_adapter_advised_replicas" in advised - served
            assert world.status("w")["actuation"] == {"applied": False}
            assert world.condition("OptimizationReady", "w")[2].startswith("advisory")
            assert any("1 ->" in note or "advisory" in note for *_, note in world.events())
            document = json.loads(await page(leader, "/variants/team-a/w"))
            assert document["advisory"] is True
            # What KEDA's metrics-api may read.
            assert (document["desiredReplicas"], document["advisedReplicas"]) == (None, 2)
            assert "only advises" in document["heldBackBy"][0]


async def test_one_annotation_is_the_way_in_and_out(tmp_path: Path) -> None:
    """Active, the metric is there at once; advisory again, it is withdrawn at once."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        scope = Scope(config_namespace=SYSTEM, actuate="none")
        async with world.replica("a", scope=scope) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert await world.metric(endpoints) == []
            for actuator, items in (("hpa", 1), ("none", 0)):
                annotate(world, "v", actuate=actuator)
                inputs = endpoints.loop.inputs
                await until(lambda inputs=inputs: endpoints.loop.inputs is not inputs)  # type: ignore[misc]
                assert len(await world.metric(endpoints)) == items


async def test_what_would_have_been_different(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One replica under somebody else, two by us: twice the cost, all of the time more."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        scope = Scope(config_namespace=SYSTEM, actuate="none")
        async with world.replica("a", scope=scope) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 5)
            bad = json.loads(await page(endpoints, "/variants/comparison?since=nan"))
            assert "since: must be seconds" in bad["message"]
            url = endpoints.metrics_url
            capsys.readouterr()
            args = ["compare", "--url", url, "--since", "1h"]
            assert await asyncio.to_thread(cli.main, [*args, "--json"]) == 0
            item: dict[str, Any] = json.loads(capsys.readouterr().out)["variants"]["team-a/v"]
            assert item["advisory"] is True
            assert item["present"]["meanReplicas"] == 1
            assert 1.0 < item["ours"]["meanReplicas"] <= 2.0
            assert item["moreReplicas"]["most"] == 1
            assert item["fewerReplicas"]["share"] == 0
            assert item["ours"]["costCents"] > item["present"]["costCents"] > 0
            assert item["ours"]["attainment"] == 1
            assert await asyncio.to_thread(cli.main, args) == 0
            assert "more, by up to 1" in capsys.readouterr().out
            assert await asyncio.to_thread(cli.main, ["explain", "--url", url]) == 0
            assert "(2)" in capsys.readouterr().out
            assert await asyncio.to_thread(cli.main, ["explain", "--url", url, "team-a/v"]) == 0
            text = capsys.readouterr().out
            assert "advises       2 x A100" in text
            assert "none -> 2 x A100" in text or "1 -> 2 x A100" in text
            assert await asyncio.to_thread(cli.main, [*args, "team-a/x"]) == 1
            assert (
                "team-a/x: there is no history of it in that time; there is of team-a/v"
                in capsys.readouterr().err
            )


async def test_the_history_survives_a_change_of_leaders(tmp_path: Path) -> None:
    """Five decisions are in the status; another leader goes on from them, in memory and in the status."""
    async with worlds.running(tmp_path) as world, contextlib.AsyncExitStack() as later:
        async with world.replica("a") as (endpoints, _):
            for rate, replicas in ((60.0, 2), (120.0, 4), (240.0, 8)):
                world.load["v"] = rate
                await until(lambda replicas=replicas: (world.desired() or 0) >= replicas)  # type: ignore[misc]
            written = world.status()["history"]
            assert 2 <= len(written) <= 5
            assert [item["replicas"] for item in written] == sorted(
                item["replicas"] for item in written
            )
            assert all(item["reason"] and item["accelerator"] == "A100" for item in written)
            assert written[-1]["before"] == written[-2]["replicas"]
            shown = json.loads(await page(endpoints, "/variants/team-a/v"))["history"]
            assert shown[-1]["replicas"] == world.desired()
            # A follower, which learns of later statuses without reading all objects anew.
            follower, _ = await later.enter_async_context(world.replica("b"))
            world.load["v"] = 300.0
            await until(lambda: (world.desired() or 0) > written[-1]["replicas"])
        before = world.status()["history"]
        world.load["v"] = 480.0
        await until(lambda: (world.desired() or 0) > before[-1]["replicas"])
        assert follower.loop.leading
        after = world.status()["history"]
        shown = json.loads(await page(follower, "/variants/team-a/v"))["history"]
        assert [item["time"] for item in shown][: len(before)] == [item["time"] for item in before]
        kept = [item for item in before if item in after]
        assert kept
        assert after[: len(kept)] == kept

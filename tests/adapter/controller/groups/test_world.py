"""Groups in a cluster in memory, with virtual time: one demand, hand-over, zero, budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter.app.endpoints import Endpoints
from adapter.diagnostics import explain, explain_text
from optimizer.stabilization import StabilizationLimits
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, LOOP, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

GROUPED = replace(LOOP, model_groups=True, limits=StabilizationLimits(down_seconds=30.0))
STARTUP = 20.0


def deploy(world: World, name: str, replicas: int, accelerator: str, **more: Any) -> None:
    """A variant on an accelerator; all are equally fast, and G2 (23) is cheaper than A100 (40 cents)."""
    notes = more.pop("annotations", {})
    world.deploy(name, replicas, **{"minReplicas": 0, "maxReplicas": 20, **more})
    item = world.variant(name)
    item["metadata"]["labels"] = {"inference.optimization/acceleratorName": accelerator}
    item["metadata"]["annotations"] = notes
    (profile,) = item["spec"]["modelProfile"]["accelerators"]
    item["spec"]["modelProfile"] = {"accelerators": [{**profile, "acc": accelerator}]}
    world.api.put(VARIANTS, "variantautoscalings", item)
    world.startup[name] = STARTUP


@asynccontextmanager
async def grouped(folder: Path, **started: Any) -> AsyncIterator[tuple[World, Endpoints]]:
    """A world with variants `cheap` and `dear` of one model, which share 100 requests per minute."""
    async with worlds.running(folder, actuate=True) as world:
        for path, plural, name in (
            (APPS, "deployments", "v"),
            (VARIANTS, "variantautoscalings", "v"),
        ):
            world.api.remove(path, plural, "team-a", name)
        deploy(world, "cheap", started.pop("cheap", 1), "G2")
        deploy(world, "dear", started.pop("dear", 1), "A100")
        world.pages.shared = {("cheap", "dear"): started.pop("rpm", 100.0)}
        async with world.replica("a", loop=GROUPED, actuate_scale=True, **started) as (front, _):
            yield world, front


def replicas(world: World, name: str) -> int:
    found: int = world.api.get(APPS, "deployments", "team-a", name)["spec"]["replicas"]
    return found


def ready(world: World, name: str) -> int:
    return sum(
        any(item["type"] == "Ready" for item in pod["status"]["conditions"])
        for (_, key), pod in world.api.objects.get((CORE, "pods"), {}).items()
        if key.startswith(f"{name}-")
    )


async def test_the_cheaper_variant_carries_the_demand_of_both(tmp_path: Path) -> None:
    """Dear replicas go, and not before those that replace them are ready; each says its share."""
    async with grouped(tmp_path, dear=3) as (world, front):
        least = 9

        def settled() -> bool:
            nonlocal least
            least = min(least, ready(world, "cheap") + ready(world, "dear"))
            return replicas(world, "dear") == 0 and ready(world, "cheap") >= 3

        await until(settled)
        # 100 requests a minute need three replicas of either kind.
        assert least >= 3
        await until(lambda: (world.status("cheap").get("group") or {}).get("share") == "100%")
        assert world.status("cheap")["group"]["name"] == "team-a/default/default@Premium"
        state = front.loop.states["team-a/cheap"]
        text = "\n".join(explain_text.lines(explain.of_state(state, now=world.clock.time())))
        assert "group         team-a/default/default@Premium, routing round-robin" in text
        assert "team-a/cheap: 3 replicas carry 100%" in text
        assert "team-a/dear: 0 replicas" in text
        assert "cents per 1,000 requests" in text

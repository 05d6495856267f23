"""Groups in a cluster in memory, with virtual time: one demand, hand-over, zero, budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from adapter.app.endpoints import Endpoints, registry_of
from adapter.diagnostics import explain, explain_text
from optimizer.stabilization import StabilizationLimits
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, LOOP, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

GROUPED = replace(LOOP, model_groups=True, limits=StabilizationLimits(down_seconds=30.0))
STARTUP = 20.0
GROUP = "team-a/default/default@Premium"


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
    world.starts.startup[name] = STARTUP


@asynccontextmanager
async def grouped(folder: Path, **started: Any) -> AsyncIterator[tuple[World, Endpoints]]:
    """A world with variants `cheap` and `dear` of one model, which share 80 requests per minute."""
    async with worlds.running(folder, actuate=True) as world:
        for path, plural, name in (
            (APPS, "deployments", "v"),
            (VARIANTS, "variantautoscalings", "v"),
        ):
            world.api.remove(path, plural, "team-a", name)
        notes = started.pop("notes", {})
        deploy(world, "cheap", started.pop("cheap", 1), "G2", annotations=notes)
        deploy(world, "dear", started.pop("dear", 1), "A100")
        world.pages.shared = {("cheap", "dear"): started.pop("rpm", 80.0)}
        if started.pop("gateway", False):
            started["gateways"] = (("", world.gateway),)
        async with world.replica("a", loop=GROUPED, actuate_scale=True, **started) as (
            endpoints,
            _,
        ):
            yield world, endpoints


def replicas(world: World, name: str) -> int:
    number: int = world.api.get(APPS, "deployments", "team-a", name)["spec"]["replicas"]
    return number


def ready(world: World, name: str) -> int:
    return sum(
        any(item["type"] == "Ready" for item in pod["status"]["conditions"])
        for (_, key), pod in world.api.objects.get((CORE, "pods"), {}).items()
        if key.startswith(f"{name}-")
    )


async def test_the_cheaper_variant_carries_the_demand_of_both(tmp_path: Path) -> None:
    """Dear replicas go, and not before those that replace them are ready; each says its share."""
    async with grouped(tmp_path, dear=3) as (world, endpoints):
        await until(lambda: ready(world, "cheap") + ready(world, "dear") >= 4)
        least = 4

        def settled() -> bool:
            nonlocal least
            least = min(least, ready(world, "cheap") + ready(world, "dear"))
            return replicas(world, "dear") == 0 and ready(world, "cheap") >= 3

        await until(settled)
        # 80 requests a minute, a fifth more in reserve, need three replicas of either kind.
        assert least >= 3
        await until(lambda: (world.status("cheap").get("group") or {}).get("share") == "100%")
        assert world.status("cheap")["group"]["name"] == GROUP
        state = endpoints.loop.states["team-a/cheap"]
        text = "\n".join(explain_text.lines(explain.of_state(state, now=world.clock.time())))
        assert f"group         {GROUP}, routing round-robin" in text
        assert "team-a/cheap: 3 replicas carry 100%" in text
        assert "team-a/dear: 0 replicas" in text
        assert "cents per 1,000 requests" in text


async def test_a_price_that_people_change_moves_load_at_once(tmp_path: Path) -> None:
    """It is no chance in what a replica seems to carry: others are asked for in the next cycle."""
    async with grouped(tmp_path, dear=0) as (world, endpoints):
        await until(lambda: ready(world, "cheap") == 3)
        cycles = endpoints.loop.cycles
        await until(lambda: endpoints.loop.cycles >= cycles + 3)
        costs = worlds.manifests()[0]
        costs["data"]["G2"] = costs["data"]["G2"].replace("23.00", "90.00")
        world.api.put(CORE, "configmaps", costs)
        changed_at = world.clock.monotonic()
        await until(lambda: replicas(world, "dear") >= 3)
        assert world.clock.monotonic() - changed_at <= GROUPED.interval + 2.0 * worlds.SPEED
        # What serves stays until they are ready.
        assert ready(world, "cheap") == 3
        await until(lambda: replicas(world, "cheap") == 0)
        assert ready(world, "dear") >= 3


async def test_the_limit_of_spot_is_that_of_the_annotation(tmp_path: Path) -> None:
    """The smallest share that a variant of the group names holds for the group, and explanations say it."""
    notes = {"llmd.ai/interruptible": "true", "llmd.ai/interruptible-share": "30%"}
    async with grouped(tmp_path, notes=notes) as (world, endpoints):
        await until(lambda: (world.status("dear").get("group") or {}).get("share") is not None)
        document = explain.of_state(endpoints.loop.states["team-a/dear"], now=0.0)
        assert document["group"]["interruptibleShareLimit"] == 0.3


async def test_a_variant_that_finds_no_node_costs_one_cycle_and_a_start(tmp_path: Path) -> None:
    """Its part goes to the other variant within one cycle; when it can come again, it takes it back."""
    async with grouped(tmp_path, dear=0) as (world, endpoints):
        await until(lambda: ready(world, "cheap") == 3)
        assert replicas(world, "dear") == 0
        world.starts.unplaced.add("cheap")
        world.pages.shared = {("cheap", "dear"): 190.0}
        await until(lambda: replicas(world, "cheap") > 3)
        asked_at = world.clock.monotonic()
        await until(lambda: replicas(world, "dear") >= 3)
        # The next cycle hands over; the request of a cycle is debounced for half a second of real time.
        assert world.clock.monotonic() - asked_at <= GROUPED.interval + 1.0 * worlds.SPEED
        await until(lambda: ready(world, "dear") >= 3)
        assert world.clock.monotonic() - asked_at <= GROUPED.interval + STARTUP + 1.5 * worlds.SPEED
        # What does not come is no longer asked for once the others serve, and the group says why.
        await until(lambda: replicas(world, "cheap") == 3)
        state = endpoints.loop.groups.states[GROUP]
        assert "unschedulable" in state.unavailable["team-a/cheap"]
        world.starts.unplaced.discard("cheap")
        await until(lambda: ready(world, "cheap") >= 6 and replicas(world, "dear") == 0)


async def test_a_failing_variant_hands_over_too(tmp_path: Path) -> None:
    """All of its pods fail: nothing of it is scraped any more, and the demand is not taken to be gone."""
    async with grouped(tmp_path, dear=0) as (world, _):
        await until(lambda: ready(world, "cheap") == 3)
        await until(lambda: world.desired("cheap") == 3)
        failed = {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [
            {"name": "vllm", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        ], "conditions": [{"type": "Ready", "status": "False"}]}  # fmt: skip
        for (namespace, name), pod in list(world.api.objects[CORE, "pods"].items()):
            if name.startswith("cheap-"):
                assert namespace == "team-a"
                world.api.put(CORE, "pods", {**pod, "status": failed})
                world.pages.finished.pop(name, None)
        await until(lambda: ready(world, "dear") >= 3)


async def test_the_group_goes_to_zero_and_wakes_as_one(tmp_path: Path) -> None:
    """Without requests both rest; the dear one is ready so much sooner that it wakes, alone, and says why."""
    slow = {"llmd.ai/startup-time": "200s"}
    async with grouped(tmp_path, rpm=0.0, gateway=True, notes=slow) as (world, endpoints):
        config = worlds.manifests()[2]
        config["data"]["WVA_SCALE_TO_ZERO"] = "true"
        world.api.put(CORE, "configmaps", config)
        await until(lambda: replicas(world, "cheap") + replicas(world, "dear") == 0)
        world.waiting = 3
        await until(lambda: replicas(world, "dear") == 1)
        await until(lambda: ready(world, "dear") == 1)
        world.waiting = 0
        cycles = endpoints.loop.cycles
        await until(lambda: endpoints.loop.cycles >= cycles + 2)
        assert replicas(world, "cheap") == 0
        waking = endpoints.loop.groups.states[GROUP].waking
        assert waking == (
            "team-a/dear wakes first: ready in 60 s at 40 cents/h (team-a/cheap 200 s at 23 cents/h)"
        )


async def test_a_budget_cuts_and_says_so(tmp_path: Path) -> None:
    """The ceiling holds at every moment, also while replicas move; condition, Event and metrics name it."""
    async with grouped(tmp_path, dear=0, rpm=200.0) as (world, endpoints):
        config = worlds.manifests()[2]
        config["data"]["budgets"] = "- {scope: namespace, namespace: team-a, cost: 100}"
        world.api.put(CORE, "configmaps", config)
        await until(lambda: world.condition("WithinBudget", "cheap")[0] == "False")
        _, reason, message = world.condition("WithinBudget", "cheap")
        assert reason == "BudgetExhausted"
        assert "namespace team-a" in message
        assert "TTFT" in message
        await until(lambda: any(item[1] == "BudgetExhausted" for item in world.events()))
        cycles = endpoints.loop.cycles
        await until(lambda: endpoints.loop.cycles >= cycles + 3)
        states = endpoints.loop.states.values()
        assert sum(state.cost for state in states) <= 100
        text = generate_latest(registry_of(endpoints.loop, world.clock)).decode()
        assert 'variant_adapter_budget_limit{ceiling="' in text
        assert "variant_adapter_budget_cut{" in text

"""Configuration fails static in a cluster: what breaks or disappears takes no target away, and is told."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import aiohttp
import pytest

from adapter import cli
from adapter.app.endpoints import Endpoints
from adapter.resources.configuration.last_good import HELD
from adapter.resources.stored_status import CONFIGURATION
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SYSTEM, World, until
from tests.fakes.kubernetes_objects import VARIANTS, Object

pytestmark = pytest.mark.virtual_time

GONE = "gone"
"""What makes a row that is not there, in a ConfigMap that is."""

COSTS, CLASSES = "accelerator-unit-costs", "service-classes-config"


def config_map(name: str) -> Object:
    return next(item for item in worlds.manifests() if item["metadata"]["name"] == name)


async def readiness(endpoints: Endpoints) -> str:
    url = f"{endpoints.metrics_url}/readyz?verbose"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return await response.text()


def condition(world: World) -> tuple[str, str, str]:
    return world.condition(CONFIGURATION)


@pytest.mark.parametrize(
    ("name", "broken", "said"),
    [
        (CLASSES, "slo-tpot: fast", "data.premium: line 5: data[0].slo-tpot: must be"),
        (CLASSES, None, "data.premium: is gone"),
        (CLASSES, GONE, "data.premium: is gone"),
        (COSTS, GONE, "data.A100: is gone"),
        (COSTS, None, "data.A100: is gone"),
        (COSTS, "{}", "data.A100: line 1: cost: is missing"),
    ],
)
async def test_targets_are_held_and_renewed(
    tmp_path: Path, name: str, broken: str | None, said: str
) -> None:
    """Condition, Event and readiness name the row; decisions go on, and the repair is enough."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            changed = config_map(name)
            if broken is None:
                world.api.remove(CORE, "configmaps", SYSTEM, name)
            elif broken == GONE:
                del changed["data"]["premium" if name == CLASSES else "A100"]
                world.api.put(CORE, "configmaps", changed)
            else:
                row = "premium" if name == CLASSES else "A100"
                text = changed["data"][row]
                changed["data"][row] = (
                    text.replace("slo-tpot: 24", broken) if name == CLASSES else broken
                )
                world.api.put(CORE, "configmaps", changed)
            await until(lambda: condition(world)[0] == "False")
            _, reason, message = condition(world)
            assert f"ConfigMap {SYSTEM}/{name}: {said}" in message
            assert HELD in message
            await until(lambda: ("Warning", reason, message) in world.events())
            shown = await readiness(endpoints)
            assert f"[!]ConfigMap {SYSTEM}/{name}: " in shown
            assert "readyz check passed" in shown
            world.load["v"] = 120.0
            await until(lambda: world.desired() == 4)
            assert world.condition("OptimizationReady")[0] == "True"
            before = endpoints.loop.states["team-a/v"]
            world.api.put(CORE, "configmaps", config_map(name))
            await until(lambda: condition(world)[0] == "True")
            assert endpoints.loop.states["team-a/v"].scaled_up >= before.scaled_up > 0
            assert world.desired() == 4
            assert "[!]" not in await readiness(endpoints)


@pytest.mark.parametrize("labelled", [True, False])
async def test_a_price_whose_device_alone_is_named(tmp_path: Path, *, labelled: bool) -> None:
    """By a label, or by the pods: the accelerator stays what it was, until another row has its device."""
    device = "NVIDIA-A100-PCIE-80GB"
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        item = world.variant()
        item["metadata"]["labels"] = (
            {"inference.optimization/acceleratorName": device} if labelled else {}
        )
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
        item["spec"] = {
            "scaleTargetRef": reference, "modelID": worlds.MODEL, "variantCost": "10.0",
            "maxReplicas": 9,
        }  # fmt: skip
        world.api.put(VARIANTS, "variantautoscalings", item)
        deployment = worlds.workload("v", 1)
        deployment["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": device}
        world.api.put(APPS, "deployments", deployment)
        costs = config_map(COSTS)
        costs["data"] = {**costs["data"], "H100": '{"device": "NVIDIA-H100", "cost": "90"}'}
        world.api.put(CORE, "configmaps", costs)
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() is not None)
            source = endpoints.loop.states["team-a/v"].source
            assert (source.accelerator, source.own_accelerator) == ("A100", None)
            row = costs["data"].pop("A100")
            world.api.put(CORE, "configmaps", costs)
            await until(lambda: condition(world)[0] == "False")
            assert f"ConfigMap {SYSTEM}/{COSTS}: data.A100: is gone; {HELD}" in condition(world)[2]
            source = endpoints.loop.states["team-a/v"].source
            assert (source.accelerator, source.own_accelerator) == ("A100", None)
            costs["data"]["a100-pcie"] = row
            world.api.put(CORE, "configmaps", costs)
            await until(lambda: condition(world)[0] == "True")
            assert endpoints.loop.states["team-a/v"].source.accelerator == "a100-pcie"


async def test_a_price_that_nothing_names_is_told_where_it_decides(tmp_path: Path) -> None:
    """An object of WVA alone is fine, for `doctor` too; a budget in cents, while there is one, counts it."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        item = world.variant()
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
        item["spec"] = {"scaleTargetRef": reference, "modelID": worlds.MODEL, "maxReplicas": 9}
        item["metadata"]["labels"] = {}
        world.api.put(VARIANTS, "variantautoscalings", item)
        costs = config_map(COSTS)
        costs["data"] = {**costs["data"], "H100": '{"device": "NVIDIA-H100", "cost": "90"}'}
        world.api.put(CORE, "configmaps", costs)
        async with world.replica("a"):
            await until(lambda: world.desired() is not None)
            assert float(world.status()["currentAlloc"]["variantCost"]) == 10.0
            assert condition(world)[0] == ""
            _, lines = await doctor(world)
            assert not [line for line in lines if "variantCost" in line]
            write_budgets(world, "- {scope: cluster, cost: 5000}")
            await until(lambda: condition(world)[0] == "False")
            assert condition(world)[2].startswith("spec.variantCost: is not given")
            _, lines = await doctor(world)
            assert [line for line in lines if "PartlyUnusable: spec.variantCost" in line]
            write_budgets(world, "[]")
            await until(lambda: condition(world)[0] == "True")


async def test_a_target_that_one_request_breaks(tmp_path: Path) -> None:
    """Without any traffic the condition names the target, the accelerator and its least latency."""
    async with worlds.running(tmp_path) as world:
        changed = config_map(CLASSES)
        changed["data"]["premium"] = changed["data"]["premium"].replace("tpot: 24", "tpot: 20")
        world.api.put(CORE, "configmaps", changed)
        async with world.replica("a"):
            await until(lambda: condition(world)[0])
            assert condition(world)[0] == "False"
            assert (
                "even by one request alone: slo-tpot is 20 ms, and A100 takes 20.99 ms"
                in (condition(world)[2])
            )


async def test_doctor_names_the_row(tmp_path: Path) -> None:
    """Its exit status is 1, with ConfigMap, key, field and line; the variant that is held is a warning."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            changed = config_map(CLASSES)
            changed["data"]["premium"] = changed["data"]["premium"].replace("tpot: 24", "tpott: 20")
            world.api.put(CORE, "configmaps", changed)
            await until(lambda: condition(world)[0])
            code, lines = await doctor(world)
    assert code == 1
    place = f"ConfigMap {SYSTEM}/{CLASSES}: data.premium: line 5: data[0].slo-tpott: is not known"
    assert any(line.startswith(f"ERROR    {place}") for line in lines)
    assert any(
        line.startswith("warning  VariantAutoscaling team-a/v: PartlyUnusable") for line in lines
    )


async def doctor(world: World) -> tuple[int, list[str]]:
    """Exit status and lines of `doctor`, run by an administrator."""
    admin = await world.site.entrance("admin", user="")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = await asyncio.to_thread(cli.main, ("doctor", "--kubeconfig", str(admin.kubeconfig)))
    return code, out.getvalue().splitlines()


async def test_a_restart_while_a_row_is_broken(tmp_path: Path) -> None:
    """The target that the status holds is renewed, with the reason, until the row can be read."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
        changed = config_map(CLASSES)
        changed["data"]["premium"] = "name: ["
        world.api.put(CORE, "configmaps", changed)
        world.load["v"] = 120.0
        async with world.replica("b") as (endpoints, _):
            await until(lambda: world.condition("OptimizationReady")[1] == "InvalidConfiguration")
            assert "data.premium: not valid YAML" in world.condition("OptimizationReady")[2]
            first = endpoints.loop.states["team-a/v"].decided_at
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 3)
            assert endpoints.loop.states["team-a/v"].decided_at > first
            assert world.desired() == 2
            assert await world.metric(endpoints) == ["2"]
            world.api.put(CORE, "configmaps", config_map(CLASSES))
            await until(lambda: world.desired() == 4)
            assert world.condition("OptimizationReady")[0] == "True"


def write_budgets(world: World, budgets: str, key: str = "budgets") -> None:
    """Give the adapter's ConfigMap these budgets."""
    config = worlds.manifests()[2]
    config["data"][key] = budgets
    world.api.put(CORE, "configmaps", config)


@pytest.mark.parametrize(
    "repaired", ["- {scope: cluster, cost: 80}", "- {scope: cluster, cost: 5000}"]
)
async def test_no_target_rises_until_they_can_be_read(tmp_path: Path, repaired: str) -> None:
    """Load for four replicas of 40 cents/h finds two; the repaired ceiling allows two, or any number."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
        write_budgets(world, "- {scope: cluster, cots: 80}")
        world.load["v"] = 120.0
        async with world.replica("b"):
            await until(lambda: world.condition(CONFIGURATION)[0] == "False")
            await until(lambda: "but the maximum is 2" in world.condition("OptimizationReady")[2])
            assert world.desired() == 2
            text = world.condition(CONFIGURATION)[2]
            assert "data.budgets: entry 1: cots: unknown field" in text
            assert "no target rises above the replicas published or running before (2 here)" in text
            write_budgets(world, repaired)
            await until(lambda: world.condition(CONFIGURATION)[0] == "True")
            if "5000" in repaired:
                await until(lambda: (world.desired() or 0) >= 4)
            else:
                await until(lambda: world.condition("WithinBudget")[0] == "False")
                assert world.desired() == 2


async def test_the_last_ones_stay_in_force_in_a_process_that_knows_them(tmp_path: Path) -> None:
    """Nothing else is bounded then: a ceiling that allows more allows it still."""
    async with worlds.running(tmp_path) as world:
        write_budgets(world, "- {scope: cluster, cost: 5000}")
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 1)
            write_budgets(world, "- {scope: cluster, cots: 80}")
            world.load["v"] = 120.0
            await until(lambda: (world.desired() or 0) >= 4)
            assert world.condition(CONFIGURATION)[0] == ""
            assert "[!]ConfigMap" in (shown := await readiness(endpoints))
            assert "data.budgets: entry 1: cots: unknown field" in shown


@pytest.mark.parametrize("name", [CLASSES, COSTS])
async def test_a_row_that_is_gone_at_a_start_holds_the_target(tmp_path: Path, name: str) -> None:
    """With no history of it but the status; another process goes on once the row is back."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
        written = config_map(name)
        emptied = {**written, "data": {}}
        if name == COSTS:
            emptied["data"] = {key: row for key, row in written["data"].items() if key != "A100"}
        world.api.put(CORE, "configmaps", emptied)
        world.load["v"] = 120.0
        async with world.replica("b"):
            await until(lambda: world.condition("OptimizationReady")[1] == "InvalidConfiguration")
            await asyncio.sleep(3.0)
            assert world.desired() == 2
            assert world.condition("TargetResolved")[0] == "True"
            world.api.put(CORE, "configmaps", written)
            await until(lambda: (world.desired() or 0) >= 4)


async def test_budgets_outlive_their_configmap(tmp_path: Path) -> None:
    """One that is deleted says nothing; one without the key says that there are none."""
    async with worlds.running(tmp_path) as world:
        write_budgets(world, "- {scope: cluster, cost: 80}")
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 1)
            world.api.remove(CORE, "configmaps", SYSTEM, worlds.manifests()[2]["metadata"]["name"])
            await until(lambda: "the last budgets stay in force" in condition(world)[2])
            assert "[!]the adapter's ConfigMap is gone" in await readiness(endpoints)
            world.load["v"] = 120.0
            await until(lambda: world.condition("WithinBudget")[0] == "False")
            assert world.desired() == 2
            world.api.put(CORE, "configmaps", worlds.manifests()[2])
            await until(lambda: (world.desired() or 0) >= 4)
            assert condition(world)[0] == "True"


async def test_budgets_under_a_misspelled_key_are_not_none(tmp_path: Path) -> None:
    """The last ones stay in force; a process that knows none lets no target rise."""
    async with worlds.running(tmp_path) as world:
        write_budgets(world, "- {scope: cluster, cost: 80}")
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            write_budgets(world, "- {scope: cluster, cost: 80}", "budget")
            await until(lambda: "the last budgets stay in force" in condition(world)[2])
            assert "data.budget: unknown setting; did you mean budgets?" in condition(world)[2]
            world.load["v"] = 120.0
            await until(lambda: world.condition("WithinBudget")[0] == "False")
            assert world.desired() == 2
        async with world.replica("b"):
            await until(lambda: "no target rises" in condition(world)[2])
            await until(lambda: "but the maximum is 2" in world.condition("OptimizationReady")[2])
            assert world.desired() == 2
            write_budgets(world, "[]")
            await until(lambda: (world.desired() or 0) >= 4)


async def test_budgets_of_the_environment_need_no_configmap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is gone where there never was one."""
    monkeypatch.setenv("budgets", "- {scope: cluster, cost: 80}")
    async with worlds.running(tmp_path) as world:
        world.api.remove(CORE, "configmaps", SYSTEM, worlds.manifests()[2]["metadata"]["name"])
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            world.load["v"] = 120.0
            await until(lambda: world.condition("WithinBudget")[0] == "False")
            assert condition(world)[0] == ""


async def test_a_change_of_the_spec_counts_though_it_was_made_while_held(tmp_path: Path) -> None:
    """It ends what a restart held, as the condition says, also where another row was broken at that time."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
        written = config_map(CLASSES)
        world.api.put(CORE, "configmaps", {**written, "data": {"other": "name: ["}})
        async with world.replica("b"):
            await until(lambda: world.condition("OptimizationReady")[1] == "InvalidConfiguration")
            changed = world.variant("v")
            changed["spec"]["maxReplicas"] = 7
            world.api.put(VARIANTS, "variantautoscalings", changed)
            await until(lambda: observed(world) == {2})
            assert (world.desired(), world.status()["observedGeneration"]) == (2, 1)
            world.api.put(CORE, "configmaps", {**written, "data": {}})
            await until(lambda: world.desired() is None)


def observed(world: World) -> set[int]:
    """Generations that conditions are of."""
    return {item["observedGeneration"] for item in world.status()["conditions"]}

"""Replicas that are groups of pods, and GPUs that are claimed, shared, tainted or waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter.app.endpoints import Endpoints
from adapter.controller.state import VariantState
from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SYSTEM, World, until
from tests.fakes.kubernetes_objects import VARIANTS
from tests.fakes.pods import groups

pytestmark = pytest.mark.virtual_time

LIMITED = Scope(config_namespace=SYSTEM, limited=True)
SCALERS_OF_ROLES = "/apis/disaggregatedset.x-k8s.io/v1"
DRA = "/apis/resource.k8s.io/v1"
LARGE = {"llmd.ai/min-replicas": "9"}
"""Annotation of a variant that wants more than there is."""


def put_variant(world: World, notes: dict[str, str] | None = None, **spec: Any) -> None:
    world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
    item = groups.variant(**spec)
    item["metadata"]["annotations"] = notes or {}
    world.api.put(VARIANTS, "variantautoscalings", item)


async def settled(world: World, endpoints: Endpoints) -> VariantState:
    """The state of variant `s` once its load is measured and its target written."""
    await until(lambda: world.desired("s") is not None)
    await until(lambda: state_of(endpoints).traffic is not None)
    await until(lambda: world.condition("MetricsAvailable", "s")[1] == "MetricsFound")
    return state_of(endpoints)


def state_of(endpoints: Endpoints) -> VariantState:
    """The state of variant `s` as it is."""
    state: VariantState = endpoints.loop.states["team-a/s"]
    return state


async def sees(endpoints: Endpoints, load: float) -> None:
    """Wait until the load is measured, requests per minute."""

    def close() -> bool:
        traffic = state_of(endpoints).traffic
        return traffic is not None and abs(60.0 * traffic.arrival_rate_rps - load) < 0.1 * load

    await until(close)


async def test_groups_whose_workers_serve_too(tmp_path: Path) -> None:
    """All servers are read, groups are the replicas, and each holds the GPUs of all of its pods."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=14))
        groups.put(world, 2, size=2, serving={0, 1}, gpus=2)
        world.load |= {"set": 60.0, "set-0": 30.0, "set-1": 30.0}
        put_variant(world, LARGE)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            await sees(endpoints, 120)
            assert world.status("s")["currentAlloc"]["numReplicas"] == 2
            assert (state.source.accelerator, state.source.gpus) == ("A100", 4)
            assert len(state.source.endpoints) == 4
            # 9 groups would take 36 of the 14 GPUs.
            await until(lambda: world.desired("s") == 3)
            assert endpoints.loop.inputs.problems == ()  # of prices that no variant asks for
            reason = world.condition("OptimizationReady", "s")[2]
            assert f"{groups.A100} short" in reason, reason
            assert float(world.status("s")["currentAlloc"]["variantCost"]) == pytest.approx(
                2 * 4 * 40
            )


async def test_groups_of_which_the_leader_serves(tmp_path: Path) -> None:
    """Workers without a server are left out of the load; their GPUs are not."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=24))
        groups.put(world, 2, size=3, serving={0}, gpus=4)
        world.load["set"] = 60.0
        put_variant(world)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            await sees(endpoints, 60)
            assert world.status("s")["currentAlloc"]["numReplicas"] == 2
            assert state.source.gpus == 12
            assert world.condition("MetricsAvailable", "s")[0] == "True"


async def test_groups_of_prefill_and_decode_pods(tmp_path: Path) -> None:
    """A request is on the pages of both roles of a replica and counts once; the condition says so."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=8))
        groups.put(world, 2, size=2, serving={0, 1}, gpus=2)
        for pod, role in (("set-0", "prefill"), ("set-1", "prefill"), ("set-0-1", "decode")):
            labelled = world.api.get(CORE, "pods", "team-a", pod)
            labelled["metadata"]["labels"]["modelserving.volcano.sh/role"] = role
            world.api.put(CORE, "pods", labelled)
        # Pods without a role serve whole requests.
        world.load |= {"set": 60.0, "set-0": 60.0, "set-1": 20.0}
        put_variant(world)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            await settled(world, endpoints)
            await sees(endpoints, 80)
            assert "counts once" in world.condition("TargetResolved", "s")[2]


async def test_the_scaler_of_a_role(tmp_path: Path) -> None:
    """A DisaggregatedSet's /scale counts and selects all pods of a role; its groups are the replicas."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=16))
        groups.put(world, 2, size=2, serving={0}, gpus=4)
        reference = {
            "apiVersion": "disaggregatedset.x-k8s.io/v1",
            "kind": "DisaggregatedSetRoleScaler",
            "name": "ds-decode",
        }
        place = SCALERS_OF_ROLES, "disaggregatedsetrolescalers"
        item = {
            "metadata": {"name": "ds-decode", "namespace": "team-a"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {groups.NAME: "set"}}},
        }
        world.api.put(*place, item)
        world.api.set_status(*place, "team-a", "ds-decode", replicas=4)
        world.load["set"] = 60.0
        put_variant(world, reference=reference)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            assert world.status("s")["currentAlloc"]["numReplicas"] == 2
            assert state.source.gpus == 8


async def test_the_scaler_of_a_role_beside_its_set(tmp_path: Path) -> None:
    """Both scale the same groups: the later of two variants is refused, and told which one has them."""
    of = "disaggregatedset.x-k8s.io"
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=16))
        groups.put(world, 2, size=2, serving={0}, gpus=4)
        for name in ("set-0", "set-0-1", "set-1", "set-1-1"):
            labelled = world.api.get(CORE, "pods", "team-a", name)
            labelled["metadata"]["labels"] |= {f"{of}/name": "ds", f"{of}/role": "decode"}
            world.api.put(CORE, "pods", labelled)
        leaders = {f"{of}/name": "ds", f"{of}/role": "decode", groups.WORKER: "0"}
        item = {
            "metadata": {"name": "ds-decode", "namespace": "team-a"},
            "spec": {"replicas": 2, "selector": {"matchLabels": leaders}},
        }
        place = SCALERS_OF_ROLES, "disaggregatedsetrolescalers"
        world.api.put(*place, item)
        world.api.set_status(*place, "team-a", "ds-decode", replicas=2)
        world.load["set"] = 60.0
        reference = {
            "apiVersion": f"{of}/v1", "kind": "DisaggregatedSetRoleScaler", "name": "ds-decode",
        }  # fmt: skip
        put_variant(world, reference=reference)
        second = groups.variant()
        second["metadata"]["name"] = "t"
        world.api.put(VARIANTS, "variantautoscalings", second)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            assert state.source.gpus == 8
            await until(lambda: world.condition("TargetResolved", "t")[1] == "TargetConflict")
            assert (
                "team-a/s" in world.condition("OptimizationReady", "t")[2]
                or "s" in world.condition("TargetResolved", "t")[2]
            )


def resource_slice(count: int) -> dict[str, Any]:
    attributes = {"productName": {"string": "NVIDIA A100-PCIE-80GB"}}
    devices = [{"name": f"gpu-{number}", "attributes": attributes} for number in range(count)]
    spec = {
        "driver": "gpu.nvidia.com",
        "nodeName": "node",
        "pool": {"name": "node", "generation": 1},
        "devices": devices,
    }
    return {"metadata": {"name": "s"}, "spec": spec}


async def test_replicas_that_claim_devices(tmp_path: Path) -> None:
    """By dynamic resource allocation a replica holds what its pods' claims were given."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=0))
        world.api.put(DRA, "resourceslices", resource_slice(7))
        groups.put(world, 1, size=2, serving={0}, gpus=0)
        for number, holder in enumerate(["set-0", "set-0-1"]):
            result = {"driver": "gpu.nvidia.com", "pool": "node", "device": f"gpu-{number}"}
            claim = {
                "metadata": {"name": f"c{number}", "namespace": "team-a"},
                "status": {
                    "allocation": {"devices": {"results": [result]}},
                    "reservedFor": [{"resource": "pods", "name": holder}],
                },
            }
            world.api.put(DRA, "resourceclaims", claim)
        world.load["set"] = 30.0
        put_variant(world, LARGE)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            assert state.source.accelerator == "A100"
            await until(lambda: state_of(endpoints).source.gpus == 2)
            assert endpoints.loop.inputs.capacity == {groups.A100: 7}
            await until(lambda: world.desired("s") == 3)


async def test_pods_that_wait_in_a_queue(tmp_path: Path) -> None:
    """Pods that Kueue holds are not starting ones: the condition says so, and the target stays."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=16))
        groups.put(world, 2, size=1, serving={0}, gpus=4)
        gate = world.api.get(CORE, "pods", "team-a", "set-1")
        gate["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "q"
        gate["spec"] |= {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "nodeName": ""}
        world.api.put(CORE, "pods", gate)
        world.api.set_status(
            CORE, "pods", "team-a", "set-1", phase="Pending", podIP="", conditions=[]
        )
        world.load["set"] = 60.0
        del world.pages.finished["set-1"]
        put_variant(world)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            assert (state.source.gated, state.source.gpus) == (1, 4)
            assert world.status("s")["currentAlloc"]["numReplicas"] == 2
            assert world.condition("MetricsAvailable", "s")[0] == "True"


@pytest.mark.parametrize(
    ("allocatable", "requests", "taken"),
    [
        ({"nvidia.com/gpu": "40"}, {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "20000"}, 39),
        ({"nvidia.com/gpu.shared": "40"}, {"nvidia.com/gpu.shared": "1"}, 39),
        ({"volcano.sh/vgpu-number": "40"}, {"volcano.sh/vgpu-number": "1"}, 39),
    ],
)
async def test_shares_of_gpus(
    tmp_path: Path, allocatable: dict[str, str], requests: dict[str, str], taken: int
) -> None:
    """A share is a type of its own: replicas take one each, and what others hold is gone."""
    async with worlds.running(tmp_path, limited=True) as world:
        node = groups.node(gpus=0)
        node["status"]["allocatable"] = allocatable
        node["metadata"]["annotations"] = {"hami.io/node-nvidia-register": "GPU-1,10,81920,100"}
        world.api.put(CORE, "nodes", node)
        prices = next(c for c in worlds.manifests() if "costs" in c["metadata"]["name"])
        prices["data"]["A100-share"] = f'{{"device": "{groups.A100}-SHARED", "cost": "10.00"}}'
        world.api.put(CORE, "configmaps", prices)
        item = world.variant()
        item["metadata"]["labels"] = {"inference.optimization/acceleratorName": "A100-share"}
        item["spec"]["modelProfile"]["accelerators"][0]["acc"] = "A100-share"
        world.api.put(VARIANTS, "variantautoscalings", item)
        other = groups.pod(world, "other-0", labels={})
        other["spec"]["containers"][0]["resources"] = {"limits": requests}
        world.api.put(CORE, "pods", other)
        world.load["v"] = 60.0
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert endpoints.loop.inputs.capacity == {f"{groups.A100}-SHARED": taken}


async def test_a_taint_that_only_one_variant_tolerates(tmp_path: Path) -> None:
    """A taint's key is named where no pod tolerates it; tolerations of a group are those of its pods."""
    taint = {"key": "nvidia.com/dedicated", "value": "llm", "effect": "NoSchedule"}
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=8, taints=[taint]))
        groups.put(world, 1, size=2, serving={0}, gpus=1)
        world.load["set"] = 30.0
        put_variant(world, LARGE)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            state = await settled(world, endpoints)
            assert "nvidia.com/dedicated=llm" in state.source.closed
            for name in ("set-0", "set-0-1"):
                item = world.api.get(CORE, "pods", "team-a", name)
                item["spec"]["tolerations"] = [{**taint, "operator": "Equal"}]
                world.api.put(CORE, "pods", item)
            await until(lambda: world.desired("s") == 4)


async def test_gpus_of_a_deployment_without_a_profile(tmp_path: Path) -> None:
    """Cards per replica come from the template's requests, before there is a pod and after."""
    async with worlds.running(tmp_path, limited=True) as world:
        world.api.put(CORE, "nodes", groups.node(gpus=9))
        deployment = worlds.workload("v", 1)
        container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "4"}}}
        deployment["spec"]["template"]["spec"] = {"containers": [container]}
        world.api.put(APPS, "deployments", deployment)
        world.load["v"] = 30.0
        item = world.variant()
        item["metadata"] |= {"labels": {}, "annotations": LARGE}
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
        item["spec"] = {
            "scaleTargetRef": reference, "modelID": worlds.MODEL, "variantCost": "80",
            "maxReplicas": 20,
        }  # fmt: skip
        prices = next(c for c in worlds.manifests() if "costs" in c["metadata"]["name"])
        prices["data"] = {"H100": '{"device": "NVIDIA-H100", "cost": "90"}'}
        world.api.put(CORE, "configmaps", prices)
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", scope=LIMITED) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            state = endpoints.loop.states["team-a/v"]
            assert state.source.accelerator == f"4x{groups.A100}@80"
            # The price is of a replica, whatever it holds.
            assert float(world.status()["currentAlloc"]["variantCost"]) == 80.0

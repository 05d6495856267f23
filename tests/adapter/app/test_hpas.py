"""HPAs of every shape in a cluster: what is served, doctor and explain say the same."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.app.endpoints import Endpoints
from adapter.resources.watched.scope import Scope
from adapter.resources.wva.config import NO_CLASS
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, LWS, SCALERS, SYSTEM, World, until
from tests.fakes.kubernetes_objects import VARIANTS, Object

pytestmark = pytest.mark.virtual_time

DRA = "/apis/resource.k8s.io/v1"
TAINTS = "/apis/resource.k8s.io/v1alpha3"
EXACT = {name: {"tolerance": "0"} for name in ("scaleUp", "scaleDown")}


def selecting(selector: dict[str, Any]) -> Object:
    item = worlds.scaler("v", behavior=EXACT)
    item["spec"]["metrics"][0]["external"]["metric"]["selector"] = selector
    return item


def of_keda() -> Object:
    """What KEDA makes of a ScaledObject on a Prometheus query."""
    item = worlds.scaler("v", high=2)
    item["metadata"] |= {"name": "a-keda-hpa-v", "labels": {"scaledobject.keda.sh/name": "v"}}
    metric = {
        "name": "s0-prometheus",
        "selector": {"matchLabels": {"scaledobject.keda.sh/name": "v"}},
    }
    target = {"type": "AverageValue", "averageValue": "1"}
    item["spec"]["metrics"] = [
        {"type": "External", "external": {"metric": metric, "target": target}}
    ]
    return item


def metric_of(item: Object) -> str:
    name: str = item["spec"]["metrics"][0]["external"]["metric"]["name"]
    return name


async def examined(
    world: World, endpoints: Endpoints, value: str = ""
) -> tuple[int, list[str], str]:
    """Exit status of `doctor`, its lines about the namespace, and what `explain` says."""
    await until(world.ca_bundle)
    world.available()
    world.api.external = {"v": value or str(world.desired())}
    admin = await world.site.entrance("admin", user="")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = await asyncio.to_thread(cli.main, ("doctor", "--kubeconfig", str(admin.kubeconfig)))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        await asyncio.to_thread(cli.main, ("explain", "team-a/v", "--url", endpoints.metrics_url))
    return code, [line for line in out.getvalue().splitlines() if "team-a" in line], said.getvalue()


async def test_a_selector_by_expressions(tmp_path: Path) -> None:
    """It is answered, so doctor is content and explain misses nothing."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        expressions = [{"key": "variant_name", "operator": "In", "values": ["v"]}]
        world.api.put(
            SCALERS, "horizontalpodautoscalers", selecting({"matchExpressions": expressions})
        )
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            code, lines, said = await examined(world, endpoints)
    assert code == 0, lines
    assert "ok       HorizontalPodAutoscaler team-a/v: reads inferno_desired_replicas = 2" in lines
    assert "does not read" not in said


async def test_a_label_that_is_not_served(tmp_path: Path) -> None:
    """Doctor asks as the HPA does, gets nothing, and names the label; so does explain."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        labels = {"variant_name": "v", "target_name": "v"}
        world.api.put(SCALERS, "horizontalpodautoscalers", selecting({"matchLabels": labels}))
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            code, lines, said = await examined(world, endpoints)
    assert code == 1
    assert any(
        "gets 0 values" in line and "label target_name is not served" in line for line in lines
    )
    assert "label target_name is not served" in said


async def test_two_hpas_on_one_target(tmp_path: Path) -> None:
    """Both are named everywhere, and the bounds are those of the one that reads us."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 120.0
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", behavior=EXACT))
        world.api.put(SCALERS, "horizontalpodautoscalers", of_keda())
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 4)
            status, reason, message = world.condition("TargetResolved")
            assert (status, reason) == ("False", "AmbiguousHPAs")
            both = "HorizontalPodAutoscaler v and HorizontalPodAutoscaler a-keda-hpa-v (of ScaledObject v)"
            assert message.startswith(both)
            code, lines, said = await examined(world, endpoints)
    assert code == 1
    assert any(line.startswith("ERROR") and both in line for line in lines)
    assert both in said


async def test_a_scale_without_a_selector(tmp_path: Path) -> None:
    """A custom resource whose /scale does not tell its pods is told so, with the fix."""
    async with worlds.running(tmp_path) as world:
        item = worlds.workload("set", 1, "LeaderWorkerSet")
        del item["spec"]["selector"]
        world.api.put(LWS, "leaderworkersets", item)
        reference = {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "name": "set",
        }
        world.api.put(
            VARIANTS, "variantautoscalings", worlds.variant("s", scaleTargetRef=reference)
        )
        async with world.replica("a"):
            await until(lambda: "selector" in world.condition("MetricsAvailable", "s")[2])
            message = world.condition("MetricsAvailable", "s")[2]
    assert "LeaderWorkerSet set: its /scale has no status.selector" in message
    assert "labelSelectorPath" in message


async def test_an_hpa_without_a_variant(tmp_path: Path) -> None:
    """Annotations of WVA 0.9 on the HPA are enough: the value is served to it, by the price of its own."""
    async with worlds.running(tmp_path) as world:
        world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
        world.load["v"] = 60.0
        item = worlds.scaler("v", behavior=EXACT)
        item["metadata"]["annotations"] = {
            "llm-d.ai/managed": "true",
            "llm-d.ai/model-id": worlds.MODEL,
            "llm-d.ai/variant-cost": "10.0",
        }
        world.api.put(SCALERS, "horizontalpodautoscalers", item)
        async with world.replica("a") as (endpoints, _):
            await until(lambda: "team-a/v" in endpoints.loop.states)
            await until(lambda: endpoints.loop.states["team-a/v"].desired)
            state = endpoints.loop.states["team-a/v"]
            await until(world.ca_bundle)
            assert await world.metric(endpoints) == [str(state.desired)]
            assert state.accelerator == "unknown@10"
            assert state.source.service_class == "Premium"
            _, lines, _ = await examined(world, endpoints, value=str(state.desired))
            assert (
                f"ok       HorizontalPodAutoscaler team-a/v: reads {metric_of(item)} = {state.desired}"
                in lines
            )


async def test_a_variant_of_2026_without_a_class(tmp_path: Path) -> None:
    """No class lists its model: KV cache and queue decide, and the condition says so."""
    async with worlds.running(tmp_path) as world:
        classes = next(c for c in worlds.manifests() if "classes" in c["metadata"]["name"])
        text = classes["data"]["premium"]
        classes["data"]["premium"] = text.replace(worlds.MODEL, "another/model")
        world.api.put(CORE, "configmaps", classes)
        world.load["v"] = 60.0
        item = world.variant()
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
        item["spec"] = {
            "scaleTargetRef": reference,
            "modelID": worlds.MODEL,
            "variantCost": "10.0",
            "minReplicas": 2,
            "maxReplicas": 3,
        }
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert world.condition("OptimizationReady")[:2] == ("True", "SaturationRule")
            assert endpoints.loop.states["team-a/v"].source.service_class == NO_CLASS
            assert world.condition("ConfigurationValid")[0] == ""


async def test_a_tainted_pool_that_the_pods_tolerate(tmp_path: Path) -> None:
    """GPUs behind a taint of a cloud's GPU pool count for a Deployment that tolerates it."""
    async with worlds.running(tmp_path, limited=True) as world:
        taint = {"key": "sku", "value": "gpu", "effect": "NoSchedule"}
        labels = {"nvidia.com/gpu.product": "NVIDIA-A100-PCIE-80GB", "nvidia.com/gpu.count": "4"}
        node = {
            "metadata": {"name": "node", "labels": labels},
            "spec": {"taints": [taint]},
            "status": {
                "allocatable": {"nvidia.com/gpu": "4"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        world.api.put(CORE, "nodes", node)
        deployment = worlds.workload("v", 1)
        container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
        deployment["spec"]["template"]["spec"] = {
            "tolerations": [{**taint, "operator": "Equal"}],
            "containers": [container],
        }
        world.api.put(APPS, "deployments", deployment)
        world.load["v"] = 90.0
        scope = Scope(config_namespace=SYSTEM, limited=True)
        async with world.replica("a", scope=scope) as (endpoints, _):
            await until(lambda: world.desired() == 3)
            assert endpoints.loop.inputs.capacity == {"NVIDIA-A100-PCIE-80GB": 4}


async def test_gpus_of_dynamic_resource_allocation(tmp_path: Path) -> None:
    """ResourceSlices bound a plan as a device plugin's count does, and claims of others hold some."""
    async with worlds.running(tmp_path, limited=True) as world:
        node = {
            "metadata": {"name": "node"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        world.api.put(CORE, "nodes", node)
        attributes = {"productName": {"string": "NVIDIA A100-PCIE-80GB"}}
        devices = [{"name": f"gpu-{number}", "attributes": attributes} for number in range(3)]
        spec = {
            "driver": "gpu.nvidia.com",
            "nodeName": "node",
            "pool": {"name": "node", "generation": 1},
            "devices": devices,
        }
        world.api.put(DRA, "resourceslices", {"metadata": {"name": "s"}, "spec": spec})
        result = {"driver": "gpu.nvidia.com", "pool": "node", "device": "gpu-0"}
        claim = {
            "metadata": {"name": "c", "namespace": "other"},
            "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": "p"}],
            },
        }
        world.api.put(DRA, "resourceclaims", claim)
        world.load["v"] = 300.0
        scope = Scope(config_namespace=SYSTEM, limited=True)
        async with world.replica("a", scope=scope) as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert endpoints.loop.inputs.capacity == {"NVIDIA-A100-PCIE-80GB": 2}
            taint = {"key": "example.com/sick", "effect": "NoSchedule"}
            rule = {"deviceSelector": {"pool": "node", "device": "gpu-1"}, "taint": taint}
            world.api.put(TAINTS, "devicetaintrules", {"metadata": {"name": "r"}, "spec": rule})
            await until(lambda: world.desired() == 1)
            assert endpoints.loop.inputs.capacity == {"NVIDIA-A100-PCIE-80GB": 1}


async def test_all_replicas_serve_an_hpa_without_a_variant(tmp_path: Path) -> None:
    """The ConfigMap of the targets is what a status is elsewhere; without the HPA its entry goes."""
    async with worlds.running(tmp_path) as world:
        world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
        (targets,) = worlds.manifests("base/managed-targets.yaml")
        world.api.put(CORE, "configmaps", targets)
        world.load["v"] = 60.0
        notes = {"llm-d.ai/managed": "true", "llm-d.ai/model-id": worlds.MODEL}
        item = worlds.scaler("v", behavior=EXACT)
        item["metadata"]["annotations"] = {**notes, "llm-d.ai/variant-cost": "10.0"}
        world.api.put(SCALERS, "horizontalpodautoscalers", item)

        def entries() -> dict[str, str]:
            name = targets["metadata"]["name"]
            data: dict[str, str] = world.api.get(CORE, "configmaps", SYSTEM, name).get("data") or {}
            return data

        async with world.replica("a") as (a, _), world.replica("b") as (b, _):
            await until(entries)
            assert set(entries()) == {"team-a_v"}
            await until(world.ca_bundle)
            fronts = {endpoints.loop.leading for endpoints in (a, b)}
            assert fronts == {True, False}
            await until(lambda: a.loop.states["team-a/v"].desired)
            await until(lambda: b.loop.states["team-a/v"].desired)
            values = {endpoints.loop.states["team-a/v"].desired for endpoints in (a, b)}
            assert len(values) == 1
            follower = b if a.loop.leading else a
            assert await world.metric(follower) == [str(values.pop())]
            world.api.remove(SCALERS, "horizontalpodautoscalers", "team-a", "v")
            await until(lambda: not entries())

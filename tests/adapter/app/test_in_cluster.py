"""The adapter in a cluster: targets, statuses, conditions and events, and what bounds a plan."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from adapter.app import in_cluster
from adapter.kube import informer
from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, CORE, SCALERS, SYSTEM, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

HOURLY = replace(worlds.LOOP, interval=36_000.0)


async def test_a_variant_gets_its_target_status_and_event(tmp_path: Path) -> None:
    """60 requests a minute take two replicas: served to the HPA, written to the status, told in an Event."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            await until(world.ca_bundle)
            assert await world.metric(endpoints) == ["2"]
            status = world.status()
            assert status["currentAlloc"]["numReplicas"] == 1
            assert status["currentAlloc"]["accelerator"] == "A100"
            assert status["observedGeneration"] == 1
            assert status["actuation"] == {"applied": True}
            assert world.condition("MetricsAvailable")[:2] == ("True", "MetricsFound")
            assert world.condition("OptimizationReady")[:2] == ("True", "OptimizationSucceeded")
            assert world.condition("TargetResolved")[:2] == ("True", "TargetFound")
            ((kind, reason, note),) = [e for e in world.events() if "2 replicas" in e[2]]
            assert (kind, reason) == ("Normal", "ScalingDecision")
            assert "A100" in note


async def test_the_status_is_written_only_on_change(tmp_path: Path) -> None:
    """Reconcile cycles with the same decision write nothing; another decision writes again."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            before = len(world.api.writes("variantautoscalings"))
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 4)
            assert len(world.api.writes("variantautoscalings")) == before
            world.load["v"] = 120.0
            await until(lambda: (world.desired() or 0) >= 4)
            assert len(world.api.writes("variantautoscalings")) > before


async def test_a_change_of_a_spec_or_a_configmap_is_taken_up_at_once(tmp_path: Path) -> None:
    """With reconcile cycles an hour apart, a tighter SLO and a new bound apply at once."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 30.0
        async with world.replica("a", loop=HOURLY, interval=HOURLY.interval):
            await until(lambda: world.desired() == 1)
            classes = next(c for c in worlds.manifests() if "classes" in c["metadata"]["name"])
            premium = classes["data"]["premium"]
            classes["data"]["premium"] = premium.replace("slo-tpot: 24", "slo-tpot: 21.5")
            world.api.put(CORE, "configmaps", classes)
            await until(lambda: (world.desired() or 0) > 1)
            changed = world.variant()
            changed["metadata"]["annotations"] = {"llmd.ai/min-replicas": "7"}
            world.api.put(VARIANTS, "variantautoscalings", changed)
            await until(lambda: world.desired() == 7)


async def test_refusals_stand_in_conditions_and_events(tmp_path: Path) -> None:
    """An invalid variant is ignored, and told the field and the fix; others go on, and the fix is enough."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):
            world.deploy("bad", 1, modelID="nobody/lists-it")
            await until(lambda: world.condition("OptimizationReady", "bad")[0])
            status, reason, message = world.condition("OptimizationReady", "bad")
            assert (status, reason) == ("False", "InvalidConfiguration")
            assert message.startswith("spec.modelID: service class 'Premium' lists no SLO")
            assert "Add it to ConfigMap service-classes-config" in message
            assert world.condition("MetricsAvailable", "bad")[0] == "Unknown"
            await until(lambda: ("Warning", reason, message) in world.events())
            await until(lambda: world.desired() == 2)
            fixed = world.variant("bad")
            fixed["spec"]["modelID"] = worlds.MODEL
            world.api.put(VARIANTS, "variantautoscalings", fixed)
            await until(lambda: world.desired("bad") == 1)
            assert world.condition("OptimizationReady", "bad")[0] == "True"
            assert world.status("bad")["observedGeneration"] == 2
            assert endpoints.loop.refused == ()


async def test_two_variants_that_claim_one_target(tmp_path: Path) -> None:
    """The older one has it; the younger is told whose it is, and gets it when the older goes."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.desired() == 2)
            second = worlds.variant("w", scaleTargetRef={"kind": "Deployment", "name": "v"})
            second["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
            world.api.put(VARIANTS, "variantautoscalings", second)
            await until(lambda: world.condition("TargetResolved", "w")[0])
            status, reason, message = world.condition("TargetResolved", "w")
            assert (status, reason) == ("False", "TargetConflict")
            assert "Deployment v is scaled by VariantAutoscaling v" in message
            assert world.condition("TargetResolved")[0] == "True"
            assert world.desired("w") is None
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
            await until(lambda: world.desired("w") == 2)


async def test_a_missing_target_and_a_missing_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are conditions with the fix, not an end: what is granted or made later is used."""
    monkeypatch.setattr(informer, "LONGEST_BACKOFF", 1.0)
    monkeypatch.setattr(in_cluster, "SYNC_SECONDS", 1.0)
    rules = kubernetes_api.manifest_rules()
    role = next(r for r in rules if r["kind"] == "ClusterRole")
    deployments = next(rule for rule in role["rules"] if rule["resources"] == ["deployments"])
    deployments["verbs"] = []
    async with worlds.running(tmp_path, rules=rules) as world:
        world.load["v"] = 60.0
        async with world.replica("a"):
            await until(lambda: world.condition("TargetResolved")[0])
            status, reason, message = world.condition("TargetResolved")
            assert (status, reason) == ("False", "TargetNotFound")
            assert "deployments is forbidden" in message
            deployments["verbs"] = ["get", "list", "watch"]
            await until(lambda: world.desired() == 2)
            world.api.put(VARIANTS, "variantautoscalings", worlds.variant("lost"))
            await until(lambda: world.condition("TargetResolved", "lost")[1] == "TargetNotFound")
            assert "not found" in world.condition("TargetResolved", "lost")[2]
            world.api.put(APPS, "deployments", worlds.workload("lost", 1))
            await until(lambda: world.desired("lost") == 1)


async def test_missing_configmaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without costs and classes nothing can be planned; conditions and log say so, until they are there."""
    async with worlds.running(tmp_path) as world:
        for name in ("accelerator-unit-costs", "service-classes-config"):
            world.api.remove(CORE, "configmaps", SYSTEM, name)
        async with world.replica("a"):
            await until(lambda: world.condition("OptimizationReady")[0])
            assert world.condition("OptimizationReady")[:2] == ("False", "InvalidConfiguration")
            said = capsys.readouterr().out
            assert f"ConfigMap {SYSTEM}/service-classes-config: is missing" in said
            assert "kubectl apply -f manifests/base/defaults.yaml makes it" in said
            for item in worlds.manifests():
                world.api.put(CORE, "configmaps", item)
            await until(lambda: world.desired() == 1)


async def test_an_hpa_bounds_its_variant(tmp_path: Path) -> None:
    """MaxReplicas and minReplicas of the HPA on the same target bind the plan, and the reason says so."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 200.0
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", low=2, high=3))
        async with world.replica("a"):
            await until(lambda: world.desired() == 3)
            world.load["v"] = 0.0
            await until(lambda: world.desired() == 2)


async def test_an_hpa_that_scales_something_else(tmp_path: Path) -> None:
    """An HPA that reads the variant's metric for another target is told in the variant's condition."""
    async with worlds.running(tmp_path) as world:
        world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v", target="other"))
        async with world.replica("a"):
            await until(lambda: world.condition("TargetResolved")[1] == "HPATargetMismatch")
            message = world.condition("TargetResolved")[2]
            assert "reads this variant's metric but scales Deployment other" in message


async def test_installations_share_a_cluster(tmp_path: Path) -> None:
    """Namespaces and a label selector say whose a variant is; the others are not touched."""
    async with worlds.running(tmp_path) as world:
        mine = worlds.variant("mine")
        mine["metadata"]["labels"]["installation"] = "one"
        world.api.put(APPS, "deployments", worlds.workload("mine", 1))
        world.api.put(VARIANTS, "variantautoscalings", mine)
        scope = Scope(config_namespace=SYSTEM, namespaces=("team-a",), selector="installation=one")
        async with world.replica("a", scope=scope) as (endpoints, _):
            await until(lambda: world.desired("mine") == 1)
            assert list(endpoints.loop.states) == ["team-a/mine"]
            assert world.status() == {}


async def test_nodes_bound_the_plan_in_limited_mode(tmp_path: Path) -> None:
    """Three GPUs, one of them held by somebody else: the load would take more than the two that are left."""
    async with worlds.running(tmp_path, limited=True) as world:
        product = "NVIDIA-A100-PCIE-80GB"
        node = {
            "metadata": {"name": "node", "labels": {"nvidia.com/gpu.product": product}},
            "status": {
                "allocatable": {"nvidia.com/gpu": "3"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        world.api.put(CORE, "nodes", node)
        container = {"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
        other = {
            "metadata": {"name": "other", "namespace": "elsewhere", "labels": {}},
            "spec": {"nodeName": "node", "containers": [container]},
            "status": {"phase": "Running"},
        }
        world.api.put(CORE, "pods", other)
        world.load["v"] = 200.0
        scope = Scope(config_namespace=SYSTEM, limited=True)
        async with world.replica("a", scope=scope):
            await until(lambda: world.desired() == 2)
            status, reason, message = world.condition("OptimizationReady")
            assert (status, reason) == ("True", "CapacityShort")
            assert re.search(r"\b2 of [67] replicas", message)
            await until(lambda: ("Warning", reason, message) in world.events())
            world.api.remove(CORE, "pods", "elsewhere", "other")
            await until(lambda: world.desired() == 3)


async def test_variants_go_with_their_targets(tmp_path: Path) -> None:
    """With --owner-references the Deployment becomes an owner; others stay."""
    rules = kubernetes_api.manifest_rules(
        "manifests/base/rbac.yaml", "manifests/overlays/limited/owners.yaml"
    )
    async with worlds.running(tmp_path, rules=rules) as world:
        item = world.variant()
        # More than the watch keeps.
        others = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": str(number)}
            for number in range(informer.MOST_OWNERS + 1)
        ]
        item["metadata"]["ownerReferences"] = others
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a", owner_references=True) as (endpoints, _):
            await until(lambda: world.variant()["metadata"]["ownerReferences"] != others)
            owners = world.variant()["metadata"]["ownerReferences"]
            uid = world.api.get(APPS, "deployments", "team-a", "v")["metadata"]["uid"]
            assert owners == [
                *others,
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v", "uid": uid},
            ]
            # Later cycles try nothing that is not granted.
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert world.api.denied == []


async def test_an_owner_that_is_there_is_not_read_in_each_cycle(tmp_path: Path) -> None:
    """It was one request of each variant in each cycle, where the watch had kept no owners."""
    rules = kubernetes_api.manifest_rules(
        "manifests/base/rbac.yaml", "manifests/overlays/limited/owners.yaml"
    )
    async with (
        worlds.running(tmp_path, rules=rules) as world,
        world.replica("a", owner_references=True) as (endpoints, _),
    ):
        await until(lambda: "ownerReferences" in world.variant()["metadata"])
        cycles = endpoints.loop.cycles
        await until(lambda: endpoints.loop.cycles >= cycles + 2)
        before, cycles = len(world.api.requests), endpoints.loop.cycles
        await until(lambda: endpoints.loop.cycles >= cycles + 3)
        reads = [(method, path) for _, method, path in world.api.requests[before:]]
        assert [path for method, path in reads if method == "GET" and path.endswith("/v")] == []

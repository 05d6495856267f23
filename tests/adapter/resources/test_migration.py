"""The steps of docs/migration.md, one after the other in a cluster, and the way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, CORE, SCALERS, World, until
from tests.fakes.kubernetes_objects import VARIANTS, Object

pytestmark = pytest.mark.virtual_time

REFERENCE = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"}
LABEL = {"inference.optimization/acceleratorName": "A100"}
CLASS = {"sloClassRef": {"name": "premium", "key": worlds.MODEL}}
AUGUST = {"acc": "A100", "accCount": 1, "alpha": "20.58", "beta": "0.41", "maxBatchSize": 4}
OCTOBER = {
    "acc": "A100",
    "accCount": 1,
    "perfParms": {
        "decodeParms": {"alpha": "20.58", "beta": "0.41"},
        "prefillParms": {"gamma": "5.2", "delta": "0.1"},
    },
    "maxBatchSize": 4,
}
OF_2026 = {"scaleTargetRef": REFERENCE, "modelID": worlds.MODEL, "variantCost": "10.0"}
OLD_KEYS = {"slo-tpot": "slo-itl", "slo-ttft": "slo-ttw"}


def put_of_wva(world: World, spec: dict[str, Any], metric: str, keys: dict[str, str]) -> None:
    """What WVA of some version leaves: its object, its classes and its HPA."""
    item = world.variant()
    item["metadata"] |= {"labels": LABEL, "annotations": {}}
    item["spec"] = spec
    world.api.put(VARIANTS, "variantautoscalings", item)
    classes = next(c for c in worlds.manifests() if "classes" in c["metadata"]["name"])
    for name, text in classes["data"].items():
        for key, old in keys.items():
            text = text.replace(key, old)  # noqa: PLW2901 - each key in turn
        classes["data"][name] = text
    world.api.put(CORE, "configmaps", classes)
    scaler = worlds.scaler("v")
    external = scaler["spec"]["metrics"][0]["external"]["metric"]
    external["name"] = metric
    if metric.startswith("wva"):
        external["selector"]["matchLabels"]["exported_namespace"] = "team-a"
    world.api.put(SCALERS, "horizontalpodautoscalers", scaler)


def as_written(item: Object) -> Object:
    """An object without what API servers and controllers write."""
    item = copy.deepcopy(item)
    item.pop("status", None)
    for name in ("resourceVersion", "generation"):
        item["metadata"].pop(name, None)
    return item


@pytest.mark.parametrize(
    ("spec", "metric", "keys", "bounds"),
    [
        (
            {"modelID": worlds.MODEL, **CLASS, "modelProfile": {"accelerators": [AUGUST]}},
            "inferno_desired_replicas", OLD_KEYS, (1, 10),
        ),
        (
            {"modelID": worlds.MODEL, **CLASS, "modelProfile": {"accelerators": [OCTOBER]}},
            "inferno_desired_replicas", {}, (1, 10),
        ),
        (OF_2026, "wva_desired_replicas", {}, (1, 10)),
        ({**OF_2026, "minReplicas": 2, "maxReplicas": 3}, "wva_desired_replicas", {}, (2, 3)),
    ],
    ids=["August 2025", "October 2025", "February 2026", "0.6 to 0.9"],
)  # fmt: skip
async def test_from_wva_and_back(
    tmp_path: Path, spec: Object, metric: str, keys: dict[str, str], bounds: tuple[int, int]
) -> None:
    """Objects and HPA stay and are served at once; without the adapter all but the status is as it was."""
    async with worlds.running(tmp_path) as world:
        put_of_wva(world, spec, metric, keys)
        world.load["v"] = 60.0
        kinds = (VARIANTS, "variantautoscalings"), (SCALERS, "horizontalpodautoscalers")
        before = [as_written(world.api.get(*kind, "team-a", "v")) for kind in kinds]
        more = ",exported_namespace=team-a" if metric.startswith("wva") else ""
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() is not None)
            await until(world.ca_bundle)
            (value,) = await world.metric(endpoints, of=metric, more=more)
            assert bounds[0] <= int(value) <= bounds[1]
            assert int(value) == endpoints.loop.states["team-a/v"].desired
            await until(lambda: world.condition("MetricsAvailable")[1] == "MetricsFound")
            assert world.condition("TargetResolved")[:2] == ("True", "TargetFound")
            if "modelProfile" in spec:
                await until(lambda: world.desired() == 2)
            assert [item for item in endpoints.loop.inputs.problems if "team-a" in item] == []
        after = [as_written(world.api.get(*kind, "team-a", "v")) for kind in kinds]
        assert after == before


def on_queue() -> Object:
    """An HPA on a metric of pods, with thresholds by hand."""
    item = worlds.scaler("v")
    metric = {"name": "vllm:num_requests_waiting"}
    target = {"type": "AverageValue", "averageValue": "5"}
    item["spec"]["metrics"] = [{"type": "Pods", "pods": {"metric": metric, "target": target}}]
    return item


def of_keda() -> Object:
    """The HPA that KEDA makes of a ScaledObject on metrics of an endpoint picker."""
    item = worlds.scaler("v")
    item["metadata"] |= {"name": "keda-hpa-v", "labels": {"scaledobject.keda.sh/name": "v"}}
    external = item["spec"]["metrics"][0]["external"]
    external["metric"] = {
        "name": "s0-prometheus",
        "selector": {"matchLabels": {"scaledobject.keda.sh/name": "v"}},
    }
    return item


async def test_from_an_hpa_on_raw_metrics_and_back(tmp_path: Path) -> None:
    """Beside the former HPA the adapter only reports; then its metric is read, and then no more."""
    async with worlds.running(tmp_path) as world:
        world.api.put(SCALERS, "horizontalpodautoscalers", on_queue())
        world.load["v"] = 60.0
        async with world.replica("a") as (endpoints, _):

            def reads() -> bool:
                scaler = endpoints.loop.states["team-a/v"].source.scaler
                return scaler is not None and bool(scaler.readings)

            await until(lambda: world.desired() == 2)
            assert world.condition("TargetResolved")[0] == "True"
            assert not reads()
            assert world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 1
            world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v"))
            await until(reads)
            await until(world.ca_bundle)
            assert await world.metric(endpoints) == ["2"]
            world.api.put(SCALERS, "horizontalpodautoscalers", on_queue())
            await until(lambda: not reads())
            assert world.desired() == 2
            assert world.condition("TargetResolved")[0] == "True"


async def test_from_keda_and_back(tmp_path: Path) -> None:
    """With KEDA's HPA and ours on one target both are named; without the other each is alone."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        world.api.put(SCALERS, "horizontalpodautoscalers", of_keda())
        async with world.replica("a") as (endpoints, _):
            await until(lambda: world.desired() == 2)
            assert world.condition("TargetResolved")[0] == "True"
            world.api.put(SCALERS, "horizontalpodautoscalers", worlds.scaler("v"))
            await until(lambda: world.condition("TargetResolved")[1] == "AmbiguousHPAs")
            assert "of ScaledObject v" in world.condition("TargetResolved")[2]
            world.api.remove(SCALERS, "horizontalpodautoscalers", "team-a", "keda-hpa-v")
            await until(lambda: world.condition("TargetResolved")[1] == "TargetFound")
            await until(world.ca_bundle)
            assert await world.metric(endpoints) == ["2"]
            world.api.remove(SCALERS, "horizontalpodautoscalers", "team-a", "v")
            world.api.put(SCALERS, "horizontalpodautoscalers", of_keda())
            await until(
                lambda: (
                    (scaler := endpoints.loop.states["team-a/v"].source.scaler) is not None
                    and scaler.name == "keda-hpa-v"
                )
            )
            assert world.condition("TargetResolved")[:2] == ("True", "TargetFound")


async def test_from_keda_without_any_hpa(tmp_path: Path) -> None:
    """The last way: the ScaledObject goes, and an annotation lets the adapter scale by itself."""
    async with worlds.running(tmp_path, actuate=True) as world:
        world.load["v"] = 60.0
        item = world.variant()
        item["metadata"]["annotations"] = {"llmd.ai/actuate": "scale"}
        world.api.put(VARIANTS, "variantautoscalings", item)
        async with world.replica("a"):
            await until(
                lambda: world.api.get(APPS, "deployments", "team-a", "v")["spec"]["replicas"] == 2
            )

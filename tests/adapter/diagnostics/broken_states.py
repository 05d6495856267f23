"""The states that installations are in when people ask for help: how each is made, and what is said of it.

`bench/resilience/doctor.py --states` prints it with the exit status of the command.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from adapter.installation import Names
from adapter.kube.lease import LEASES
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import API_SERVICE, API_SERVICES, CORE, SCALERS, SYSTEM, World
from tests.fakes.kubernetes_objects import VARIANTS

Change = Callable[[World], object]


def api_service(**spec: Any) -> Change:
    """Change the APIService's spec."""

    def change(world: World) -> None:
        item = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
        item["spec"].update(spec)
        world.api.put(API_SERVICES, "apiservices", item)

    return change


def config_map(index: int, key: str, text: str) -> Change:
    """Write one key of a ConfigMap of the manifests: costs, classes, settings."""

    def change(world: World) -> None:
        item = worlds.manifests()[index]
        item["data"][key] = text
        world.api.put(CORE, "configmaps", item)

    return change


def removed(root: str, plural: str, namespace: str, name: str) -> Change:
    """Delete an object."""
    return lambda world: world.api.remove(root, plural, namespace, name)


_OF_METRICS = frozenset({"value", "model", "cpu"})


def hpa(
    name: str = "v", *, target: str = "", metric: str = "", type_: str = "", **more: Any
) -> Change:
    """Add an HPA."""

    def change(world: World) -> None:
        item = worlds.scaler(
            name, target=target, **{k: v for k, v in more.items() if k not in _OF_METRICS}
        )
        external = item["spec"]["metrics"][0]["external"]
        if metric:
            external["metric"]["name"] = metric
        if type_:
            external["target"] = {"type": type_, "value": "1"}
        if "value" in more:
            external["target"]["averageValue"] = more["value"]
        if "model" in more:
            external["metric"]["selector"]["matchLabels"]["model_name"] = more["model"]
        if "cpu" in more:
            load = {"type": "Utilization", "averageUtilization": more["cpu"]}
            source = {"name": "cpu", "container": "vllm", "target": load}
            item["spec"]["metrics"].append(
                {"type": "ContainerResource", "containerResource": source}
            )
        world.api.put(SCALERS, "horizontalpodautoscalers", item)

    return change


MANAGED, MODEL_ID = "llm-d.ai/managed", "llm-d.ai/model-id"


def annotated(notes: dict[str, str]) -> Change:
    """Add an HPA with these annotations, which is to stand for a variant."""

    def change(world: World) -> None:
        item = worlds.scaler("w")
        item["metadata"]["annotations"] = notes
        world.api.put(SCALERS, "horizontalpodautoscalers", item)

    return change


def condition(kind: str, reason: str, message: str) -> Change:
    """Give the variant a status with a failed condition."""

    def change(world: World) -> None:
        failed = {
            "type": kind, "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": "2026-11-01T00:00:00Z",
        }  # fmt: skip
        world.api.set_status(VARIANTS, "variantautoscalings", "team-a", "v", conditions=[failed])

    return change


def lease(**spec: Any) -> Change:
    """Write the Lease of leader election."""
    item = {"metadata": {"namespace": SYSTEM, "name": Names().lease}, "spec": spec}
    return lambda world: world.api.put(f"/apis/{LEASES}", "leases", item)


def not_available(world: World) -> None:
    """Let the aggregation layer not reach the adapter."""
    item = world.api.get(API_SERVICES, "apiservices", "", API_SERVICE)
    world.api.put(API_SERVICES, "apiservices", {**item, "status": {}})


def no_status(world: World) -> None:
    """Take the variant's status away."""
    item = world.api.get(VARIANTS, "variantautoscalings", "team-a", "v")
    world.api.objects[(VARIANTS, "variantautoscalings")]["team-a", "v"] = {**item, "status": {}}


def no_variant(world: World) -> None:
    """Delete all variants and their HPAs."""
    for kind in ((VARIANTS, "variantautoscalings"), (SCALERS, "horizontalpodautoscalers")):
        world.api.objects[kind].clear()


def no_value(world: World) -> None:
    """Serve no target of the variant."""
    del world.api.external["v"]


DEPLOYMENTS = "/apis/apps/v1"


def adapter(*words: str, replicas: int = 2, ready: int = 2) -> Change:
    """Give the adapter a Deployment with these flags and pods."""
    item = {
        "metadata": {"namespace": SYSTEM, "name": Names().service},
        "spec": {
            "replicas": replicas,
            "template": {"spec": {"containers": [{"args": ["serve", *words]}]}},
        },
        "status": {"replicas": replicas, "readyReplicas": ready},
    }
    return lambda world: world.api.put(DEPLOYMENTS, "deployments", item)


def other_autoscaler(replicas: int) -> Change:
    """Leave the workload-variant-autoscaler in its namespace."""
    name = "workload-variant-autoscaler"
    labels = {"app.kubernetes.io/name": name, "control-plane": "controller-manager"}
    item = {
        "metadata": {
            "namespace": f"{name}-system",
            "name": f"{name}-controller-manager",
            "labels": labels,
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}},
    }
    return lambda world: world.api.put(DEPLOYMENTS, "deployments", item)


def stopped(kind: str, reason: str, message: str = "", *, minutes: float = 60.0) -> Change:
    """Give the variant's HPA a condition that has been false for so long."""

    def change(world: World) -> None:
        item = world.api.get(SCALERS, "horizontalpodautoscalers", "team-a", "v")
        since = datetime.now(UTC) - timedelta(minutes=minutes)
        failed = {
            "type": kind, "status": "False", "reason": reason, "message": message,
            "lastTransitionTime": since.isoformat(),
        }  # fmt: skip
        item["status"] = {"conditions": [failed]}
        world.api.put(SCALERS, "horizontalpodautoscalers", item)

    return change


def decided(minutes: float) -> Change:
    """Leave the variant with a target that is so old."""

    def change(world: World) -> None:
        item = copy.deepcopy(world.api.get(VARIANTS, "variantautoscalings", "team-a", "v"))
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        item["status"]["desiredOptimizedAlloc"]["lastRunTime"] = at.isoformat()
        world.api.objects[VARIANTS, "variantautoscalings"]["team-a", "v"] = item

    return change


def both(*changes: Change) -> Change:
    """All of them."""

    def change(world: World) -> None:
        for one in changes:
            one(world)

    return change


HEALTHY: tuple[Change, ...] = (
    adapter(),
    adapter("--time-to-live=1h"),
    other_autoscaler(0),
    decided(4),
    both(adapter("--time-to-live=1h"), decided(50)),
    stopped("ScalingActive", "FailedGetExternalMetric", minutes=0.5),
)
"""What is no problem, though it looks like one of the states: nothing is said of it."""

WVA = {
    "metadata": {"namespace": SYSTEM, "name": "wva-saturation-scaling-config"},
    "data": {"default": "kvCacheThreshold: 0.8\nqueueLengthThreshold: 5\n"},
}
CLASS = "name: Premium\npriority: 1\ndata:\n"
ROW = "  - {model: m, slo-tpot: 24, slo-ttft: 500}\n"

STATES: dict[str, tuple[Change, str]] = {
    "APIService missing": (
        removed(API_SERVICES, "apiservices", "", API_SERVICE),
        f"no APIService {API_SERVICE}",
    ),
    "APIService of KEDA": (
        api_service(service={"namespace": "keda", "name": "keda-metrics-apiserver"}),
        "belongs to Service keda/keda-metrics-apiserver",
    ),
    "APIService of another namespace's adapter": (
        api_service(service={"namespace": "other", "name": "variant-adapter"}),
        "belongs to the adapter of namespace other",
    ),
    "APIService not available": (not_available, "is not available"),
    "certificate not checked": (
        api_service(insecureSkipTLSVerify=True), "accepts any serving certificate",
    ),
    "never started": (
        removed(f"/apis/{LEASES}", "leases", SYSTEM, Names().lease), "the adapter has never started",
    ),
    "no leader": (
        lease(holderIdentity="a", renewTime="2026-01-01T00:00:00Z"), "no leader: Lease",
    ),
    "no leader, time without zone": (
        lease(holderIdentity="a", renewTime="2026-01-01T00:00:00"), "no leader: Lease",
    ),
    "no leader, no time": (lease(holderIdentity="a"), "variant-adapter has no renewTime"),
    "no costs": (
        removed(CORE, "configmaps", SYSTEM, "accelerator-unit-costs"),
        f"no ConfigMap {SYSTEM}/accelerator-unit-costs",
    ),
    "no classes": (
        removed(CORE, "configmaps", SYSTEM, "service-classes-config"),
        f"no ConfigMap {SYSTEM}/service-classes-config",
    ),
    "costs no JSON": (config_map(0, "A100", "{"), "accelerator-unit-costs: data.A100: not valid JSON"),
    "cost negative": (
        config_map(0, "A100", '{"device": "x", "cost": "-1"}'), "accelerator-unit-costs: data.A100: ",
    ),
    "class no YAML": (config_map(1, "premium", "a: ["), "service-classes-config: data.premium: "),
    "class without target": (
        config_map(1, "premium", CLASS + "  - {model: m}\n"), "service-classes-config: data.premium: ",
    ),
    "class with unknown key": (
        config_map(1, "premium", CLASS + "  - {model: m, slo-typo: 24}\n"), "slo-typo",
    ),
    "model listed twice": (config_map(1, "premium", CLASS + ROW + ROW), "data.premium: "),
    "setting invalid": (config_map(2, "GLOBAL_OPT_INTERVAL", "soon"), "GLOBAL_OPT_INTERVAL"),
    "budget of no class": (
        config_map(2, "budgets", "- {scope: class, class: Gold, cost: 80}"),
        "data.budgets: class Gold: no service class is called 'Gold'",
    ),
    "budget of no accelerator": (
        config_map(2, "budgets", "- {scope: cluster, quotas: {A100: 4, H1000: 8}}"),
        "data.budgets: installation: quotas.H1000: is no accelerator or device",
    ),
    "setting unknown": (config_map(2, "PROMETHEUS_URL", "http://x"), "PROMETHEUS_URL"),
    "setting of WVA": (
        config_map(2, "WVA_LIMITED_MODE", "true"),
        "data.WVA_LIMITED_MODE: has no effect here: Set --limited instead",
    ),
    "thresholds of WVA": (
        lambda world: world.api.put(CORE, "configmaps", copy.deepcopy(WVA)),
        "data.default: kvCacheThreshold is not used",
    ),
    "no variant": (no_variant, "no VariantAutoscaling"),
    "no status": (no_status, "VariantAutoscaling team-a/v: has no status yet"),
    "pods not reached": (
        condition("MetricsAvailable", "MetricsMissing", "no connection: nothing listens at this port"),
        "MetricsMissing: no connection",
    ),
    "engine hangs": (
        condition("MetricsAvailable", "MetricsStale", "its numbers stand still"), "MetricsStale: its numbers",
    ),
    "target not found": (
        condition("TargetResolved", "TargetNotFound", "Deployment v: not found"), "TargetNotFound: ",
    ),
    "target of another": (
        condition("TargetResolved", "TargetConflict", "is scaled by"), "TargetConflict: is scaled by",
    ),
    "picker wants a token": (
        condition("GatewaysReadable", "GatewayUnreadable", "HTTP status 401"),
        "gateway of VariantAutoscaling team-a/v: HTTP status 401",
    ),
    "class reference wrong": (
        condition("ConfigurationValid", "PartlyUnusable", "sloClassRef"), "PartlyUnusable: ",
    ),
    "no HPA": (
        removed(SCALERS, "horizontalpodautoscalers", "team-a", "v"),
        "VariantAutoscaling team-a/v: no HPA reads its target",
    ),
    "HPA of no variant": (hpa("nobody"), "selects variant_name=nobody, which does not exist"),
    "HPA of another target": (
        hpa(target="w"),
        "scales Deployment w by the target of VariantAutoscaling team-a/v, which is for Deployment v",
    ),
    "HPA with type Value": (hpa(type_="Value"), "target.type Value multiplies the target"),
    "HPA with averageValue 2": (hpa(value="2"), "averageValue 2 divides the replicas"),
    "HPA on a ratio": (hpa(metric="inferno_desired_ratio"), "is not a replica count"),
    "HPA with tolerance": (hpa(high=20), "ignores changes of up to 10 %"),
    "HPA that never shrinks": (
        hpa(behavior={"scaleDown": {"selectPolicy": "Disabled"}}), "selectPolicy is Disabled",
    ),
    "HPA keeps one at zero": (
        both(config_map(2, "WVA_SCALE_TO_ZERO", "true"), hpa()), "but minReplicas is 1",
    ),
    "HPA with the name of a model": (
        hpa(model="meta-llama/Llama-3.1-8B"), "its selector is none that Kubernetes accepts",
    ),
    "HPA with another metric": (hpa(cpu=80), "also reads cpu of container vllm"),
    "SLO of true": (config_map(1, "premium", CLASS + "  - {model: m, slo-ttft: yes}\n"), "not 'yes'"),
    "one engine hangs": (
        condition("MetricsAvailable", "MetricsStale", "engine 1 of this server stands still"),
        "MetricsStale: engine 1 of this server",
    ),
    "two HPAs": (both(hpa(), hpa("w", target="v")), "VariantAutoscaling team-a/v: "),
    "HPA gets nothing": (no_value, "gets 0 values of inferno_desired_replicas"),
    "HPA managed without a model": (
        annotated({MANAGED: "true"}),
        "w: metadata.annotations[llm-d.ai/model-id]: is missing",
    ),
    "HPA managed with a wrong price": (
        annotated({MANAGED: "true", MODEL_ID: "m", "llm-d.ai/variant-cost": "ten"}),
        "w: metadata.annotations[llm-d.ai/variant-cost]: must be a number >= 0, not 'ten'",
    ),
    "no ConfigMap of managed HPAs": (
        annotated({MANAGED: "true", MODEL_ID: "m"}),
        f"no ConfigMap {SYSTEM}/variant-adapter-managed-targets: only the leader serves",
    ),
    "HPA managed or not": (
        annotated({MANAGED: "yes", MODEL_ID: "m"}),
        'w: metadata.annotations[llm-d.ai/managed]: must be "true" or "false", not \'yes\'',
    ),
    "HPA with a typing error": (
        hpa(metric="inferno_desired_replica"),
        "HorizontalPodAutoscaler v scales Deployment v by inferno_desired_replica",
    ),
    "HPA cannot read": (
        stopped("ScalingActive", "FailedGetExternalMetric", "unable to get external metric"),
        "HorizontalPodAutoscaler team-a/v: FailedGetExternalMetric: unable to get external metric",
    ),
    "HPA cannot scale": (
        stopped("AbleToScale", "FailedUpdateScale", "forbidden"), "FailedUpdateScale: forbidden",
    ),
    "pods of two HPAs": (
        stopped("ScalingActive", "AmbiguousSelector", "pods by selector app=v"), "AmbiguousSelector: pods by",
    ),
    "HPA off at zero": (
        stopped("ScalingActive", "ScalingDisabled"),
        "is off while its scale target has 0 replicas, and the target is 1",
    ),
    "adapter at zero": (
        adapter(replicas=0, ready=0), f"Deployment {SYSTEM}/variant-adapter has 0 replicas",
    ),
    "adapter not ready": (adapter(ready=0), "variant-adapter: 0 of 2 pods are ready"),
    "adapter half ready": (adapter(ready=1), "variant-adapter: 1 of 2 pods are ready"),
    "loop stands still": (
        decided(20.1), "its target was decided 20 min ago",
    ),
    "WVA beside it": (
        other_autoscaler(1), "(workload-variant-autoscaler) runs too: both write the status",
    ),
}  # fmt: skip
"""What is wrong, by name: how it is made, and a part of the doctor's sentence."""

WARNINGS = frozenset(
    {
        "certificate not checked",
        "budget of no accelerator",
        "budget of no class",
        "setting of WVA",
        "thresholds of WVA",
        "no variant",
        "no status",
        "class reference wrong",
        "no HPA",
        "HPA with tolerance",
        "HPA that never shrinks",
        "HPA keeps one at zero",
        "HPA with another metric",
        "HPA with a typing error",
        "adapter half ready",
        "WVA beside it",
    }
)
"""Those that are warnings: the exit status stays 0."""


class Broken:
    """A healthy installation that is broken in one way after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._objects = copy.deepcopy(world.api.objects)
        self._external = dict(world.api.external)

    def become(self, change: Change) -> None:
        """Mend what was broken before, then break this."""
        self._world.api.objects.clear()
        self._world.api.objects.update(copy.deepcopy(self._objects))
        self._world.api.external = dict(self._external)
        change(self._world)

"""The states that installations are in when people ask for help: the doctor has a sentence for each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapter.diagnostics import doctor
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import Cluster, connected
from adapter.kube.lease import LEASES
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import API_SERVICE, API_SERVICES, CORE, SCALERS, SYSTEM, World
from tests.fakes.kubernetes_objects import VARIANTS

Change = Callable[[World], object]


class SiteOfVersion(Site):
    """An installation in a cluster of that minor version of Kubernetes."""

    def __init__(self, cluster: Cluster, minor: str) -> None:
        super().__init__(cluster, Names())
        self.shown = minor

    async def version(self) -> Mapping[str, Any]:
        return {"minor": self.shown, "gitVersion": f"v1.{self.shown}.0"}


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


def hpa(
    name: str = "v", *, target: str = "", metric: str = "", type_: str = "", **more: Any
) -> Change:
    """Add an HPA."""

    def change(world: World) -> None:
        item = worlds.scaler(name, target=target, **{k: v for k, v in more.items() if k != "value"})
        external = item["spec"]["metrics"][0]["external"]
        if metric:
            external["metric"]["name"] = metric
        if type_:
            external["target"] = {"type": type_, "value": "1"}
        if "value" in more:
            external["target"]["averageValue"] = more["value"]
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


def both(*changes: Change) -> Change:
    """All of them."""

    def change(world: World) -> None:
        for one in changes:
            one(world)

    return change


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
    "APIService not available": (lambda _: None, "is not available"),
    "certificate not checked": (
        api_service(insecureSkipTLSVerify=True), "accepts any serving certificate",
    ),
    "never started": (lambda _: None, "the adapter has never started"),
    "no leader": (
        lease(holderIdentity="a", renewTime="2026-01-01T00:00:00Z"), "no leader: Lease",
    ),
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
    "setting unknown": (config_map(2, "PROMETHEUS_URL", "http://x"), "PROMETHEUS_URL"),
    "setting of WVA": (
        config_map(2, "WVA_LIMITED_MODE", "true"),
        "data.WVA_LIMITED_MODE: has no effect here: Set --limited instead",
    ),
    "thresholds of WVA": (
        lambda world: world.api.put(CORE, "configmaps", copy.deepcopy(WVA)),
        "data.default: kvCacheThreshold is not used",
    ),
    "no variant": (removed(VARIANTS, "variantautoscalings", "team-a", "v"), "no VariantAutoscaling"),
    "no status": (lambda _: None, "VariantAutoscaling team-a/v: has no status yet"),
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
    "no HPA": (lambda _: None, "VariantAutoscaling team-a/v: no HPA reads its target"),
    "HPA of no variant": (hpa("nobody"), "selects variant_name=nobody, which does not exist"),
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
    "two HPAs": (both(hpa(), hpa("w", target="v")), "VariantAutoscaling team-a/v: "),
    "HPA gets nothing": (hpa(), "gets 0 values of inferno_desired_replicas"),
}  # fmt: skip
"""What is wrong, by name: how it is made, and a part of the doctor's sentence."""


async def problems(world: World, cluster: Cluster, minor: str = "36") -> list[Finding]:
    """All findings but those that are fine."""
    site = SiteOfVersion(cluster, minor)
    return [item async for item in doctor.findings(site) if item.level != "ok"]


async def test_each_broken_state_has_its_sentence(tmp_path: Path) -> None:
    """Thirty and more states, each by itself in an installation of the manifests; each with a fix."""
    assert len(STATES) >= 30
    missed = {}
    async with worlds.running(tmp_path) as world:
        admin = await world.site.entrance("admin", user="")
        whole = copy.deepcopy(world.api.objects)
        async with connected(admin.kubeconfig) as cluster:
            for name, (change, sentence) in STATES.items():
                world.api.objects.clear()
                world.api.objects.update(copy.deepcopy(whole))
                change(world)
                items = await problems(world, cluster)
                sentences = [item.what for item in items]
                assert all(item.fix for item in items)
                if not any(sentence in item for item in sentences):
                    missed[name] = sentences
    assert missed == {}


async def test_versions_and_rights_have_theirs(tmp_path: Path) -> None:
    """An old cluster, one without tolerances, and a role that lacks a right."""
    rules = kubernetes_api.manifest_rules()
    async with worlds.running(tmp_path, rules=rules) as world:
        role = next(r for r in rules if r["kind"] == "ClusterRole")
        role["rules"] = [rule for rule in role["rules"] if "pods" not in rule["resources"]]
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            by_minor = {
                minor: [item.what for item in await problems(world, cluster, minor)]
                for minor in ("31", "34", "36")
            }
    assert any("v1.31.0 is too old" in item for item in by_minor["31"])
    assert any("HPAConfigurableTolerance" in item for item in by_minor["34"])
    assert any("may not: list pods, watch pods" in item for item in by_minor["36"])


DEPLOYMENTS = "/apis/apps/v1"


def flags(*words: str) -> Change:
    """Give the adapter's Deployment these flags."""
    item = {
        "metadata": {"namespace": SYSTEM, "name": Names().service},
        "spec": {"template": {"spec": {"containers": [{"args": ["serve", *words]}]}}},
    }
    return lambda world: world.api.put(DEPLOYMENTS, "deployments", item)


async def test_an_installation_without_the_api_has_no_error_of_it(tmp_path: Path) -> None:
    """Beside KEDA, or as advice, the APIService is another's or missing: taking it would break KEDA."""
    keda = api_service(service={"namespace": "keda", "name": "keda-metrics-apiserver"})
    gone = removed(API_SERVICES, "apiservices", "", API_SERVICE)
    said: dict[tuple[str, ...], list[str]] = {}
    async with worlds.running(tmp_path) as world:
        admin = await world.site.entrance("admin", user="")
        whole = copy.deepcopy(world.api.objects)
        async with connected(admin.kubeconfig) as cluster:
            for words, change in (
                (("--keda-port=9443",), keda),
                (("--actuate", "none"), gone),
                (("--actuate=hpa",), gone),
            ):
                world.api.objects.clear()
                world.api.objects.update(copy.deepcopy(whole))
                both(change, flags(*words))(world)
                items = await problems(world, cluster)
                said[words] = [item.what for item in items if "APIService" in item.what]
                assert any("no HPA" in item.what for item in items) is ("none" not in words)
    assert said[("--keda-port=9443",)] == said[("--actuate", "none")] == []
    assert said[("--actuate=hpa",)] == [f"no APIService {API_SERVICE}"]

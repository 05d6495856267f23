"""The manifests: every overlay builds, is valid to Kubernetes, and says what the code expects."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from adapter import cli, installation
from adapter.controller import telemetry
from adapter.controller.groups.telemetry import GroupCollector
from adapter.diagnostics.permissions import needed
from adapter.installation import Names
from adapter.resources import inputs, pods, schemas
from adapter.tls import certificate_secret
from adapter.tls.certificate_secret import OwnCertificates
from tests.fakes import kubernetes_rbac as rbac

ROOT = Path(__file__).parents[1]
MANIFESTS = ROOT / "manifests"
BUILT = sorted(
    path.parent for path in MANIFESTS.rglob("kustomization.yaml") if path.parent.name != "uninstall"
)
"""Folders to apply."""
OTHERS = {"VariantAutoscaling", "ServiceMonitor", "PrometheusRule", "Certificate", "Issuer"}
"""Kinds of CRDs, which the validator does not know."""


@cache
def built(folder: Path) -> tuple[dict[str, Any], ...]:
    """Documents that `kubectl kustomize` makes of a folder."""
    program = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None
    completed = subprocess.run(
        [program, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return tuple(yaml.safe_load_all(completed.stdout))


def only(folder: str, kind: str, name: str = "variant-adapter") -> dict[str, Any]:
    """One document."""
    documents = [
        item
        for item in built(MANIFESTS / folder)
        if (item["kind"], item["metadata"]["name"]) == (kind, name)
    ]
    assert len(documents) == 1, (folder, kind, name)
    return documents[0]


@pytest.mark.parametrize("folder", BUILT, ids=lambda path: str(path.relative_to(MANIFESTS)))
@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_every_folder_builds_and_is_valid(folder: Path, version: str) -> None:
    """Strictly: a field that Kubernetes does not know is an error."""
    documents = built(folder)
    assert documents
    for item in documents:
        if item["kind"] not in OTHERS:
            kubernetes_validate.validate(item, version, strict=True)
        if item["kind"] not in {"CustomResourceDefinition", "Namespace", "APIService"} | OTHERS:
            cluster_wide = item["kind"].startswith(("Cluster", "ValidatingAdmission"))
            assert cluster_wide != ("namespace" in item["metadata"]), item["metadata"]


def test_the_validator_would_notice() -> None:
    """A wrong type and an unknown field are found."""
    broken = json.loads(
        json.dumps(only("overlays/emulated", "HorizontalPodAutoscaler", "vllme-deployment"))
    )
    broken["spec"]["maxReplicas"] = "3"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.36", strict=True)


@pytest.mark.parametrize(
    "folder", ["base", "overlays/actuate", "overlays/cert-manager", "overlays/limited"]
)
def test_the_arguments_are_flags_of_serve(folder: str) -> None:
    """The container's arguments are parsed, and mean a cluster."""
    (container,) = only(folder, "Deployment")["spec"]["template"]["spec"]["containers"]
    args = cli.parse(container["args"])
    assert args.variants is None
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    assert (args.port, args.metrics_port) == (ports["https"], ports["metrics"])
    assert bool(args.limited) == (folder == "overlays/limited")
    assert (args.tls_cert_file is not None) == (folder == "overlays/cert-manager")
    assert str(args.state_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_pod_is_confined() -> None:
    """Not root, nothing writable but what it needs, no privileges, two replicas that are spread."""
    spec = only("base", "Deployment")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["replicas"] == 2
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = spec["template"]["metadata"]["labels"].items()
    for item in (only("base", "PodDisruptionBudget"), only("base", "NetworkPolicy")):
        selector = item["spec"].get("selector") or item["spec"]["podSelector"]
        assert selector["matchLabels"].items() <= labels
    assert only("base", "Service")["spec"]["selector"].items() <= labels
    assert pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].items() <= labels
    delay = cli.parse(container["args"]).shutdown_delay
    assert pod["terminationGracePeriodSeconds"] > delay + 10


def test_the_names_are_those_of_the_code() -> None:
    """Namespace, Service, Secret, Lease, APIService and ConfigMaps are the defaults of the flags."""
    service = only("base", "APIService", "v1beta1.external.metrics.k8s.io")["spec"]["service"]
    own = OwnCertificates(namespace=service["namespace"])
    assert service["namespace"] == installation.SYSTEM == Names().namespace
    assert service["name"] == own.service == Names().service
    assert certificate_secret.names(own)[0] == f"{service['name']}.{service['namespace']}.svc"
    certificate = only("overlays/cert-manager", "Certificate")["spec"]
    assert certificate["dnsNames"] == certificate_secret.names(own)[:1]
    names = {
        item["metadata"]["name"]
        for item in built(MANIFESTS / "base")
        if item["kind"] == "ConfigMap"
    }
    assert set(installation.DEFAULT_CONFIG_MAPS) < names
    # What people write is not ours to apply again.
    assert names.isdisjoint(installation.NEEDED_CONFIG_MAPS)
    assert not any(name.endswith(installation.CONFIG_SUFFIX) for name in names)
    assert own.api_service == installation.API_SERVICE


def test_the_configmaps_are_read_without_problems() -> None:
    """What is shipped is usable as it is, with the reference's accelerators and classes."""
    reader = inputs.Reader()
    for item in built(MANIFESTS / "base"):
        if item["kind"] == "ConfigMap":
            reader.read_config_map(item["metadata"]["name"], item)
    assert reader.problems == []
    costs = {name: item.unit_cost for name, item in reader.settings.accelerators.items()}
    assert costs == {"A100": 40.0, "MI300X": 65.0, "G2": 23.0}
    classes = {
        c.service_class.name: c.service_class.priority for c in reader.settings.classes.values()
    }
    assert classes == {"Premium": 1, "Freemium": 10}
    own = inputs.Reader()
    for item in yaml.safe_load_all((MANIFESTS / "samples/configmaps.yaml").read_text()):
        own.read_config_map(item["metadata"]["name"], item)
    assert own.problems == []
    assert own.settings.accelerators == reader.settings.accelerators
    shipped = {item.name: item for item in reader.settings.service_classes}
    assert {item.name: item for item in own.settings.service_classes} == shipped


def granted(folder: str, verb: str, group: str, resource: str, *where: str) -> bool:
    """Whether a folder's manifests allow the adapter an action; `where` is a namespace and a name."""
    user = f"system:serviceaccount:{installation.SYSTEM}:variant-adapter"
    documents = [dict(item) for item in built(MANIFESTS / folder)]
    return rbac.allowed(documents, user, rbac.Action(verb, group, resource, *where))


def test_overlays_grant_what_their_duties_need() -> None:
    """Only with `actuate` may the adapter scale anything, and only with `limited` does it see nodes."""
    scaled = [
        ("apps", "deployments/scale"),
        ("apps", "statefulsets/scale"),
        ("leaderworkerset.x-k8s.io", "leaderworkersets/scale"),
        ("disaggregatedset.x-k8s.io", "disaggregatedsetrolescalers/scale"),
        ("nvidia.com", "dynamographdeploymentscalingadapters/scale"),
        ("workload.serving.volcano.sh", "modelservings/scale"),
        ("orchestration.aibrix.ai", "rayclusterfleets/scale"),
        ("orchestration.aibrix.ai", "stormservices/scale"),
        ("workloads.x-k8s.io", "rolebasedgroupscalingadapters/scale"),
        ("grove.io", "podcliquescalinggroups/scale"),
    ]
    kinds = [(group, resource.removesuffix("/scale")) for group, resource in scaled]
    assert all(granted("base", "get", *item, "team-a", "v") for item in scaled[1:])
    assert all(granted("overlays/actuate", "get", *item, "team-a", "v") for item in kinds)
    for folder in (
        "base",
        "overlays/limited",
        "overlays/cert-manager",
        "overlays/monitoring",
        "overlays/advisory",
    ):
        for verb in ("patch", "update"):
            assert not any(granted(folder, verb, *item, "team-a", "v") for item in scaled)
    assert all(granted("overlays/actuate", "patch", *item, "team-a", "v") for item in scaled)
    assert not granted("overlays/actuate", "patch", "apps", "deployments", "team-a", "v")
    assert granted("overlays/actuate", "get", "", "namespaces", "", "team-a")
    for folder in ("base", "overlays/actuate"):
        assert not granted(folder, "list", "", "nodes")
    assert granted("overlays/limited", "list", "", "nodes")


def test_the_rights_are_those_that_are_needed() -> None:
    """All that the doctor looks for is granted, and nothing that could harm."""
    documents = [dict(item) for item in built(MANIFESTS / "base")]

    def allowed(verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
        return granted("base", verb, group, resource, namespace, name)

    for item in needed(Names()):
        resource = f"{item.resource}/{item.subresource}" if item.subresource else item.resource
        assert allowed(item.verb, item.group, resource, item.namespace, item.name), item
    space = installation.SYSTEM
    assert not allowed("get", "", "secrets", space, "somebody-elses")
    assert not allowed("list", "", "secrets", space)
    assert not allowed("get", "", "secrets", "default", "variant-adapter-certs")
    assert not allowed("update", "apps", "deployments", "default", "x")
    assert not allowed("patch", "apiregistration.k8s.io", "apiservices", "", "v1.apps")
    assert not allowed("update", "coordination.k8s.io", "leases", space, "other")
    assert not allowed("delete", "llmd.ai", "variantautoscalings", "default", "x")
    assert not allowed("patch", "llmd.ai", "variantautoscalings", "default", "x")
    for document in documents:
        if document["kind"] in {"Role", "ClusterRole"}:
            for rule in document["rules"]:
                assert "*" not in rule["verbs"] + rule.get("apiGroups", [])


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    """Every name in its queries is one that the adapter exposes, and every panel is in one place."""
    registry = CollectorRegistry()
    registry.register(telemetry.VariantCollector(dict))
    registry.register(telemetry.ReplicaCollector(lambda: True, lambda: 0))
    registry.register(GroupCollector(dict, dict, tuple))
    known = set(re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE))
    config = only("overlays/monitoring", "ConfigMap", "variant-adapter-dashboard")
    dashboard: Mapping[str, Any] = json.loads(config["data"]["variant-adapter.json"])
    places = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            names = set(re.findall(r"(?:inferno|variant_adapter|wva)_\w+", target["expr"]))
            names |= {
                name.removesuffix("_bucket")
                for name in re.findall(r"metrics_apiserver_\w+", target["expr"])
            }
            assert names, target
            assert names <= known | {"metrics_apiserver_metric_freshness_seconds"}, target
    assert len(places) == len(dashboard["panels"])


def test_the_emulated_overlay_fits_together() -> None:
    """Variant, Deployment, HPA and load speak of the same model, class and accelerator."""
    folder = "overlays/emulated"
    name = "vllme-deployment"
    (variant,) = yaml.safe_load_all(only(folder, "ConfigMap", "variant")["data"]["variant.yaml"])
    deployment = only(folder, "Deployment", name)
    scaler = only(folder, "HorizontalPodAutoscaler", name)["spec"]
    model = variant["spec"]["modelID"]
    for item in (deployment, only(folder, "Deployment", "load")):
        (container,) = item["spec"]["template"]["spec"]["containers"]
        assert f"--model={model}" in container["args"]
    external = scaler["metrics"][0]["external"]
    assert external["metric"]["selector"]["matchLabels"] == {"variant_name": name}
    assert scaler["behavior"]["scaleUp"]["tolerance"] == 0
    assert scaler["behavior"]["scaleUp"]["policies"][0]["value"] > 100
    reader = inputs.Reader()
    for item in built(MANIFESTS / folder):
        if (
            item["kind"] == "ConfigMap"
            and item["metadata"]["name"] in installation.READ_CONFIG_MAPS
        ):
            reader.read_config_map(item["metadata"]["name"], item)
    reader.read_variant("variant", variant)
    reader.add_deployment(schemas.Deployment.model_validate(deployment), pods.Serving())
    read = reader.inputs()
    assert read.problems == ()
    assert read.variants[0].service_class == "Premium"


def test_the_network_policy_lets_through_what_is_needed() -> None:
    """In: the API port for all, the metrics port for namespaces with a label. Out: DNS, API server, pods."""
    spec = only("base", "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    sources = {rule["ports"][0]["port"]: rule.get("from") for rule in spec["ingress"]}
    assert sources == {
        "https": None,
        "metrics": [{"namespaceSelector": {"matchLabels": {"metrics": "enabled"}}}],
    }
    (container,) = only("base", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert sources.keys() == {item["name"] for item in container["ports"]}
    anywhere = {
        (item["port"], item["protocol"])
        for rule in spec["egress"]
        if "to" not in rule
        for item in rule["ports"]
    }
    assert {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6443, "TCP")} <= anywhere
    # An unencrypted port outside of the cluster, such as a cloud's metadata service, is not among them.
    assert not {number for number, _ in anywhere} & {80, 8080, 8000, 9090}
    assert {"to": [{"namespaceSelector": {}}]} in spec["egress"]


def test_prometheus_reads_the_metrics_by_a_token_over_tls() -> None:
    """The monitoring overlay's token may get /metrics and nothing else, and is sent to the adapter alone."""
    folder = "overlays/monitoring"
    documents = [dict(item) for item in built(MANIFESTS / folder)]
    (endpoint,) = only(folder, "ServiceMonitor")["spec"]["endpoints"]
    credentials = endpoint["authorization"]["credentials"]
    secret = only(folder, "Secret", credentials["name"])
    assert secret["type"] == "kubernetes.io/service-account-token"
    account = secret["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    assert only(folder, "ServiceAccount", account)["automountServiceAccountToken"] is False
    user = f"system:serviceaccount:{installation.SYSTEM}:{account}"
    for path in ("/metrics", "/variants"):
        assert rbac.allowed_url(documents, user, "get", path)
    assert not rbac.allowed(documents, user, rbac.Action("list", "", "pods"))
    adapter = f"system:serviceaccount:{installation.SYSTEM}:variant-adapter"
    assert not rbac.allowed_url(documents, adapter, "get", "/metrics")
    assert endpoint["scheme"] == "https"
    assert endpoint["port"] in {port["name"] for port in only(folder, "Service")["spec"]["ports"]}
    own = OwnCertificates(namespace=installation.SYSTEM)
    assert endpoint["tlsConfig"] == {
        "ca": {"secret": {"name": own.secret, "key": "ca.crt"}},
        "serverName": certificate_secret.names(own)[0],
    }

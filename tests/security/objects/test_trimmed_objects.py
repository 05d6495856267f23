"""Of objects that tenants write nothing is kept but what is read, and that reads as it did."""

from __future__ import annotations

import copy
import json
from typing import Any

import structlog

from adapter.kube import informer, labels
from adapter.resources import gpus, hpa, pods
from adapter.resources.devices import products, taints
from adapter.resources.serving import monitors
from adapter.resources.watched import trimming
from adapter.resources.wva import managed

LONG = "x" * 500_000

DEPLOYMENT: dict[str, Any] = {
    "metadata": {
        "namespace": "n",
        "name": "v",
        "resourceVersion": "7",
        "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"a": "b"},
        "annotations": {"llmd.ai/max-replicas": "3", "wva.llmd.ai/exclude": "true", "note": LONG},
    },
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "v"}},
        "template": {
            "metadata": {"labels": {"app": "v"}, "annotations": {"note": LONG}},
            "spec": {
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "cloud.google.com/gke-accelerator",
                                            "operator": "In",
                                            "values": ["nvidia-l4"],
                                        }
                                    ]
                                }
                            ]
                        }
                    },
                    "podAntiAffinity": {"note": LONG},
                },
                "initContainers": [
                    {"restartPolicy": "Always", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
                ],
                "containers": [
                    {
                        "env": [{"name": "A", "value": LONG}],
                        "resources": {"limits": {"nvidia.com/gpu": "4"}},
                    }
                ],
                "volumes": [{"name": LONG}],
            },
        },
    },
    "status": {"replicas": 1, "conditions": [{"message": LONG}]},
}

SCALER: dict[str, Any] = {
    "metadata": {
        "namespace": "n",
        "name": "keda-hpa-v",
        "labels": {"scaledobject.keda.sh/name": "v"},
        "annotations": {"llm-d.ai/managed": "true", "llm-d.ai/model-id": "m", "note": LONG},
        "ownerReferences": [{"kind": "ScaledObject", "name": "v"}],
    },
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"},
        "maxReplicas": 9,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 7, "selectPolicy": "Disabled"}},
    },
    "status": {"conditions": [{"message": LONG}]},
}


def size(item: object) -> int:
    return len(json.dumps(item))


def test_a_deployment_reads_as_it_did() -> None:
    """Devices, products, tolerations, labels, selector and our annotations; read once, and little is kept."""
    kept = trimming.deployment(DEPLOYMENT)
    assert len(repr(kept)) < 1500
    written = DEPLOYMENT["spec"]["template"]["spec"]
    template = kept["spec"]["template"]
    assert template == {
        "metadata": {"labels": {"app": "v"}},
        "gpus": 5,
        "products": products.of_pod(written),
        "tolerations": taints.of_pod(written),
    }
    assert len(template["products"]) == 2
    assert template["tolerations"] != ()
    assert pods.gpus_of(written) == 5
    assert kept["spec"]["selector"] == (labels.parse("app=v"), "")
    assert kept["status"] == {"replicas": 1}
    assert set(kept["metadata"]["annotations"]) == {"llmd.ai/max-replicas", "wva.llmd.ai/exclude"}
    without = {"metadata": {"name": "v"}}
    assert trimming.deployment(without)["spec"] == {"selector": (labels.Selector(), "")}
    pinned = copy.deepcopy(DEPLOYMENT)
    pinned["spec"]["template"]["spec"]["containers"] *= 5000
    pinned["spec"]["selector"]["matchLabels"] = {f"l{n}": "x" for n in range(5000)}
    assert len(repr(trimming.deployment(pinned))) < 1500


def test_an_hpa_reads_as_it_did() -> None:
    """Bounds, metrics, behaviour, its ScaledObject, and what it stands for."""
    kept = trimming.scaler(SCALER)
    assert len(repr(kept)) < 2500
    assert kept["scaler"] == hpa.parse(SCALER)
    expected = copy.deepcopy(managed.variant_of(SCALER))
    assert expected is not None
    del expected["metadata"]["annotations"]["note"]
    assert managed.variant_of(kept) == expected


def test_config_maps_of_others_are_not_kept() -> None:
    """Those that are read keep their data."""
    for name, read in (
        ("accelerator-unit-costs", True),
        ("service-classes-config-defaults", True),
        ("my-variantautoscaling-config", True),
        ("variant-adapter-managed-targets", True),
        ("kube-root-ca.crt", False),
    ):
        item = {"metadata": {"name": name}, "data": {"a": LONG}, "binaryData": {"b": LONG}}
        kept = trimming.config_map(item)
        assert kept.get("data") == ({"a": LONG} if read else None)
        assert "binaryData" not in kept


def test_nodes_and_pods_were_trimmed_already() -> None:
    """As objects that are all text."""
    node = {"metadata": {"name": "a", "annotations": {"note": LONG}}, "status": {"images": [LONG]}}
    pod = {"metadata": {"name": "a"}, "spec": {"containers": [{"env": [LONG]}]}}
    assert size(gpus.trimmed(node)) < 1000
    assert len(repr(pods.trimmed(pod))) < 2000


def test_a_variant_keeps_nothing_that_others_write_into_its_metadata() -> None:
    """Its creator could keep 1.5 MiB of owner references in memory, and 256 KiB of annotations, for each."""
    notes = {"llmd.ai/max-replicas": "3", "x.llmd.ai/y": "z"}
    metadata = {"namespace": "n", "name": "v", "uid": "u", "resourceVersion": "7"}
    owners = [{"kind": "K", "name": "o" * 10_000, "uid": uid} for uid in ("u", "u" * 10_000)] * 32
    others = {"a/b": "x" * 100_000, "llmd.ai.example/c": "x"}
    given: dict[str, Any] = {
        "metadata": {**metadata, "annotations": {**notes, **others}, "ownerReferences": owners},
        "spec": {"modelID": "m"},
        "status": {"conditions": []},
    }
    kept = informer.kept(given, trimming.variant)
    owned = {"ownerReferences": [{"uid": "u"}]}
    assert kept == {**given, "metadata": {**metadata, "annotations": notes, **owned}}


def test_names_of_other_objects_are_kept_as_long_as_a_name_may_be() -> None:
    """No API server bounds them: an HPA of 3.4 MiB was kept as a whole, by its owners, target, metrics."""
    owners = [{"kind": kind, "name": LONG, "uid": LONG, "controller": True} for kind in ("K", LONG)]
    others = [
        {"type": "Object", "object": {"metric": {"name": LONG}}},
        {"type": "External", "external": {"metric": {"name": LONG}}},
        {"type": "ContainerResource", "containerResource": {"name": LONG, "container": LONG}},
    ]
    owned = {
        **SCALER["metadata"],
        "ownerReferences": [*SCALER["metadata"]["ownerReferences"], *owners],
    }
    target = {"apiVersion": LONG, "kind": LONG, "name": LONG}
    spec = {**SCALER["spec"], "scaleTargetRef": target, "metrics": others}
    kept = informer.kept({**SCALER, "metadata": owned, "spec": spec}, trimming.scaler)
    assert len(repr(kept)) < 20_000
    assert kept["scaler"].scaled_object == "v"
    assert hpa.scaled_object(kept["metadata"]) == "v"
    pod = {"metadata": {"namespace": "n", "name": "a", "ownerReferences": owners}}
    assert len(repr(informer.kept(pod, pods.trimmed))) < 2000


def test_namespaces_and_ports_by_the_thousand_are_cut_off() -> None:
    """Of a PodMonitor of 0.9 MiB 6 MiB were kept, and 300 of ServiceMonitors took 2.6 s in each reading."""
    names = ["n", *(f"n{number}" for number in range(5000)), LONG]
    spec = {"namespaceSelector": {"matchNames": names}, "podMetricsEndpoints": [{"port": LONG}]}
    with structlog.testing.capture_logs() as logs:
        kept = monitors.trimmed({"metadata": {"namespace": "n", "name": "m"}, "spec": spec})[
            "monitor"
        ]
    # Pods of the others are scraped as if there were no monitor, and nothing else says so.
    assert [(log["object"], log["namespaces"], log["used"]) for log in logs] == [
        (("n", "m"), 5001, 1024)
    ]
    assert (kept.namespaces[0], len(kept.namespaces)) == ("n", 1024)
    assert kept.endpoints == ()
    ports = [{"name": f"p{number}", "port": number} for number in range(1, 60_000)]
    kept = monitors.trimmed_service({"metadata": {}, "spec": {"ports": ports}})["service"]
    assert len(kept.ports) == 256

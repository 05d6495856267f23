"""Objects of a tenant beside those of another one: whatever they hold, the other one's variant is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog

from adapter.kube import informer, labels
from adapter.kube.informer import Object
from adapter.resources import gpus, inputs, pods
from adapter.resources.configuration.last_good import NOTHING
from adapter.resources.devices import dra
from adapter.resources.serving import monitors, pools
from adapter.resources.watched import trimming
from adapter.resources.watched.joining import Items, Seen, join
from adapter.resources.watched.scope import Scope

SYSTEM, TENANT, OTHER = "system", "tenant", "other"
LABELS = {"app": "v"}


def _named(name: str, **more: Any) -> dict[str, Any]:
    return {"namespace": TENANT, "name": name, **more}


POD = {
    "metadata": _named(
        "p",
        labels={"app": "v", "llm-d.ai/role": "decode", "kueue.x-k8s.io/queue-name": "q"},
        annotations={"prometheus.io/port": "8000", "prometheus.io/path": "/metrics"},
        creationTimestamp="2026-01-01T00:00:00Z",
    ),
    "spec": {
        "nodeName": "a",
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
        "containers": [
            {
                "name": "vllm",
                "args": ["serve", "--port=8000", "--data-parallel-size", "2"],
                "ports": [{"name": "http", "containerPort": 8000}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}
        ],
        "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
    },
}
PLAIN_POD = {**POD, "metadata": _named("q", labels=LABELS)}
DEPLOYMENT = {
    "metadata": _named("v", uid="u", annotations={"llmd.ai/max-replicas": "3"}),
    "spec": {
        "replicas": 1,
        "selector": {
            "matchLabels": LABELS,
            "matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}],
        },
        "template": {"metadata": {"labels": LABELS}, "spec": POD["spec"]},
    },
    "status": {"replicas": 1},
}
SCALER = {
    "metadata": _named(
        "h",
        labels={"scaledobject.keda.sh/name": "s"},
        annotations={
            "llm-d.ai/managed": "true",
            "llm-d.ai/model-id": "m",
            "llm-d.ai/variant-cost": "4",
        },
        ownerReferences=[{"kind": "ScaledObject", "name": "s"}],
    ),
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"},
        "minReplicas": 1,
        "maxReplicas": 9,
        "behavior": {
            "scaleUp": {
                "tolerance": "100m",
                "stabilizationWindowSeconds": 3,
                "policies": [{"type": "Percent", "value": 1, "periodSeconds": 900}],
            }
        },
        "metrics": [
            {
                "type": "External",
                "external": {
                    "metric": {
                        "name": "inferno_desired_replicas",
                        "selector": {"matchLabels": {"variant_name": "v"}},
                    },
                    "target": {"type": "AverageValue", "averageValue": "1"},
                },
            }
        ],
    },
}
ENDPOINT = {"port": "http", "scheme": "http", "path": "/metrics", "targetPort": "8000"}
MONITOR = {
    "metadata": _named("m"),
    "spec": {
        "selector": {"matchLabels": LABELS},
        "namespaceSelector": {"matchNames": [TENANT]},
        "podMetricsEndpoints": [ENDPOINT],
    },
}
OF_SERVICES = {
    "metadata": _named("m"),
    "spec": {"selector": {"matchLabels": LABELS}, "endpoints": [ENDPOINT]},
}
SERVICE = {
    "metadata": _named("s", labels=LABELS),
    "spec": {"selector": LABELS, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
}
POOL = {
    "metadata": _named("pool"),
    "spec": {
        "selector": {"matchLabels": LABELS},
        "targetPorts": [{"number": 8000}, {"number": 8001}],
        "endpointPickerRef": {"kind": "Service", "name": "s"},
    },
}
VARIANT = {
    "apiVersion": "llmd.ai/v1alpha1",
    "kind": "VariantAutoscaling",
    "metadata": _named("v", annotations={"llmd.ai/group": "other/g"}),
    "spec": {"modelID": "m", "sloClassRef": {"name": "c", "key": "c"}},
    "status": {"history": [{"time": "2026-01-01T00:00:00Z", "replicas": 1, "before": 2}]},
}

DEVICE = "NVIDIA-H100-80GB-HBM3"
NODE = {
    "metadata": {
        "name": "a",
        "labels": {"nvidia.com/gpu.product": DEVICE, "nvidia.com/gpu.memory": "81559"},
        "annotations": {"hami.io/node-handshake": "x"},
    },
    "spec": {"unschedulable": False, "taints": [{"key": "gpu", "effect": "NoSchedule"}]},
    "status": {
        "allocatable": {"nvidia.com/gpu": "8"},
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
SLICE = {
    "metadata": {"name": "s"},
    "spec": {
        "driver": "gpu.nvidia.com",
        "pool": {"name": "a", "generation": 1},
        "perDeviceNodeSelection": True,
        "devices": [
            {
                "name": "gpu-0",
                "nodeName": "a",
                "attributes": {"productName": {"string": DEVICE}, "type": {"string": "gpu"}},
                "capacity": {"memory": {"value": "81559Mi"}},
                "taints": [{"key": "k", "effect": "NoSchedule"}],
            }
        ],
    },
}
CLAIM = {
    "metadata": _named("c"),
    "status": {
        "allocation": {
            "devices": {"results": [{"driver": "gpu.nvidia.com", "pool": "a", "device": "gpu-0"}]}
        },
        "reservedFor": [{"resource": "pods", "name": "p"}],
    },
}
RULE = {
    "metadata": {"name": "r"},
    "spec": {
        "deviceSelector": {"driver": "gpu.nvidia.com", "pool": "a", "device": "gpu-0"},
        "taint": {"key": "k", "effect": "NoExecute"},
    },
}

KINDS: Mapping[str, tuple[Mapping[str, Any], Callable[[Object], Object]]] = {
    "pods": (POD, pods.trimmed),
    "deployments": (DEPLOYMENT, trimming.deployment),
    "scalers": (SCALER, trimming.scaler),
    "monitors": (MONITOR, monitors.trimmed),
    "service_monitors": (OF_SERVICES, monitors.trimmed_of_services),
    "services": (SERVICE, monitors.trimmed_service),
    "pools": (POOL, pools.trimmed),
    "variants": (VARIANT, trimming.variant),
    "nodes": (NODE, gpus.trimmed),
    "slices": (SLICE, dra.trimmed_slice),
    "claims": (CLAIM, dra.trimmed_claim),
    "rules": (RULE, dra.trimmed_rule),
}
"""A sample of each kind of object that tenants write or nodes have, and what a watch keeps of it."""


@functools.cache
def places(kind: str, of: type) -> list[tuple[str | int, ...]]:
    """Paths of the values of a type in a sample; the API server checks types, and names."""
    paths = [*_paths(KINDS[kind][0], of)]
    return [
        path for path in paths if path[-2:] not in {("metadata", "namespace"), ("metadata", "name")}
    ]


def _paths(value: Any, of: type) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, of):
        yield ()
    items: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from ((key, *path) for path in _paths(inner, of))


def _kept(kind: str, document: Mapping[str, Any]) -> Items:
    """What the watch keeps of an object; one that cannot be trimmed is left out, as an informer does."""
    try:
        trimmed = informer.kept(document, KINDS[kind][1])
    except Exception:  # noqa: BLE001 - as in the informer
        return []
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else ""
    return [((TENANT, str(name)), trimmed)]


@functools.cache
def _kept_samples() -> Mapping[str, Items]:
    """What the watches keep of the samples, of the other tenant's variant and target, and of a pod."""
    good = {**VARIANT, "metadata": {"namespace": OTHER, "name": "w"}}
    target = {**DEPLOYMENT, "metadata": {"namespace": OTHER, "name": "w", "uid": "w"}}
    return {
        **{kind: _kept(kind, sample) for kind, (sample, _) in KINDS.items()},
        "good": [((OTHER, "w"), good)],
        "target": [((OTHER, "w"), trimming.deployment(target))],
        # Monitors count for those without annotations.
        "plain": [((TENANT, "q"), pods.trimmed(PLAIN_POD))],
    }


def joined(kind: str, document: Mapping[str, Any]) -> inputs.Inputs:
    """All kinds of a tenant's objects, one of them replaced, beside another tenant's variant."""
    items = {**_kept_samples(), kind: _kept(kind, document)}
    picked = [
        pools.Picked(TENANT, item["pool"], labels.parse("app=v")) for _, item in items["pools"]
    ]
    seen = Seen(
        variants=[*items["variants"], *items["good"]],
        deployments=[*items["deployments"], *items["target"]],
        scalers=items["scalers"],
        pods=[*items["pods"], *items["plain"]],
        configs=[],
        nodes=dict(items["nodes"]),
        slices=items["slices"],
        claims=items["claims"],
        rules=items["rules"],
        pickers=picked,
        ported=[(TENANT, item["pool"]) for _, item in items["pools"]],
        monitors=items["monitors"],
        service_monitors=items["service_monitors"],
        services=items["services"],
        others={},
        configs_read=True,
        unread="",
        last_good=NOTHING,
    )
    return join(Scope(config_namespace=SYSTEM, limited=True), seen)


def check(kind: str, document: Mapping[str, Any]) -> None:
    """Join them, and look for the other tenant's variant among those that were read."""
    with structlog.testing.capture_logs():
        read = joined(kind, document)
    known = {(item.namespace, item.name) for item in read.variants}
    known |= {(item.namespace, item.name) for item in read.refused}
    assert (OTHER, "w") in known

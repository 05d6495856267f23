"""Groups of pods as LeaderWorkerSet makes them, in a world in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import CORE, LWS, World

NAME = "leaderworkerset.sigs.k8s.io/name"
GROUP, WORKER = (
    "leaderworkerset.sigs.k8s.io/group-index",
    "leaderworkerset.sigs.k8s.io/worker-index",
)
A100 = "NVIDIA-A100-PCIE-80GB"
REFERENCE = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "set",
}  # fmt: skip
CLOSED_PORT = "9"
"""Port at which nothing answers, as at a worker without a server."""


def node(name: str = "node", *, gpus: int, **fields: Any) -> dict[str, Any]:
    """A Node with so many A100s of a device plugin; none for 0."""
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": A100}},
        "spec": fields,
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(
    world: World, name: str, *, gpus: int = 0, serves: bool = True, labels: dict[str, str]
) -> dict[str, Any]:
    """A ready pod that holds so many GPUs of the node `node`."""
    item = world._pod("team-a", "set", name)
    item["metadata"]["labels"] = labels
    if gpus:
        item["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    if serves:
        world.pages.finished[name] = 0.0
    else:
        item["metadata"]["annotations"] = {"prometheus.io/port": CLOSED_PORT}
    return item


def put(world: World, groups: int, *, size: int, serving: Collection[int], gpus: int) -> None:
    """LeaderWorkerSet `set` with its pods; those whose index is in `serving` have a server."""
    for group in range(groups):
        for worker in range(size):
            name = f"set-{group}-{worker}" if worker else f"set-{group}"
            labels = {NAME: "set", GROUP: str(group), WORKER: str(worker)}
            item = pod(world, name, gpus=gpus, serves=worker in serving, labels=labels)
            world.api.put(CORE, "pods", item)
    template = {"size": size}
    item = {
        "metadata": {"name": "set", "namespace": "team-a"},
        "spec": {"replicas": groups, "leaderWorkerTemplate": template},
    }
    world.api.put(LWS, "leaderworkersets", item)
    # Its /scale selects leaders alone.
    world.api.set_status(
        LWS, "leaderworkersets", "team-a", "set",
        replicas=groups, hpaPodSelector=f"{NAME}=set,{WORKER}=0",
    )  # fmt: skip


def variant(reference: dict[str, str] = REFERENCE, **spec: Any) -> dict[str, Any]:
    """VariantAutoscaling `s` of that target, without a profile, as of 2026."""
    item = worlds.variant("s")
    item["metadata"]["labels"] = {}
    item["spec"] = {"scaleTargetRef": reference, "modelID": worlds.MODEL, **spec}
    return item

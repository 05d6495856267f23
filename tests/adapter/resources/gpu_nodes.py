"""Nodes and pods with GPUs, as the tests of the inventory write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter.resources import gpus as inventory
from adapter.resources import pods

A100 = "NVIDIA-A100-PCIE-80GB"
GPU, PRODUCT = "nvidia.com/gpu", "nvidia.com/gpu.product"

Object = dict[str, Any]


def node(
    name: str = "one",
    gpus: Mapping[str, object] | object = "8",
    labels: Mapping[str, str] | str = A100,
    *,
    ready: str = "True",
    **spec: Any,
) -> Object:
    """A ready node; its GPUs are NVIDIA's unless they are given by resource and label."""
    allocatable = gpus if isinstance(gpus, Mapping) else {GPU: gpus}
    named = labels if isinstance(labels, Mapping) else {PRODUCT: labels}
    return {
        "metadata": {"name": name, "labels": {"zone": "a", **named}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "64", **allocatable},
            "conditions": [
                {"type": "FrequentKubeletRestart", "status": "True"},
                {"type": "Ready", "status": ready},
            ],
        },
    }


def taint(key: str, effect: str = "NoSchedule") -> Object:
    return {"key": key, "effect": effect}


def pod(
    name: str, gpus: int, *, on: str = "one", phase: str = "Running", resource: str = GPU
) -> Object:
    """A pod that holds GPUs."""
    resources = {"limits": {resource: str(gpus), "cpu": "4"}}
    return {
        "metadata": {"namespace": "n", "name": name, "labels": {}},
        "spec": {"nodeName": on, "containers": [{"resources": resources}]},
        "status": {"phase": phase},
    }


def take(
    nodes: list[Object], holders: list[Object] | None = None, *ours: str
) -> inventory.Inventory:
    return inventory.take(
        map(inventory.trimmed, nodes),
        map(pods.trimmed, holders or []),
        variant_pods=frozenset(("n", name) for name in ours),
    )


def got(gpus: inventory.Inventory, *asked: str) -> dict[str, int]:
    """Capacity of device types, of which there must be no more to say."""
    capacity, problems = gpus.capacity(dict.fromkeys(asked, "costs"))
    assert problems == ()
    return capacity


def refused(gpus: inventory.Inventory, *asked: str) -> list[str]:
    """What is said of device types; what is said of them has no GPUs."""
    capacity, problems = gpus.capacity({device: f"data.{device}" for device in asked})
    for device in asked:
        told = any(problem.startswith(f"data.{device}: device: ") for problem in problems)
        assert told == (capacity[device] == 0)
    return list(problems)


# What nodes have.

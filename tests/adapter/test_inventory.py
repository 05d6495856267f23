"""GPUs by type: only those that can be had."""

from __future__ import annotations

from typing import Any

import pytest

from adapter import inventory, pods

A100 = "NVIDIA-A100-PCIE-80GB"


def node(name: str = "one", gpus: str = "8", **spec: Any) -> dict[str, Any]:
    """A ready node with GPUs."""
    ready = spec.pop("ready", "True")
    product = spec.pop("product", A100)
    return {
        "metadata": {"name": name, "labels": {"nvidia.com/gpu.product": product, "zone": "a"}},
        "spec": spec,
        "status": {
            "allocatable": {"nvidia.com/gpu": gpus, "cpu": "64"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def held(name: str, gpus: int, *, on: str = "one", phase: str = "Running") -> dict[str, Any]:
    """A pod that holds GPUs."""
    resources = {"limits": {"nvidia.com/gpu": str(gpus), "cpu": "4"}}
    return {
        "metadata": {"namespace": "n", "name": name, "labels": {}},
        "spec": {"nodeName": on, "containers": [{"resources": resources}]},
        "status": {"phase": phase},
    }


def capacity(
    nodes: list[dict[str, Any]], holders: list[dict[str, Any]], ours: set[str] | None = None
) -> dict[str, int]:
    return inventory.capacity(
        map(inventory.trimmed, nodes),
        map(pods.trimmed, holders),
        ours=frozenset(("n", name) for name in ours or ()),
    )


def test_gpus_of_nodes_add_up_by_product() -> None:
    """Products apart, vendors alike."""
    amd = node("amd", product="")
    amd["metadata"]["labels"] = {"amd.com/gpu.product": "AMD-MI300X-192GB"}
    amd["status"]["allocatable"] = {"amd.com/gpu": "4"}
    found = capacity([node("one"), node("two", "4"), node("three", product="H100"), amd], [])
    assert found == {A100: 12, "H100": 8, "AMD-MI300X-192GB": 4}


@pytest.mark.parametrize(
    "bad",
    [
        node(unschedulable=True),
        node(ready="False"),
        node(ready="Unknown"),
        node(taints=[{"key": "maintenance", "effect": "NoSchedule"}]),
        node(taints=[{"key": "maintenance", "effect": "NoExecute"}]),
        node(product=""),
        node(gpus="none"),
    ],
)
def test_nodes_that_take_no_pods_do_not_count(bad: dict[str, Any]) -> None:
    """Cordoned, not ready, tainted, or without a product to name."""
    assert capacity([bad], []) == {}


def test_usual_taints_do_not_count_against_a_node() -> None:
    """GPU nodes are tainted by their resource's name, and a preference keeps nobody away."""
    taints = [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
        {"key": "spot", "effect": "PreferNoSchedule"},
    ]
    assert capacity([node(taints=taints)], []) == {A100: 8}


def test_what_others_hold_is_not_ours_to_give() -> None:
    """Pods of our variants count as free, those that ended too; nothing goes below zero."""
    holders = [held("theirs", 3), held("ours", 2), held("done", 4, phase="Succeeded")]
    assert capacity([node()], holders, {"ours"}) == {A100: 5}
    assert capacity([node()], [held("elsewhere", 3, on="other")]) == {A100: 8}
    assert capacity([node(gpus="2")], [held("theirs", 3)]) == {A100: 0}


def test_slices_are_not_whole_gpus() -> None:
    """MIG slices are other resources, shared GPUs another product: neither is counted as a whole one."""
    mig = node("mig")
    mig["status"]["allocatable"] = {"nvidia.com/mig-1g.10gb": "7"}
    shared = node("shared", product=f"{A100}-SHARED")
    assert capacity([mig, shared], []) == {f"{A100}-SHARED": 8}

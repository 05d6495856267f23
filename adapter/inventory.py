"""GPUs by type from Nodes: what can be allocated, less what pods that are not ours hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

VENDORS = ("nvidia.com", "amd.com", "intel.com")
_HARMLESS = frozenset({"PreferNoSchedule"})


def trimmed(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The few fields of a node that are read."""
    metadata, spec = node.get("metadata") or {}, node.get("spec") or {}
    status = node.get("status") or {}
    conditions = {item.get("type"): item.get("status") for item in status.get("conditions") or ()}
    allocatable = {
        name: str(value)
        for name, value in (status.get("allocatable") or {}).items()
        if name.partition("/")[0] in VENDORS
    }
    labels = {
        name: value
        for name, value in (metadata.get("labels") or {}).items()
        if name.partition("/")[0] in VENDORS
    }
    # GPU nodes are commonly tainted by their own resource's name; every other taint keeps pods away.
    taints = [
        item.get("key")
        for item in spec.get("taints") or ()
        if item.get("effect") not in _HARMLESS and item.get("key") not in allocatable
    ]
    return {
        "metadata": {
            "name": metadata.get("name"),
            "resourceVersion": metadata.get("resourceVersion"),
            "labels": labels,
        },
        "allocatable": allocatable,
        "usable": not spec.get("unschedulable")
        and conditions.get("Ready") == "True"
        and not taints,
    }


def capacity(
    nodes: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    *,
    ours: frozenset[tuple[str, str]] = frozenset(),
) -> dict[str, int]:
    """Whole GPUs by product that our variants may hold together.

    Args:
        nodes: trimmed ones.
        pods: trimmed ones.
        ours: (namespace, name) of pods that belong to our variants: what they hold is ours to give.

    MIG slices (`nvidia.com/mig-...`) are other resources and not counted here; shared GPUs (product
    `...-SHARED`) are counted under that name of theirs, not as whole ones.

    """
    found: dict[str, int] = {}
    places: dict[str, tuple[str, str]] = {}
    for node in nodes:
        for vendor in VENDORS:
            text = node["allocatable"].get(f"{vendor}/gpu")
            product = node["metadata"]["labels"].get(f"{vendor}/gpu.product")
            if text is None or not text.isdigit() or not product or not node["usable"]:
                continue
            found[product] = found.get(product, 0) + int(text)
            places[node["metadata"]["name"]] = (product, f"{vendor}/gpu")
    for pod in pods:
        metadata = pod["metadata"]
        if (metadata["namespace"], metadata["name"]) in ours or pod["phase"] in {
            "Succeeded",
            "Failed",
        }:
            continue
        product, resource = places.get(pod["node"], ("", ""))
        held = int(pod["requests"].get(resource, 0)) if product else 0
        if held:
            found[product] = max(found[product] - held, 0)
    return found

"""Devices that variants can be planned on under `--limited`: without those that other pods hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapter.kube.scale import Reference, Unresolved
from adapter.resources import gpus, variant
from adapter.resources.devices.asked import device_types, own_devices
from adapter.resources.inputs import Inputs, Reader
from adapter.resources.serving import owners
from adapter.resources.watched import narrowed
from adapter.resources.watched.narrowed import Name, Pods, Tolerated


def holding(
    matching: Sequence[Mapping[str, Any]],
    reference: Reference,
    target: variant.Target | Unresolved,
) -> frozenset[Name]:
    """The pods that hold devices as replicas of a scale target, out of those that its selector matches."""
    if isinstance(target, Unresolved):
        return frozenset()
    own = owners.holding_for(matching, (reference.kind, reference.name), target.replicas)
    return frozenset((pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in own)


def inputs(
    reader: Reader,
    take: Callable[..., gpus.Inventory],
    pods: Pods,
    tolerated: Tolerated,
    config_namespace: str,
) -> Inputs:
    """The inputs with their capacity.

    Args:
        reader: has read all objects.
        take: `gpus.take` of what the cluster has, without `variant_pods`.
        pods: pods of the scale targets of all variants, used or not.
        tolerated: tolerations of these pods and of templates.
        config_namespace: namespace of the prices.

    """
    theirs = frozenset[Name]().union(*pods.values())
    inventory = take(variant_pods=theirs)
    asked, own = device_types(reader, config_namespace), own_devices(reader)
    reader.counted_as = inventory.counted_as(asked, own)
    asked = {**{reader.counted_as.get(device, device): at for device, at in own.items()}, **asked}
    reader.closed = inventory.closed(asked)
    known = reader.inputs()
    given = inventory.given(asked)
    if strange := _strange(known, inventory, given, pods):
        inventory = take(variant_pods=theirs - strange)
    capacity, problems = inventory.capacity(asked)
    known = replace(known, capacity=capacity, problems=(*known.problems, *problems))
    return narrowed.applied(known, inventory, given, pods, tolerated)


def _strange(
    known: Inputs, inventory: gpus.Inventory, given: Mapping[str, str], pods: Pods
) -> frozenset[Name]:
    """Pods of scale targets that hold devices which are planned for no variant of theirs: these are not free.

    Such as those of variants that are not used, or whose accelerator is another device than its pods have.
    """
    planned: dict[tuple[str, Reference], set[str]] = {}
    for source in known.variants:
        named = {source.accelerator, *(item.accelerator for item in source.profiles)}
        units = (known.accelerator_named.get(name) for name in named)
        devices = {given.get(item.device_type, "") for item in units if item is not None}
        planned.setdefault((source.namespace, source.reference), set()).update(devices)
    # Two variants may name the same pods, of which one is used.
    used = {
        pod
        for target, names in pods.items()
        for pod in names
        if {name for name, _ in inventory.held.get(pod, ())} <= planned.get(target, set())
    }
    return frozenset[Name]().union(*pods.values()) - used

"""Neuron devices of AWS: their plugin gives one device under several resources at once.

`aws.amazon.com/neuron` (before, and beside it, `neurondevice`) counts devices and `neuroncore` the cores of
the same devices. So a node has its devices once, and a pod that holds cores holds the devices of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DEVICE, ALIAS, CORE = (
    "aws.amazon.com/neuron",
    "aws.amazon.com/neurondevice",
    "aws.amazon.com/neuroncore",
)

Object = Mapping[str, Any]


def once(allocatable: Mapping[str, int]) -> dict[str, int]:
    """What a node gives, each device under one resource; cores alone where it says no devices."""
    given = dict(allocatable)
    alias = given.pop(ALIAS, 0)
    if devices := given.get(DEVICE, 0) or alias:
        given[DEVICE] = devices
        given.pop(CORE, None)
    return given


def cores_of(allocatable: Mapping[str, int]) -> float:
    """Cores of one device of a node; 0 where it gives none, or does not say both."""
    devices = allocatable.get(DEVICE, 0) or allocatable.get(ALIAS, 0)
    return allocatable.get(CORE, 0) / devices if devices else 0.0


def by_device(
    pods: Iterable[Object], nodes: Mapping[str, Object]
) -> Iterable[tuple[Object, Mapping[str, int]]]:
    """Pods with what they hold, where cores and the older name count as devices of their node."""
    for pod in pods:
        requests = pod["requests"]
        if ALIAS in requests or CORE in requests:
            held = dict(requests)
            devices = held.get(DEVICE, 0) + held.pop(ALIAS, 0)
            cores = (nodes.get(pod["node"]) or {}).get("cores", 0.0)
            if cores and CORE in held:
                devices += -int(-held.pop(CORE) // cores)
            requests = {**held, DEVICE: devices}
        yield pod, requests

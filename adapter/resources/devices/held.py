"""Extended resources, such as GPUs, that a pod holds.

Whoever creates a pod chooses how many containers and resources it has: no step here goes through all of them
for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from adapter.kube import quantity
from adapter.resources.devices.products import GPU_VENDORS

MOST_RESOURCES = 128
"""Most resources that are kept of a pod, accelerators first: no node has as many, so that it holds none."""


def of_pod(spec: Mapping[str, Any]) -> dict[str, int]:
    """Extended resources (with a domain in their name) that a pod holds, as the scheduler counts them.

    Init containers run one by one before the others, so that the largest counts; those that are restarted
    always (sidecars) stay beside all that come after them. Kubernetes: `PodRequests`, KEP-753.
    """
    running: Counter[str] = Counter()
    sidecars: Counter[str] = Counter()
    starting: dict[str, int] = {}
    for container in spec.get("containers") or ():
        running.update(dict(_extended(container)))
    for container in spec.get("initContainers") or ():
        held = dict(_extended(container))
        for name, count in held.items():
            starting[name] = max(starting.get(name, 0), count + sidecars[name])
        if container.get("restartPolicy") == "Always":
            running.update(held)
            sidecars.update(held)
    named = [*{**running, **starting}]
    if len(named) > MOST_RESOURCES:
        named = sorted(named, key=lambda name: not name.startswith(GPU_VENDORS))[:MOST_RESOURCES]
    # What sidecars hold is among what is running.
    return {name: max(running[name], starting.get(name, 0)) for name in named}


def _extended(container: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    resources = container.get("resources") or {}
    # Requests equal limits where both are given.
    named = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
    for name, value in named.items():
        if "/" in name and (count := devices(value)) > 0:
            yield name, count


def devices(value: object) -> int:
    """A quantity as a number of devices: 1000 shares are written `1k`; what is no quantity is none."""
    try:
        return int(quantity.parse(str(value)))
    except ValueError:
        return 0

"""Devices that pods hold, by node and resource."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from adapter.resources.devices.taints import Taint
from adapter.resources.pods import ENDED

Object = Mapping[str, Any]
Held = Counter[tuple[str, str]]
"""Devices by node and resource."""

Kind = tuple[str, tuple[Taint, ...] | None]
"""Type of GPUs, and the taints of their node; None where it accepts no new pods."""


def name_of(pod: Object) -> tuple[str, str]:
    """Namespace and name of a pod."""
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def by_place(
    holding: Iterable[tuple[Object, Mapping[str, int]]],
    variant_pods: frozenset[tuple[str, str]],
) -> tuple[Held, Held, dict[tuple[str, str], Held]]:
    """What pods of others and of the variants hold, by node and resource; where each of these does."""
    others: Held = Counter()
    own: Held = Counter()
    places: dict[tuple[str, str], Held] = defaultdict(Counter)
    for pod, requests in holding:
        if pod["phase"] in ENDED:
            continue
        name = name_of(pod)
        mine = name in variant_pods
        for resource, count in requests.items():
            (own if mine else others)[pod["node"], resource] += count
            if mine:
                places[name][pod["node"], resource] += count
    return others, own, places

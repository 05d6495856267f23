"""Devices that pods hold, by node and resource."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from adapter.resources.pods import ENDED

Object = Mapping[str, Any]
Held = Counter[tuple[str, str]]
"""Devices by node and resource."""


def by_place(
    holding: Iterable[tuple[Object, Mapping[str, int]]],
    variant_pods: frozenset[tuple[str, str]],
) -> tuple[Held, Held, dict[tuple[str, str], set[tuple[str, str]]]]:
    """What pods of others and of the variants hold, by node and resource; where each of these does."""
    others: Held = Counter()
    own: Held = Counter()
    places: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for pod, requests in holding:
        if pod["phase"] in ENDED:
            continue
        name = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        mine = name in variant_pods
        for resource, count in requests.items():
            (own if mine else others)[pod["node"], resource] += count
            if mine:
                places[name].add((pod["node"], resource))
    return others, own, places

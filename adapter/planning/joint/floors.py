"""Demands of a moment ago that a group is still planned for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adapter.planning.groups import Floor, Group
from optimizer.placement import worth
from optimizer.placement.problem import Item


def held(item: Item, group: Group) -> Item:
    """The item of a group whose demand is at least what its floors come to with the present requests."""
    demand = max((_demand(floor, item, group) for floor in group.floors), default=0.0)
    if demand <= item.demand:
        return item
    classes = tuple(each.share * demand for each in group.length_classes)
    return replace(item, demand=demand, class_demands=classes)


def _demand(floor: Floor, item: Item, group: Group) -> float:
    """One floor, requests per second; replicas of variants that are no longer in the group do not count."""
    if item.class_demands or not item.worths.any():
        return floor.rate_rps
    members = {name: count for name, count in floor.replicas.items() if count}
    counts = np.zeros(len(item.rows), dtype=np.int64)
    for rows in item.variants():
        # Of several accelerators of one variant, the present one is that of its running replicas.
        at = max(rows, key=lambda row: (item.rows[row].running, item.rows[row].worth))
        counts[at] = members.pop(item.rows[at].variant, 0)
        if counts[at] and item.rows[at].worth <= 0:
            return floor.rate_rps
    if any(name in group.variants for name in members):
        return floor.rate_rps
    capacity = float(worth.capacities(item, counts[None, :])[0])
    if item.routing == "weights" and capacity <= 0 and counts.any():
        # A variant without replicas: what the others carried does not follow from their number.
        return floor.rate_rps
    return floor.part * capacity

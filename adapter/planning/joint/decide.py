"""What a placement means for a group: shares, marginal costs, the next-best plan, and what cut it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapter.planning.groups import Ceiling, GroupDecision, Member
from adapter.planning.joint.items import Prepared
from optimizer.placement import worth
from optimizer.placement.patterns import patterns
from optimizer.placement.problem import FloatArray, Item, Placed, Resource

_ROOM = 1e-9


def used_by(resources: Sequence[Resource], placed: Sequence[tuple[Item, Placed]]) -> FloatArray:
    """What a plan takes of every resource, shape (K,)."""
    used = np.zeros(len(resources))
    for item, got in placed:
        used[list(item.resources)] += np.array(got.counts, dtype=np.int64) @ item.uses
    return used


def cut_by(
    item: Item, got: Placed, resources: Sequence[Resource], used: FloatArray
) -> tuple[Ceiling, ...]:
    """Resources of which too little is left for what an item lacks; empty if it is served."""
    if got.kind == "full":
        return ()
    missing = item.uses.max(axis=0) if got.counts and any(got.counts) else None
    if missing is None:
        known = patterns(item)
        missing = item.uses.max(axis=0)
        if known is not None and len(known.prices):
            missing = known.usage.min(axis=0)
            if not (missing > 0).any():
                missing = known.usage[0]
    found = _exceeded(item, resources, used, missing)
    if found:
        return found
    # Each row alone would need more than is left.
    number = np.ceil(item.demand / np.maximum(item.worths, 1e-300))
    number = np.where(item.worths > 0, np.minimum(number, item.most), 0.0)
    return _exceeded(item, resources, used, (number[:, None] * item.uses).max(axis=0))


def _exceeded(
    item: Item, resources: Sequence[Resource], used: FloatArray, missing: FloatArray
) -> tuple[Ceiling, ...]:
    """Resources of which less is left than what is missing, beside what the plan takes."""
    found = []
    for column, index in enumerate(item.resources):
        resource = resources[index]
        free = resource.limit - used[index]
        if missing[column] > free + _ROOM * max(resource.limit, 1.0):
            found.append(
                Ceiling(
                    name=resource.name,
                    limit=resource.limit,
                    used=float(used[index]),
                    unit=resource.unit,
                )
            )
    return tuple(found)


def capacity_of(prepared: Prepared, got: Placed) -> float:
    """Requests per second that the replicas of a group carry within the targets."""
    item = prepared.item
    counts = np.array(got.counts, dtype=np.int64)
    if item.class_demands and item.demand > 0:
        return worth.class_share(item, counts) * item.demand
    return float(worth.capacities(item, counts[None, :])[0])


def group_decision(
    prepared: Prepared, got: Placed, cut: tuple[Ceiling, ...], shares: FloatArray
) -> GroupDecision:
    """The decision of one group."""
    item, group = prepared.item, prepared.group
    assert group is not None  # noqa: S101 - the caller has it of a group
    counts = np.array(got.counts, dtype=np.int64)
    capacity = capacity_of(prepared, got)
    by_variant: dict[str, float] = dict.fromkeys(group.variants, 0.0)
    marginal: dict[str, float] = {}
    for row, share in zip(item.rows, shares.tolist(), strict=True):
        by_variant[row.variant] += share
        if row.worth > 0:
            price = row.unit_cost / (row.worth * 3.6)
            marginal[row.variant] = min(price, marginal.get(row.variant, price))
    binding = _binding(prepared, got, cut, shares, capacity)
    short = capacity < prepared.demand_rps * (1 - 1e-9)
    served = "partial" if got.kind == "full" and short else got.kind
    if short and capacity <= 0:
        served = "none"
    runner_up = _runner_up(item, counts)
    text = _words(item, counts) or "nothing"
    reason = (
        f"{text}: {group.routing} routing carries {capacity * 60:.2f} of"
        f" {prepared.demand_rps * 60:.2f} req/min, bound by {binding}"
    )
    reason = "; ".join([reason, *map(str, cut), *prepared.notes, *_away(prepared)])
    return GroupDecision(
        cost=float(counts @ item.unit_costs),
        demand_rpm=prepared.demand_rps * 60.0,
        capacity_rpm=capacity * 60.0,
        binding=binding,
        served=served,
        shares=by_variant,
        marginal_costs=marginal,
        runner_up=runner_up,
        cut_by=cut,
        reason=reason,
    )


def _binding(
    prepared: Prepared,
    got: Placed,
    cut: tuple[Ceiling, ...],
    shares: FloatArray,
    capacity: float,
) -> str:
    item, group = prepared.item, prepared.group
    if cut:
        return cut[0].name
    if capacity < prepared.demand_rps * (1 - 1e-9):
        members = group.members if group else {}
        away = any(members.get(row.variant, Member()).available is not None for row in item.rows)
        return "unavailable" if away else "maximum"
    if got.counts == tuple(row.least for row in item.rows):
        return "minimum"
    most = int(np.argmax(shares))
    if item.routing == "round-robin":
        used = [at for at, count in enumerate(got.counts) if count]
        most = min(used, key=lambda at: item.rows[at].worth, default=most)
    return prepared.candidates[most].binding


def _away(prepared: Prepared) -> list[str]:
    members = prepared.group.members if prepared.group else {}
    return [
        f"{name}: {member.unavailable_reason}, at most {member.available} replicas can be ready"
        for name, member in members.items()
        if member.available is not None and member.unavailable_reason
    ]


def _runner_up(item: Item, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    """The cheapest plan that carries the demand and is not the chosen one."""
    known = patterns(item)
    if known is None or item.demand <= 0:
        return ""
    others = np.flatnonzero((known.counts != counts).any(axis=1))
    if not others.size:
        return ""
    other = known.counts[others[0]]
    return f"{_words(item, other)} at {float(other @ item.unit_costs):g} cents/h"


def _words(item: Item, counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> str:
    return " + ".join(
        f"{int(count)} x {row.variant} ({row.accelerator})"
        for row, count in zip(item.rows, counts, strict=True)
        if count
    )

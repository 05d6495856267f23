"""What a placement means for a group: shares, marginal costs, the next-best plan, and what cut it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np

from adapter.planning import fleet as fleets
from adapter.planning.groups import Ceiling, Group, GroupDecision, Member
from adapter.planning.joint.items import Prepared
from optimizer.placement import worth
from optimizer.placement.patterns import Patterns
from optimizer.placement.problem import BoolArray, FloatArray, IntArray, Item, Placed, Resource

_ROOM = 1e-9


def used_by(resources: Sequence[Resource], placed: Sequence[tuple[Item, Placed]]) -> FloatArray:
    """What a plan takes of every resource, shape (K,)."""
    used = np.zeros(len(resources))
    for item, got in placed:
        used[list(item.resources)] += np.array(got.counts, dtype=np.int64) @ item.uses
    return used


def cut_by(
    item: Item,
    got: Placed,
    resources: Sequence[Resource],
    used: FloatArray,
    known: Patterns | None,
) -> tuple[Ceiling, ...]:
    """Resources of which too little is left for what an item lacks; empty if it is served."""
    if got.kind == "full":
        return ()
    free = np.array([resources[index].limit - used[index] for index in item.resources])
    room = np.array([_ROOM * max(resources[index].limit, 1.0) for index in item.resources])
    return tuple(
        Ceiling(
            name=resources[index].name,
            limit=resources[index].limit,
            used=float(used[index]),
            unit=resources[index].unit,
        )
        for index, short in zip(item.resources, _short(item, got, free + room, known), strict=True)
        if short
    )


def _short(item: Item, got: Placed, free: FloatArray, known: Patterns | None) -> BoolArray:
    """Which of an item's resources have too little left for it, shape (K,)."""
    if any(got.counts) or known is None or not len(known.prices):
        over = item.uses.max(axis=0)[None, :] > free
    else:
        over = known.usage > free
    every: BoolArray = np.logical_and.reduce(over, axis=0)
    if every.any():
        return every
    if over.any():
        # Each resource alone leaves room for some way to serve it: the cheapest way names what it lacks.
        cheapest: BoolArray = over[0]
        return cheapest
    # Each row alone would need more than is left.
    number = np.ceil(item.demand / np.maximum(item.worths, 1e-300))
    number = np.where(item.worths > 0, np.minimum(number, item.most), 0.0)
    alone: BoolArray = np.logical_or.reduce(number[:, None] * item.uses > free, axis=0)
    if alone.any():
        return alone
    # Rows whose own bounds are within what is left run short together.
    short = np.array([_most_within(item, at, left) < item.demand for at, left in enumerate(free)])
    return short if short.any() else np.asarray(item.most @ item.uses > free)


def _most_within(item: Item, at: int, left: float) -> float:
    """The most that the rows carry where one resource alone is limited: no plan of whole replicas is above.

    What carries most for what it takes goes first, with parts of replicas. No routing carries more than each
    replica by its speed.
    """
    uses, carries = item.uses[:, at], item.most * item.worths
    total = float(carries[uses <= 0].sum())
    taking = np.flatnonzero(uses > 0)
    for row in sorted(taking.tolist(), key=lambda row: -item.worths[row] / uses[row]):
        number = min(float(item.most[row]), max(left, 0.0) / float(uses[row]))
        total += number * float(item.worths[row])
        left -= number * float(uses[row])
    return total


def unplanned(
    item: Item, group: Group, variants: Mapping[str, fleets.Variant], wrong: Container[str]
) -> Iterator[str]:
    """Requests that reach variants against the plan, as the gateway does not know of it."""
    members = {name: group.members.get(name, Member()) for name in group.variants}
    if group.routing == "weights":
        total = sum(member.weight for member in members.values()) or 1.0
        for name, member in members.items():
            if name in wrong and member.weight > 0:
                yield (
                    f"{name} cannot serve, but its weight sends it {member.weight / total:.0%} of the"
                    " requests: set it to 0"
                )
        spot = float(item.weights[item.interruptible].sum()) if item.limited_share else 0.0
        if spot > item.interruptible_share * (1 + 1e-9):
            yield (
                f"interruptible variants get {spot:.0%} of the requests by their weights, more than"
                f" interruptible_share, {item.interruptible_share:.0%}"
            )
    if group.routing == "round-robin":
        for name in group.variants:
            if name in wrong and variants[name].min_replicas:
                yield (
                    f"{name} cannot serve, but round robin sends requests to the replicas that it keeps"
                )


def capacity_of(prepared: Prepared, got: Placed) -> float:
    """Requests per second that the replicas of a group carry within the targets.

    Under routing weights a variant that is short cannot hand its part to others: where there is one, this is
    what all carry together of the demand.
    """
    item = prepared.item
    counts = np.array(got.counts, dtype=np.int64)
    if item.class_demands and item.demand > 0:
        return worth.class_share(item, counts) * item.demand
    return worth.carried(item, counts, prepared.demand_rps)


def group_decision(
    prepared: Prepared,
    got: Placed,
    cut: tuple[Ceiling, ...],
    shares: FloatArray,
    known: Patterns | None,
) -> GroupDecision:
    """The decision of one group; `known` are its patterns where they are few enough."""
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
    runner_up = _runner_up(item, counts, known, cut)
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
        arriving=_arriving(prepared, group, shares, capacity),
        reason=reason,
    )


def _arriving(prepared: Prepared, group: Group, shares: FloatArray, capacity: float) -> float:
    """Part of the replicas that the arrivals take by themselves: of each variant, by what it carries.

    Where there are fewer replicas than are needed, it is more of those that there are.
    """
    part = sum(
        share * min(candidate.for_arrivals / candidate.replicas, 1.0)
        for candidate, share in zip(prepared.candidates, shares.tolist(), strict=True)
        if candidate.replicas
    )
    total = float(shares.sum())
    if not (total > 0 and capacity > 0):
        return 1.0
    short = max(group.traffic.arrival_rate_rps / capacity, 1.0)
    return min(float(part) / total * short, 1.0)


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


def _runner_up(
    item: Item, counts: IntArray, known: Patterns | None, cut: tuple[Ceiling, ...]
) -> str:
    """The cheapest plan that carries the demand and is not the chosen one.

    One that is cheaper than the chosen one, or that a group lacks which was cut, did not fit.
    """
    if known is None or item.demand <= 0:
        return ""
    others = np.flatnonzero((known.counts != counts).any(axis=1))
    if not others.size:
        return ""
    other = known.counts[others[0]]
    price, chosen = item.prices(np.array([other, counts])).tolist()
    fits = not cut and price > chosen * (1 - 1e-9)
    clause = "" if fits else ", more than capacity or budgets leave"
    return f"{_words(item, other)} at {float(other @ item.unit_costs):g} cents/h{clause}"


def _words(item: Item, counts: IntArray) -> str:
    return " + ".join(
        f"{int(count)} x {row.variant} ({row.accelerator})"
        for row, count in zip(item.rows, counts, strict=True)
        if count
    )

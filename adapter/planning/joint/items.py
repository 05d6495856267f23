"""Items of a placement: each group with the worth of its variants' replicas, and each variant on its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from adapter.planning.groups import Group, Member
from adapter.planning.joint import floors
from adapter.planning.joint.ceilings import Ceilings, namespace_of
from optimizer import problem
from optimizer.placement import worth
from optimizer.placement.problem import Item, Row

_NOBODY = Member()


@dataclass(frozen=True, slots=True)
class Prepared:
    """One item with what its rows stand for.

    Attributes:
        group: None for a variant on its own.
        rows: row of each of the item's rows in `Candidates.steady`.
        candidates: candidate of each of the item's rows, sized for the whole demand.
        demand_rps: demand of the group; more than the item's where bounds keep the replicas below it.
        notes: what to know, as sentences.

    """

    item: Item
    group: Group | None
    rows: tuple[int, ...]
    candidates: tuple[problem.Candidate, ...]
    demand_rps: float = 0.0
    notes: tuple[str, ...] = ()


def sized_fleet(fleet: fleets.Fleet, groups: Sequence[Group]) -> fleets.Fleet:
    """The fleet whose members have the demand of their groups, and one copy of them for each length class."""
    owners = {name: group for group in groups for name in group.variants}
    known = {variant.name: variant for variant in fleet.variants}
    variants: list[fleets.Variant] = []
    for variant in fleet.variants:
        group = owners.get(variant.name)
        if group is None:
            variants.append(variant)
            continue
        running = sum(known[name].current.replicas for name in group.variants)
        load = replace(_traffic(group), ordered=max(group.traffic.ordered, running))
        # A row has its own bounds: here a variant is sized for the whole demand, with at least one replica.
        member = replace(variant, load=load, min_replicas=1, max_replicas=None)
        variants.append(member)
        variants += [
            replace(
                member,
                name=_copy(variant.name, place),
                load=replace(
                    load,
                    arrival_rate_rps=load.arrival_rate_rps * each.share,
                    input_tokens=each.input_tokens,
                    output_tokens=each.output_tokens,
                    cached_tokens=min(load.cached_tokens, each.input_tokens),
                ),
            )
            for place, each in enumerate(group.length_classes)
        ]
    return replace(fleet, variants=tuple(variants))


def _traffic(group: Group) -> fleets.Load:
    """The traffic of a group; with length classes its mean lengths are theirs."""
    traffic, classes = group.traffic, group.length_classes
    if not classes:
        return traffic
    input_tokens = sum(each.share * each.input_tokens for each in classes)
    return replace(
        traffic,
        input_tokens=input_tokens,
        output_tokens=sum(each.share * each.output_tokens for each in classes),
        cached_tokens=min(traffic.cached_tokens, input_tokens),
    )


def _copy(name: str, place: int) -> str:
    return f"{name}\0{place}"


def of_group(
    group: Group,
    fleet: fleets.Fleet,
    sized: candidates.Candidates,
    ceilings: Ceilings,
    variants: Mapping[str, fleets.Variant],
) -> tuple[Prepared | None, dict[str, str]]:
    """The item of a group, and why variants (or the group, by its name) are not in it."""
    rows: list[Row] = []
    places: list[int] = []
    chosen: list[problem.Candidate] = []
    wrong: dict[str, str] = {}
    demand = 0.0
    for name in group.variants:
        choice = sized.by_variant[name]
        if not choice.candidates:
            reasons = "; ".join(map(str, choice.unusable)) or "no profile to choose from"
            wrong[name] = reasons
            continue
        for place, candidate in zip(choice.rows, choice.candidates, strict=True):
            demand = sized.demand(place)
            rows.append(
                _row(
                    group,
                    variants[name],
                    sized,
                    place,
                    ceilings=ceilings,
                    settings=fleet.settings,
                )
            )
            places.append(place)
            chosen.append(candidate)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        wrong[group.name] = f"no variant can serve it: {reasons}"
        return None, wrong
    service_class = next(item for item in fleet.service_classes if item.name == group.service_class)
    hysteresis = fleet.settings.hysteresis if group.hysteresis is None else group.hysteresis
    item = Item(
        name=f"group {group.name}",
        rows=tuple(rows),
        demand=demand,
        priority=service_class.priority,
        routing=group.routing,
        interruptible_share=group.interruptible_share,
        hysteresis=hysteresis,
        class_demands=tuple(each.share * demand for each in group.length_classes),
    )
    item = floors.held(item, group)
    demand = item.demand
    item, notes, problem_ = _bounded(item, group)
    if problem_:
        wrong[group.name] = problem_
        return None, wrong
    return Prepared(item, group, tuple(places), tuple(chosen), demand, notes), wrong


def _row(
    group: Group,
    variant: fleets.Variant,
    sized: candidates.Candidates,
    place: int,
    *,
    ceilings: Ceilings,
    settings: fleets.Settings,
) -> Row:
    option, member = sized.option(place), group.members.get(variant.name, _NOBODY)
    most = fleets.MOST_REPLICAS
    if variant.max_replicas is not None:
        most = min(most, variant.max_replicas)
    if member.available is not None:
        most = min(most, max(member.available, 0))
    unit_cost = candidates.cost(option.accelerator, option.profile, 1)
    now = variant.current
    here = now.accelerator in ("", option.profile.accelerator)
    transition_cost = 0.0
    if not here and now.replicas:
        fleet_cost = now.cost
        transition_cost = settings.transition_factor * (fleet_cost or 0.0)
    by_class = tuple(
        _class_rate(sized, variant.name, number, option.profile.accelerator)
        for number in range(len(group.length_classes))
    )
    return Row(
        variant=variant.name,
        accelerator=option.profile.accelerator,
        unit_cost=unit_cost,
        worth=_mean(by_class, group) if by_class else sized.worth(place),
        least=min(variant.min_replicas, most),
        most=most,
        uses=ceilings.uses(option, namespace_of(variant) or group.namespace),
        running=now.replicas if here else 0,
        moved=transition_cost,
        moved_each=0.0 if here or not now.replicas else settings.transition_factor * unit_cost,
        interruptible=member.interruptible,
        weight=member.weight,
        by_class=by_class,
    )


def _class_rate(sized: candidates.Candidates, name: str, number: int, accelerator: str) -> float:
    choice = sized.by_variant[_copy(name, number)]
    for place in choice.rows:
        if sized.option(place).profile.accelerator == accelerator:
            return sized.worth(place)
    return 0.0


def _mean(by_class: Sequence[float], group: Group) -> float:
    """What a replica carries of the mix of classes; 0 where it cannot carry one of them."""
    parts = [(each.share, rate) for each, rate in zip(group.length_classes, by_class, strict=True)]
    if any(rate <= 0 < share for share, rate in parts):
        return 0.0
    return 1.0 / max(sum(share / rate for share, rate in parts if share), 1e-300)


def _bounded(item: Item, group: Group) -> tuple[Item, tuple[str, ...], str]:
    """The item with a demand that its rows can carry and finite bounds, notes, and what is wrong with it."""
    if item.class_demands:
        positive = [rate for row in item.rows for rate in row.by_class if rate > 0]
    else:
        positive = [row.worth for row in item.rows if row.worth > 0]
    slowest = min(positive, default=0.0)
    least = sum(row.least for row in item.rows)
    share = max(item.interruptible_share, 0.01)
    top = max(least, 1)
    if slowest > 0:
        top = math.ceil((item.demand / slowest + least) / share) + len(item.rows) + 1
    rows = tuple(row._replace(most=max(min(row.most, top), row.least)) for row in item.rows)
    item = replace(item, rows=rows)
    if item.demand <= 0:
        return item, (), ""
    if item.routing == "round-robin":
        slow = [row.variant for row in rows if row.worth <= 0 < row.least]
        if slow:
            return (
                item,
                (),
                f"{slow[0]} must keep replicas that meet no target, and round robin sends to it",
            )
    if item.routing == "weights" or item.class_demands:
        return item, (), ""
    notes: tuple[str, ...] = ()
    simple = item.routing == "least-loaded" and len(item.variants()) == len(item.rows)
    fits = float(item.most @ item.worths) if simple and not item.limited_share else _largest(item)
    limited = [name for name, member in group.members.items() if member.available is not None]
    if fits < item.demand and item.limited_share:
        loose = replace(item, interruptible_share=1.0)
        others = [row for row in rows if not row.interruptible]
        if not others or any(row.variant in limited for row in others):
            item, fits = loose, _largest(loose)
            notes = (
                "interruptible variants carry more than their share: no other replica is available",
            )
        elif fits <= 0:
            return (
                item,
                (),
                "interruptible_share: minimum replicas of interruptible variants exceed it",
            )
    return replace(item, demand=min(item.demand, fits)), notes, ""


def _largest(item: Item) -> float:
    """The most that the rows of an item carry within their bounds."""
    best = 0.0
    speeds = [0.0]
    if item.routing == "round-robin":
        speeds = sorted({row.worth for row in item.rows if row.worth > 0})
    for speed in speeds:
        counts = item.least.copy()
        # One row for each variant, that with the most to give; interruptible ones while their share is kept.
        chosen = [
            max(rows, key=lambda at: item.rows[at].most * item.rows[at].worth)
            for rows in item.variants()
        ]
        for rows in item.variants():
            for at in rows:
                if at not in chosen:
                    counts[at] = 0
        for at in sorted(
            chosen, key=lambda at: (item.rows[at].interruptible, -item.rows[at].worth)
        ):
            if item.rows[at].worth < speed or item.rows[at].worth <= 0:
                continue
            if not (item.rows[at].interruptible and item.limited_share):
                counts[at] = item.most[at]
                continue
            low, high = int(item.least[at]), int(item.most[at])
            while low < high:
                middle = (low + high + 1) // 2
                trial = counts.copy()
                trial[at] = middle
                if worth.share_kept(item, trial[None, :])[0]:
                    low = middle
                else:
                    high = middle - 1
            counts[at] = low
        if worth.share_kept(item, counts[None, :])[0]:
            best = max(best, float(worth.capacities(item, counts[None, :])[0]))
    return best


def of_variant(
    variant: fleets.Variant,
    choice: candidates.Choices,
    fleet: fleets.Fleet,
    sized: candidates.Candidates,
    ceilings: Ceilings,
) -> Prepared:
    """The item of a variant on its own: each candidate is a row with one number of replicas."""
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {item.name: item for item in fleet.service_classes}
    current = candidates.current(variant, accelerators)
    factor = fleet.settings.transition_factor
    rows = []
    for place, candidate in zip(choice.rows, choice.candidates, strict=True):
        moves = candidate.accelerator not in ("", current.accelerator)
        each = candidate.cost / candidate.replicas
        rows.append(
            Row(
                variant=variant.name,
                accelerator=candidate.accelerator,
                unit_cost=each,
                worth=1.0,
                least=0,
                most=candidate.replicas,
                uses=ceilings.uses(sized.option(place), namespace_of(variant)),
                moved=factor * current.cost if moves else 0.0,
                moved_each=factor * each if moves else 0.0,
            )
        )
    item = Item(
        name=variant.name,
        rows=tuple(rows),
        demand=1.0,
        priority=classes[variant.service_class].priority,
        routing="alone",
    )
    return Prepared(item, None, tuple(choice.rows), tuple(choice.candidates))


def contradicts(prepared: Prepared, ceilings: Ceilings, variant: fleets.Variant | None) -> str:
    """What budget the minimum replicas of an item alone exceed; empty where none."""
    item = prepared.item
    for index in item.resources:
        if index < ceilings.capacities:
            continue
        resource, needed = ceilings.resources[index], 0.0
        column = item.resources.index(index)
        for rows in item.variants():
            least = (
                item.least[rows] if variant is None else np.full(len(rows), variant.min_replicas)
            )
            needed += float((least * item.uses[rows, column]).min())
        if needed > resource.limit * (1 + 1e-9):
            return (
                f"minimum replicas take {needed:g} {resource.unit}, but {resource.name} allows"
                f" {resource.limit:g}: raise it or lower min_replicas"
            )
    return ""

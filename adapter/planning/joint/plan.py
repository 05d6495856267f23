"""The planning step of fleets with groups or budgets: from sized variants to a placement and its meaning."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from adapter.planning.groups import Ceiling, Group, GroupDecision
from adapter.planning.joint import checks, decide, items
from adapter.planning.joint.ceilings import Ceilings
from adapter.planning.joint.items import Prepared
from optimizer import problem, solvers
from optimizer.errors import InvalidProblemError
from optimizer.placement import solve as placement
from optimizer.placement import worth
from optimizer.placement.problem import Placed, Solution
from optimizer.placement.problem import Problem as Placement


@dataclass(frozen=True, slots=True)
class Joint:
    """What the joint step decided, to be put into words for each variant.

    Attributes:
        given: variants with the candidate that each got, as a problem without groups has them.
        solution: what each got.
        rows: row of each variant's candidate in `Candidates.steady`.
        rates_rps: rate that reaches each row of a member.
        shares: part of its group's demand by variant.
        owners: group by variant.
        cut_by: ceilings by variant.
        set_aside: reasons by variant and group; a group that shares its name with a variant is "group NAME".

    """

    given: problem.Problem
    solution: problem.Solution
    rows: Mapping[str, int]
    rates_rps: Mapping[int, float]
    shares: Mapping[str, float]
    owners: Mapping[str, str]
    cut_by: Mapping[str, tuple[Ceiling, ...]]
    groups: Mapping[str, GroupDecision]
    ceilings: tuple[Ceiling, ...]
    set_aside: Mapping[str, str]


def place(fleet: fleets.Fleet) -> tuple[candidates.Candidates, Joint]:
    """Place all variants of all groups, and those on their own.

    Raises:
        InvalidProblemError: capacity, a budget or settings have no meaning.

    """
    _check(fleet)
    groups, wrong, apart = checks.checked(fleet)
    members = {name for group in groups for name in group.variants}
    broken = {
        name: f"group {group.name}: {wrong[group.name]}"
        for group in fleet.groups
        if group.name in wrong
        for name in group.variants
        if name not in members
    }
    # Apart from the groups' reasons: a variant on its own may have the name of a group.
    set_aside = {
        **broken,
        **{name: why for name, why in apart.items() if name not in members},
    }
    ceilings = Ceilings(fleet)
    sized = candidates.Candidates(items.sized_fleet(fleet, groups))
    prepared = _of_groups(fleet, groups, sized, ceilings, wrong=wrong, set_aside=set_aside)
    idle: list[str] = []
    for variant in fleet.variants:
        if variant.name in members or variant.name in set_aside:
            continue
        choice = sized.by_variant[variant.name]
        if not choice.candidates:
            reasons = "; ".join(map(str, choice.unusable))
            set_aside[variant.name] = reasons or "no profile to choose from"
        elif not all(candidate.replicas for candidate in choice.candidates):
            idle.append(variant.name)
        else:
            item = items.of_variant(variant, choice, fleet, sized, ceilings)
            if why := items.contradicts(item, ceilings, variant):
                set_aside[variant.name] = why
            else:
                prepared.append(item)
    settings = fleet.settings
    solution = placement.solve(
        Placement(
            items=tuple(each.item for each in prepared),
            resources=ceilings.resources,
            policy=settings.policy,
            delayed_best_effort=settings.delayed_best_effort,
            time_limit_s=settings.time_limit_s,
            gap=settings.gap,
        ),
        settings.solver,
    )
    names = {variant.name for variant in fleet.variants}
    reasons_of_groups = {_key(name, names): why for name, why in wrong.items()}
    aside = {**reasons_of_groups, **set_aside}
    return sized, _Answer(fleet, sized, ceilings, prepared, solution).joint(idle, aside)


def _key(group: str, variants: Container[str]) -> str:
    """Name of a group among those set aside; "group NAME" where a variant has the same name."""
    return f"group {group}" if group in variants else group


def _of_groups(
    fleet: fleets.Fleet,
    groups: Sequence[Group],
    sized: candidates.Candidates,
    ceilings: Ceilings,
    *,
    wrong: dict[str, str],
    set_aside: dict[str, str],
) -> list[Prepared]:
    """Groups that can be placed; why others cannot goes to `wrong`, why variants cannot to `set_aside`."""
    variants = {variant.name: variant for variant in fleet.variants}
    prepared: list[Prepared] = []
    for group in groups:
        each, aside = items.of_group(group, fleet, sized, ceilings, variants)
        if each is None:
            wrong[group.name] = aside.pop(group.name)
        elif why := items.contradicts(each, ceilings, None):
            wrong[group.name], each = why, None
        set_aside |= aside
        if each is None:
            reason = f"group {group.name}: {wrong[group.name]}"
            set_aside |= {name: aside.get(name, reason) for name in group.variants}
        else:
            notes = (*each.notes, *decide.unplanned(each.item, group, variants, aside))
            prepared.append(replace(each, notes=notes))
    return prepared


def _check(fleet: fleets.Fleet) -> None:
    settings = fleet.settings
    for error in solvers.errors_of(
        problem.Problem(
            variants=(),
            capacity=fleet.capacity,
            policy=settings.policy,
            transition_factor=settings.transition_factor,
            time_limit_s=settings.time_limit_s,
            gap=settings.gap,
        )
    ):
        raise error
    for budget in fleet.budgets:
        numbers = {
            "cost": budget.cost,
            "devices": budget.devices,
            **{f"devices_by_type.{kind}": count for kind, count in budget.devices_by_type.items()},
        }
        for field, number in numbers.items():
            if not math.isfinite(number) or (number < 0 and number != -1):
                raise InvalidProblemError(
                    f"budget {budget.name}",
                    f"{field}: must be >= 0, or -1 for unlimited, not {number:g}",
                )


class _Answer:
    """From a solution to what each variant and group gets."""

    def __init__(
        self,
        fleet: fleets.Fleet,
        sized: candidates.Candidates,
        ceilings: Ceilings,
        prepared: list[Prepared],
        solution: Solution,
    ) -> None:
        self._fleet = fleet
        self._sized = sized
        self._ceilings = ceilings
        self._prepared = prepared
        self._solution = solution
        self._variants = {variant.name: variant for variant in fleet.variants}
        self._accelerators = {item.name: item for item in fleet.accelerators}
        self._classes = {item.name: item for item in fleet.service_classes}
        self._allocations: dict[str, problem.Allocation] = {}
        self._chosen: dict[str, tuple[problem.Candidate, ...]] = {}
        self._rows: dict[str, int] = {}
        self._rates: dict[int, float] = {}
        self._shares: dict[str, float] = {}
        self._owners: dict[str, str] = {}
        self._cut: dict[str, tuple[Ceiling, ...]] = {}
        self._groups: dict[str, GroupDecision] = {}

    def joint(self, idle: list[str], set_aside: Mapping[str, str]) -> Joint:
        """All of it."""
        placed = [(each.item, self._solution.placed[each.item.name]) for each in self._prepared]
        used = decide.used_by(self._ceilings.resources, placed)
        for each in self._prepared:
            got = self._solution.placed[each.item.name]
            cut = decide.cut_by(
                each.item,
                got,
                self._ceilings.resources,
                used,
                self._solution.known.get(each.item.name),
            )
            if each.group is None:
                self._alone(each, got, cut)
            else:
                self._member(each, got, cut)
        for name in idle:
            choice = self._sized.by_variant[name]
            nothing = next(item for item in choice.candidates if not item.replicas)
            self._give(name, nothing, 0, choice.rows[choice.candidates.index(nothing)])
        resources = self._ceilings.resources
        names = [variant.name for variant in self._fleet.variants if variant.name in self._chosen]
        given = problem.Problem(
            variants=tuple(self._of(name) for name in names),
            capacity=self._fleet.capacity,
            within=self._fleet.within,
            policy=self._fleet.settings.policy,
            transition_factor=self._fleet.settings.transition_factor,
        )
        return Joint(
            given=given,
            solution=problem.Solution(
                solver=self._solution.solver,
                termination=self._solution.termination,
                gap=self._solution.gap,
                allocations={name: self._allocations[name] for name in names},
            ),
            rows=self._rows,
            rates_rps=self._rates,
            shares=self._shares,
            owners=self._owners,
            cut_by=self._cut,
            groups=self._groups,
            ceilings=tuple(
                Ceiling(name=item.name, limit=item.limit, used=float(taken), unit=item.unit)
                for item, taken in list(zip(resources, used, strict=True))[
                    self._ceilings.capacities :
                ]
            ),
            set_aside=set_aside,
        )

    def _of(self, name: str) -> problem.VariantCandidates:
        variant = self._variants[name]
        return problem.VariantCandidates(
            name=name,
            priority=self._classes[variant.service_class].priority,
            current=candidates.current(variant, self._accelerators),
            candidates=self._chosen[name],
        )

    def _give(self, name: str, candidate: problem.Candidate, replicas: int, row: int) -> None:
        self._chosen.setdefault(name, (candidate,))
        self._allocations[name] = problem.allocate(
            self._of(name), candidate, replicas, self._fleet.settings.transition_factor
        )
        self._rows[name] = row

    def _alone(self, each: Prepared, got: Placed, cut: tuple[Ceiling, ...]) -> None:
        name = each.item.name
        self._chosen[name] = each.candidates
        self._cut[name] = cut
        self._allocations[name] = problem.NOTHING
        for at, count in enumerate(got.counts):
            if count:
                self._give(name, each.candidates[at], count, each.rows[at])

    def _member(self, each: Prepared, got: Placed, cut: tuple[Ceiling, ...]) -> None:
        group, item = each.group, each.item
        assert group is not None  # noqa: S101 - the caller has it of a group
        counts = np.array(got.counts, dtype=np.int64)
        shares = worth.shares(item, counts)
        self._groups[group.name] = decide.group_decision(
            each, got, cut, shares, self._solution.known.get(item.name)
        )
        for rows in item.variants():
            at = next((row for row in rows if got.counts[row]), rows[0])
            name, count = item.rows[at].variant, got.counts[at]
            candidate = each.candidates[at]
            unit = item.rows[at].unit_cost
            if count:
                candidate = candidate._replace(replicas=count, cost=unit * count)
            else:
                candidate = candidate._replace(
                    accelerator="", replicas=0, cost=0.0, device_type="", devices=0
                )
            candidate = candidate._replace(
                max_rate_rpm=item.rows[at].worth * 60.0, binding=_binding(each, at, count)
            )
            self._give(name, candidate, count, each.rows[at])
            self._shares[name] = float(shares[at])
            self._rates[each.rows[at]] = float(shares[at]) * each.demand_rps
            self._owners[name] = group.name
            self._cut[name] = cut


def _binding(each: Prepared, at: int, count: int) -> str:
    """What bounds a member: its bounds, or what bounds a replica."""
    row = each.item.rows[at]
    if count == row.least:
        return "minimum"
    return each.candidates[at].binding

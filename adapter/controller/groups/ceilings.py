"""Ceilings of budgets beside what is planned: variants whose targets are held, and replicas that only stay.

The planner keeps its own plan within every ceiling. What is not planned in a cycle counts too, and so do
replicas that stay until others are ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.controller import stabilization
from adapter.controller.stabilization import StableTarget
from adapter.planning import plan as planning
from adapter.planning.groups import EVERY, UNLIMITED, Budget
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource

_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What replicas of one variant take.

    Attributes:
        cost: Cents per hour.
        devices: Devices of all types.
        by_name: Devices by device type, and units by accelerator.

    """

    source: VariantSource
    cost: float
    devices: int
    by_name: Mapping[str, int]


def use(inputs: Inputs, source: VariantSource, accelerator: str, replicas: int) -> Use:
    """What so many replicas of a variant take on an accelerator."""
    device, number = stabilization.devices(inputs, source, accelerator)
    unit = next((item for item in inputs.accelerators if item.name == accelerator), None)
    units = number // unit.multiplicity if unit is not None and unit.multiplicity else 0
    by_name = {device: number * replicas} if device else {}
    if accelerator not in by_name:
        by_name[accelerator] = units * replicas
    return Use(
        source=source,
        cost=0.0 if unit is None else unit.unit_cost * units * replicas,
        devices=number * replicas,
        by_name=by_name,
    )


def applies(budget: Budget, source: VariantSource, budgets: Iterable[Budget]) -> bool:
    """Whether a budget counts a variant; `default` counts those without one of their own."""
    if budget.scope == "installation":
        return True
    own = source.namespace if budget.scope == "namespace" else source.service_class
    if budget.subject != EVERY:
        return budget.subject == own
    return not any(item.scope == budget.scope and item.subject == own for item in budgets)


def remaining(budgets: Sequence[Budget], uses: Iterable[Use]) -> tuple[Budget, ...]:
    """The ceilings less what is taken by variants that are not planned."""
    budgets_left = list(budgets)
    for item in uses:
        for budget in tuple(budgets_left):
            if not applies(budget, item.source, budgets_left):
                continue
            rest = replace(
                budget,
                cost=_less(budget.cost, item.cost),
                devices=int(_less(budget.devices, item.devices)),
                devices_by_type={
                    name: int(_less(limit, item.by_name.get(name, 0)))
                    for name, limit in budget.devices_by_type.items()
                },
            )
            if budget.subject != EVERY:
                budgets_left[budgets_left.index(budget)] = rest
            elif rest != budget:
                source = item.source
                own = source.namespace if budget.scope == "namespace" else source.service_class
                budgets_left.append(replace(rest, subject=own, name=f"{budget.name} ({own})"))
    return tuple(budgets_left)


def unplanned(
    budgets: Sequence[Budget], inputs: Inputs, replicas: Mapping[str, int]
) -> tuple[Budget, ...]:
    """The ceilings less what these variants take: replicas by variant key, of those that are not planned."""
    if not budgets:
        return ()
    return remaining(
        budgets,
        [
            use(inputs, source, source.accelerator, replicas[source.key])
            for source in inputs.variants
            if source.key in replicas
        ],
    )


def _less(limit: float, used: float) -> float:
    return limit if limit == UNLIMITED else max(limit - used, 0.0)


def within(
    targets: Mapping[str, StableTarget],
    decisions: Mapping[str, planning.Decision],
    present: Mapping[str, int],
    *,
    carried: frozenset[str],
    inputs: Inputs,
    budgets: Sequence[Budget],
) -> dict[str, StableTarget]:
    """Targets within every ceiling, where replicas that only stay would exceed one.

    A move between the variants of a group that its present replicas carry is not begun; otherwise what only
    stays goes.

    Args:
        targets: Targets by variant key, of which the planned part is within the ceilings.
        decisions: What was planned, by variant key.
        present: The desired replicas so far, by variant key.
        carried: Groups whose present replicas carry their demand.
        inputs: Accelerators and variants that exist.
        budgets: The ceilings for what is planned.

    """
    sources = {source.key: source for source in inputs.variants}
    capped = {key: target for key, target in targets.items() if key in sources}
    if not budgets:
        return dict(targets)
    for only_moves in (True, False):
        for budget in budgets:
            counted = [key for key in sorted(capped) if applies(budget, sources[key], budgets)]
            taken = [
                use(
                    inputs,
                    sources[key],
                    decisions[key].candidate.accelerator or sources[key].accelerator,
                    capped[key].replicas,
                )
                for key in counted
            ]
            if not _exceeded(budget, taken):
                continue
            for key in counted:
                capped[key] = _within(
                    capped[key], decisions[key], present.get(key), carried, only_moves=only_moves
                )
    return {**targets, **capped}


def _within(
    target: StableTarget,
    decision: planning.Decision,
    present: int | None,
    carried: frozenset[str],
    *,
    only_moves: bool,
) -> StableTarget:
    planned = decision.candidate.replicas
    if only_moves:
        if decision.group in carried and present is not None and target.replicas > present:
            why = (
                f"{present} instead of {planned}: a budget has no room for a move between variants"
            )
            return replace(target, replicas=present, reason=why)
        return target
    if target.replicas > planned:
        return replace(
            target, replicas=planned, reason="a budget has no room for replicas that only stay"
        )
    return target


def _exceeded(budget: Budget, taken: Sequence[Use]) -> bool:
    if budget.cost != UNLIMITED and sum(item.cost for item in taken) > budget.cost + _EPSILON:
        return True
    if budget.devices != UNLIMITED and sum(item.devices for item in taken) > budget.devices:
        return True
    return any(
        limit != UNLIMITED and sum(item.by_name.get(name, 0) for item in taken) > limit
        for name, limit in budget.devices_by_type.items()
    )

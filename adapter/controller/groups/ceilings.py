"""Ceilings of budgets beside what is planned: variants whose targets are held, and replicas that only stay.

The planner keeps its own plan within every ceiling. What is not planned in a cycle counts too, and so do
replicas that stay until others are ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.controller import stabilization
from adapter.controller.stabilization import StableTarget
from adapter.planning import plan as planning
from adapter.planning.groups import EVERY, UNLIMITED, Budget, without_role
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
    unit = inputs.accelerator_named.get(accelerator)
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


_BudgetOfSubject = tuple[int, str | None]
"""Index of a budget, and the namespace or class that `EVERY` stands for; None where it names its own."""


class _Counting:
    """Which budgets count a variant; `EVERY` counts those without one of their own."""

    def __init__(self, budgets: Iterable[Budget]) -> None:
        self._by_subject: dict[tuple[str, str], list[int]] = {}
        for index, budget in enumerate(budgets):
            subject = "" if budget.scope == "installation" else budget.subject
            self._by_subject.setdefault((budget.scope, subject), []).append(index)

    def of(self, source: VariantSource) -> Iterator[_BudgetOfSubject]:
        """Places of the budgets that count a variant."""
        for index in self._by_subject.get(("installation", ""), ()):
            yield index, None
        service_class = without_role(source.service_class)
        for scope, own in (("namespace", source.namespace), ("class", service_class)):
            indices = self._by_subject.get((scope, own), ())
            for index in indices or self._by_subject.get((scope, EVERY), ()):
                yield index, None if indices else own


class _Taken:
    """What several uses take together."""

    __slots__ = ("by_name", "cost", "devices")

    def __init__(self) -> None:
        self.cost = 0.0
        self.devices = 0
        self.by_name: dict[str, int] = {}

    def add(self, use: Use) -> None:
        self.cost += use.cost
        self.devices += use.devices
        for name, number in use.by_name.items():
            self.by_name[name] = self.by_name.get(name, 0) + number


def remaining(budgets: Sequence[Budget], uses: Iterable[Use]) -> tuple[Budget, ...]:
    """The ceilings less what is taken by variants that are not planned."""
    counting = _Counting(budgets)
    taken: dict[_BudgetOfSubject, _Taken] = {}
    for item in uses:
        for place in counting.of(item.source):
            taken.setdefault(place, _Taken()).add(item)
    rest = {
        (index, own): replace(
            budgets[index],
            cost=_less(budgets[index].cost, used.cost),
            devices=int(_less(budgets[index].devices, used.devices)),
            devices_by_type={
                name: int(_less(limit, used.by_name.get(name, 0)))
                for name, limit in budgets[index].devices_by_type.items()
            },
        )
        for (index, own), used in taken.items()
    }
    # A namespace or class with one of its own is in none for every one: then it has all of those apart.
    changed = {
        (budget.scope, own) for (index, own), budget in rest.items() if budget != budgets[index]
    }
    budgets_left, apart = list(budgets), []
    for (index, own), budget in rest.items():
        if own is None:
            budgets_left[index] = budget
        elif (budget.scope, own) in changed:
            apart.append(replace(budget, subject=own, name=f"{budget.name} ({own})"))
    return (*budgets_left, *apart)


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


def _order(item: tuple[_BudgetOfSubject, object]) -> tuple[int, str]:
    """Budgets as they are given, and of one for all the namespaces or classes by name."""
    (index, own), _ = item
    return index, own or ""


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
    if not budgets:
        return dict(targets)
    capped: dict[str, StableTarget] = {}
    sources = {source.key: source for source in inputs.variants}
    counting, counted = _Counting(budgets), dict[_BudgetOfSubject, list[str]]()
    for key in sorted(targets.keys() & sources.keys()):
        capped[key] = targets[key]
        for place in counting.of(sources[key]):
            counted.setdefault(place, []).append(key)
    for only_moves in (True, False):
        for (index, _), keys in sorted(counted.items(), key=_order):
            taken = _Taken()
            for key in keys:
                accelerator = decisions[key].candidate.accelerator or sources[key].accelerator
                taken.add(use(inputs, sources[key], accelerator, capped[key].replicas))
            if not _exceeded(budgets[index], taken):
                continue
            for key in keys:
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


def _exceeded(budget: Budget, taken: _Taken) -> bool:
    if budget.cost != UNLIMITED and taken.cost > budget.cost + _EPSILON:
        return True
    if budget.devices != UNLIMITED and taken.devices > budget.devices:
        return True
    return any(
        limit != UNLIMITED and taken.by_name.get(name, 0) > limit
        for name, limit in budget.devices_by_type.items()
    )

"""Devices and budgets as resources of a placement, and what each replica takes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adapter.planning import fleet as fleets
from adapter.planning.groups import EVERY, Budget, without_role
from adapter.planning.options import AcceleratorOption
from optimizer.placement.problem import Resource
from optimizer.problem import with_wider


def namespace_of(variant: fleets.Variant) -> str:
    """Namespace that budgets count a variant in; empty where there is none."""
    return variant.namespace or variant.name.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A resource and whose replicas count in it.

    Attributes:
        devices: device type or accelerator that is counted; empty counts all; None counts cost.

    """

    resource: Resource
    devices: str | None
    scope: str = "installation"
    subject: str = ""

    def amount(self, option: AcceleratorOption, namespace: str) -> float:
        """What one replica takes."""
        variant, accelerator = option.variant, option.accelerator
        if self.scope == "namespace" and self.subject != namespace:
            return 0.0
        if self.scope == "class" and self.subject != without_role(variant.service_class):
            return 0.0
        units = option.profile.accelerator_count
        if self.devices is None:
            return accelerator.unit_cost * units
        if self.devices in ("", accelerator.device_type):
            return float(units * accelerator.multiplicity)
        return float(units) if self.devices == accelerator.name else 0.0


class Ceilings:
    """All resources of a fleet.

    Args:
        fleet: The fleet with its capacity and budgets.

    Attributes:
        resources: devices by type, then the ceilings of budgets.

    """

    def __init__(self, fleet: fleets.Fleet) -> None:
        counted = [
            _Counted(Resource(f"capacity {kind}", float(count), "devices"), kind)
            for kind, count in (fleet.capacity or {}).items()
        ]
        if fleet.capacity is not None:
            kinds = {item.device_type for item in fleet.accelerators} - fleet.capacity.keys()
            counted += [
                _Counted(Resource(f"capacity {kind}", 0.0, "devices"), kind)
                for kind in sorted(kinds)
            ]
        self.capacities, self._within = len(counted), fleet.within
        subjects = _Subjects(fleet)
        for budget in fleet.budgets:
            for subject in subjects.of(budget):
                counted += _of_budget(budget, subject)
        self._counted = counted
        self._by_type: dict[str | None, list[int]] = {}
        self._by_subject: dict[tuple[str, str], list[int]] = {}
        for index, item in enumerate(counted):
            if index < self.capacities:
                self._by_type.setdefault(item.devices, []).append(index)
            else:
                self._by_subject.setdefault((item.scope, item.subject), []).append(index)
        self.resources = tuple(item.resource for item in counted)

    def uses(self, option: AcceleratorOption, namespace: str) -> tuple[tuple[int, float], ...]:
        """What one replica of an option takes of each resource."""
        device = option.accelerator.device_type
        devices = with_wider(option.variant.narrowed.get(device, device), self._within)
        number = float(option.profile.accelerator_count * option.accelerator.multiplicity)
        types = {index for kind in devices for index in self._by_type.get(kind, ())}
        indices = [
            *types,
            *self._by_subject.get(("installation", ""), ()),
            *self._by_subject.get(("namespace", namespace), ()),
            *self._by_subject.get(("class", without_role(option.variant.service_class)), ()),
        ]
        amounts = (
            (index, number if index in types else self._counted[index].amount(option, namespace))
            for index in sorted(indices)
        )
        return tuple((index, amount) for index, amount in amounts if amount)


class _Subjects:
    """Whom budgets are about: one, or everyone without a budget of their own."""

    def __init__(self, fleet: fleets.Fleet) -> None:
        self._fleet = fleet
        self._every: dict[str, list[str]] = {}

    def of(self, budget: Budget) -> Sequence[str]:
        """The namespaces or classes, or the installation."""
        if budget.scope == "installation" or budget.subject != EVERY:
            return [budget.subject]
        if budget.scope not in self._every:
            self._every[budget.scope] = self._without_own(budget.scope)
        return self._every[budget.scope]

    def _without_own(self, scope: str) -> list[str]:
        fleet = self._fleet
        own = {item.subject for item in fleet.budgets if item.scope == scope}
        if scope == "class":
            there = {without_role(variant.service_class) for variant in fleet.variants}
        else:
            of = {name: group.namespace for group in fleet.groups for name in group.variants}
            there = {namespace_of(item) or of.get(item.name, "") for item in fleet.variants}
        return sorted(there - own)


def _of_budget(budget: Budget, subject: str) -> Iterator[_Counted]:
    name = f"budget {budget.name}"
    if budget.subject == EVERY and budget.scope != "installation":
        name += f" ({subject})"
    limits: list[tuple[str, float, str, str | None]] = [
        (f"{name}: cost", budget.cost, "cents/h", None),
        (f"{name}: devices", float(budget.devices), "devices", ""),
    ]
    limits += [
        (f"{name}: {kind}", float(count), "devices", kind)
        for kind, count in budget.devices_by_type.items()
    ]
    for title, limit, unit, devices in limits:
        if limit >= 0:
            yield _Counted(Resource(title, limit, unit), devices, budget.scope, subject)

"""What one reconcile cycle asks of the planner, and what is decided without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from adapter.controller import stabilization
from adapter.controller.groups import ceilings
from adapter.controller.groups.keeper import GroupPlan
from adapter.controller.groups.planned import asked
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, fleet_of
from adapter.controller.state import VariantRecord
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Budget
from adapter.resources.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A reconcile cycle before planning.

    Attributes:
        fleet: Input of the planner.
        decided: Decisions of the saturation rule for variants that cannot be planned, by key.
        saturated: Decisions of that rule for all variants without a given profile, by key.
        capacity: Devices for all of them, by type; None: unlimited.
        budgets: Ceilings for what is planned.

    """

    fleet: fleet.Fleet
    decided: Mapping[str, planning.Decision]
    saturated: Mapping[str, planning.Decision]
    capacity: Mapping[str, int] | None
    budgets: tuple[Budget, ...]

    def completed(self, plan: planning.Plan) -> planning.Plan:
        """The plan with what the rule decided, also for learned profiles that cannot be planned with."""
        aside = {
            key: plan.set_aside[group.name]
            for group in self.fleet.groups
            if group.name in plan.set_aside
            for key in group.variants
            if key not in plan.decisions
        } | dict(plan.set_aside)
        fallback = {key: self.saturated[key] for key in self.saturated.keys() & aside.keys()}
        decisions = {**plan.decisions, **self.decided, **fallback}
        return replace(plan, decisions=decisions, set_aside=aside)


def request(
    inputs: Inputs,
    sized: Mapping[str, SizedVariant],
    grouped: GroupPlan,
    records: Mapping[str, VariantRecord],
    settings: LoopSettings,
) -> Request:
    """The request of a cycle.

    Args:
        inputs: Objects that exist.
        sized: The variants of this cycle by key.
        grouped: The groups of this cycle.
        records: Records of variants by key.
        settings: Settings of the control loop.

    """
    variants = {key: item.variant for key, item in sized.items() if item.variant is not None}
    variants |= grouped.variants
    saturated = {key: item.saturation for key, item in sized.items() if item.saturation is not None}
    known = variants.keys() | saturated.keys()
    capacity = stabilization.free_capacity(
        inputs, [source for source in inputs.variants if source.key not in known]
    )
    decided, free_capacity = stabilization.within_capacity(
        {key: saturated[key] for key in saturated.keys() - variants.keys()}, inputs, capacity
    )
    unplanned = {
        key: decided[key].candidate.replicas if key in decided else asked(item)
        for key, item in records.items()
        if key not in variants
    }
    budgets = ceilings.unplanned(settings.budgets, inputs, unplanned)
    return Request(
        fleet=fleet_of(
            inputs,
            variants.values(),
            capacity=free_capacity,
            settings=settings,
            groups=grouped.groups,
            budgets=budgets,
        ),
        decided=decided,
        saturated=saturated,
        capacity=capacity,
        budgets=budgets,
    )

"""Targets from what was planned: steady over time, and within devices and budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from adapter.controller import stabilization
from adapter.controller.cycle.unforeseen import Unforeseen
from adapter.controller.demand import SizingRate
from adapter.controller.groups import ceilings
from adapter.controller.settings import LoopSettings
from adapter.controller.stabilization import StableTarget
from adapter.controller.state import VariantRecord
from adapter.planning import plan as planning
from adapter.planning.groups import Budget
from adapter.resources.inputs import Inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What bounds the targets of one reconcile cycle.

    Attributes:
        inputs: Objects that were planned with.
        capacity: Devices that were planned with, by type; None: unlimited.
        settings: Settings of the control loop.
        budgets: Ceilings for what was planned.
        carried: Groups whose present replicas carry their demand.

    """

    inputs: Inputs
    capacity: Mapping[str, int] | None
    settings: LoopSettings
    budgets: tuple[Budget, ...]
    carried: frozenset[str]


def stabilized(
    before: Mapping[str, VariantRecord],
    plan: planning.Plan,
    stepped: Mapping[str, StableTarget],
    bounds: Bounds,
    *,
    rates: Mapping[str, SizingRate],
    partial: Collection[str],
    unforeseen: Unforeseen,
    now: float,
) -> tuple[Mapping[str, StableTarget], dict[str, VariantRecord]]:
    """Targets of the variants that the plan serves, and their records with the recommendations.

    Args:
        before: Records by variant key.
        plan: What was planned.
        stepped: Targets of members of groups, which are stable already: a group steps as one.
        bounds: What bounds the targets.
        rates: Rates that variants were sized for, by key.
        partial: Keys of variants of whose load only a part is known.
        unforeseen: Errors of single variants.
        now: Monotonic seconds.

    """
    records = dict(before)
    targets: dict[str, StableTarget] = {}
    for key, decision in plan.decisions.items():
        item = records.get(key)
        if item is None or (decision.served == "none" and key not in stepped):
            continue
        rate = rates.get(key)
        try:
            targets[key] = stepped.get(key) or stabilization.apply(
                item.stabilization,
                decision,
                published=item.state.desired,
                accelerator=item.state.accelerator or item.source.accelerator,
                present=item.source.spec_replicas,
                maximum=item.source.max_replicas,
                now=now,
                limits=bounds.settings.limits_for(item.source),
                brief=rate is not None and rate.in_flight > 0,
                rising=rate is not None and rate.rising,
                partial=key in partial,
                rate_rps=None if rate is None else rate.rate_rps - rate.backlog_rps,
            )
        except Exception as error:  # noqa: BLE001 - logged; one variant must not stop all
            why = unforeseen.clause("its target cannot be stabilized", key, error)
            last = item.state.desired
            replicas = decision.candidate.replicas if last is None else last
            targets[key] = StableTarget(replicas=replicas, reason=why)
        records[key] = replace(item, stabilization=targets[key].stabilization)
    if bounds.capacity is not None:
        targets = stabilization.release_devices(
            targets, plan.decisions, bounds.inputs, bounds.capacity
        )
    return _within_budgets(targets, plan, records, bounds), records


def _within_budgets(
    targets: Mapping[str, StableTarget],
    plan: planning.Plan,
    records: Mapping[str, VariantRecord],
    bounds: Bounds,
) -> dict[str, StableTarget]:
    desired = {key: item.state.desired for key, item in records.items()}
    return ceilings.within(
        targets,
        plan.decisions,
        {key: number for key, number in desired.items() if number is not None},
        carried=bounds.carried,
        inputs=bounds.inputs,
        budgets=bounds.budgets,
    )

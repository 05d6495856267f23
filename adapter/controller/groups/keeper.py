"""Owns one record per group: pools its demand before planning, and steps to its plan afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from adapter.collector import gateway
from adapter.controller import demand
from adapter.controller.groups import planned, transitions, waking
from adapter.controller.groups.availability import NO_LIMIT
from adapter.controller.groups.demanded import Cycle, ready, startup
from adapter.controller.groups.planned import PlannedGroup, asked, unit_cost
from adapter.controller.groups.state import GroupRecord, GroupState
from adapter.controller.groups.transitions import Part
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant
from adapter.controller.stabilization import StableTarget
from adapter.controller.state import VariantRecord
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Group
from adapter.resources.configuration import attainable
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups.forming import ModelGroup
from adapter.resources.variant import VariantSource

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """All groups of one reconcile cycle before planning.

    Attributes:
        groups: What the planner gets of each.
        variants: Their variants by key, with their bounds as members.
        planned: The groups by name.

    """

    groups: tuple[Group, ...] = ()
    variants: Mapping[str, fleet.Variant] = field(default_factory=dict)
    planned: Mapping[str, PlannedGroup] = field(default_factory=dict)


class Groups:
    """The groups of a fleet; without any, nothing is different from variants that are alone."""

    def __init__(self) -> None:
        self._groups: tuple[ModelGroup, ...] = ()
        self._records: dict[str, GroupRecord] = {}
        self._by_member: dict[str, str] = {}

    @property
    def states(self) -> Mapping[str, GroupState]:
        """Groups after the last reconcile cycle, by name."""
        return {name: item.state for name, item in self._records.items() if item.state}

    def apply_inputs(self, inputs: Inputs, settings: LoopSettings) -> None:
        """Use the groups of new objects; one that stays keeps what is known of it."""
        self._groups = tuple(
            group for group in inputs.groups if group.named or settings.model_groups
        )
        self._records = {
            group.name: self._records.get(group.name, GroupRecord()) for group in self._groups
        }
        self._by_member = {key: group.name for group in self._groups for key in group.members}

    def forget(self) -> None:
        """Forget what this process planned before: another one has decided since."""
        self._records = {
            name: replace(item, since=None, demands=(), raised_at=None)
            for name, item in self._records.items()
        }

    def attached(self, record: VariantRecord, cycle: Cycle) -> VariantRecord:
        """The record of a variant with the state of its group, and with what replicas cost that only stay."""
        group = self._records.get(self._by_member.get(record.source.key, ""))
        state = record.state
        if group is None:
            return (
                record if state.group is None else replace(record, state=replace(state, group=None))
            )
        state = replace(state, group=group.state)
        decision = state.decision
        if decision is not None and decision.group and not decision.candidate.replicas:
            units = {p.accelerator: p.accelerator_count for p in record.source.profiles}
            unit = cycle.costs.get(state.accelerator, 0.0) * units.get(state.accelerator, 1)
            state = replace(state, cost=unit * (state.desired or 0))
        return replace(record, state=state)

    def starting(self, records: Mapping[str, VariantRecord]) -> frozenset[str]:
        """Keys of variants at zero replicas that the plan of their group starts."""
        return frozenset(
            key
            for key in self._by_member
            if (item := records.get(key)) is not None
            and item.source.spec_replicas == 0
            and (item.state.desired or 0) > 0
            and item.state.group is not None
            and not item.state.problem
        )

    def record_rates(
        self,
        rates: Iterable[tuple[str, float, float]],
        sources: Mapping[str, VariantRecord],
    ) -> bool:
        """Record arrival rates of variants; whether a group's exceeds what it was last sized for.

        A group's rate is known once every variant that serves has shown its own.

        Args:
            rates: Variant key, requests per second, and monotonic time.
            sources: Records of variants by key.

        """
        exceeded = False
        touched: set[str] = set()
        for key, rate, at in rates:
            name = self._by_member.get(key)
            if name is not None:
                record = self._records[name]
                self._records[name] = replace(record, rates={**record.rates, key: (rate, at)})
                touched.add(name)
        for group in self._groups:
            if group.name not in touched:
                continue
            record = self._records[group.name]
            serving = {
                key
                for key in group.members
                if (item := sources.get(key)) is not None and ready(item.source) > 0
            }
            if not serving <= record.rates.keys():
                continue
            total = sum(rate for rate, _ in record.rates.values())
            at = max(at for _, at in record.rates.values())
            sized = 0.0 if record.state is None else record.state.demand_rpm / 60.0
            if record.state is not None and record.state.decision is not None:
                exceeded |= demand.exceeds_forecast(record.trend, total, at=at, sized_rps=sized)
            self._records[group.name] = replace(
                record, rates={}, trend=demand.record(record.trend, total, at=at)
            )
        return exceeded

    def is_member(self, key: str) -> bool:
        """Whether a variant is in a group."""
        return key in self._by_member

    def to_wake(
        self,
        inputs: Inputs,
        waiting: Mapping[gateway.ModelKey, gateway.Demand],
        settings: LoopSettings,
    ) -> frozenset[str]:
        """Keys of variants to start because requests came for a model without replicas.

        The variant of a group is chosen by start-up and cost; a variant alone is the cheapest of its model.
        """
        sources = {source.key: source for source in inputs.variants}
        keys = demand.variants_to_wake(inputs, waiting)
        costs = {item.name: item.unit_cost for item in inputs.accelerators}
        chosen = set()
        for key in keys:
            name = self._by_member.get(key)
            if name is None:
                chosen.add(key)
                continue
            members = [sources[k] for k in self._members(name) if k in sources]
            if any(source.replicas or source.spec_replicas for source in members):
                continue  # others of its group serve, or come
            chosen.add(self._wake(name, members, costs, settings))
        return frozenset(chosen)

    def _members(self, name: str) -> tuple[str, ...]:
        return next((group.members for group in self._groups if group.name == name), ())

    def _wake(
        self,
        name: str,
        members: Iterable[VariantSource],
        costs: Mapping[str, float],
        settings: LoopSettings,
    ) -> str:
        record = self._records[name]
        sleepers = [
            waking.Sleeper(
                key=source.key,
                startup_seconds=startup(record, source, settings),
                cost=min(
                    (costs.get(p.accelerator, 0.0) * p.accelerator_count for p in source.profiles),
                    default=costs.get(source.accelerator, 0.0),
                ),
                able=not attainable.problem(source.profiles, source.targets)
                and record.limits.get(source.key, NO_LIMIT).replicas != 0
                and source.max_replicas != 0
                and not source.held,
            )
            for source in members
        ]
        key, why = waking.first(sleepers)
        if record.state is not None and record.state.waking != why:
            self._records[name] = replace(record, state=replace(record.state, waking=why))
        return key

    def plan(
        self,
        sized: Mapping[str, SizedVariant],
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> GroupPlan:
        """What the planner gets of all groups."""
        found: dict[str, PlannedGroup] = {}
        for group in self._groups:
            item = planned.plan_group(self._records[group.name], group, sized, records, cycle)
            self._records[group.name] = replace(item.record, state=item.state)
            found[group.name] = item
        return GroupPlan(
            groups=tuple(item.group for item in found.values() if item.group is not None),
            variants={
                key: value for item in found.values() for key, value in item.variants.items()
            },
            planned=found,
        )

    def step(
        self,
        before: GroupPlan,
        plan: planning.Plan,
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> dict[str, StableTarget]:
        """Targets of all planned members: more at once, fewer once those that replace them are ready."""
        targets: dict[str, StableTarget] = {}
        for name, item in before.planned.items():
            if name not in self._records or item.group is None:
                continue
            targets |= self._step(name, item, plan, records, cycle)
        return targets

    def _step(
        self,
        name: str,
        item: PlannedGroup,
        plan: planning.Plan,
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> dict[str, StableTarget]:
        record = self._records[name]
        decision = plan.groups.get(name)
        decided = {
            key: plan.decisions[key]
            for key in item.variants
            if key in plan.decisions and key in records
        }
        if decision is None or decision.served == "none" or not decided:
            problem = plan.set_aside.get(name, "") or (
                decision.reason if decision else "not planned"
            )
            self._records[name] = replace(
                record, state=replace(item.state, decision=decision, problem=problem)
            )
            return {}
        parts = [
            _part(
                decided[key],
                item,
                records[key],
                per_thousand=decision.marginal_costs.get(key, 0.0),
                cycle=cycle,
            )
            for key in decided
        ]
        step = transitions.step(
            parts, demand_rps=decision.demand_rpm / 60.0, routing=item.state.routing
        )
        since = cycle.now if record.since is None else record.since
        step = self._settled(step, parts, since=since, records=records, cycle=cycle)
        limits = cycle.settings.limits
        step = transitions.limited(step, parts, up=limits.step_up, down=limits.step_down)
        raised = any(step.replicas[part.key] > part.target for part in parts)
        state = replace(
            item.state, decision=decision, targets=step.replicas, held=step.reasons, problem=""
        )
        self._records[name] = replace(
            record,
            state=state,
            since=since,
            raised_at=cycle.now if raised else record.raised_at,
        )
        return {
            key: StableTarget(
                replicas=step.replicas[key],
                reason=step.reasons.get(key, ""),
                stabilization=replace(
                    records[key].stabilization, accelerator=decided[key].candidate.accelerator
                ),
            )
            for key in decided
        }

    def _settled(
        self,
        step: transitions.Step,
        parts: Iterable[Part],
        *,
        since: float,
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> transitions.Step:
        """The step without fewer replicas while nothing is known of the demand of the last window."""
        replicas, reasons = dict(step.replicas), dict(step.reasons)
        for part in parts:
            window = cycle.settings.limits_for(records[part.key].source).down_seconds
            left = since + window - cycle.now
            if window > 0 and left > 0 and replicas[part.key] < part.target:
                replicas[part.key] = part.target
                reasons[part.key] = (
                    f"held at {part.target} for {left:.0f} s more: the demand of the stabilization window is"
                    " not known yet"
                )
        return transitions.Step(replicas=replicas, reasons=reasons)


def _part(
    decision: planning.Decision,
    item: PlannedGroup,
    record: VariantRecord,
    *,
    per_thousand: float,
    cycle: Cycle,
) -> Part:
    """One variant in the transition; `per_thousand`: cents per 1,000 requests of one replica more."""
    candidate, source = decision.candidate, record.source
    key = source.key
    cost = candidate.cost / candidate.replicas if candidate.replicas else 0.0
    rate = candidate.max_rate_rpm / 60.0
    if not candidate.replicas:
        cost = unit_cost(item.variants[key], cycle.costs)
        # Cents per hour over cents per 1,000 requests: thousands of requests per hour.
        rate = cost / per_thousand / 3.6 if per_thousand > 0 else 0.0
    present = record.state.accelerator or source.accelerator
    other = bool(candidate.accelerator) and bool(present) and candidate.accelerator != present
    weight = 1.0 if item.group is None else item.group.members[key].weight
    return Part(
        key=key,
        planned=candidate.replicas,
        # Replicas of another accelerator are another number.
        target=candidate.replicas if other else asked(record),
        ready=ready(source),
        rate_rps=rate,
        cost=cost,
        weight=weight,
    )

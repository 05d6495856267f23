"""Owns one record per group: pools its demand before planning, and steps to its plan afterwards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import structlog

from adapter.collector import gateway
from adapter.controller import demand
from adapter.controller.demand import work
from adapter.controller.estimates import prior
from adapter.controller.estimates.lengths import of_traffic
from adapter.controller.groups import planned, stepping, waking
from adapter.controller.groups.demanded import Cycle, ready
from adapter.controller.groups.planned import PlannedGroup
from adapter.controller.groups.state import Configuration, GroupRecord, GroupState
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant
from adapter.controller.stabilization import StableTarget
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Ceiling, Group
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
        sized: Variants by key that are planned though none of their replicas serves.
        planned: The groups by name.

    """

    groups: tuple[Group, ...] = ()
    variants: Mapping[str, fleet.Variant] = field(default_factory=dict)
    sized: Mapping[str, SizedVariant] = field(default_factory=dict)
    planned: Mapping[str, PlannedGroup] = field(default_factory=dict)


class Groups:
    """The groups of a fleet; without any, nothing is different from variants that are alone."""

    def __init__(self) -> None:
        self._groups: dict[str, ModelGroup] = {}
        self._records: dict[str, GroupRecord] = {}
        self._by_member: dict[str, str] = {}
        self._ceilings: tuple[Ceiling, ...] = ()

    @property
    def states(self) -> Mapping[str, GroupState]:
        """Groups after the last reconcile cycle, by name."""
        return {name: item.state for name, item in self._records.items() if item.state}

    @property
    def ceilings(self) -> tuple[Ceiling, ...]:
        """Ceilings of the last plan, and what it takes of them."""
        return self._ceilings

    @property
    def carried(self) -> frozenset[str]:
        """Names of groups whose present replicas carry their demand without those that the last plan adds."""
        return frozenset(name for name, item in self._records.items() if item.carried)

    def apply_inputs(self, inputs: Inputs, settings: LoopSettings) -> None:
        """Use the groups of new objects; one that stays keeps what is known of it."""
        self._groups = {
            group.name: group for group in inputs.groups if group.named or settings.model_groups
        }
        sources = {source.key: source for source in inputs.variants}
        self._records = {
            name: _configured(
                self._records.get(name, GroupRecord()),
                _configuration(group, sources, inputs, settings),
                _own(group),
            )
            for name, group in self._groups.items()
        }
        self._by_member = {
            key: name for name, group in self._groups.items() for key in group.members
        }

    def forget(self) -> None:
        """Forget what this process planned before: another one has decided since."""
        self._records = {
            name: replace(
                item,
                since=None,
                demands=(),
                raised_at=None,
                changed_at=None,
                move_since=None,
                reconfigured=False,
            )
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
            units = record.source.units(state.accelerator) or 1
            unit = cycle.costs.get(state.accelerator, 0.0) * units
            state = replace(state, cost=unit * (state.desired or 0))
        return replace(record, state=state)

    def starting(self, states: Mapping[str, VariantState]) -> frozenset[str]:
        """Keys of variants at zero replicas that the plan of their group starts."""
        return frozenset(
            key
            for key in self._by_member
            if (state := states.get(key)) is not None
            and state.source.spec_replicas == 0
            and (state.desired or 0) > 0
            and state.group is not None
            and not state.problem
        )

    def record_rates(
        self,
        rates: Iterable[tuple[str, float, float]],
        sources: Mapping[str, VariantRecord],
    ) -> list[str]:
        """Record arrival rates of variants; keys of those whose group's exceeds what it was last sized for.

        A group's rate is known once every variant that serves has shown its own.

        Args:
            rates: Variant key, requests per second, and monotonic time.
            sources: Records of variants by key.

        """
        exceeded: list[str] = []
        touched: set[str] = set()
        moved: set[str] = set()
        for key, rate, at in rates:
            name = self._by_member.get(key)
            if name is not None:
                record = self._records[name]
                self._records[name] = replace(record, rates={**record.rates, key: (rate, at)})
                touched.add(name)
                moved.add(key)
        for name in touched:
            keys = self._groups[name].members
            serving = {
                key
                for key in keys
                if (item := sources.get(key)) is not None and ready(item.source) > 0
            }
            members = [item.source for key in keys if (item := sources.get(key))]
            record = self._records[name]
            # Of those that show a rate: none may be ready just now, and yet all be known for long.
            new = all(item.new for key in record.rates if (item := sources.get(key)))
            self._records[name], exceeds = with_rates(record, serving, members, new=new)
            exceeded += [key for key in keys if exceeds and key in moved]
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
            members = [sources[k] for k in self._groups[name].members if k in sources]
            if any(source.replicas or source.spec_replicas for source in members):
                continue  # others of its group serve, or come
            record = self._records[name]
            key_to_wake, why = waking.first(
                waking.sleeper(record, source, costs, settings) for source in members
            )
            chosen.add(key_to_wake)
            if record.state is not None and record.state.waking != why:
                self._records[name] = replace(record, state=replace(record.state, waking=why))
        return frozenset(chosen)

    def plan(
        self,
        sized: Mapping[str, SizedVariant],
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> GroupPlan:
        """What the planner gets of all groups."""
        planned_groups: dict[str, PlannedGroup] = {}
        for group in self._groups.values():
            try:
                item = planned.plan_group(self._records[group.name], group, sized, records, cycle)
            except Exception:
                # One group must not stop all; without it, its variants are sized by their own loads.
                log.exception("group not pooled; sizing its variants alone", group=group.name)
                continue
            self._records[group.name] = replace(item.record, state=item.state)
            planned_groups[group.name] = item
        return GroupPlan(
            groups=tuple(item.group for item in planned_groups.values() if item.group is not None),
            variants={
                key: value
                for item in planned_groups.values()
                for key, value in item.variants.items()
            },
            sized={
                key: value for item in planned_groups.values() for key, value in item.sized.items()
            },
            planned=planned_groups,
        )

    def step(
        self,
        before: GroupPlan,
        plan: planning.Plan,
        records: Mapping[str, VariantRecord],
        cycle: Cycle,
    ) -> dict[str, StableTarget]:
        """Targets of all planned members: more at once, fewer once those that replace them are ready.

        The ceilings of the plan are kept, whatever becomes of the groups.
        """
        self._ceilings = plan.ceilings
        targets: dict[str, StableTarget] = {}
        for name, item in before.planned.items():
            if name not in self._records or item.group is None:
                continue
            try:
                self._records[name], stepped = stepping.step(
                    self._records[name], item, plan, records, cycle
                )
            except Exception:
                log.exception(
                    "group transition failed; its variants follow the plan one by one", group=name
                )
                continue
            targets |= stepped
        return targets


def _own(group: ModelGroup) -> list[str]:
    """Keys of a group's variants of its own namespace: the others are guests."""
    return [key for key in group.members if key.startswith(f"{group.namespace}/")]


_of_variant = attrgetter(
    "service_class",
    "targets",
    "profiles",
    "min_replicas",
    "max_replicas",
    "keep_accelerator",
    "scale_to_zero",
    "routing",
    "membership",
    "interruptible",
    "interruptible_share",
)
_of_settings = attrgetter(
    "policy",
    "budgets",
    "routing",
    "interruptible_share",
    "stability_margin",
    "scale_to_zero",
    "keep_accelerator",
)


def _configuration(
    group: ModelGroup,
    sources: Mapping[str, VariantSource],
    inputs: Inputs,
    settings: LoopSettings,
) -> Configuration:
    """What people have set that the plan of a group depends on: variants, class, prices and settings."""
    members = [sources[key] for key in group.members if key in sources]
    own = [item for item in members if item.namespace == group.namespace]
    guests = [item for item in members if item.namespace != group.namespace]
    alone = replace(group, members=tuple(_own(group)))
    return Configuration(
        own=_configuration_of(own, alone, inputs, settings),
        guests=_configuration_of(guests, group, inputs, settings),
    )


def _configuration_of(
    members: Sequence[VariantSource], group: ModelGroup, inputs: Inputs, settings: LoopSettings
) -> object:
    names = sorted({item.accelerator for source in members for item in source.profiles})
    return (
        group,
        [_of_variant(source) for source in members],
        # The rest of what only a variant prices is what its pods show.
        [own.unit_cost if (own := source.own_accelerator) else None for source in members],
        [inputs.accelerator_named.get(name) for name in names],
        [c.priority for c in inputs.service_classes if c.name == group.service_class],
        _of_settings(settings),
    )


def _configured(
    record: GroupRecord, configuration: Configuration, own: Collection[str]
) -> GroupRecord:
    """The record with what is set now; what replicas carried says nothing once they must serve otherwise.

    A guest that comes and goes has no move of the load wait anew; `own`: keys of those that are no guests.
    """
    before, record = record.configuration, replace(record, configuration=configuration)
    if before == configuration or record.since is None:
        return record
    if before is None or before.own != configuration.own:
        return replace(record, reconfigured=True, move_since=None, worths=())
    worths = tuple(
        replace(item, rates_rps={key: rate for key, rate in item.rates_rps.items() if key in own})
        for item in record.worths
    )
    return replace(record, reconfigured=True, worths=worths)


def with_rates(
    record: GroupRecord,
    serving: Collection[str],
    members: Sequence[VariantSource] = (),
    *,
    new: bool = False,
) -> tuple[GroupRecord, bool]:
    """The record with the trend of its rate, and whether that exceeds what the group was last sized for.

    Args:
        record: With the rates of members since the last one of the trend.
        serving: Keys of members that serve: the group's rate is known once each has shown its own.
        members: All of them; sizes of requests are those of the first one with a profile.
        new: Whether none of the members that show a rate had a target before.

    """
    if not frozenset(serving) <= record.rates.keys():
        return record, False
    if record.outage is not None:
        # What an outage keeps away, and lets through all at once then, is no trend.
        return replace(record, rates={}), False
    total = sum(rate for rate, _ in record.rates.values())
    at = max(at for _, at in record.rates.values())
    state = record.state
    exceeds = (
        state is not None
        and state.decision is not None
        and demand.exceeds_forecast(record.trend, total, at=at, sized_rps=state.demand_rpm / 60.0)
    )
    record = replace(
        record,
        rates={},
        trend=demand.record(record.trend, total, at=at, new=new),
        work=_work(record, members, total, at=at),
    )
    return record, exceeds


def _work(
    record: GroupRecord, members: Sequence[VariantSource], rate: float, *, at: float
) -> work.Work | None:
    """The group's work after one more rate; as before while the lengths of its requests are not known."""
    profiles = (prior.current_profile(source) for source in members)
    profile = next((item for item in profiles if item is not None), None)
    if record.traffic is None or profile is None:
        return record.work
    return work.record(record.work, profile, of_traffic(record.traffic), rate, at=at)

"""A reconcile cycle: every variant is observed, sized, planned, stabilized and published.

Requests are served between the steps, so the objects may change during a cycle: what is replaced is always
the record as it is at that moment.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.collector.observation import Observation
from adapter.controller import demand, reactions
from adapter.controller import state as states
from adapter.controller.cycle.attainment import with_feedback
from adapter.controller.cycle.request import request
from adapter.controller.cycle.targets import Bounds, stabilized
from adapter.controller.cycle.unforeseen import Unforeseen
from adapter.controller.demand import GatewayDemand
from adapter.controller.groups.demanded import Cycle
from adapter.controller.groups.keeper import Groups
from adapter.controller.history import decisions
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, Sizing
from adapter.controller.stabilization import Stabilization, StableTarget
from adapter.controller.state import Moment, VariantRecord
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.serving.pools import fair
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore

log = structlog.get_logger()

PUBLISHED_AT_ONCE = 50
"""Variants that a cycle publishes in one turn of the event loop: some milliseconds."""

Planner = Callable[[fleet.Fleet], Awaitable[planning.Plan]]


class Reconciler:
    """Owns one record per variant; every transition replaces records and publishes them together."""

    def __init__(
        self,
        *,
        collector: Collector,
        store: TargetStore,
        clock: Clock,
        planner: Planner,
        gateways: GatewayDemand,
    ) -> None:
        self._collector = collector
        self._store = store
        self._clock = clock
        self._planner = planner
        self._gateways = gateways
        self._inputs = Inputs()
        self._records: dict[str, VariantRecord] = {}
        self._busy: tuple[str, ...] = ()
        self._queues: dict[str, float] = {}
        self._unforeseen = Unforeseen()
        self.groups = Groups()

    @property
    def inputs(self) -> Inputs:
        """Objects in use."""
        return self._inputs

    @property
    def records(self) -> Mapping[str, VariantRecord]:
        """Records by variant key."""
        return self._records

    def replace_records(self, changed: Mapping[str, VariantRecord]) -> None:
        """Use and publish these records."""
        self._records |= changed
        self._store.replace_groups({key: item.served for key, item in changed.items()})

    def apply_inputs(self, inputs: Inputs, settings: LoopSettings, *, leading: bool) -> None:
        """Use new objects; targets of variants that were removed are withdrawn at once."""
        self._inputs = inputs
        self.groups.apply_inputs(inputs, settings)
        self._collector.use(inputs.variants)
        before, self._records = self._records, {}
        for source in inputs.variants:
            self._records[source.key] = self._applied(
                before.get(source.key), source, settings, leading=leading
            )
        _log_withdrawn(before, self._records)
        if _served(before) != _served(self._records):
            self._publish()

    def forget_recommendations(self) -> None:
        """Drop what this process recommended before: another one has decided since."""
        self.groups.forget()
        self._records = {
            key: replace(item, stabilization=Stabilization()) for key, item in self._records.items()
        }

    def _applied(
        self,
        before: VariantRecord | None,
        source: VariantSource,
        settings: LoopSettings,
        *,
        leading: bool,
    ) -> VariantRecord:
        """A record with the objects of its variant; whatever these make of us is that variant's problem."""
        try:
            now = self._clock.time()
            if not leading and before is not None and _follows(before, source, now):
                return before
            item = states.of_source(before, source, settings.tuning)
            if not leading or not item.series:
                item = states.follow(item, moment_of(self._clock, settings), leading=leading)
        except Exception as error:  # noqa: BLE001 - logged; one variant must not stop all
            problem = self._unforeseen.clause("its objects cannot be used", source.key, error)
            return VariantRecord(state=states.VariantState(source=source, problem=problem))
        return item

    def fail(self, why: str, settings: LoopSettings) -> None:
        """Hold every target, because a cycle failed as a whole; each variant's state says why."""
        for key, item in self._records.items():
            self._records[key] = _held(item, why, self._clock, settings)
        self._publish()

    @property
    def busy(self) -> tuple[str, ...]:
        """Keys of variants whose requests wait or whose load has just moved; the longest queue first."""
        return self._busy

    @property
    def watched(self) -> tuple[str, ...]:
        """Keys of variants whose pods are scraped between two scrape cycles, busy ones first."""
        return reactions.watched(self._records, self._busy)

    def record_load(self, *, between: bool = False) -> Sequence[str]:
        """Record what a scrape showed; keys whose rate or queue exceeds what was last decided for."""
        exceeded, self._busy = reactions.record_load(
            self._collector, self._records, self.groups, self._busy, between=between
        )
        if not between:
            windows = self._collector.windows()
            self._queues = {key: item.waiting for key, item in windows.items()}
        return exceeded

    async def reconcile(self, settings: LoopSettings) -> None:
        """One reconcile cycle: from the load collected so far to published targets."""
        self._unforeseen.begin_cycle()
        cycle, sized = await self._size(settings)
        grouped = self.groups.plan(sized, self._records, cycle)
        sized |= grouped.sized
        inputs = self._inputs
        asked = request(inputs, sized, grouped, self._records, settings)
        plan = asked.completed(await self._planner(asked.fleet))
        stepped = self.groups.step(grouped, plan, self._records, cycle)
        targets, self._records = stabilized(
            self._records,
            plan,
            stepped,
            Bounds(
                inputs=inputs,
                capacity=asked.capacity,
                settings=settings,
                budgets=asked.budgets,
                carried=self.groups.carried,
            ),
            rates={k: item.rate for k, item in sized.items() if item.rate is not None},
            partial={k for k, item in sized.items() if not item.observation.complete},
            unforeseen=self._unforeseen,
            now=self._clock.monotonic(),
        )
        now = self._clock.time()
        decided: list[str] = []
        # Of each namespace in turn: those of one with thousands come no sooner than others'.
        for _, key in fair(((key.partition("/")[0], key) for key in sized), len(sized)):
            item = sized[key]
            await asyncio.sleep(0)  # requests are served in between
            if len(decided) == PUBLISHED_AT_ONCE:
                self._publish_some(decided)
                decided.clear()
            decided.append(key)
            before = self._records.get(key)
            if before is not None:
                moment = moment_of(self._clock, settings, now, item.observation)
                try:
                    after = _decide(before, item, plan, targets.get(key), moment)
                    self._records[key] = self.groups.attached(after, cycle)
                except Exception as error:  # noqa: BLE001 - logged; one variant must not stop all
                    why = self._unforeseen.clause("its decision cannot be used", key, error)
                    self._records[key] = states.hold(before, item.observation, why, moment)
        self._publish()

    async def _size(self, settings: LoopSettings) -> tuple[Cycle, dict[str, SizedVariant]]:
        """Every variant with its load, as far as it is known, and what the groups share."""
        observations: dict[str, Observation] = {}
        variants = self._inputs.variants
        for source in variants:
            if source.key in self._records:
                observations[source.key] = self._observed(source)
            await asyncio.sleep(0)
        now = self._clock.monotonic()
        observed, waiting = _arrival_rates(observations), self._gateways.waiting
        at_gateways = self._gateways.window.rates(now=now)
        rates = demand.credible(at_gateways, variants, observations)
        sizing = Sizing(
            settings=settings,
            rates=rates,
            parts=demand.gateway_parts(variants, observed, rates),
            costs={item.name: item.unit_cost for item in self._inputs.accelerators},
            gateway_demand=waiting,
            to_wake=self.groups.to_wake(self._inputs, waiting, settings),
            now=now,
        )
        sized = {}
        for source in variants:
            before, observation = self._records.get(source.key), observations.get(source.key)
            if before is not None and observation is not None:
                try:
                    item = replace(
                        before,
                        tuned=sizing.tune(before, source, observation),
                        state=with_feedback(
                            before.state, source, observation, settings=settings, now=now
                        ),
                    )
                    self._records[source.key] = item
                    sized[source.key] = sizing.size(item, source, observation)
                except Exception as error:  # noqa: BLE001 - logged; one variant must not stop all
                    what = "its load cannot be sized"
                    sized[source.key] = self._unforeseen.unsized(what, source.key, error)
            await asyncio.sleep(0)  # tuning takes its time
        cycle = Cycle(
            sizing=sizing,
            sources={source.key: source for source in variants},
            windows=self._collector.windows(),
        )
        return cycle, sized

    def _observed(self, source: VariantSource) -> Observation:
        """The load of one variant; one that cannot be read is a problem of that variant alone."""
        try:
            seen = self._collector.observe(source)
            if source.key not in self._busy:
                seen = reactions.without_momentary(seen, self._queues.get(source.key, math.inf))
            return self._gateways.applied(source, seen, now=self._clock.monotonic())
        except Exception as error:  # noqa: BLE001 - logged; one variant must not stop all
            return self._unforeseen.unsized(
                "its metrics cannot be used", source.key, error
            ).observation

    def _publish_some(self, keys: Iterable[str]) -> None:
        """Publish these; all at once would hold up the event loop, and a variant has no part in another's."""
        records = self._records
        self._store.replace_groups({key: records[key].served for key in keys if key in records})

    def _publish(self) -> None:
        self._store.publish_groups({key: item.served for key, item in self._records.items()})


def moment_of(
    clock: Clock,
    settings: LoopSettings,
    now: float | None = None,
    observation: Observation | None = None,
) -> Moment:
    """The present moment, or `now`; with the age of what was observed."""
    now = clock.time() if now is None else now
    age = 0.0 if observation is None else observation.age_seconds
    return Moment(
        now=now,
        valid_seconds=clock.real_seconds(settings.time_to_live),
        observed_at=now - clock.real_seconds(age),
    )


def _arrival_rates(observations: Mapping[str, Observation]) -> dict[str, float]:
    """Requests per second at the pods, of the variants whose traffic is known."""
    return {
        key: item.traffic.arrival_rate_rps
        for key, item in observations.items()
        if item.traffic is not None
    }


def _decide(
    before: VariantRecord,
    sized: SizedVariant,
    plan: planning.Plan,
    target: StableTarget | None,
    moment: Moment,
) -> VariantRecord:
    """The record with what this cycle decided, and its history with what that changed."""
    after = _decided(before, sized, plan, target, moment)
    return replace(after, state=decisions.recorded(before.state, after.state, now=moment.now))


def _decided(
    before: VariantRecord,
    sized: SizedVariant,
    plan: planning.Plan,
    target: StableTarget | None,
    moment: Moment,
) -> VariantRecord:
    """The record with its new target, or with the last one and why that is held."""
    key, observation = before.source.key, sized.observation
    if before.source.held:
        return states.hold(before, observation, before.source.held, moment)
    decision = plan.decisions.get(key)
    if decision is not None and decision.served != "none":
        # A variant that was removed and added again during the cycle was not stabilized.
        target = target or StableTarget(replicas=decision.candidate.replicas)
        notes = (*sized.notes, *decision.notes)
        return states.publish(before, observation, decision, target, moment, notes=notes)
    why = observation.problem
    if sized.known:
        why = decision.reason if decision else plan.set_aside.get(key, "not planned")
    return states.hold(before, observation, why, moment)


def _follows(record: VariantRecord, source: VariantSource, now: float) -> bool:
    """Whether a record serves what the status of these objects holds; `now`: Unix time."""
    valid_until = record.series[0].valid_until if record.series else now
    return (
        (valid_until is None or valid_until > now)
        and not record.tuned
        and record.followed is not None
        and record.followed == source.published
        and record.source == source
    )


def _served(records: Mapping[str, VariantRecord]) -> object:
    return {key: item.served for key, item in records.items() if item.served}


def _held(record: VariantRecord, why: str, clock: Clock, settings: LoopSettings) -> VariantRecord:
    """The record with its last target, because a cycle failed as a whole."""
    observation = record.state.observation or Observation(
        traffic=None, metrics="MetricsMissing", problem=why
    )
    moment = moment_of(clock, settings, observation=observation)
    return states.hold(record, observation, why, moment)


def _log_withdrawn(before: Mapping[str, VariantRecord], after: Mapping[str, VariantRecord]) -> None:
    withdrawn = [key for key, item in before.items() if item.series and key not in after]
    if withdrawn:
        log.info("variants removed; their targets are withdrawn", variants=sorted(withdrawn))

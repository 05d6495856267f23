"""The control loop: collect, size, choose, publish.

It fails static: a variant whose metrics are missing, stale or incomplete keeps its last target until
that target's time to live ends, and its state says why. Missing data never scales anything down.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import structlog

from adapter.clock import Clock
from adapter.collector import gateway
from adapter.collector.collector import Collector
from adapter.collector.gateway import GatewayWindow
from adapter.collector.observation import Observation
from adapter.controller import demand, wake
from adapter.controller import state as states
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Looked, Sizing
from adapter.controller.stabilization import Steady, Steadying
from adapter.controller.state import VariantState
from adapter.controller.tuning import Tuning
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Contents, Refusal
from adapter.resources.variant import VariantSource
from adapter.store import Series, TargetStore

log = structlog.get_logger()

DEBOUNCE_SECONDS = 0.5
"""That a pass waits for more changes."""

Planner = Callable[[fleet.Fleet], Awaitable[planning.Plan]]


class ControlLoop:
    """Owns what is known about the variants and publishes their targets.

    Where another replica leads, targets are those that `.status` holds; `leading` says whether this one
    does. What was published stays published when that changes.
    """

    def __init__(
        self,
        *,
        collector: Collector,
        store: TargetStore,
        clock: Clock,
        planner: Planner,
        settings: LoopSettings,
        leading: bool = True,
    ) -> None:
        self.collector = collector
        self._store = store
        self._clock = clock
        self._planner = planner
        self.settings = settings
        self.leading = leading
        self.demand: Mapping[gateway.Place, gateway.Demand] = {}
        self.gateways = GatewayWindow(window_seconds=settings.collection.window)
        self.wanted = asyncio.Event()
        self._contents = Contents()
        self._published: dict[str, tuple[Series, ...]] = {}
        self.states: dict[str, VariantState] = {}
        self.tuning = Tuning(window_seconds=settings.collection.window, default=settings.tune)
        self._forecaster = demand.Forecaster()
        self._steadying = Steadying()
        self._waiting: Mapping[gateway.Place, gateway.Demand] = {}

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """VariantAutoscalings that are left out."""
        return self._contents.refused

    @property
    def contents(self) -> Contents:
        """The last reading of the objects."""
        return self._contents

    def use(self, contents: Contents) -> None:
        """Take a new reading of the objects; variants that are gone lose their targets at once."""
        if _matters(contents) != _matters(self._contents):
            self.wanted.set()
        self._contents = contents
        known = {source.key: source for source in contents.variants}
        self.collector.use(known.values())
        self.tuning.keep(known.values())
        self._forecaster.keep(known)
        self._steadying.keep(known)
        gone = self._published.keys() - known.keys()
        before = self._published
        self._published = {k: v for k, v in self._published.items() if k in known}
        self.states = {
            key: replace(self.states[key], source=source)
            if key in self.states
            else VariantState(source=source, problem="waiting for the first metrics")
            for key, source in known.items()
        }
        for key, source in known.items():
            if not self.leading or not self._published.get(key):
                self._follow(source)
        if gone:
            log.info("variants gone, targets withdrawn", variants=sorted(gone))
        if self._published != before:
            self._publish()

    def _follow(self, source: VariantSource) -> None:
        """Serve what `.status` holds, for as long as it is valid."""
        published, now = source.published, self._clock.time()
        until = None if published is None else published.decided_at + self._valid_seconds
        if published is None or until is None or until <= now or published.replicas < 0:
            if not self.leading:
                self._published.pop(source.key, None)
                self.states[source.key] = VariantState(
                    source=source, problem="its status holds no valid target"
                )
            return
        state = replace(
            self.states[source.key],
            desired=published.replicas,
            accelerator=published.accelerator or source.accelerator,
            decided_at=published.decided_at,
            problem="" if not self.leading else self.states[source.key].problem,
        )
        self.states[source.key] = state
        self._published[source.key] = states.series(state, valid_until=until)

    @property
    def _valid_seconds(self) -> float:
        return self._clock.real_seconds(self.settings.time_to_live)

    async def run(self, after_pass: Callable[[], Awaitable[None]] | None = None) -> None:
        """Collect and decide at their intervals, and decide at once when `wanted` is set; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._collect_at_intervals(), name="collect")
            group.create_task(self._decide_at_intervals(after_pass), name="decide")

    async def _collect_at_intervals(self) -> None:
        while True:
            started = self._clock.monotonic()
            await self.collect(spread=True)
            interval = self.settings.collection.interval
            await self._clock.sleep(started + interval - self._clock.monotonic())

    async def _decide_at_intervals(self, after_pass: Callable[[], Awaitable[None]] | None) -> None:
        # The first pass comes once two rounds can be there, then at the interval.
        collection = self.settings.collection
        first = (1.3 + collection.spread) * collection.interval
        await self._clock.sleep(min(first, self.settings.interval))
        while True:
            started = self._clock.monotonic()
            self.wanted.clear()
            try:
                await self.decide()
                if after_pass is not None:
                    await after_pass()
            except Exception:
                # A pass that fails must not end the loop: targets are held until their time to live.
                log.exception("pass failed; the last targets are held")
            left = started + self.settings.interval - self._clock.monotonic()
            try:
                async with asyncio.timeout(self._clock.real_seconds(max(left, 0.0))):
                    await self.wanted.wait()
            except TimeoutError:
                continue
            # One pass for many changes that come together.
            await asyncio.sleep(DEBOUNCE_SECONDS)

    async def collect(self, *, spread: bool = False) -> None:
        """One round of collection; what fails is known by the states it leads to."""
        try:
            await self.collector.collect(spread=spread)
        except Exception:
            log.exception("collection failed; targets are held until it works again")
            return
        self.learn()

    def learn(self) -> None:
        """Take note of what a round of collection brought."""
        now = self._clock.monotonic()
        self.gateways.add("", self.collector.gateways, now=now)
        self._waiting = {
            (count.namespace, count.model): gateway.Demand(waiting=count.waiting)
            for count in self.collector.gateways
        }
        if self.waking():
            self.wanted.set()
        for key, rate, at in self.collector.news():
            sized = self.states[key].decision if key in self.states else None
            if sized is not None and self._forecaster.surprised(
                key, rate, at=at, sized_rps=sized.arrival_rate_rps
            ):
                # More than chance explains: the next pass is not waited for.
                self.wanted.set()
            self._forecaster.learn(key, rate, at=at)

    async def decide(self) -> None:
        """One pass: from what was collected so far to published targets."""
        looked = await self._look()
        planned = {key: item.variant for key, item in looked.items() if item.variant is not None}
        held = [item for item in self._contents.variants if item.key not in planned]
        contents = self._contents
        capacity = self._steadying.left(contents, held)
        plan = await self._planner(
            fleet.Fleet(
                accelerators=contents.accelerators,
                service_classes=contents.service_classes,
                variants=tuple(planned.values()),
                capacity=capacity,
                settings=fleet.Settings(
                    stability_margin=self.settings.stability_margin, policy=self.settings.policy
                ),
            )
        )
        decisions = {key: d for key, d in plan.decisions.items() if d.served != "none"}
        steady = self._steadying.steadied(
            decisions,
            {key: state for key, state in self.states.items() if key in decisions},
            contents=contents,
            capacity=capacity,
            now=self._clock.monotonic(),
            limits=self.settings.limits,
        )
        decided_at = self._clock.time()
        for key, item in looked.items():
            await asyncio.sleep(0)  # requests are answered in between
            # The objects may have changed while the plan was made.
            if key not in self.states:
                continue
            # Where replicas and endpoints are now, not when the pass began.
            source, decision = self.states[key].source, decisions.get(key)
            if decision is None:
                why = item.observation.problem
                if item.variant is not None:
                    refused = plan.decisions.get(key)
                    why = plan.set_aside.get(key, "not planned") if not refused else refused.reason
                self._hold(source, item.observation, why, decided_at)
            else:
                unchanged = (decision.candidate.replicas, "")
                self._take(source, item, decision, steady.get(key, unchanged), decided_at)
        self._publish()

    async def _look(self) -> dict[str, Looked]:
        """Every variant with its load, as far as it is known."""
        observations = {}
        variants = self._contents.variants
        for source in variants:
            # While requests are answered in between, the objects may change.
            if source.key in self.states:
                observations[source.key] = self.collector.observe(source)
            await asyncio.sleep(0)
        now = self._clock.monotonic()
        rates = self.gateways.rates(now=now)
        observed = {
            key: found.traffic.arrival_rate_rps
            for key, found in observations.items()
            if found.traffic is not None
        }
        sizing = Sizing(
            settings=self.settings,
            tuning=self.tuning,
            forecaster=self._forecaster,
            rates=rates,
            parts=demand.gateway_parts(variants, observed, rates),
            called=self._called,
            waking=self.waking(),
            now=now,
        )
        looked = {}
        for source in variants:
            state, observation = self.states.get(source.key), observations.get(source.key)
            if state is not None and observation is not None:
                looked[source.key] = sizing.look(source, observation, state.desired)
            await asyncio.sleep(0)  # tuning takes its time
        return looked

    def waking(self) -> frozenset[str]:
        """Keys of variants at zero that somebody wants."""
        return wake.waking(self._contents, self._called)

    @property
    def _called(self) -> Mapping[gateway.Place, gateway.Demand]:
        """What waits at the gateways: by Prometheus, and sooner where we ask ourselves."""
        return {**self._waiting, **self.demand}

    def _take(
        self,
        source: VariantSource,
        looked: Looked,
        decision: planning.Decision,
        steady: Steady,
        decided_at: float,
    ) -> None:
        replicas, reason = steady
        before, observation, candidate = (
            self.states[source.key],
            looked.observation,
            decision.candidate,
        )
        if observation.problem and (before.desired is None or replicas <= before.desired):
            # A part of the load makes no target, and lets none live longer; it may raise one.
            self._hold(source, observation, observation.problem, decided_at)
            return
        last = replicas if before.desired is None else before.desired
        notes = (*(looked.offered.notes if looked.offered else ()), *((reason,) if reason else ()))
        if before.desired != replicas or before.problem:
            log.info(
                "target decided",
                variant=source.key,
                replicas=replicas,
                before=before.desired,
                current=source.replicas,
                accelerator=candidate.accelerator,
                arrival_rate_rpm=round(decision.arrival_rate_rps * 60, 2),
                reason="; ".join((decision.reason, *notes)),
                runner_up=decision.runner_up,
            )
        state = VariantState(
            source=source,
            observation=observation,
            desired=replicas,
            accelerator=candidate.accelerator or source.accelerator,
            max_batch=candidate.max_batch,
            reason="; ".join((decision.reason, *notes)),
            notes=notes,
            problem=observation.problem,
            metrics=observation.metrics,
            outcome="OptimizationSucceeded" if decision.served == "full" else "CapacityShort",
            observed_at=decided_at - self._clock.real_seconds(observation.age_seconds),
            decided_at=decided_at,
            cost=candidate.cost * (replicas / candidate.replicas if candidate.replicas else 1.0),
            decision=decision,
            scaled_up=before.scaled_up + (replicas > last),
            scaled_down=before.scaled_down + (replicas < last),
        )
        self.states[source.key] = state
        self._published[source.key] = states.series(
            state, valid_until=decided_at + self._valid_seconds
        )

    def _hold(self, source: VariantSource, observation: Observation, why: str, now: float) -> None:
        before = self.states[source.key]
        series = self._published.get(source.key, ())
        expired = bool(series) and (series[0].valid_until or math.inf) <= now
        if expired:
            del self._published[source.key]
            log.warning("target withdrawn: past its time to live", variant=source.key, why=why)
        elif before.problem != why:
            log.warning("target held", variant=source.key, target=before.desired, why=why)
        found = not observation.problem
        self.states[source.key] = replace(
            before,
            source=source,
            observation=observation,
            problem=why,
            metrics=observation.metrics,
            outcome="OptimizationFailed" if found else "MetricsUnavailable",
            observed_at=now - self._clock.real_seconds(observation.age_seconds),
            desired=None if expired else before.desired,
        )

    def _publish(self) -> None:
        self._store.publish(item for series in self._published.values() for item in series)


def _matters(contents: Contents) -> object:
    """What a pass is made at once for: all that people write, nothing that changes by itself."""
    return (
        contents.accelerators,
        contents.service_classes,
        contents.capacity,
        contents.refused,
        [
            replace(
                source,
                endpoints=(),
                pods=(),
                startup_seconds=None,
                replicas=0,
                wanted=0,
                generation=0,
                published=None,
                target_uid="",
            )
            for source in contents.variants
        ],
    )

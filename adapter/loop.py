"""The control loop: scrape, size, choose, publish.

It fails static: a variant whose metrics are missing, stale or incomplete keeps its last target until
that target's time to live ends, and its state says why. Missing data never scales anything down.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import aiohttp
import structlog

from adapter import fleet, gateway, planning, scraping, states
from adapter.clock import Clock
from adapter.contents import Contents, Refusal
from adapter.series import Series
from adapter.states import VariantState
from adapter.targets import TargetStore
from adapter.traffic import Traffic, TrafficWindow
from adapter.tuning import Tuning
from adapter.variants import VariantSource
from analyzer.capacity import STABILITY_MARGIN
from optimizer.problem import Policy

log = structlog.get_logger()

DEBOUNCE_SECONDS = 0.5
"""That a pass waits for more changes."""

Planner = Callable[[fleet.Fleet], Awaitable[planning.Plan]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Times of the loop, in seconds.

    Attributes:
        interval: from one pass to the next.
        scrape_interval: from one scrape of an endpoint to the next.
        window: over which rates are taken.
        time_to_live: how long a target is served without being decided anew.
        scale_to_zero: whether a variant that is proven idle may go to 0 replicas.
        keep_accelerator: keep every variant's accelerator, as if each were told to.
        tune: let profiles follow what is observed, for variants that do not say otherwise.
        stability_margin: share of a replica's own speed kept free, also where latencies allow more.
        policy: who gets what is left of limited devices when not everyone can be served.

    """

    interval: float = 60.0
    scrape_interval: float = 15.0
    window: float = 60.0
    time_to_live: float = 300.0
    scale_to_zero: bool = False
    keep_accelerator: bool = False
    tune: bool = False
    stability_margin: float = STABILITY_MARGIN
    policy: Policy = "PriorityExhaustive"

    @property
    def stale_after(self) -> float:
        """Age at which a scrape no longer counts: two missed ones, and some."""
        return 2.5 * self.scrape_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unknown:
    """Why a variant's load is not known."""

    metrics: states.Metrics
    problem: str


class ControlLoop:
    """Owns what is known about the variants and publishes their targets.

    Where another replica leads, targets are those that `.status` holds; `leading` says whether this one
    does. What was published stays published when that changes.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        store: TargetStore,
        clock: Clock,
        planner: Planner,
        settings: LoopSettings,
        leading: bool = True,
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._planner = planner
        self.settings = settings
        self.leading = leading
        self.demand: Mapping[str, gateway.Demand] = {}
        self.wanted = asyncio.Event()
        self._contents = Contents()
        self._windows: dict[str, TrafficWindow] = {}
        self._scrape_errors: dict[str, str] = {}
        self._published: dict[str, tuple[Series, ...]] = {}
        self.states: dict[str, VariantState] = {}
        self.tuning = Tuning(window_seconds=settings.window, default=settings.tune)

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """VariantAutoscalings that are left out."""
        return self._contents.refused

    def use(self, contents: Contents) -> None:
        """Take a new reading of the objects; variants that are gone lose their targets at once."""
        if _matters(contents) != _matters(self._contents):
            self.wanted.set()
        self._contents = contents
        known = {source.key: source for source in contents.variants}
        self._windows = {
            key: self._windows.get(key) or TrafficWindow(window_seconds=self.settings.window)
            for key in known
        }
        for key, window in self._windows.items():
            window.keep(known[key].endpoints)
        self.tuning.keep(known.values())
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
        """Scrape and decide at their intervals, and decide at once when `wanted` is set; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scrape_at_intervals(), name="scrape")
            group.create_task(self._decide_at_intervals(after_pass), name="decide")

    async def _scrape_at_intervals(self) -> None:
        while True:
            started = self._clock.monotonic()
            try:
                await self.scrape()
            except Exception:
                log.exception("scraping failed; targets are held until it works again")
            await self._clock.sleep(
                started + self.settings.scrape_interval - self._clock.monotonic()
            )

    async def _decide_at_intervals(self, after_pass: Callable[[], Awaitable[None]] | None) -> None:
        # The first pass comes once two scrapes can be there, then at the interval.
        await self._clock.sleep(min(1.2 * self.settings.scrape_interval, self.settings.interval))
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

    async def scrape(self) -> None:
        """Scrape every endpoint once, all at the same time."""
        jobs = [
            self._scrape_one(source, endpoint)
            for source in self._contents.variants
            for endpoint in source.endpoints
        ]
        await asyncio.gather(*jobs)

    async def _scrape_one(self, source: VariantSource, endpoint: str) -> None:
        try:
            page = await scraping.fetch(self._session, endpoint, source.model)
        except scraping.ScrapeError as error:
            if self._scrape_errors.get(endpoint) != str(error):
                log.warning("scrape failed", variant=source.key, error=str(error))
            self._scrape_errors[endpoint] = str(error)
            return
        if self._scrape_errors.pop(endpoint, None):
            log.info("scrape works again", variant=source.key, endpoint=endpoint)
        window = self._windows.get(source.key)
        if window is not None:
            window.add(endpoint, page, now=self._clock.monotonic())

    async def decide(self) -> None:
        """One pass: from the scrapes so far to published targets."""
        now = self._clock.monotonic()
        ready: dict[str, fleet.Variant] = {}
        unknown: dict[str, _Unknown] = {}
        seen: dict[str, Traffic | None] = {}
        waking = self.waking()
        for source in self._contents.variants:
            traffic = self._windows[source.key].traffic(now=now)
            seen[source.key] = traffic
            outcome = self._variant(source, traffic, now, wake=source.key in waking)
            if isinstance(outcome, _Unknown):
                unknown[source.key] = outcome
            else:
                ready[source.key] = outcome
            await asyncio.sleep(0)  # tuning takes its time: requests are answered in between
        plan = await self._planner(
            fleet.Fleet(
                accelerators=self._contents.accelerators,
                service_classes=self._contents.service_classes,
                variants=tuple(ready.values()),
                capacity=self._contents.capacity,
                settings=fleet.Settings(
                    stability_margin=self.settings.stability_margin, policy=self.settings.policy
                ),
            )
        )
        decided_at = self._clock.time()
        for source in self._contents.variants:
            await asyncio.sleep(0)  # requests are answered in between
            # The objects may have changed while the plan was made.
            if source.key not in self.states:
                continue
            decision = plan.decisions.get(source.key)
            # Where replicas and endpoints are now, not when the pass began.
            source = self.states[source.key].source  # noqa: PLW2901
            if decision is None or decision.served == "none":
                why = unknown.get(source.key) or _Unknown(
                    metrics="MetricsFound",
                    problem=plan.set_aside.get(source.key, "not planned")
                    if decision is None
                    else decision.reason,
                )
                self._hold(source, seen.get(source.key), why, decided_at)
            else:
                self._take(source, seen.get(source.key), decision, decided_at)
        self._publish()

    def waking(self) -> frozenset[str]:
        """Keys of variants at zero that somebody wants."""
        return gateway.waking(self._contents, self.demand)

    def _variant(
        self, source: VariantSource, traffic: Traffic | None, now: float, *, wake: bool
    ) -> fleet.Variant | _Unknown:
        """The variant with its load, or why its load is not known."""
        window = self._windows[source.key]
        if source.endpoints:
            stale = window.stale(source.endpoints, now=now, after_seconds=self.settings.stale_after)
            if stale:
                errors = [self._scrape_errors.get(endpoint, endpoint) for endpoint in stale]
                # With one replica's numbers missing, the load would look too small.
                return _Unknown(
                    metrics="MetricsMissing" if traffic is None else "MetricsStale",
                    problem=f"no fresh metrics of {len(stale)} of {len(source.endpoints)}: {errors[0]}",
                )
            if traffic is None:
                return _Unknown(metrics="MetricsMissing", problem="waiting for a second scrape")
            if traffic.output_tokens is None and not traffic.idle:
                return _Unknown(
                    metrics="MetricsMissing",
                    problem="requests run, but none has finished yet: their lengths are unknown",
                )
        elif source.replicas > 0 or source.wanted > 0:
            return _Unknown(
                metrics="MetricsMissing",
                problem=f"{source.replicas} replicas, but no endpoints to scrape",
            )
        if traffic is not None:
            self.tuning.observe(source, traffic, now=now)
        minimum = source.min_replicas
        if minimum is None:
            minimum = 0 if self.settings.scale_to_zero else 1
        idle = traffic is None or traffic.idle
        if not idle or wake:
            minimum = max(minimum, 1)
        return fleet.Variant(
            name=source.key,
            model=source.model,
            service_class=source.service_class,
            profiles=self.tuning.profiles(source),
            load=fleet.Load(
                arrival_rate_rps=traffic.arrival_rate_rps if traffic else 0.0,
                input_tokens=(traffic.input_tokens if traffic else None) or 0.0,
                output_tokens=(traffic.output_tokens if traffic else None) or 1.0,
            ),
            current=fleet.CurrentAllocation(
                accelerator=source.accelerator, replicas=source.replicas
            ),
            min_replicas=minimum,
            max_replicas=source.max_replicas,
            keep_accelerator=self.settings.keep_accelerator
            if source.keep_accelerator is None
            else source.keep_accelerator,
        )

    def _take(
        self,
        source: VariantSource,
        traffic: Traffic | None,
        decision: planning.Decision,
        decided_at: float,
    ) -> None:
        candidate = decision.candidate
        before = self.states[source.key]
        last = candidate.replicas if before.desired is None else before.desired
        if before.desired != candidate.replicas or before.problem:
            log.info(
                "target decided",
                variant=source.key,
                replicas=candidate.replicas,
                before=before.desired,
                current=source.replicas,
                accelerator=candidate.accelerator,
                arrival_rate_rpm=round(decision.arrival_rate_rps * 60, 2),
                reason=decision.reason,
                runner_up=decision.runner_up,
            )
        state = VariantState(
            source=source,
            traffic=traffic,
            desired=candidate.replicas,
            accelerator=candidate.accelerator or source.accelerator,
            max_batch=candidate.max_batch,
            reason=decision.reason,
            metrics="MetricsFound",
            outcome="OptimizationSucceeded" if decision.served == "full" else "CapacityShort",
            observed_at=decided_at,
            decided_at=decided_at,
            cost=candidate.cost,
            decision=decision,
            scaled_up=before.scaled_up + (candidate.replicas > last),
            scaled_down=before.scaled_down + (candidate.replicas < last),
        )
        self.states[source.key] = state
        self._published[source.key] = states.series(
            state, valid_until=decided_at + self._valid_seconds
        )

    def _hold(
        self, source: VariantSource, traffic: Traffic | None, why: _Unknown, now: float
    ) -> None:
        before = self.states[source.key]
        series = self._published.get(source.key, ())
        expired = bool(series) and (series[0].valid_until or math.inf) <= now
        if expired:
            del self._published[source.key]
            log.warning(
                "target withdrawn: past its time to live", variant=source.key, why=why.problem
            )
        elif before.problem != why.problem:
            log.warning("target held", variant=source.key, target=before.desired, why=why.problem)
        found = why.metrics == "MetricsFound"
        self.states[source.key] = replace(
            before,
            source=source,
            traffic=traffic,
            problem=why.problem,
            metrics=why.metrics,
            outcome="OptimizationFailed" if found else "MetricsUnavailable",
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
                replicas=0,
                wanted=0,
                generation=0,
                published=None,
                target_uid="",
            )
            for source in contents.variants
        ],
    )

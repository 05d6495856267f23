"""The control loop: scrape, size, choose, publish.

It fails static: a variant whose metrics are missing, stale or incomplete keeps its last target until
that target's time to live ends, and its state says why. Missing data never scales anything down.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal

import aiohttp
import structlog

from adapter import fleet, planning, quantity, scraping
from adapter.clock import Clock
from adapter.folder import Contents
from adapter.series import CURRENT, DESIRED, RATIO, Series
from adapter.targets import TargetStore
from adapter.traffic import Traffic, TrafficWindow
from adapter.tuning import Tuning
from adapter.variants import VariantSource
from analyzer.capacity import STABILITY_MARGIN

log = structlog.get_logger()

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

    """

    interval: float = 60.0
    scrape_interval: float = 15.0
    window: float = 60.0
    time_to_live: float = 300.0
    scale_to_zero: bool = False
    keep_accelerator: bool = False
    tune: bool = False
    stability_margin: float = STABILITY_MARGIN

    @property
    def stale_after(self) -> float:
        """Age at which a scrape no longer counts: two missed ones, and some."""
        return 2.5 * self.scrape_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """What one variant looks like after a pass: for telemetry, the terminal view and explanations.

    Attributes:
        desired: published replicas; None while there is no valid target.
        problem: why the target was not decided anew; empty when it was.
        decided_at: Unix time of the decision that is served.

    """

    source: VariantSource
    traffic: Traffic | None = None
    desired: int | None = None
    accelerator: str = ""
    reason: str = ""
    problem: str = ""
    decided_at: float = 0.0
    cost: float = 0.0


class ControlLoop:
    """Owns what is known about the variants and publishes their targets."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        store: TargetStore,
        clock: Clock,
        planner: Planner,
        settings: LoopSettings,
    ) -> None:
        self._session = session
        self._store = store
        self._clock = clock
        self._planner = planner
        self.settings = settings
        self._contents = Contents()
        self._windows: dict[str, TrafficWindow] = {}
        self._scrape_errors: dict[str, str] = {}
        self._published: dict[str, tuple[Series, ...]] = {}
        self.states: dict[str, VariantState] = {}
        self.tuning = Tuning(window_seconds=settings.window, default=settings.tune)

    def use(self, contents: Contents) -> None:
        """Take a new reading of the objects; variants that are gone lose their targets at once."""
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
        self._published = {k: v for k, v in self._published.items() if k in known}
        self.states = {
            key: replace(self.states[key], source=source)
            if key in self.states
            else VariantState(source=source, problem="waiting for the first metrics")
            for key, source in known.items()
        }
        if gone:
            log.info("variants gone, targets withdrawn", variants=sorted(gone))
            self._publish()

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
        problems: dict[str, str] = {}
        seen: dict[str, Traffic | None] = {}
        for source in self._contents.variants:
            traffic = self._windows[source.key].traffic(now=now)
            seen[source.key] = traffic
            outcome = self._variant(source, traffic, now)
            if isinstance(outcome, str):
                problems[source.key] = outcome
            else:
                ready[source.key] = outcome
            await asyncio.sleep(0)  # tuning takes its time: requests are answered in between
        plan = await self._planner(
            fleet.Fleet(
                accelerators=self._contents.accelerators,
                service_classes=self._contents.service_classes,
                variants=tuple(ready.values()),
                settings=fleet.Settings(stability_margin=self.settings.stability_margin),
            )
        )
        problems.update(plan.set_aside)
        decided_at = self._clock.time()
        for source in self._contents.variants:
            await asyncio.sleep(0)  # requests are answered in between
            # The objects may have changed while the plan was made.
            if source.key not in self.states:
                continue
            decision = plan.decisions.get(source.key)
            if decision is None or decision.served == "none":
                why = problems.get(source.key, "") if decision is None else decision.reason
                self._hold(source, seen.get(source.key), why, decided_at)
            else:
                self._take(source, seen.get(source.key), decision, decided_at)
        self._publish()

    def _variant(
        self, source: VariantSource, traffic: Traffic | None, now: float
    ) -> fleet.Variant | str:
        """The variant with its load, or why its load is not known."""
        window = self._windows[source.key]
        if source.endpoints:
            stale = window.stale(source.endpoints, now=now, after_seconds=self.settings.stale_after)
            if stale:
                errors = [self._scrape_errors.get(endpoint, endpoint) for endpoint in stale]
                # With one replica's numbers missing, the load would look too small.
                return f"no fresh metrics of {len(stale)} of {len(source.endpoints)}: {errors[0]}"
            if traffic is None:
                return "waiting for a second scrape"
            if traffic.output_tokens is None and not traffic.idle:
                return "requests run, but none has finished yet: their lengths are unknown"
        elif source.replicas > 0:
            return f"{source.replicas} replicas, but no endpoints to scrape"
        if traffic is not None:
            self.tuning.observe(source, traffic, now=now)
        minimum = source.min_replicas
        if minimum is None:
            minimum = 0 if self.settings.scale_to_zero else 1
        idle = traffic is None or traffic.idle
        if not idle:
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
            keep_accelerator=source.keep_accelerator or self.settings.keep_accelerator,
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
        accelerator = candidate.accelerator or source.accelerator
        self.states[source.key] = VariantState(
            source=source,
            traffic=traffic,
            desired=candidate.replicas,
            accelerator=accelerator,
            reason=decision.reason,
            decided_at=decided_at,
            cost=candidate.cost,
        )
        until = decided_at + self._clock.real_seconds(self.settings.time_to_live)
        values = {
            DESIRED: Decimal(candidate.replicas),
            CURRENT: Decimal(source.replicas),
            RATIO: _ratio(candidate.replicas, source.replicas),
        }
        labels = series_labels(source, accelerator)
        self._published[source.key] = tuple(
            Series(
                metric=metric,
                namespace=source.namespace,
                labels=labels,
                value=quantity.canonical(str(value)),
                decided_at=decided_at,
                valid_until=until,
            )
            for metric, value in values.items()
        )

    def _hold(
        self, source: VariantSource, traffic: Traffic | None, problem: str, now: float
    ) -> None:
        before = self.states[source.key]
        series = self._published.get(source.key, ())
        expired = bool(series) and (series[0].valid_until or math.inf) <= now
        if expired:
            del self._published[source.key]
            log.warning("target withdrawn: past its time to live", variant=source.key, why=problem)
        elif before.problem != problem:
            log.warning("target held", variant=source.key, target=before.desired, why=problem)
        desired = None if expired else before.desired
        self.states[source.key] = replace(
            before, source=source, traffic=traffic, problem=problem, desired=desired
        )

    def _publish(self) -> None:
        self._store.publish(item for series in self._published.values() for item in series)


def series_labels(source: VariantSource, accelerator: str) -> Mapping[str, str]:
    """Labels of a variant's series, as the workload-variant-autoscaler names them."""
    return {
        "variant_name": source.name,
        "namespace": source.namespace,
        "exported_namespace": source.namespace,
        "accelerator_type": accelerator,
        "model_name": source.model,
    }


def _ratio(desired: int, current: int) -> Decimal:
    """Desired over current replicas, in thousandths, rounded up; the desired count from zero."""
    if current == 0:
        return Decimal(desired)
    ratio = Decimal(desired) / Decimal(current)
    return ratio.quantize(Decimal("0.001"), rounding=ROUND_CEILING)

"""The control loop: scrape cycles collect load, reconcile cycles turn it into published targets.

It fails static: a variant whose metrics are missing, stale or incomplete keeps its last target until the
target's time to live ends, and its state says why. Missing data never scales anything down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import structlog

from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.collector.prometheus import PrometheusOptions
from adapter.controller.cycle.early import EarlyCycles
from adapter.controller.cycle.written import Written
from adapter.controller.demand import GatewayDemand
from adapter.controller.demand.waking import Waking
from adapter.controller.history.timeline import Timeline
from adapter.controller.live.targets import LiveTargets
from adapter.controller.reconciler import Planner, Reconciler
from adapter.controller.settings import LoopSettings
from adapter.controller.state import VariantState
from adapter.resources.inputs import Inputs, InvalidVariant
from adapter.store import TargetStore

log = structlog.get_logger()

DEBOUNCE_SECONDS = 0.5
"""Real seconds between the request of a reconcile cycle and its start, so that one serves many changes."""

_READING = "reading the changed objects"
"""What failed, in readiness and conditions, while the objects cannot be joined."""


class _Failures:
    """Cycles that failed as a whole: how many, and why the last ones did."""

    def __init__(self) -> None:
        self.count = 0
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        return "; ".join(self._problems.values()) or None

    def failed(self, what: str, error: Exception) -> str:
        self.count += 1
        self._problems[what] = why = f"{what} failed ({type(error).__name__})"
        return why

    def succeeded(self, what: str) -> None:
        self._problems.pop(what, None)

    def forget(self) -> None:
        self._problems.clear()


class ControlLoop:
    """Runs the cycles, and takes what changes them: objects, settings, gateway demand, leadership.

    Where another replica leads, the published targets are those that `.status` holds. They stay published
    when leadership changes. `timeline` has what was decided, beside what there was.
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
        """`leading`: whether this replica decides; it does where no leader is elected."""
        self._collector, self._clock = collector, clock
        self._settings, self._leading = settings, leading
        self._gateways = GatewayDemand(window_seconds=settings.collection.window)
        self._reconciler = Reconciler(
            collector=collector, store=store, clock=clock, planner=planner, gateways=self._gateways
        )
        self.timeline, self.groups = Timeline(), self._reconciler.groups
        settings_in_use, leads = (lambda: self._settings), (lambda: self._leading)
        self._live = LiveTargets(
            self._reconciler, store, clock=clock, settings=settings_in_use, leading=leads
        )
        self._waking = Waking(
            self._gateways,
            inputs=lambda: self.inputs,
            choose=lambda inputs, waiting: self.groups.to_wake(inputs, waiting, self._settings),
            clock=clock,
            changed=store.changes.notify,
            # A follower that is asked for one forgets it when it leads: its first cycle comes anyhow.
            request_cycle=lambda: self._early.request(map(_namespace, self._waking.variants)),
        )
        self._written = Written()
        self._early, self._cycles, self._failures = EarlyCycles(), 0, _Failures()

    @property
    def failures(self) -> int:
        """Number of scrape and reconcile cycles that failed as a whole."""
        return self._failures.count

    @property
    def problem(self) -> str | None:
        """Why the last cycles failed as a whole; None while they do not."""
        return self._failures.problem

    @property
    def collector(self) -> Collector:
        """The collector of this loop."""
        return self._collector

    @property
    def settings(self) -> LoopSettings:
        """Settings in use."""
        return self._settings

    @property
    def leading(self) -> bool:
        """Whether this replica decides."""
        return self._leading

    @property
    def inputs(self) -> Inputs:
        """Objects in use."""
        return self._reconciler.inputs

    @property
    def refused(self) -> tuple[InvalidVariant, ...]:
        """Invalid VariantAutoscalings."""
        return self._reconciler.inputs.refused

    @property
    def states(self) -> Mapping[str, VariantState]:
        """State of every variant, by key."""
        return {key: item.state for key, item in self._reconciler.records.items()}

    @property
    def live(self) -> LiveTargets:
        """Targets between the cycles."""
        return self._live

    @property
    def waking(self) -> Waking:
        """Requests at the gateways, and the variants at zero that they start."""
        return self._waking

    @property
    def cycle_requested(self) -> bool:
        """Whether a reconcile cycle is due before its interval is over."""
        return self._early.requested

    @property
    def busy(self) -> tuple[str, ...]:
        """Keys of variants whose requests wait or whose load has just moved; the longest queue first."""
        return self._reconciler.busy

    @property
    def watched(self) -> tuple[str, ...]:
        """Keys of variants whose pods are scraped between two scrape cycles; busy ones first."""
        return self._reconciler.watched

    @property
    def cycles(self) -> int:
        """Number of reconcile cycles that this process has completed."""
        return self._cycles

    def apply_settings(self, settings: LoopSettings) -> None:
        """Use these settings from the next cycle on; those of the collection stay as they were."""
        self._settings = settings

    def connect_prometheus(self, options: PrometheusOptions | None) -> None:
        """Query that Prometheus from the next scrape cycle on; None: none."""
        self._collector.connect(options)

    def apply_inputs(self, inputs: Inputs) -> None:
        """Use new objects; targets of variants that were removed are withdrawn at once."""
        self._failures.succeeded(_READING)
        self._use(inputs)

    def _use(self, inputs: Inputs) -> None:
        changed = self._written.changes(inputs)
        self._early.serve(self._written.namespaces)
        if self._leading:
            self._early.request(changed)
        self._reconciler.apply_inputs(inputs, self._settings, leading=self._leading)

    def hold_inputs(self, error: Exception) -> None:
        """Go on with the objects in use: newer ones cannot be read; every variant's status says so."""
        why = self._failures.failed(_READING, error)
        message = f"{why}; deciding with the objects of before; the adapter's log has the details"
        self._use(_warned(self.inputs, message))

    def start_leading(self) -> None:
        """Decide from now on; what was recommended in an earlier time as leader no longer counts."""
        self._reconciler.forget_recommendations()
        self._written.changes(self.inputs)
        self.timeline.forget()
        self._leading = True

    def stop_leading(self) -> None:
        """Decide nothing more; the next change of the objects brings the targets that `.status` holds."""
        self._leading = False
        self._failures.forget()

    async def run(self, after_cycle: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run scrape and reconcile cycles at their intervals, and sooner on request; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scrape_at_intervals(), name="scrape cycles")
            group.create_task(self._reconcile_at_intervals(after_cycle), name="reconcile cycles")

    async def _scrape_at_intervals(self) -> None:
        collection = self._settings.collection
        while True:
            started = self._clock.monotonic()
            async with asyncio.TaskGroup() as group:
                # What answers late holds up no look at the others.
                cycle = group.create_task(self.scrape(spread=True), name="scrape cycle")
                asked = self._clock.real_seconds(collection.spread * collection.interval)
                await asyncio.wait({cycle}, timeout=asked)
                await _looks(self, self._clock, until=started + collection.interval)
            await self._clock.sleep(started + collection.interval - self._clock.monotonic())

    async def _reconcile_at_intervals(
        self, after_cycle: Callable[[], Awaitable[None]] | None
    ) -> None:
        # The first cycle starts once two scrape cycles can have ended, the others at the interval.
        collection = self._settings.collection
        first = (1.3 + collection.spread) * collection.interval
        await self._clock.sleep(min(first, self._settings.interval))
        early = False
        while True:
            started, begun = self._clock.monotonic(), asyncio.get_running_loop().time()
            asked = self._early.begin() if early else ()
            try:
                await self.reconcile()
            except Exception as error:
                log.exception("reconcile cycle failed; keeping the last targets until the next one")
                why = self._failures.failed("the last reconcile cycle", error)
                self._reconciler.fail(f"{why}; the adapter's log has the details", self._settings)
            else:
                self._failures.succeeded("the last reconcile cycle")
            self._early.took(asyncio.get_running_loop().time() - begun, asked)
            await _write_results(after_cycle, self._failures)
            remaining = started + self._settings.interval - self._clock.monotonic()
            early = await self._early.wait(self._clock.real_seconds(remaining))
            if early:
                await asyncio.sleep(DEBOUNCE_SECONDS)

    async def scrape(self, *, spread: bool = False) -> None:
        """One scrape cycle; what it cannot read shows in the variants' states."""
        try:
            await self._collector.collect(spread=spread)
            self.record_scrape()
        except Exception as error:
            log.exception("scrape cycle failed; keeping the last metrics until the next one")
            self._failures.failed("the last scrape cycle", error)
        else:
            self._failures.succeeded("the last scrape cycle")

    def record_scrape(self, *, between: bool = False) -> None:
        """Record what a scrape cycle, or a look between two, showed; what cannot wait requests a cycle."""
        self._gateways.record_counts(self._collector.gateways, now=self._clock.monotonic())
        self._gateways.record_load(self._collector.pool_load, now=self._clock.monotonic())
        moved = self._reconciler.record_load(between=between)
        self._early.request(map(_namespace, (*moved, *self._waking.variants)))

    async def reconcile(self) -> None:
        """One reconcile cycle: from the load collected so far to published targets."""
        self._early.begin()
        await self._reconciler.reconcile(self._settings)
        self._cycles += 1
        self.timeline.record(self.states, now=self._clock.time())


async def _looks(loop: ControlLoop, clock: Clock, *, until: float) -> None:
    """Look at watched variants in between, while the next scrape cycle is not near."""
    busy, late = loop.settings.collection.busy_interval, set[asyncio.Task[None]]()
    while loop.watched and until - clock.monotonic() > 1.5 * busy:
        await clock.sleep(busy)
        late = await _look(loop.collector, loop.watched, loop.record_scrape)
    if late and until > clock.monotonic():
        # No look is left that would record what comes late.
        await asyncio.wait(late, timeout=clock.real_seconds(until - clock.monotonic()))
        await _look(loop.collector, (), loop.record_scrape)


async def _look(
    collector: Collector, keys: tuple[str, ...], record: Callable[..., None]
) -> set[asyncio.Task[None]]:
    """Scrape and record some variants between two scrape cycles; returns scrapes that go on."""
    late = set[asyncio.Task[None]]()
    try:
        late = await collector.collect_some(keys)
        record(between=True)
    except Exception:
        log.exception("scrape between two scrape cycles failed; the next cycle reads the pods")
    return late


async def _write_results(write: Callable[[], Awaitable[None]] | None, failures: _Failures) -> None:
    what = "writing the results of the last cycle"
    try:
        if write is not None:
            await write()
    except Exception as error:
        log.exception("writing a cycle's results failed; retrying after the next one")
        failures.failed(what, error)
    else:
        failures.succeeded(what)


def _warned(inputs: Inputs, message: str) -> Inputs:
    """The objects with a warning at every variant."""
    variants = tuple(
        item if message in item.warnings else replace(item, warnings=(*item.warnings, message))
        for item in inputs.variants
    )
    return replace(inputs, variants=variants)


def _namespace(key: str) -> str:
    return key.partition("/")[0]

"""Policies that size by the queueing model: ours, as it runs, and the reference's rule.

Ours is the adapter's own control loop with its settings, on a clock that the replay moves; what is left out
is the network. The reference takes the rate of finished requests over the last minute, as Prometheus has
it, for the load, and its number reaches the HPA through Prometheus and prometheus-adapter.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import aiohttp

from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Contents
from adapter.resources.variant import VariantSource
from adapter.store import DESIRED, TargetStore
from emulator.replay import cluster as worlds
from emulator.replay.cluster import World
from emulator.replay.policies import Policy, Timer
from emulator.replay.scenario import Hpa, Scenario, Variant

NAMESPACE = "replay"


class ReplayClock(Clock):
    """Shows the replay's time."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._world.now

    def monotonic(self) -> float:
        """The same."""
        return self._world.now


async def _plan(snapshot: fleet.Fleet) -> planning.Plan:
    return planning.plan(snapshot)


def contents_of(scenario: Scenario, *, percentile: float | None) -> Contents:
    """The scenario as the objects of a world; `percentile` of the latencies that targets bound."""
    classes: dict[tuple[str, int], dict[str, fleet.Targets]] = {}
    for model in scenario.models:
        targets = fleet.Targets(itl_ms=model.slo.itl, ttft_ms=model.slo.ttft, percentile=percentile)
        classes.setdefault((model.service_class, model.priority), {})[model.model] = targets
    limited = {
        name: item.devices
        for name, item in scenario.accelerators.items()
        if item.devices is not None
    }
    return Contents(
        accelerators=tuple(
            fleet.Accelerator(name=name, device_type=name, unit_cost=item.cost)
            for name, item in scenario.accelerators.items()
        ),
        service_classes=tuple(
            fleet.ServiceClass(name=name, priority=priority, targets=targets)
            for (name, priority), targets in classes.items()
        ),
        variants=tuple(
            _source(variant, scenario, percentile=percentile) for variant in scenario.variants
        ),
        capacity=limited if len(limited) == len(scenario.accelerators) else None,
    )


def _source(variant: Variant, scenario: Scenario, *, percentile: float | None) -> VariantSource:
    model = next(item for item in scenario.models if item.model == variant.model)
    profile = variant.profile
    return VariantSource(
        namespace=NAMESPACE,
        name=variant.name,
        model=variant.model,
        service_class=model.service_class,
        profiles=(
            fleet.Profile(
                accelerator=variant.accelerator,
                accelerator_count=variant.devices,
                alpha_ms=profile.alpha,
                beta_ms=profile.beta,
                gamma_ms=profile.gamma,
                delta_ms=profile.delta,
                max_batch=profile.max_batch_size,
            ),
        ),
        targets=fleet.Targets(itl_ms=model.slo.itl, ttft_ms=model.slo.ttft, percentile=percentile),
        accelerator=variant.accelerator,
        endpoints=(),
        replicas=variant.replicas,
        wanted=variant.replicas,
        pods_known=True,
        startup_seconds=variant.startup or 1.0,
        min_replicas=variant.min_replicas,
        max_replicas=variant.max_replicas,
        keep_accelerator=True,
    )


class Ours(Policy):
    """The adapter's control loop."""

    def __init__(
        self,
        world: World,
        *,
        name: str,
        title: str,
        settings: LoopSettings,
        percentile: float | None,
    ) -> None:
        super().__init__(world)
        self.name, self.title = name, title
        self._contents = contents_of(self.scenario, percentile=percentile)
        self._store = TargetStore()
        self._decided = False
        self._runner = asyncio.Runner()
        clock = ReplayClock(world)
        self._settings = settings
        collector = Collector(
            session=self._runner.run(_session()), clock=clock, settings=settings.collection
        )
        self.loop = ControlLoop(
            collector=collector,
            store=self._store,
            clock=clock,
            planner=_plan,
            settings=settings,
        )

    def timers(self) -> Sequence[Timer]:
        scrape = self._settings.collection.interval
        # As in the adapter: the first reconcile cycle once two scrape cycles have ended.
        return [
            Timer(scrape, 1.0, self._collect),
            Timer(self._settings.interval, 1.0 + 1.5 * scrape, self._decide),
        ]

    def _use(self) -> None:
        """What the watches would show now."""
        sources = []
        for source in self._contents.variants:
            ready = self.world.ready(source.name)
            sources.append(
                replace(
                    source,
                    endpoints=tuple(f"sim://{source.name}-{item.replica}" for item in ready),
                    pods=tuple(f"{source.name}-{item.replica}" for item in ready),
                    replicas=self.world.fleet.replicas(source.name),
                    wanted=self.world.wanted[source.name],
                )
            )
        self.loop.apply_inputs(replace(self._contents, variants=tuple(sources)))

    def _collect(self) -> None:
        self._use()
        for source in self._contents.variants:
            startup = self.world.variants[source.name].startup
            for item in self.world.ready(source.name):
                self.loop.collector.add(
                    source.key,
                    f"sim://{source.name}-{item.replica}",
                    worlds.page(item, startup_seconds=startup),
                    now=self.world.now,
                    source="direct",
                )
        self.loop.record_scrape()
        if self.loop.cycle_requested and self._decided:
            self._decide()

    def _decide(self) -> None:
        self._decided = True
        self._use()
        self._runner.run(self.loop.reconcile())

    def hpa(self) -> Hpa:
        """As in manifests/samples/hpa.yaml: it follows, and leaves it to us when to go down."""
        return self.scenario.hpa.model_copy(
            update={"tolerance": 0.0, "scale_down_stabilization": 0.0}
        )

    def items(self, variant: str) -> list[str]:
        return _served(self._store, variant, now=self.world.now)

    def desired(self, variant: str) -> float:
        state = self.loop.states.get(f"{NAMESPACE}/{variant}")
        return math.nan if state is None or state.desired is None else float(state.desired)

    def close(self) -> None:
        self.loop.collector.close()
        self._runner.close()


async def _session() -> aiohttp.ClientSession:
    """Never used: pages come from the simulation."""
    session = aiohttp.ClientSession()
    await session.close()
    return session


def _served(store: TargetStore, variant: str, *, now: float) -> list[str]:
    """What the HPA controller would be answered."""
    entries = store.answer(NAMESPACE, DESIRED, None, now=now)
    mine = [entry for entry in entries if entry.labels["variant_name"] == variant]
    return [str(json.loads(entry.encoded)["value"]) for entry in mine]


class Reference(Policy):
    """The workload-variant-autoscaler's rule of October 2025, with its way to the HPA."""

    name = "reference"
    title = "success rate as load"
    notes = (
        (
            "Load is rate(success[1m]) at 15 s scrapes, sized for means each 60 s; the HPA sees a"
            " decision when Prometheus (30 s) has scraped it."
        ),
    )

    SCRAPE, WINDOW, INTERVAL, RELAY = 15.0, 60.0, 60.0, 30.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._contents = contents_of(self.scenario, percentile=None)
        self._history: dict[str, list[_Scrape]] = {name: [] for name in world.variants}
        self._wanted: dict[str, int] = {}
        self._relayed: dict[str, list[str]] = {}

    def timers(self) -> Sequence[Timer]:
        return [
            Timer(self.SCRAPE, 3.0, self._scrape),
            Timer(self.INTERVAL, 4.0 + self.SCRAPE, self._decide),
            Timer(self.RELAY, 11.0, self._relay),
        ]

    def _scrape(self) -> None:
        for name, history in self._history.items():
            counts = {
                item.replica: (
                    float(item.finished),
                    float(item.prompt_tokens[0]),
                    float(item.generation_tokens[0]),
                )
                for item in self.world.fleet.counters(name)
            }
            history.append((self.world.now, counts))
            del history[: -int(self.WINDOW / self.SCRAPE)]

    def _decide(self) -> None:
        variants = []
        for source in self._contents.variants:
            finished, prompt, generated, span = _rates(self._history[source.name])
            replicas = self.world.fleet.replicas(source.name)
            variants.append(
                fleet.Variant(
                    name=source.key,
                    model=source.model,
                    service_class=source.service_class,
                    profiles=source.profiles,
                    load=fleet.Load(
                        arrival_rate_rps=finished / span if span > 0 else 0.0,
                        input_tokens=prompt / finished if finished else 0.0,
                        output_tokens=max(generated / finished, 1.0) if finished else 1.0,
                    ),
                    current=fleet.CurrentAllocation(
                        accelerator=source.accelerator, replicas=replicas
                    ),
                    max_replicas=source.max_replicas,
                    keep_accelerator=True,
                )
            )
        plan = planning.plan(
            fleet.Fleet(
                accelerators=self._contents.accelerators,
                service_classes=self._contents.service_classes,
                variants=tuple(variants),
                # It never looks at what there is.
                capacity=None,
                settings=fleet.Settings(stability_margin=0.0),
            )
        )
        for key, decision in plan.decisions.items():
            self._wanted[key.partition("/")[2]] = decision.candidate.replicas

    def _relay(self) -> None:
        self._relayed = {name: [str(number)] for name, number in self._wanted.items()}

    def hpa(self) -> Hpa:
        """As its samples: no stabilization, and the default tolerance."""
        return self.scenario.hpa.model_copy(update={"scale_down_stabilization": 0.0})

    def items(self, variant: str) -> list[str]:
        return self._relayed.get(variant, [])

    def desired(self, variant: str) -> float:
        return float(self._wanted.get(variant, math.nan))


_Scrape = tuple[float, dict[int, tuple[float, float, float]]]


def _rates(history: list[_Scrape]) -> tuple[float, float, float, float]:
    """Growth of finished requests and their tokens, and over which time; series by series, as rate() is."""
    grown = [0.0, 0.0, 0.0]
    for (_, before), (_, after) in itertools.pairwise(history):
        for replica in before.keys() & after.keys():
            for index in range(3):
                grown[index] += after[replica][index] - before[replica][index]
    span = history[-1][0] - history[0][0] if history else 0.0
    return grown[0], grown[1], grown[2], span


def settings_of(scenario: Scenario) -> LoopSettings:
    """The adapter's defaults with the scenario's intervals."""
    defaults = LoopSettings()
    return replace(
        defaults,
        interval=scenario.loop.interval,
        collection=replace(defaults.collection, interval=scenario.loop.scrape_interval),
        keep_accelerator=True,
        routing="least-loaded" if scenario.routing == "least-loaded" else "random",
    )

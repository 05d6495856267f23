"""The adapter's own control loop with its settings, on the replay's clock; only the network is left out."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import aiohttp

from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from adapter.resources.model_groups.membership import Membership
from adapter.resources.variant import VariantSource
from adapter.store import DESIRED, TargetStore
from emulator.hpa_rules import HPAScalingPolicy, ScalingRules
from emulator.replay.cluster import ReplayCluster, pod_metrics
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.replicas.planner import profile_of
from emulator.replay.replicas.specs import VariantSpec, VllmEngine
from emulator.replay.scenario import Hpa, Scenario

NAMESPACE = "replay"


class ReplayClock(Clock):
    """A clock that reads the replay's virtual time."""

    def __init__(self, cluster: ReplayCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def time(self) -> float:
        """Seconds since the beginning of the run."""
        return self._cluster.now

    def monotonic(self) -> float:
        """Seconds since the beginning of the run, as `time`."""
        return self._cluster.now


async def _plan(snapshot: fleet.Fleet) -> planning.Plan:
    return planning.plan(snapshot)


def inputs_of(
    scenario: Scenario,
    *,
    percentile: float | None,
    profile: Callable[[VariantSpec], fleet.Profile | None] = profile_of,
) -> Inputs:
    """The scenario as the adapter's inputs; targets bound a percentile of the latencies, or the mean."""
    classes: dict[tuple[str, int], dict[str, fleet.Targets]] = {}
    for model in scenario.models:
        targets = fleet.Targets(itl_ms=model.slo.itl, ttft_ms=model.slo.ttft, percentile=percentile)
        classes.setdefault((model.service_class, model.priority), {})[model.model] = targets
    limited = {
        name: item.devices
        for name, item in scenario.accelerators.items()
        if item.devices is not None
    }
    sources = tuple(
        _source(variant, scenario, profile(variant), percentile=percentile)
        for variant in scenario.variants
    )
    return Inputs(
        accelerators=tuple(
            fleet.Accelerator(name=name, device_type=name, unit_cost=item.cost)
            for name, item in scenario.accelerators.items()
        ),
        service_classes=tuple(
            fleet.ServiceClass(name=name, priority=priority, targets=targets)
            for (name, priority), targets in classes.items()
        ),
        variants=sources,
        groups=forming.form(sources).groups,
        capacity=limited if len(limited) == len(scenario.accelerators) else None,
    )


def _source(
    variant: VariantSpec,
    scenario: Scenario,
    profile: fleet.Profile | None,
    *,
    percentile: float | None,
) -> VariantSource:
    model = next(item for item in scenario.models if item.model == variant.model)
    return VariantSource(
        namespace=NAMESPACE,
        name=variant.name,
        model=variant.model,
        service_class=model.service_class,
        profiles=() if profile is None else (profile,),
        targets=fleet.Targets(itl_ms=model.slo.itl, ttft_ms=model.slo.ttft, percentile=percentile),
        accelerator=variant.accelerator,
        endpoints=(),
        replicas=variant.replicas,
        spec_replicas=variant.replicas,
        pods_known=True,
        startup_seconds=variant.startup or 1.0,
        min_replicas=variant.min_replicas,
        max_replicas=variant.max_replicas,
        keep_accelerator=True,
        membership=Membership(alone=not model.group),
    )


class AdapterPolicy(ScalingPolicy):
    """The adapter's own control loop."""

    def __init__(
        self,
        cluster: ReplayCluster,
        *,
        name: str,
        title: str,
        settings: LoopSettings,
        percentile: float | None,
    ) -> None:
        super().__init__(cluster)
        self.name, self.title = name, title
        self._inputs = inputs_of(self.scenario, percentile=percentile)
        grouped = settings.model_groups
        self._grouped = {key for item in self._inputs.groups if grouped for key in item.members}
        self._store = TargetStore()
        self._decided = False
        self._scraped_at = -math.inf
        self._runner = asyncio.Runner()
        clock = ReplayClock(cluster)
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
        collection = self._settings.collection
        scrape, busy = collection.interval, collection.busy_interval
        # As in the adapter: the first reconcile cycle once two scrape cycles have ended.
        return [
            Timer(scrape, 1.0, self._collect),
            *([Timer(busy, 1.0 + busy, self._collect_busy)] if busy < scrape else []),
            Timer(self._settings.interval, 1.0 + 1.5 * scrape, self._decide),
        ]

    def _use(self) -> None:
        """Give the loop the present state of the cluster, as its watches would."""
        sources = []
        for source in self._inputs.variants:
            ready = self.cluster.fleet.ready_numbers(source.name)
            replicas = self.cluster.fleet.replicas(source.name)
            in_group = source.key in self._grouped
            sources.append(
                replace(
                    source,
                    endpoints=tuple(f"sim://{source.name}-{number}" for number in ready),
                    pods=tuple(f"{source.name}-{number}" for number in ready),
                    replicas=replicas,
                    spec_replicas=self.cluster.spec_replicas[source.name],
                    existing=replicas if in_group else None,
                    unschedulable=self.cluster.unschedulable(source.name) if in_group else 0,
                )
            )
        self.loop.apply_inputs(replace(self._inputs, variants=tuple(sources)))

    def _collect(self) -> None:
        self._scraped_at = self.cluster.now
        self._scrape({source.key for source in self._inputs.variants}, between=False)

    def _collect_busy(self) -> None:
        """Between two scrape cycles, what queues or moves, and where pods are few."""
        if self.cluster.now > self._scraped_at and self.loop.watched:
            self._scrape(self.loop.watched, between=True)

    def _scrape(self, keys: Collection[str], *, between: bool) -> None:
        self._use()
        for source in self._inputs.variants:
            if source.key not in keys:
                continue
            engine = self.cluster.variants[source.name].served_by
            kv_tokens = engine.kv_tokens if isinstance(engine, VllmEngine) else None
            for item in self.cluster.ready(source.name):
                self.loop.collector.add(
                    source.key,
                    f"sim://{source.name}-{item.replica}",
                    pod_metrics(item, kv_tokens=kv_tokens),
                    now=self.cluster.now,
                    source="direct",
                )
        self.loop.record_scrape(between=between)
        if self.loop.cycle_requested and self._decided:
            self._decide()

    def _decide(self) -> None:
        self._decided = True
        self._use()
        self._runner.run(self.loop.reconcile())

    def hpa(self) -> Hpa:
        """Settings of manifests/samples/hpa.yaml: the HPA follows the metric; the adapter stabilizes."""
        return self.scenario.hpa.model_copy(
            update={"tolerance": 0.0, "scale_down_stabilization": 0.0}
        )

    def scale_up(self) -> ScalingRules:
        """The policy of manifests/samples/hpa.yaml: the whole rise in one sync."""
        return ScalingRules(
            policies=(HPAScalingPolicy(type="Pods", value=1000, period_seconds=15),)
        )

    def items(self, variant: str) -> list[str]:
        return _served(self._store, variant, now=self.cluster.now)

    def desired(self, variant: str) -> float:
        state = self.loop.states.get(f"{NAMESPACE}/{variant}")
        return math.nan if state is None or state.desired is None else float(state.desired)

    def close(self) -> None:
        self.loop.collector.close()
        self._runner.close()


async def _session() -> aiohttp.ClientSession:
    """A closed session: metrics come from the simulation."""
    session = aiohttp.ClientSession()
    await session.close()
    return session


def _served(store: TargetStore, variant: str, *, now: float) -> list[str]:
    """Values of the desired-replicas metric that the API server would return for a variant."""
    entries = store.answer(NAMESPACE, DESIRED, None, now=now)
    return [
        str(json.loads(entry.encoded)["value"])
        for entry in entries
        if entry.labels["variant_name"] == variant
    ]


def settings_of(scenario: Scenario) -> LoopSettings:
    """The adapter's default settings with the scenario's intervals and routing."""
    defaults = LoopSettings()
    return replace(
        defaults,
        interval=scenario.loop.interval,
        collection=replace(defaults.collection, interval=scenario.loop.scrape_interval),
        keep_accelerator=True,
        routing="least-loaded" if scenario.routing == "least-loaded" else "random",
    )

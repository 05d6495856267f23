"""Fleets of many variants whose states are as the control loop leaves them, served by the real program.

Loads, lengths and prices vary with the number of the variant; some variants are short of devices, held,
stale, drifting, slow or only advise. Variants of the second model form groups, one member of each on spot
devices. Decisions are those of the real planner.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from adapter.app import serving
from adapter.app.endpoints import Endpoints
from adapter.app.options import ServeOptions
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings
from adapter.collector.observation import Observation
from adapter.collector.servers.histogram import Histogram
from adapter.collector.traffic import Traffic
from adapter.collector.windows.latencies import Distribution
from adapter.controller.estimates.drift import Drift
from adapter.controller.groups.state import GroupState
from adapter.controller.settings import LoopSettings
from adapter.controller.state import VariantRecord, VariantState
from adapter.controller.tuning import TunedProfile
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Ceiling, Group, Member
from adapter.resources.inputs import Inputs, InvalidVariant
from adapter.resources.variant import VariantSource
from analyzer import tuner
from analyzer.latency import LatencyParameters

CLASSES = ("Premium", "Freemium")
ACCELERATORS = (
    fleet.Accelerator(name="A100", device_type="A100-80GB", unit_cost=40.0),
    fleet.Accelerator(name="H100", device_type="H100-80GB", unit_cost=90.0),
)
_LATENCIES = {
    "A100": LatencyParameters(alpha_ms=20.0, beta_ms=0.4, gamma_ms=8.0, delta_ms=0.02),
    "H100": LatencyParameters(alpha_ms=9.0, beta_ms=0.2, gamma_ms=4.0, delta_ms=0.01),
}

QUIET = LoopSettings(
    interval=86400.0, collection=CollectionSettings(interval=86400.0, window=90000.0)
)
"""Cycles that do not come while a test looks at what is there."""


def fleet_of(count: int) -> fleet.Fleet:
    """A fleet of many variants without a limit of devices; three of a namespace share model and class."""
    targets = {f"model-{n}": fleet.Targets(itl_ms=30.0, ttft_ms=800.0) for n in range(count)}
    profiles = tuple(
        fleet.Profile(accelerator=name, latency=latency, max_batch=64)
        for name, latency in _LATENCIES.items()
    )
    variants = tuple(
        fleet.Variant(
            name=f"team-{n % 7}/v{n:04}",
            model=f"model-{n // 21}",
            service_class=CLASSES[n % 7 % 2],
            profiles=profiles,
            load=fleet.Load(
                arrival_rate_rps=0.5 + n % 17,
                input_tokens=200 + n % 300,
                output_tokens=100 + n % 200,
            ),
            current=fleet.CurrentAllocation(accelerator="A100", replicas=1 + n % 4),
        )
        for n in range(count)
    )
    return fleet.Fleet(
        accelerators=ACCELERATORS,
        service_classes=tuple(
            fleet.ServiceClass(name=name, priority=place, targets=targets)
            for place, name in enumerate(CLASSES, start=1)
        ),
        variants=variants,
        groups=_groups(variants),
    )


def _groups(variants: tuple[fleet.Variant, ...]) -> tuple[Group, ...]:
    """Groups of the second model, one in each namespace; the second member is on spot devices."""
    members: dict[str, list[fleet.Variant]] = {}
    for item in variants:
        if item.model == "model-1":
            members.setdefault(item.name.partition("/")[0], []).append(item)
    return tuple(
        Group(
            name=f"{namespace}/model-1",
            namespace=namespace,
            model="model-1",
            service_class=some[0].service_class,
            variants=tuple(item.name for item in some),
            traffic=replace(
                some[0].load,
                arrival_rate_rps=sum(item.load.arrival_rate_rps for item in some),
            ),
            members={some[1].name: Member(interruptible=True)},
            interruptible_share=0.4,
        )
        for namespace, some in members.items()
        if len(some) > 1
    )


def states_of(known: fleet.Fleet, plan: planning.Plan, *, now: float) -> dict[str, VariantState]:
    """The states after a reconcile cycle that made that plan at a Unix time."""
    classes = {item.name: item for item in known.service_classes}
    states = {
        variant.name: _state(n, variant, classes[variant.service_class], plan, now)
        for n, variant in enumerate(known.variants)
    }
    for group in known.groups:
        rate = 60.0 * group.traffic.arrival_rate_rps
        shared = GroupState(
            name=group.name,
            members=group.variants,
            routing=group.routing,
            observed_rpm=rate * 0.97,
            waiting=2.0,
            demand_rpm=rate,
            interruptible_share=group.interruptible_share,
            decision=plan.groups[group.name],
            targets={name: states[name].desired or 0 for name in group.variants},
        )
        for name in group.variants:
            spot = group.members.get(name, Member()).interruptible
            states[name] = replace(
                states[name],
                group=shared,
                source=replace(states[name].source, interruptible=spot),
            )
    return states


def _state(
    n: int,
    variant: fleet.Variant,
    service_class: fleet.ServiceClass,
    plan: planning.Plan,
    now: float,
) -> VariantState:
    decision = plan.decisions[variant.name]
    candidate = decision.candidate
    namespace, _, name = variant.name.partition("/")
    replicas = variant.current.replicas if n % 5 == 0 else candidate.replicas
    targets = service_class.targets[variant.model]
    source = VariantSource(
        namespace=namespace,
        name=name,
        model=variant.model,
        service_class=variant.service_class,
        profiles=variant.profiles,
        targets=targets,
        accelerator=candidate.accelerator,
        endpoints=tuple(f"http://10.0.0.{p}:8000/metrics" for p in range(replicas)),
        replicas=replicas,
        spec_replicas=replicas,
    )
    slow = n % 31 == 3
    traffic = Traffic(
        arrival_rate_rps=variant.load.arrival_rate_rps * 0.97,
        input_tokens=variant.load.input_tokens,
        output_tokens=variant.load.output_tokens,
        ttft_ms=targets.ttft_ms * 1.5 if slow else candidate.ttft_ms * 0.9,
        itl_ms=candidate.itl_ms * 1.02,
        idle=False,
        running=float(3 + n % 40),
        waiting=float(n % 3),
        kv_cache=(n % 90) / 100,
        ttft=_measured(n, candidate.ttft_ms),
        itl=_measured(n, candidate.itl_ms),
    )
    state = VariantState(
        source=source,
        observation=Observation(traffic=traffic, origin="direct", heard=True),
        desired=candidate.replicas,
        accelerator=candidate.accelerator,
        max_batch=candidate.max_batch,
        reason=decision.reason,
        metrics="MetricsFound",
        outcome="OptimizationSucceeded",
        observed_at=now - 4.0,
        decided_at=now - 6.0,
        cost=candidate.cost,
        profile_source="given",
        decision=decision,
    )
    return _troubled(n, state)


def _measured(n: int, milliseconds: float) -> Distribution:
    """Latencies about a mean; pods of every third variant show no buckets."""
    if n % 3 == 2:
        return Distribution(500.0 + n)
    bounds = tuple(part * milliseconds / 1000.0 for part in (0.5, 1.0, 1.6, 3.0))
    return Distribution(500.0 + n, Histogram(bounds, array("d", (20, 270, 150, 60 + n, 0))))


def _troubled(n: int, state: VariantState) -> VariantState:
    """The state of some variants with something that needs attention."""
    if n % 50 == 7 and state.decision is not None:
        ceiling = Ceiling(name="budget team-0: cost", limit=500.0, used=480.0, unit="cents/h")
        return replace(
            state,
            outcome="CapacityShort",
            reason=f"A100 short; {state.reason}",
            decision=replace(state.decision, cut_by=(ceiling,)),
        )
    if n % 50 == 19:
        return replace(state, source=replace(state.source, advisory=True))
    if n % 50 == 11:
        return replace(state, problem="no fresh metrics from 1 of 2 pods: timeout")
    if n % 50 == 13:
        return replace(state, metrics="MetricsStale")
    if n % 50 == 17:
        profile = state.source.profiles[0]
        assert isinstance(profile.latency, LatencyParameters)
        tuned = TunedProfile(
            profile=profile,
            tuner=tuner.start(profile.latency),
            observed_at=0.0,
            drift=Drift(active=True, began_at=0.0, message="ITL observed 40 ms, predicted 25 ms"),
        )
        return replace(state, tuned={state.source.accelerator: tuned})
    return state


async def plan_here(snapshot: fleet.Fleet) -> planning.Plan:
    """A plan without a worker process."""
    return planning.plan(snapshot)


def put(endpoints: Endpoints, states: Mapping[str, VariantState]) -> None:
    """Let the control loop have these states, as after a cycle."""
    records = {key: VariantRecord(state=state) for key, state in states.items()}
    endpoints.loop._reconciler._records = records


@contextlib.asynccontextmanager
async def served(
    folder: Path,
    objects: Path,
    count: int,
    *,
    refused: tuple[InvalidVariant, ...] = (),
) -> AsyncIterator[Endpoints]:
    """Serve a fleet of that many variants with its metrics port.

    Args:
        folder: For certificates.
        objects: Folder of manifests that the program starts with; its variants are replaced.
        count: Number of variants.
        refused: Invalid VariantAutoscalings beside them.

    """
    options = ServeOptions(
        variants=objects,
        host="127.0.0.1",
        port=0,
        certificates=local_auth.Files(state=folder / "state"),
        loop=QUIET,
        interval=QUIET.interval,
        metrics_port=0,
    )
    async with serving.serving(options, clock=Clock(), planner=plan_here) as endpoints:
        known = fleet_of(count)
        plan = await endpoints.last(known)
        endpoints.loop._reconciler._inputs = Inputs(refused=refused, accelerators=ACCELERATORS)
        put(endpoints, states_of(known, plan, now=time.time()))
        yield endpoints


def show_every_update(endpoints: Endpoints) -> None:
    """Let the pages take all of the processor: a busy machine makes updates seldom otherwise."""
    budget = endpoints._metrics._pages._budget
    budget._share, budget._least = 1.0, 0.0

"""One run: the traffic under one policy; simulation, HPAs and the policy's timers in order of time."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from emulator.hpa import HorizontalPodAutoscaler
from emulator.replay import scoring
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy, Timer
from emulator.replay.results import PolicyResult
from emulator.replay.scenario import Scenario
from emulator.traces import Trace

SAMPLE_SECONDS = 15.0
"""Interval between the samples of the curves."""

HPA_PHASE_SECONDS = 7.0
"""Time of the HPAs' first sync, chosen so that nothing else happens at the same time."""

DRAIN_SECONDS = 120.0
"""Simulated time after the end of the traffic, in which outstanding requests may finish."""

ReportTime = Callable[[float], None]
"""Receives the seconds that have been simulated so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Scenario and traffic, the same for every policy.

    Attributes:
        scenario: Models, variants, GPUs and HPA settings.
        traffic: Trace by the model's name.
        steps: Start and end in seconds of each upward step of the load, by the model's name.

    """

    scenario: Scenario
    traffic: Mapping[str, Trace]
    steps: Mapping[str, Sequence[tuple[float, float]]]

    @property
    def seconds(self) -> float:
        """Simulated time of one run."""
        return scoring.duration(self.traffic) + DRAIN_SECONDS


def run(
    given: Run,
    make: Callable[[ReplayCluster], ScalingPolicy],
    progress: ReportTime = lambda _: None,
) -> PolicyResult:
    """Replay the traffic under one policy.

    Args:
        given: Scenario and traffic.
        make: Creates the policy for a cluster.
        progress: Receives the simulated seconds at each sample.

    """
    cluster = ReplayCluster(given.scenario, given.traffic)
    policy = make(cluster)
    try:
        _simulate(given, cluster, policy, progress)
    finally:
        policy.close()
    results = cluster.fleet.results()
    names = cluster.variants
    return PolicyResult(
        policy=policy.name,
        title=policy.title,
        classes=scoring.classes(given.scenario, results),
        gpu_hours=sum(cluster.fleet.gpu_seconds(name) for name in names) / 3600,
        cost_cents=sum(cluster.cost_cents(name) for name in names),
        scale_ups=cluster.scale_ups,
        scale_downs=cluster.scale_downs,
        recovery_seconds=scoring.recoveries(given.scenario, results, given.steps),
        queue_peak=cluster.queue_peak,
        curves=cluster.curves(results),
        notes=policy.notes,
    )


def _simulate(
    given: Run, cluster: ReplayCluster, policy: ScalingPolicy, progress: ReportTime
) -> None:
    """Fire all timers in order of time; at the same time the policy's, then the HPAs', then the sample's."""
    end = given.seconds
    hpas = {name: policy.autoscaler(variant) for name, variant in cluster.variants.items()}
    period = given.scenario.hpa.sync_period

    def sync() -> None:
        for name, hpa in hpas.items():
            _sync(cluster, policy, name, hpa)

    def sample() -> None:
        cluster.sample({name: policy.desired(name) for name in cluster.variants})
        progress(cluster.now)

    timers = [
        *_closing(cluster),
        *policy.timers(),
        Timer(period, HPA_PHASE_SECONDS, sync),
        Timer(SAMPLE_SECONDS, 0.0, sample),
    ]
    order = itertools.count()
    due = [(timer.phase, rank, next(order), timer) for rank, timer in enumerate(timers)]
    heapq.heapify(due)
    while due and due[0][0] <= end:
        at, rank, _, timer = heapq.heappop(due)
        cluster.advance(at)
        timer.action()
        if math.isfinite(timer.period):
            heapq.heappush(due, (at + timer.period, rank, next(order), timer))
    cluster.advance(end)


def _closing(cluster: ReplayCluster) -> list[Timer]:
    """Beginning and end of the times in which variants are unschedulable."""
    timers = []
    for name, variant in cluster.variants.items():
        gone = variant.unschedulable
        if gone is not None:
            timers.append(Timer(math.inf, gone.start, functools.partial(cluster.close, name)))
            if gone.end is not None:
                timers.append(
                    Timer(math.inf, gone.end, functools.partial(cluster.fleet.reopen, name))
                )
    return timers


def _sync(
    cluster: ReplayCluster, policy: ScalingPolicy, name: str, hpa: HorizontalPodAutoscaler
) -> None:
    items = policy.items(name)
    if items is None:
        return
    decision = hpa.step(
        now_seconds=cluster.now,
        items=items or None,
        spec_replicas=cluster.spec_replicas[name],
        ready_replicas=cluster.fleet.ready(name),
    )
    cluster.scale(name, decision.replicas)

"""What each policy sees of the simulated fleet, and what it makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from emulator import traces
from emulator.replay import clairvoyant, compare, running, scenario
from emulator.replay.choices import names
from emulator.replay.choices.names import Choice
from emulator.replay.cluster import ReplayCluster, pod_metrics
from emulator.replay.policies import KvCache, Queue, ScalingPolicy, Scheduled, Static
from emulator.replay.rivals import wva
from emulator.replay.rivals.wva import Reference
from emulator.replay.running import Run
from emulator.replay.scenario import OfferedTraffic, Scenario
from emulator.traces import Trace

SAMPLE_HPA = Path(__file__).parents[3] / "manifests" / "samples" / "hpa.yaml"
OURS, OURS_MEAN = (Choice(name=name, family=name, policy=name) for name in ("ours", "ours-mean"))
PROFILE = {"alpha": 20.58, "beta": 0.41, "gamma": 5.2, "delta": 0.1, "maxBatchSize": 8}
FULL_RPS = 8000.0 / (5.2 + 0.1 * 128 * 8 + 177 * (20.58 + 0.41 * 8))
"""What one replica finishes of `even` traffic when it is never empty."""


def made(*, gpus: int | None = None, **fields: Any) -> Scenario:
    document: dict[str, Any] = {
        "accelerators": {"A100": {"cost": 40, "devices": gpus}},
        "models": [{"model": "m", "slo": {"ttft": 500, "itl": 24}}],
        "variants": [
            {
                "name": "chat",
                "model": "m",
                "accelerator": "A100",
                "engine": {"kind": "profile"},
                "profile": PROFILE,
                "startup": 60,
            }
            | fields
        ],
        "warmUp": 0,
    }
    return Scenario.model_validate(document)


def even(rate_rps: float, seconds: float) -> Trace:
    """Requests of one size, equally far apart."""
    return traces.generate(
        {"kind": "constant", "duration_seconds": seconds, "rate_rpm": 60 * rate_rps,
         "tokens": {"input": {"mean": 128}, "output": {"mean": 178}}}
    )  # fmt: skip


def kept(given: Run, make: Callable[[ReplayCluster], ScalingPolicy]) -> tuple[Any, Any]:
    """The policy as it is at the end, with the result."""
    policies: list[ScalingPolicy] = []

    def making(cluster: ReplayCluster) -> ScalingPolicy:
        policies.append(make(cluster))
        return policies[0]

    result = running.run(given, making)
    return policies[0], result


@pytest.mark.parametrize("load", [2.0, 5.0])
def test_reference_sees_what_is_finished_only(load: float) -> None:
    """Where one GPU is all there is, the reference takes its speed for the load, however much is offered."""
    replay_scenario = made(gpus=1)
    given = Run(scenario=replay_scenario, traffic={"m": even(load * FULL_RPS, 900)}, steps={})
    policy, result = kept(given, Reference)
    finished, prompt, generated, span = wva._rates(policy._records["chat"].history)
    assert finished / span == pytest.approx(FULL_RPS, rel=0.05)
    assert (prompt / finished, generated / finished) == (128, 178)
    # Sized for means, what one carries takes two: always, for it never learns of the rest.
    assert result.curves["chat"].desired[-1] == 2
    assert max(result.curves["chat"].ready) == 1


def test_ours_sees_what_is_offered() -> None:
    """Where the reference wants two replicas for ever, ours wants more for more load and for what waits."""
    replay_scenario = made(gpus=64)
    wanted = []
    for load in (2.0, 5.0):
        given = Run(scenario=replay_scenario, traffic={"m": even(load * FULL_RPS, 400)}, steps={})
        result = running.run(given, names.maker(replay_scenario, OURS_MEAN))
        wanted.append(float(np.nanmax(result.curves["chat"].desired)))
    assert wanted[0] > 2
    assert wanted[1] > 2 * wanted[0] - 1


def test_reference_reaches_the_hpa_late() -> None:
    """A decision of the reference is seen when Prometheus has scraped it, up to half a minute later."""
    replay_scenario = made(gpus=64)
    given = Run(scenario=replay_scenario, traffic={"m": even(0.8 * FULL_RPS, 200)}, steps={})
    cluster = ReplayCluster(replay_scenario, given.traffic)
    policy = Reference(cluster)
    scrape, decide, relay = policy.timers()
    assert (scrape.period, decide.period, relay.period) == (15, 60, 30)
    for second in range(3, 80, 15):
        cluster.advance(second)
        scrape.action()
    decide.action()
    assert policy.desired("chat") == 2
    assert policy.items("chat") == []
    relay.action()
    assert policy.items("chat") == ["2"]


def test_gauges_are_those_of_the_last_scrape() -> None:
    """HPAs on vLLM's gauges read the sum over ready replicas, as it was at the last scrape."""
    replay_scenario = made(replicas=2, maxReplicas=4)
    cluster = ReplayCluster(replay_scenario, {"m": even(4 * FULL_RPS, 600)})
    queue, cache = Queue(cluster), KvCache(cluster)
    assert (queue.items("chat"), cache.items("chat")) == ([], [])
    cluster.advance(60)
    for policy in (queue, cache):
        (timer,) = policy.timers()
        assert timer.period == replay_scenario.loop.scrape_interval
        timer.action()
    waiting = sum(item.waiting for item in cluster.ready("chat"))
    assert waiting > 50
    assert queue.items("chat") == [f"{waiting}.000"]
    assert cache.items("chat") == ["2.000"]  # two replicas, all of each
    cluster.advance(90)
    assert sum(item.waiting for item in cluster.ready("chat")) > waiting
    assert queue.items("chat") == [f"{waiting}.000"]
    assert (queue.target(), cache.target()) == ("2", "0.8")


def test_only_ready_replicas_are_seen() -> None:
    """A replica that starts reports nothing until it is ready, and its page knows since when it runs."""
    cluster = ReplayCluster(made(), {"m": even(0.2, 600)})
    cluster.advance(30)
    cluster.scale("chat", 2)
    cluster.advance(89.9)
    assert [len(cluster.ready("chat")), cluster.fleet.replicas("chat")] == [1, 2]
    cluster.advance(90.1)
    ready = cluster.ready("chat")
    assert [item.started_seconds for item in ready] == [0.0, 90.0]
    assert pod_metrics(ready[1]).started_at == 30


def test_draining_replicas_are_not_seen() -> None:
    """A replica that only finishes what it has is no longer read, but by the reference's Prometheus."""
    cluster = ReplayCluster(made(replicas=2), {"m": even(FULL_RPS, 600)})
    cluster.advance(60)
    cluster.scale("chat", 1)
    assert len(cluster.fleet.counters("chat")) == 2
    assert [item.state for item in cluster.ready("chat")] == ["ready"]


def test_changes_are_counted_by_their_direction() -> None:
    """Only what changes the number is a scale event, however large; cost is GPUs times hours times cents."""
    cluster = ReplayCluster(made(devices=2), {"m": even(0.2, 600)})
    for second, number in ((10, 3), (20, 3), (30, 2), (40, 5), (50, 1)):
        cluster.advance(second)
        cluster.scale("chat", number)
    assert (cluster.scale_ups, cluster.scale_downs) == (2, 2)
    cluster.advance(3600)
    held = 3600 + (30 - 10) + (50 - 10) + 3 * (50 - 40)
    assert cluster.cost_cents("chat") == pytest.approx(40 * 2 * held / 3600)


def test_a_fixed_fleet_is_left_alone() -> None:
    """Policies without metrics have no HPA: the fleet is what the timetable says, whatever the bounds."""
    given = Run(scenario=made(maxReplicas=3), traffic={"m": even(1.0, 300)}, steps={})
    static = running.run(given, lambda cluster: Static(cluster, {"chat": 5}))
    assert (static.scale_ups, static.scale_downs) == (1, 0)
    assert static.curves["chat"].created[-1] == 5
    table = {"chat": [(0.0, 2), (100.0, 4), (200.0, 1)]}
    scheduled = running.run(given, lambda cluster: Scheduled(cluster, table))
    assert (scheduled.scale_ups, scheduled.scale_downs) == (2, 1)
    at = scheduled.curves["chat"]
    assert dict(zip(at.seconds.tolist(), at.desired.tolist(), strict=True))[105.0] == 4


def swelling(seed: int = 7) -> OfferedTraffic:
    spec = {
        "kind": "diurnal", "duration_seconds": 1200, "mean_rpm": 250, "amplitude": 0.7,
        "period_seconds": 1200, "seed": seed,
        "tokens": {"input": {"mean": 128, "cv": 0.8, "max": 2048},
                   "output": {"mean": 178, "cv": 0.6, "max": 1024}},
    }  # fmt: skip
    return OfferedTraffic(trace=traces.generate(spec), steps=tuple(scenario.steps(spec)))


def test_clairvoyant_is_the_bound() -> None:
    """Who knows the traffic keeps 99 % within the SLO, barely more, for less than a fleet for the peak."""
    replay_scenario = made(replicas=2)
    comparison = compare.compare(replay_scenario, {"m": swelling()}, ("static", "clairvoyant"))
    static, bound = comparison.results
    assert comparison.bound is bound
    assert bound.within >= 0.99
    assert static.within >= 0.99
    assert bound.cost_cents < 0.8 * static.cost_cents
    assert bound.within < 0.999  # it does not waste either
    assert comparison.cost_ratio(bound) == 1.0


def test_timetable_is_ahead_by_the_start() -> None:
    """Replicas for a rise are asked for as long before as they start, and go when they are not needed."""
    given = Run(
        scenario=made(maxReplicas=20),
        traffic={"m": traces.generate({
            "kind": "step", "levels": [[300, 60], [300, 300], [300, 60]], "arrivals": "even",
            "tokens": {"input": {"mean": 128}, "output": {"mean": 178}},
        })},
        steps={},
    )  # fmt: skip
    table = clairvoyant.schedules(given, {"chat": 1.0}, 1.0)["chat"]
    numbers = [number for _, number in table]
    first = next(at for at, number in table if number == 5)
    last = next(at for at, number in table if at > first and number < 5)
    # The rate around a moment is that of 75 s, and begins to rise before the step.
    assert 300 - 60 - 37.5 <= first <= 300 - 60 + 37.5
    assert 600 - 37.5 <= last <= 600 + 37.5
    assert (numbers[0], max(numbers), numbers[-1]) == (1, 5, 1)


def test_clairvoyant_that_cannot_says_so() -> None:
    """Where targets cannot be met at all, the bound is what comes closest, with a note."""
    document = made(maxReplicas=2).model_dump(by_alias=True)
    document["models"][0]["slo"] = {"ttft": 10, "itl": 24}
    comparison = compare.compare(
        Scenario.model_validate(document), {"m": swelling()}, ("static", "clairvoyant")
    )
    bound = comparison.bound
    assert bound is not None
    assert bound.within < 0.99
    assert bound.notes == ("no timetable of this kind meets the targets",)


def test_hpas_are_set_as_their_guides_say() -> None:
    """Ours leaves it to the adapter when to go down; on vLLM's metrics the HPA has Kubernetes' defaults."""
    replay_scenario = made()
    cluster = ReplayCluster(replay_scenario, {"m": even(0.2, 60)})
    ours = names.maker(replay_scenario, OURS)(cluster)
    try:
        assert (ours.hpa().tolerance, ours.hpa().scale_down_stabilization) == (0, 0)
        (spec,) = (item["spec"] for item in yaml.safe_load_all(SAMPLE_HPA.read_text()))
        behavior = spec["behavior"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 0
        rules = ours.scale_up()
        assert rules is not None
        assert [
            {"type": item.type, "value": item.value, "periodSeconds": item.period_seconds}
            for item in rules.policies or ()
        ] == behavior["scaleUp"]["policies"]
        assert ours.items("chat") == []
        assert math.isnan(ours.desired("chat"))
    finally:
        ours.close()
    assert (Queue(cluster).hpa().tolerance, Queue(cluster).hpa().scale_down_stabilization) == (
        0.1,
        300,
    )
    assert Static(cluster, {"chat": 1}).items("chat") is None

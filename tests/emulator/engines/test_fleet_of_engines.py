"""A simulated fleet whose replicas are engines behind the Protocol: routing, scaling, draining, counters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from emulator.engine import EngineProfile
from emulator.engines.profile import ProfileEngine
from emulator.engines.protocol import VirtualEngine
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.simulation import Results, SimulatedFleet, SimulatedVariant
from emulator.traces import Trace

PROFILE = EngineProfile(alpha_ms=20, beta_ms=0.5, gamma_ms=5, delta_ms=0.1, max_batch=4)
TIMES = StepTimes(
    base_ms=7, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
)


def scheduler(kv_blocks: int = 4000) -> VirtualEngine:
    limits = SchedulerLimits(max_num_seqs=64, max_num_batched_tokens=512, kv_blocks=kv_blocks)
    return SchedulerEngine(TIMES, limits)


def tight() -> VirtualEngine:
    """An engine that holds a few requests only."""
    return scheduler(kv_blocks=100)


def traffic(rate_rps: float, requests: int, seed: int = 3) -> Trace:
    source = np.random.default_rng(seed)
    arrivals = np.cumsum(source.exponential(1 / rate_rps, requests))
    return Trace(
        arrival_seconds=arrivals,
        input_tokens=source.integers(1, 900, requests),
        output_tokens=source.integers(1, 200, requests),
        duration_seconds=float(arrivals[-1]),
    )


def scaled(variant: SimulatedVariant, trace: Trace) -> SimulatedFleet:
    """A fleet that grows, shrinks to one and grows again under the traffic, run to its end."""
    fleet = SimulatedFleet([variant], traces={"default": trace})
    for at, replicas in ((3.0, 4), (9.0, 1), (14.0, 3)):
        fleet.advance(at)
        fleet.scale("v", replicas)
    fleet.advance(600.0)
    return fleet


def test_a_profile_engine_serves_as_the_fleets_own_server() -> None:
    """Through the Protocol, requests have the same bits as those of a variant with that profile."""
    trace = traffic(3.0, 80)
    own = SimulatedVariant(name="v", profile=PROFILE, replicas=2, start_delay_seconds=2)
    other = SimulatedVariant(
        name="v", engine=lambda: ProfileEngine(PROFILE), replicas=2, start_delay_seconds=2
    )
    expected, results = (scaled(variant, trace).results() for variant in (own, other))
    for name in Results.__slots__:
        assert getattr(results, name).tolist() == getattr(expected, name).tolist(), name
    assert set(results.replica.tolist()) > {0, 1}


def test_one_replica_serves_as_its_engine_alone() -> None:
    """A fleet of one, which stops at each arrival, gives the completions of the engine run in one piece."""
    trace = traffic(12.0, 400)
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", engine=scheduler, replicas=1)], traces={"default": trace}
    )
    fleet.advance(300.0)
    results = fleet.results()
    completions = serve_open_loop(
        scheduler(),
        arrival_ms=(trace.arrival_seconds * 1000).tolist(),
        input_tokens=trace.input_tokens.tolist(),
        output_tokens=trace.output_tokens.tolist(),
    )
    assert results.start_ms.tolist() == [item.start_ms for item in completions]
    assert results.first_token_ms.tolist() == [item.first_token_ms for item in completions]
    assert results.finish_ms.tolist() == [item.last_token_ms for item in completions]


@pytest.mark.parametrize("make", [scheduler, tight], ids=["roomy", "preempting"])
def test_every_request_is_served_once_while_the_fleet_scales(make: object) -> None:
    """All that arrived end, on a replica that was ready, whatever was drained meanwhile."""
    assert callable(make)
    trace = traffic(12.0, 300)
    variant = SimulatedVariant(name="v", engine=make, replicas=2, start_delay_seconds=2)
    fleet = scaled(variant, trace)
    results = fleet.results()
    assert np.isfinite(results.finish_ms).all()
    assert (results.first_token_ms > results.start_ms).all()
    assert (results.start_ms >= results.arrival_ms).all()
    assert len(np.unique(results.replica)) > 3
    assert fleet.replicas("v") == len(fleet.counters("v")) == 3


def test_a_drained_replica_keeps_what_it_runs() -> None:
    """What was in service ends where it is; what waited starts on another replica, in order of arrival."""
    fleet = SimulatedFleet([SimulatedVariant(name="v", engine=tight, replicas=2)])
    for moment in range(12):
        fleet.advance(moment / 1000)
        fleet.offer("default", input_tokens=700, output_tokens=20)
    fleet.advance(0.1)
    before = {item.replica: (item.running, item.waiting) for item in fleet.counters("v")}
    fleet.scale("v", 1)
    draining, ready = sorted(fleet.counters("v"), key=lambda item: item.state)
    assert (draining.state, draining.running, draining.waiting) == (
        "draining",
        before[draining.replica][0],
        0,
    )
    assert ready.waiting == before[0][1] + before[1][1] > 0
    fleet.advance(60.0)
    assert [item.state for item in fleet.counters("v")] == ["ready"]
    results = fleet.results()
    assert np.isfinite(results.finish_ms).all()
    assert np.count_nonzero(results.replica == draining.replica) == draining.running


def test_counters_are_those_of_the_engine() -> None:
    """KV use is that of the cache's blocks, preemptions are counted, lengths fill histograms."""
    trace = traffic(30.0, 200)
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", engine=tight, replicas=1)], traces={"default": trace}
    )
    fleet.advance(4.0)
    (busy,) = fleet.counters("v")
    assert 0.5 < busy.kv_cache <= 1.0
    assert busy.running < 10 < busy.waiting
    fleet.advance(300.0)
    (idle,) = fleet.counters("v")
    assert (idle.running, idle.waiting, idle.kv_cache, idle.finished) == (0, 0, 0.0, 200)
    assert (idle.preemptions or 0) > (busy.preemptions or 0) > 0
    assert idle.prompt_tokens == (int(trace.input_tokens.sum()), 200)
    assert idle.generation_tokens == (int(trace.output_tokens.sum()), 200)
    # Buckets up to 1, 2, 5, 10, 20, 50, 100, ... tokens.
    upto_100 = int(np.count_nonzero(trace.output_tokens <= 100))
    assert (sum(idle.generation_buckets[:7]), sum(idle.generation_buckets)) == (upto_100, 200)
    assert sum(idle.prompt_buckets[10:]) == 0
    assert sum(idle.prompt_buckets) == 200


def test_a_request_without_input_counts_as_one_token() -> None:
    """Engines compute at least one prompt token."""
    fleet = SimulatedFleet([SimulatedVariant(name="v", engine=scheduler, replicas=1)])
    fleet.offer("default", input_tokens=0, output_tokens=1)
    fleet.advance(1.0)
    assert fleet.results().finish_ms[0] == TIMES.step_ms(
        requests=1, prefill_tokens=1, context_tokens=1
    )


def test_start_delays_are_lognormal_and_the_same_in_every_run() -> None:
    """The n-th replica starts in the same time whatever is asked for when; half of them within the median."""

    def starts(*script: int) -> list[float]:
        variant = SimulatedVariant(
            name="v",
            engine=scheduler,
            start_delay_seconds=100,
            start_delay_sigma=0.4,
            seed=1,
        )
        fleet = SimulatedFleet([variant])
        for moment, replicas in enumerate(script):
            fleet.advance(float(moment))
            fleet.scale("v", replicas)
        fleet.advance(2000.0)
        return [item.startup_seconds for item in fleet.counters("v")]

    delays = starts(400)
    assert starts(100, 400) == delays
    logarithms = np.log(np.array(delays) / 100)
    assert abs(np.median(logarithms)) < 0.08
    assert np.std(logarithms) == pytest.approx(0.4, rel=0.15)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "v: needs either profile or engine"),
        ({"profile": PROFILE, "engine": scheduler}, "v: needs either profile or engine"),
        ({"engine": scheduler, "start_delay_sigma": math.nan}, "v: start_delay_sigma: must be >= 0"),
    ],
)  # fmt: skip
def test_wrong_variants(fields: dict[str, object], said: str) -> None:
    """A variant has exactly one kind of engine, and start delays that exist."""
    with pytest.raises(ValueError, match=said):
        SimulatedVariant(name="v", **fields)  # type: ignore[arg-type]  # one wrong field each

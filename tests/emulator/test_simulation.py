"""The simulated fleet: replicas and GPUs as a cluster manages them, reproducible to the bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.server import Counters
from emulator.simulation import Results, SimulatedFleet, SimulatedVariant
from emulator.traces import generate
from tests.emulator.small_fleets import PROFILE, trace


def columns(results: Results) -> list[bytes]:
    """Everything, bit for bit, with NaN equal to itself."""
    names = [column.name for column in dataclasses.fields(results)]
    return [getattr(results, name).tobytes() for name in names]


def busy(routing: str = "least-loaded") -> SimulatedFleet:
    """Two models, three variants, two pools that do not suffice."""
    spec = {"kind": "poisson", "rate_rpm": 600, "duration_seconds": 120, "seed": 5}
    tokens = {"input": {"mean": 100, "cv": 1.0}, "output": {"mean": 60, "cv": 1.0}}
    wide = dataclasses.replace(PROFILE, max_batch=16)
    return SimulatedFleet(
        [
            SimulatedVariant(
                name="a", profile=PROFILE, model="m", start_delay_seconds=20, pool="p", replicas=3
            ),
            SimulatedVariant(
                name="b", profile=wide, model="m", start_delay_seconds=5, devices=2, pool="p"
            ),
            SimulatedVariant(
                name="c", profile=wide, model="n", start_delay_seconds=1, pool="q", replicas=1
            ),
        ],
        traces={
            "m": generate({**spec, "tokens": tokens}),
            "n": generate({**spec, "rate_rpm": 200, "seed": 6, "tokens": tokens}),
        },
        pools={"p": 8, "q": 2},
        routing=routing,  # type: ignore[arg-type]
    )


Command = tuple[float, str, int]
"""Seconds to wait, then a variant and its replicas."""
commands = st.lists(
    st.tuples(st.floats(0.0, 30.0), st.sampled_from(["a", "b", "c"]), st.integers(0, 6)),
    max_size=12,
)


def play(
    fleet: SimulatedFleet, script: Sequence[Command], pauses: Sequence[float] = ()
) -> SimulatedFleet:
    """Run a script to its end, with stops in between that change nothing."""
    now = 0.0
    for wait, variant, replicas in script:
        for pause in sorted(pauses):
            if now < pause < now + wait:
                fleet.advance(pause)
        now += wait
        fleet.advance(now)
        fleet.scale(variant, replicas)
    fleet.advance(now + 60)
    return fleet


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=commands, routing=st.sampled_from(["least-loaded", "round-robin"]))
def test_nothing_is_lost_and_no_gpu_is_used_twice(script: list[Command], routing: str) -> None:
    """Arrived is finished + running + waiting + in the gateway; pools, batches and order hold."""
    fleet = busy(routing)
    now = 0.0
    for wait, variant, replicas in script:
        now += wait
        fleet.advance(now)
        fleet.scale(variant, replicas)
        assert fleet.replicas(variant) == replicas
        results = fleet.results()
        pages = [page for v in fleet.variants for page in fleet.counters(v.name)]
        finished = np.isfinite(results.finish_ms).sum()
        running = (np.isfinite(results.start_ms) & np.isnan(results.finish_ms)).sum()
        in_gateway = sum(fleet.gateway(model) for model in fleet.models)
        assert running == sum(page.running for page in pages)
        assert in_gateway == (results.variant == -1).sum()
        assert len(results.arrival_ms) == sum(fleet.offered(model) for model in fleet.models)
        waiting = sum(page.waiting for page in pages)
        assert len(results.arrival_ms) == finished + running + waiting + in_gateway
        held = {
            name: fleet.replicas(name, "starting", "ready", "draining") for name in ("a", "b", "c")
        }
        assert held["a"] + 2 * held["b"] <= 8
        assert held["c"] <= 2
        assert all(0 <= page.kv_cache <= 1 for page in pages)
        assert all(page.waiting == 0 for page in pages if page.state == "draining")
        if any(fleet.ready(name) for name in ("a", "b")):
            assert fleet.gateway("m") == 0
    done = fleet.results()
    assert (np.diff(done.arrival_ms) >= 0).all()
    started = np.isfinite(done.start_ms)
    assert (done.start_ms[started] >= done.arrival_ms[started]).all()
    assert not (done.finish_ms < done.first_token_ms).any()
    served_by = np.array([fleet.models.index(variant.model) for variant in fleet.variants])
    assert (served_by[done.variant[started]] == done.model[started]).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=commands, pauses=st.lists(st.floats(0.0, 300.0), max_size=20))
def test_runs_are_bit_identical(script: list[Command], pauses: list[float]) -> None:
    """The same script gives the same bits again, and also when it is advanced in other pieces."""
    first = play(busy(), script)
    again = play(busy(), script)
    pieces = play(busy(), script, pauses)
    assert columns(first.results()) == columns(again.results()) == columns(pieces.results())
    for name in ("a", "b", "c"):
        assert first.gpu_seconds(name) == again.gpu_seconds(name) == pieces.gpu_seconds(name)
        assert first.counters(name) == again.counters(name) == pieces.counters(name)


def test_a_new_replica_is_ready_after_its_delay() -> None:
    """Requests wait in the gateway until then, and their TTFT says so; its GPUs count from the start."""
    variant = SimulatedVariant(name="v", profile=PROFILE, start_delay_seconds=30, devices=2)
    fleet = SimulatedFleet([variant], traces={"default": trace([1.0, 2.0], [0, 0], [1, 1])})
    fleet.advance(10.0)
    assert (fleet.gateway("default"), fleet.gpu_seconds("v")) == (2, 0.0)
    fleet.scale("v", 1)
    fleet.advance(39.999)
    assert (fleet.replicas("v"), fleet.ready("v"), fleet.gateway("default")) == (1, 0, 2)
    assert fleet.counters("v") == ()
    fleet.advance(40.0)
    assert (fleet.replicas("v"), fleet.ready("v"), fleet.gateway("default")) == (1, 1, 0)
    assert fleet.results().ttft_ms.tolist() == [39000.0, 38000.0]
    assert fleet.counters("v")[0].started_seconds == 40.0
    assert fleet.gpu_seconds("v") == 2 * 30.0
    fleet.advance(50.0)
    fleet.scale("v", 0)
    fleet.advance(100.0)
    assert fleet.gpu_seconds("v") == 2 * 40.0


def test_the_first_replicas_are_ready_at_once() -> None:
    """What is there when the simulation begins has started before."""
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", profile=PROFILE, start_delay_seconds=30, replicas=2)]
    )
    assert fleet.ready("v") == 2
    assert fleet.counters("v")[0].started_seconds == 0.0


def test_a_cancelled_start_delays_no_other() -> None:
    """When the replica that would be ready first is given up, the next is ready in its time."""
    delays = {"a": 10.0, "b": 50.0, "c": 20.0}
    fleet = SimulatedFleet(
        [
            SimulatedVariant(name=name, profile=PROFILE, start_delay_seconds=delay)
            for name, delay in delays.items()
        ]
    )
    for name in delays:
        fleet.scale(name, 1)
    fleet.advance(5.0)
    fleet.scale("a", 0)
    assert fleet.gpu_seconds("a") == 5.0
    fleet.advance(20.0)
    assert [fleet.ready(name) for name in delays] == [0, 0, 1]
    fleet.advance(50.0)
    assert [fleet.ready(name) for name in delays] == [0, 1, 1]


def test_replicas_wait_for_gpus_and_a_smaller_one_passes() -> None:
    """What does not fit is pending and costs nothing; it starts when a draining replica has ended."""
    fleet = SimulatedFleet(
        [
            SimulatedVariant(name="small", profile=PROFILE, model="s", pool="p", replicas=1),
            SimulatedVariant(
                name="large", profile=PROFILE, model="l", pool="p", devices=3, start_delay_seconds=5
            ),
        ],
        traces={"s": trace([1.0], [0], [101])},
        pools={"p": 3},
    )
    fleet.advance(0.5)
    fleet.scale("large", 1)
    fleet.scale("small", 2)
    assert fleet.replicas("large", "pending") == 1
    assert fleet.ready("small") == 2
    fleet.advance(1.5)
    fleet.scale("small", 0)
    assert (fleet.replicas("small"), fleet.replicas("small", "draining")) == (0, 1)
    end = 1.0 + 100 * (20.58 + 0.41) / 1000
    fleet.advance(end - 0.001)
    assert fleet.replicas("large", "pending") == 1
    fleet.advance(end + 0.001)
    assert (fleet.replicas("large", "starting"), fleet.replicas("small", "draining")) == (1, 0)
    assert np.isfinite(fleet.results().finish_ms).all()
    fleet.advance(10.0)
    assert fleet.ready("large") == 1
    assert fleet.gpu_seconds("large") == pytest.approx(3 * (10.0 - end))
    # One from 0 to the end of its request, the other from 0.5 until it was drained without one.
    assert fleet.gpu_seconds("small") == pytest.approx(end + 1.0)


def test_a_draining_replica_finishes_and_gets_nothing_new() -> None:
    """Its running requests end where they are; its waiting ones start elsewhere, in order."""
    fleet = SimulatedFleet([SimulatedVariant(name="v", profile=PROFILE, replicas=2)], traces={})
    for _ in range(12):
        fleet.offer("default", input_tokens=10, output_tokens=50)
    assert [(page.running, page.waiting) for page in fleet.counters("v")] == [(4, 2), (4, 2)]
    fleet.scale("v", 1)
    stays, drains = fleet.counters("v")
    assert (stays.state, stays.running, stays.waiting) == ("ready", 4, 4)
    assert (drains.state, drains.running, drains.waiting) == ("draining", 4, 0)
    fleet.offer("default", input_tokens=10, output_tokens=50)
    fleet.advance(0.5)
    stays, drains = fleet.counters("v")
    assert drains.itl[1] > 4  # both run the same, so they show the same
    assert (drains.itl, drains.ttft) == (stays.itl, stays.ttft)
    fleet.advance(60.0)
    results = fleet.results()
    assert results.replica.tolist() == [0, 1] * 4 + [0] * 5
    assert (np.diff(results.start_ms[8:]) >= 0).all()
    assert len(fleet.counters("v")) == 1


def test_the_youngest_goes_first_then_the_least_loaded() -> None:
    """Scaling down spares what serves: pending, starting, then the youngest, at one age the emptier."""
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", profile=PROFILE, start_delay_seconds=10, pool="p", replicas=2)],
        pools={"p": 4},
    )
    fleet.offer("default", input_tokens=10, output_tokens=5000)
    fleet.offer("default", input_tokens=10, output_tokens=5000)
    fleet.offer("default", input_tokens=10, output_tokens=5000)
    fleet.advance(1.0)
    fleet.scale("v", 3)
    fleet.advance(12.0)
    fleet.scale("v", 5)
    assert [fleet.replicas("v", state) for state in ("ready", "starting", "pending")] == [3, 1, 1]
    seen = []
    for replicas in (4, 3, 2, 1):
        fleet.scale("v", replicas)
        seen.append([page.replica for page in fleet.counters("v") if page.state == "ready"])
    # 4: the pending one; 3: the starting one; 2: the third, which is younger; 1: the second has less.
    assert seen == [[0, 1, 2], [0, 1, 2], [0, 1], [0]]
    assert fleet.replicas("v", "draining") == 1


def test_results_say_what_is_still_to_come() -> None:
    """NaN for times that have not come, -1 for a replica that is not chosen, 0 ITL for one token."""
    fleet = SimulatedFleet([SimulatedVariant(name="v", profile=PROFILE, replicas=1)])
    fleet.offer("default", input_tokens=0, output_tokens=1)
    fleet.offer("default", input_tokens=0, output_tokens=100)
    fleet.advance(0.01)
    results = fleet.results()
    assert results.itl_ms[0] == 0.0
    assert math.isnan(results.itl_ms[1])
    assert results.ttft_ms.tolist() == [0.0, 0.0]
    assert columns(SimulatedFleet([]).results()) == [b""] * 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"devices": 0}, "v: devices must be >= 1"),
        ({"replicas": -1}, "replicas >= 0"),
        ({"start_delay_seconds": math.nan}, "v: start_delay_seconds: must be >= 0, not nan"),
        ({"pool": "gone"}, "v: pool: no 'gone'; there are p"),
    ],
)
def test_a_wrong_variant_is_named(change: dict[str, object], said: str) -> None:
    """The error says which variant, which field, and what would do."""
    with pytest.raises(ValueError, match=said):
        SimulatedFleet([SimulatedVariant(name="v", profile=PROFILE, **change)], pools={"p": 1})  # type: ignore[arg-type]


def test_wrong_calls_are_named() -> None:
    """Unknown names, times that run backwards and impossible requests are refused."""
    variant = SimulatedVariant(name="v", profile=PROFILE)
    fleet = SimulatedFleet([variant])
    fleet.advance(5.0)
    for call, said in (
        (lambda: fleet.scale("w", 1), "variant: no 'w'; there are v"),
        (lambda: fleet.scale("v", -1), "v: replicas: must be >= 0, not -1"),
        (lambda: fleet.gateway("m"), "model: no 'm'; there are default"),
        (lambda: fleet.advance(4.0), "until_seconds: must be >= 5.0"),
        (lambda: fleet.advance(math.inf), "until_seconds"),
        (lambda: fleet.offer("default", input_tokens=1, output_tokens=0), "tokens: must be"),
        (lambda: SimulatedFleet([variant, variant]), "variants: names must differ"),
        (lambda: SimulatedFleet([variant], traces={"m": trace([1.0], [1], [1])}), "traces: no 'm'"),
        (lambda: SimulatedFleet([variant], routing="best"), "routing: must be least-loaded"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_an_hour_of_a_thousand_requests_a_minute() -> None:
    """Sixty thousand requests go through twenty replicas that are read every 15 s, and almost all finish."""
    offered = generate(
        {
            "kind": "poisson", "rate_rpm": 1000, "duration_seconds": 3600, "seed": 1,
            "tokens": {"input": {"mean": 128, "cv": 0.8}, "output": {"mean": 178, "cv": 0.5}},
        }
    )  # fmt: skip
    fleet = SimulatedFleet(
        [SimulatedVariant(name="v", profile=PROFILE, replicas=20)], traces={"default": offered}
    )
    pages: tuple[Counters, ...] = ()
    for moment in range(15, 3601, 15):
        fleet.advance(moment)
        pages = fleet.counters("v")
    assert sum(page.finished for page in pages) > 59000

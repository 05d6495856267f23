"""What a replica holds among others behind a load-aware gateway: by the model, and on simulated engines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from analyzer.engine import learning
from analyzer.engine.columns import Engine, Engines
from analyzer.engine.sizing import EngineCapacity, size_engine, size_engines
from analyzer.engine.state import at_rate
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from emulator.engines import step_times as engine_times
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.simulation import Results, SimulatedFleet, SimulatedVariant
from emulator.traces import Trace
from tests.fakes.replay.scheduled_windows import drawn

NAMES = ("base_ms", "per_request_ms", "per_prefill_token_ms", "per_context_token_ms")
STEPS = (7.0, 0.05, 0.04, 4e-5)
BLOCKS = 27_000
CHAT = Lengths(input_tokens=1000, output_tokens=220, input_cv=1.0, output_cv=0.7)
LONG = Lengths(input_tokens=8000, output_tokens=350, input_cv=1.0, output_cv=0.9)


def engine(lengths: Lengths, *, kv_blocks: int = BLOCKS) -> Engine:
    return Engine(
        step_times=StepTimes(**dict(zip(NAMES, STEPS, strict=True))),
        limits=EngineLimits(
            max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=16 * kv_blocks
        ),
        lengths=lengths,
    )


def held(one: Engine, among: float, **targets: float) -> EngineCapacity:
    """What the engine holds as one of so many."""
    some = Engines.of([one]).take(np.zeros(1, dtype=np.intp), np.array([among]))
    return size_engines(some, **targets)[0]


def within(lengths: Lengths, replicas: int, rate_rps: float, itl_ms: float) -> float:
    """Share of 12,000 requests whose ITL is within the target, the first tenth left out."""
    return float(np.mean(served(lengths, replicas, rate_rps).itl_ms[1200:] <= itl_ms))


def served(lengths: Lengths, replicas: int, rate_rps: float) -> Results:
    """12,000 requests behind the gateway."""
    count, rng = 12_000, np.random.default_rng(8)
    arrivals = np.cumsum(rng.exponential(1.0 / rate_rps, count))
    trace = Trace(
        arrival_seconds=arrivals,
        input_tokens=drawn(rng, lengths.input_tokens, lengths.input_cv, count),
        output_tokens=drawn(rng, lengths.output_tokens, lengths.output_cv, count),
        duration_seconds=float(arrivals[-1]),
    )
    times = engine_times.StepTimes(**dict(zip(NAMES, STEPS, strict=True)))
    limits = engine_times.SchedulerLimits(
        max_num_seqs=256, max_num_batched_tokens=8192, kv_blocks=BLOCKS
    )
    made = SimulatedVariant(
        name="v", engine=lambda: SchedulerEngine(times, limits, gaps=False), replicas=replicas
    )
    fleet = SimulatedFleet([made], traces={"default": trace})
    fleet.advance(trace.duration_seconds + 600.0)
    return fleet.results()


@pytest.mark.parametrize(
    ("lengths", "itl_ms", "share"), [(CHAT, 25.0, 0.99), (CHAT, 25.0, 0.9), (LONG, 50.0, 0.99)]
)
def test_replicas_hold_the_rate_that_they_have_together(
    lengths: Lengths, itl_ms: float, share: float
) -> None:
    """Four behind the gateway keep the percentile at a rate at which one alone misses it."""
    rate = held(engine(lengths), 4.0, itl_ms=itl_ms, percentile=share).rate_rps
    assert within(lengths, 4, 4 * rate, itl_ms) >= share
    assert within(lengths, 1, rate, itl_ms) < share


def test_prompts_behind_one_with_a_short_answer_go_to_others() -> None:
    """Four hold a third more each than one alone, also where shares of short answers are not known."""
    lengths = Lengths(input_tokens=2000, output_tokens=28, input_cv=1.0, output_cv=1.0)
    alone, among = (
        held(engine(lengths), count, itl_ms=50.0, percentile=0.99).rate_rps for count in (1.0, 4.0)
    )
    assert among > 1.3 * alone
    assert within(lengths, 4, 4 * among, 50.0) >= 0.99
    assert within(lengths, 1, among, 50.0) < 0.99


def test_more_replicas_hold_more_each_and_never_as_much_as_one_without_noise() -> None:
    """Of percentiles bound by the ITL; bounded by what means hold."""
    one = engine(CHAT)
    rates = [held(one, n, itl_ms=25.0, percentile=0.99).rate_rps for n in (1, 1.5, 2, 4, 8, 1e6)]
    assert rates[0] == pytest.approx(size_engine(one, itl_ms=25.0, percentile=0.99).rate_rps, 1e-3)
    assert all(less < more for less, more in itertools.pairwise(rates))
    assert rates[1] > 1.02 * rates[0]
    assert rates[-1] < size_engine(one, itl_ms=25.0).rate_rps


def test_fewer_run_beside_each_other_than_where_requests_choose_by_chance() -> None:
    """The mean number at one of four behind the gateway is met within 2 %; that of one alone is larger."""
    done, one = served(CHAT, 4, 4 * 11.9), Engines.of([engine(CHAT)])
    decoding_ms = done.finish_ms - done.arrival_ms - done.ttft_ms
    seen = 11.9e-3 * float(np.mean(decoding_ms[1200:]))
    alone, among = (
        float(at_rate(some, np.array([11.9])).batch[0])
        for some in (one, one.take(np.zeros(1, dtype=np.intp), np.array([4.0])))
    )
    assert among == pytest.approx(seen, rel=0.02)
    assert alone > 1.02 * among


def test_what_learns_step_times_expects_the_latencies_of_replicas_behind_the_gateway() -> None:
    """ITL within 1 % and TTFT within 8 %, which is a quarter too long where requests choose by chance."""
    done = served(CHAT, 4, 4 * 11.9)
    errors = []
    for sharing in (4, 1):
        seen = learning.StepObservation(
            rate_rps=11.9,
            lengths=CHAT,
            itl_ms=float(np.nanmean(done.itl_ms[1200:])),
            ttft_ms=float(np.mean(done.ttft_ms[1200:])),
            requests=10_000,
            budget=8192,
            sharing=sharing,
        )
        state = learning.compare(learning.start(engine(CHAT).step_times), seen)
        errors.append((state.itl_error, state.ttft_error))
    assert errors[0][0] == pytest.approx(0.0, abs=0.01)
    assert errors[0][1] == pytest.approx(0.0, abs=0.08)
    assert errors[1][1] < -0.15


@pytest.mark.parametrize(
    ("targets", "kv_blocks", "binding"),
    [
        ({"ttft_ms": 150.0, "percentile": 0.95}, BLOCKS, "ttft"),
        ({"itl_ms": 200.0, "percentile": 0.99}, 2_000, "kv"),
    ],
)
def test_nothing_else_is_counted(targets: dict[str, float], kv_blocks: int, binding: str) -> None:
    """The wait of prompts and the KV cache are those of one replica."""
    one = engine(CHAT, kv_blocks=kv_blocks)
    alone, among = held(one, 1.0, **targets), held(one, 8.0, **targets)
    assert alone.binding == among.binding == binding
    assert among.rate_rps == pytest.approx(alone.rate_rps, rel=1e-3)


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_two_hold_no_less_than_one_each_where_all_prompts_are_long(share: float) -> None:
    """What waited when an answer began is spread over the replicas in its variance as in its mean."""
    one = engine(Lengths(input_tokens=9767, output_tokens=49, input_cv=0.0, output_cv=0.0))
    rates = [held(one, n, itl_ms=25.0, percentile=share).rate_rps for n in (1, 1.3, 2, 4, 8)]
    assert all(less < more for less, more in itertools.pairwise(rates))

"""The engine that schedules as vLLM: recorded runs, what bounds a step, preemption, and the Protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.engines.protocol import Completion
from emulator.engines.runs import serve_closed_loop, serve_open_loop
from emulator.engines.scheduler_batch import GapHistory
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, StepTimes, blocks_of

RUNS = sorted((Path(__file__).parents[2] / "data" / "vllm_runs").glob("*.json"))
TEN_MS = StepTimes(base_ms=10)
TIMES = StepTimes(
    base_ms=7, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
)
ALL_TIMES = replace(TIMES, per_sqrt_request_ms=1.5, per_prompt_ms=3.0)
Lengths = tuple[int, int]


def limits(*, seqs: int = 8, budget: int = 64, blocks: int = 100, **fields: Any) -> SchedulerLimits:
    return SchedulerLimits(
        max_num_seqs=seqs, max_num_batched_tokens=budget, kv_blocks=blocks, **fields
    )


def served(
    lengths: Sequence[Lengths],
    bounds: SchedulerLimits,
    *,
    arrivals: Sequence[float] | None = None,
    times: StepTimes = TEN_MS,
) -> list[Completion]:
    return serve_open_loop(
        SchedulerEngine(times, bounds),
        arrival_ms=arrivals or [0.0] * len(lengths),
        input_tokens=[inputs for inputs, _ in lengths],
        output_tokens=[outputs for _, outputs in lengths],
    )


class Scenario:
    """A random engine and requests that it can serve."""

    def __init__(self, draw: st.DrawFn) -> None:
        seqs = draw(st.sampled_from([1, 2, 5, 20]))
        self.limits = limits(
            seqs=seqs,
            budget=max(seqs, draw(st.sampled_from([1, 16, 17, 64, 2048]))),
            blocks=draw(st.sampled_from([4, 9, 30, 400])),
            watermark=draw(st.sampled_from([0.0, 0.1])),
            reserve_full_input=draw(st.booleans()),
        )
        self.times = draw(st.sampled_from([TEN_MS, TIMES, ALL_TIMES]))
        most = self.limits.kv_blocks * BLOCK_TOKENS // 2
        length = st.integers(1, min(most, 90))
        self.lengths: list[Lengths] = draw(
            st.lists(st.tuples(length, length), min_size=1, max_size=15)
        )
        waits = draw(st.lists(st.sampled_from([0, 3, 10, 250]), min_size=len(self.lengths)))
        self.arrivals = [float(sum(waits[: i + 1])) for i in range(len(self.lengths))]

    def engine(self) -> SchedulerEngine:
        engine = SchedulerEngine(self.times, self.limits)
        for arrival_ms, (inputs, outputs) in zip(self.arrivals, self.lengths, strict=True):
            engine.submit(arrival_ms=arrival_ms, input_tokens=inputs, output_tokens=outputs)
        return engine

    def __repr__(self) -> str:
        return f"Scenario({self.limits}, {self.times}, {self.lengths}, {self.arrivals})"


scenarios = st.composite(Scenario)()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_repeats_recorded_runs(path: Path) -> None:
    """Every request that vLLM's scheduler served has the same times within 0.01 ms, and preemptions."""
    recorded = json.loads(path.read_text(encoding="utf-8"))
    config, expected = recorded["config"], recorded["requests"]
    names = ("base_ms", "per_request_ms", "per_prefill_token_ms", "per_context_token_ms")
    engine = SchedulerEngine(
        StepTimes(**dict(zip(names, config["step_ms"], strict=True))),
        limits(
            seqs=config["max_num_seqs"],
            budget=config["max_num_batched_tokens"],
            blocks=config["kv_blocks"],
        ),
    )
    tokens = {name: expected[name] for name in ("input_tokens", "output_tokens")}
    if "concurrency" in config:
        completions = serve_closed_loop(engine, concurrency=config["concurrency"], **tokens)
    else:
        completions = serve_open_loop(engine, arrival_ms=expected["arrival_ms"], **tokens)
    for name in ("arrival_ms", "first_token_ms", "last_token_ms", "longest_gap_ms"):
        times = [getattr(completion, name) for completion in completions]
        assert times == pytest.approx(expected[name], rel=0, abs=0.01), name
    assert [completion.preemptions for completion in completions] == expected["preemptions"]
    assert engine.steps == expected["steps"]
    assert engine.now_ms == pytest.approx(expected["end_ms"], rel=0, abs=0.01)


def test_runs_are_there() -> None:
    """The recorded runs contain preemptions, and both open and closed loops."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in RUNS]
    assert sum(sum(run["requests"]["preemptions"]) for run in runs) > 100
    assert {"concurrency" in run["config"] for run in runs} == {True, False}


def test_step_times_by_hand() -> None:
    """A step costs its base, its requests, its prompt tokens, and the context that it leaves."""
    (first,) = served([(100, 3)], limits(budget=128), times=TIMES)
    prompt_ms = 7 + 0.05 + 100 * 0.04 + 100 * 4e-5
    assert first.first_token_ms == pytest.approx(prompt_ms)
    decode_ms = [7 + 0.05 + context * 4e-5 for context in (101, 102)]
    assert first.last_token_ms == pytest.approx(prompt_ms + sum(decode_ms))
    assert first.longest_gap_ms == pytest.approx(decode_ms[1])


def test_a_prompt_begins_once_and_requests_bend() -> None:
    """Each admission costs perPrompt in its step, later chunks do not; n requests cost a root of n."""
    times = StepTimes(base_ms=10, per_sqrt_request_ms=2, per_prompt_ms=5)
    one, two = served([(100, 3), (10, 1)], limits(budget=64), times=times)
    first_chunk, both = 10 + 2 + 5, 10 + 2 * math.sqrt(2) + 5
    assert one.first_token_ms == pytest.approx(first_chunk + both)
    assert two.first_token_ms == one.first_token_ms
    assert one.last_token_ms == pytest.approx(first_chunk + both + 2 * (10 + 2))


def test_prompt_is_computed_in_chunks() -> None:
    """A prompt longer than the budget takes several steps; the next one gets what its last chunk leaves."""
    one, two, three = served([(100, 1), (20, 1), (20, 1)], limits(budget=64))
    assert (one.first_token_ms, two.first_token_ms, three.first_token_ms) == (20, 20, 30)


def test_decoding_goes_before_prompts() -> None:
    """While a long prompt is computed, a running request still gets a token in each step."""
    one, two = served([(10, 6), (200, 1)], limits(budget=32))
    assert (one.last_token_ms, one.longest_gap_ms) == (60, 10)
    assert two.first_token_ms == 70  # 22 tokens in the first step, then 31 in each


def test_no_more_than_max_num_seqs_run() -> None:
    """The third request is admitted in the step after one of the first two has ended."""
    completions = served([(1, 5), (1, 9), (1, 1)], limits(seqs=2))
    assert [completion.start_ms for completion in completions] == [0, 0, 50]


def test_last_admitted_is_preempted_and_computed_anew() -> None:
    """Without a free block the youngest loses its own, and gets its next token from a new prefill."""
    times = StepTimes(base_ms=10, per_prefill_token_ms=1)
    one, two = served([(16, 20), (16, 20)], limits(blocks=3), times=times)
    assert (one.preemptions, two.preemptions) == (0, 1)
    assert (one.last_token_ms, one.longest_gap_ms) == (42 + 19 * 10, 10)
    # 17 tokens are computed again, and the gap lasts from the first token to the end of that step.
    assert two.longest_gap_ms == 19 * 10 + 10 + 17
    assert two.last_token_ms == 42 + two.longest_gap_ms + 18 * 10


def test_preempted_waits_in_front() -> None:
    """A preempted request is served before those that had been waiting."""
    one, two, three = served([(16, 20), (16, 20), (16, 20)], limits(blocks=3, seqs=2))
    assert (one.preemptions, two.preemptions, three.preemptions) == (0, 1, 1)
    assert one.last_token_ms < two.last_token_ms < three.last_token_ms


def test_whole_prompt_must_fit_for_admission() -> None:
    """Of a prompt in chunks all blocks must be free at its admission, unless that is switched off."""
    lengths = [(16 * 4, 30), (16 * 4, 1)]
    reserved = served(lengths, limits(budget=80, blocks=7))
    eager = served(lengths, limits(budget=80, blocks=7, reserve_full_input=False))
    assert [c.start_ms for c in reserved] == [0, 300]
    assert [c.start_ms for c in eager] == [0, 0]


def test_watermark_keeps_blocks_free() -> None:
    """An admission beside others leaves the watermark free; into an idle engine it may take all."""
    one, two = served([(64, 2), (64, 2)], limits(budget=256, blocks=9, watermark=0.2))
    assert (one.start_ms, two.start_ms) == (0, 20)
    assert served([(144, 1)], limits(budget=256, blocks=9, watermark=0.2))[0].start_ms == 0


def test_prefix_cache_hits_hold_blocks_and_cost_no_prefill() -> None:
    """Cached tokens count in whole blocks, never the prompt's last token, and fill KV cache."""
    times = StepTimes(base_ms=10, per_prefill_token_ms=1)
    engine = SchedulerEngine(times, limits(blocks=10))
    engine.submit(arrival_ms=0, input_tokens=64, output_tokens=2, cached_tokens=64)
    engine.advance(1)
    assert engine.state().kv_usage == 0.4
    engine.advance(math.inf)
    assert engine.take_completions()[0].first_token_ms == 10 + 16
    assert engine.state().cached_tokens_total == 48


def test_arrival_at_a_steps_begin_is_in_it() -> None:
    """A request that arrives when a step begins takes part in it; later ones wait for the next."""
    completions = served([(1, 3), (1, 1), (1, 1)], limits(), arrivals=[0, 10, 11])
    assert [completion.first_token_ms for completion in completions] == [10, 20, 30]


def test_idle_engine_begins_with_the_arrival() -> None:
    """After a pause the next step begins when the next request arrives."""
    assert served([(1, 1), (1, 1)], limits(), arrivals=[0, 123.5])[1].first_token_ms == 133.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arrival_ms": 4}, "arrival_ms: must be finite and >= 5"),
        ({"arrival_ms": math.nan}, "arrival_ms"),
        ({"arrival_ms": math.inf}, "arrival_ms"),
        ({"input_tokens": 0}, "input_tokens"),
        ({"output_tokens": 0}, "output_tokens"),
        ({"cached_tokens": 11}, "cached_tokens: must be 0 to 10"),
        ({"output_tokens": 2000}, "need 126 blocks of KV cache, more than kv_blocks"),
    ],
)
def test_impossible_requests_are_refused(fields: dict[str, Any], message: str) -> None:
    """A request in the past or one that can never be served is refused with the field's name."""
    engine = SchedulerEngine(TEN_MS, limits())
    engine.advance(5)
    request = {"arrival_ms": 5, "input_tokens": 10, "output_tokens": 1, **fields}
    with pytest.raises(ValueError, match=message):
        engine.submit(**request)
    assert engine.next_ms == math.inf


def test_longest_possible_request_is_served() -> None:
    """A request that fills the KV cache to its last token is served; its last output needs no slot."""
    assert served([(60, 5)], limits(blocks=4))[0].preemptions == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepTimes(base_ms=0), "base_ms: must be > 0"),
        (lambda: StepTimes(base_ms=1, per_request_ms=-1), "per_request_ms"),
        (lambda: StepTimes(base_ms=1, per_context_token_ms=math.nan), "per_context_token_ms"),
        (lambda: limits(seqs=0), "max_num_seqs"),
        (lambda: limits(blocks=0), "kv_blocks"),
        (lambda: limits(seqs=65), "max_num_batched_tokens: must be >= max_num_seqs"),
        (lambda: limits(watermark=1.0), "watermark"),
    ],
)
def test_bad_parameters_are_named(make: Any, message: str) -> None:
    """Times and limits that no server could have name their field."""
    with pytest.raises(ValueError, match=message):
        make()


def test_time_does_not_go_back() -> None:
    """An engine cannot be advanced to the past."""
    engine = SchedulerEngine(TEN_MS, limits())
    engine.advance(5)
    with pytest.raises(ValueError, match="until_ms: must be >= 5"):
        engine.advance(4.9)


def test_state_while_requests_run() -> None:
    """Gauges and counters are those of the steps that have ended, with blocks of the one in progress."""
    engine = SchedulerEngine(TEN_MS, limits(seqs=1, blocks=10))
    for arrival_ms in (0, 0, 95):
        engine.submit(arrival_ms=arrival_ms, input_tokens=20, output_tokens=4)
    engine.advance(25)
    state = engine.state()
    assert (state.running, state.waiting, state.kv_usage) == (1, 1, 0.2)
    assert (state.generation_tokens_total, state.prompt_tokens_total) == (2, 20)
    assert (state.ttft_ms, state.itl_ms, state.finished) == ((10, 1), (10, 1), 0)
    assert (engine.generated(0), engine.generated(1)) == (2, 0)
    engine.advance(math.inf)
    state = engine.state()
    assert (state.running, state.waiting, state.kv_usage, state.finished) == (0, 0, 0, 3)
    assert (state.prompt_tokens, state.generation_tokens) == (60, 12)
    assert state.itl_ms == (90, 9)
    with pytest.raises(KeyError):
        engine.generated(0)


def test_cancelled_request_leaves_with_the_step() -> None:
    """What a cancelled request held is free after the step in progress, and its end is not told."""
    engine = SchedulerEngine(TEN_MS, limits(seqs=1))
    for _ in range(3):
        engine.submit(arrival_ms=0, input_tokens=20, output_tokens=5)
    engine.advance(15)
    assert (engine.cancel(0), engine.cancel(0), engine.cancel(2), engine.cancel(9)) == (
        True,
        False,
        True,
        False,
    )
    assert engine.state().running == 1
    engine.advance(math.inf)
    (left,) = engine.take_completions()
    assert (left.number, left.start_ms) == (1, 20)
    assert (engine.state().kv_usage, engine.state().finished) == (0, 1)
    assert engine.state().itl_ms == (50, 5)


def test_cancel_between_steps_and_during_prefill() -> None:
    """A request is dropped at once when no step is in progress, and before its first token in a prefill."""
    engine = SchedulerEngine(TEN_MS, limits(budget=16))
    engine.submit(arrival_ms=0, input_tokens=10, output_tokens=5)
    engine.advance(10)
    assert engine.cancel(0)
    assert (engine.state().running, engine.next_ms) == (0, math.inf)
    engine.submit(arrival_ms=10, input_tokens=40, output_tokens=5)
    engine.advance(21)
    assert engine.cancel(1)
    engine.advance(30)
    assert (engine.state().running, engine.state().kv_usage, engine.next_ms) == (0, 0, math.inf)
    assert engine.take_completions() == []


def test_drain_keeps_what_has_begun() -> None:
    """A draining replica gives back what was never in service, and serves running and preempted ones."""
    engine = SchedulerEngine(TEN_MS, limits(blocks=3, seqs=2))
    for arrival_ms in (0, 0, 0, 500):
        engine.submit(arrival_ms=arrival_ms, input_tokens=16, output_tokens=20)
    engine.advance(45)
    assert engine.state().preemptions == 1
    assert engine.withdraw_waiting() == [2, 3]
    engine.advance(math.inf)
    assert [completion.number for completion in engine.take_completions()] == [0, 1]


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios)
def test_bounds_hold_in_every_step(scenario: Scenario) -> None:
    """No step exceeds token budget, max_num_seqs or KV cache, and blocks are counted without loss."""
    engine = scenario.engine()
    batch, bounds = engine._batch, scenario.limits
    while engine.next_ms < math.inf:
        engine.advance(engine.next_ms if engine._end_ms == math.inf else engine._end_ms)
        if engine._end_ms == math.inf:
            engine.advance(math.nextafter(engine.now_ms, math.inf))  # the next step begins
        before = {work: batch.computed(work) for work in batch.running}
        decodes = {work: work.decoding for work in batch.running}
        holds = sum(blocks_of(n + decodes[work]) for work, n in before.items())
        if engine._end_ms < math.inf:
            assert holds == bounds.kv_blocks - batch.free_blocks
        assert batch.free_blocks >= 0
        assert len(batch.running) <= bounds.max_num_seqs
        assert batch.decoding == sum(decodes.values())
        assert batch.context_tokens == sum(n for work, n in before.items() if work.decoding)
        if scenario.times is TIMES and engine._end_ms < math.inf:
            context = sum(n + decodes[work] for work, n in before.items())
            costs_ms = engine._step_ms - 7 - 0.05 * len(before) - 4e-5 * context
            assert round(costs_ms / 0.04, 3) + batch.decoding <= bounds.max_num_batched_tokens


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios)
def test_tokens_are_conserved_and_order_is_kept(scenario: Scenario) -> None:
    """Every request gets its tokens, is admitted first in the order of arrival, and leaves nothing behind."""
    engine = scenario.engine()
    engine.advance(math.inf)
    completions = sorted(engine.take_completions(), key=lambda completion: completion.number)
    assert [(c.input_tokens, c.output_tokens) for c in completions] == scenario.lengths
    starts = [completion.start_ms for completion in completions]
    assert starts == sorted(starts)
    for completion in completions:
        assert completion.arrival_ms <= completion.start_ms < completion.first_token_ms
        span_ms = completion.last_token_ms - completion.first_token_ms
        assert completion.longest_gap_ms <= span_ms + 1e-6
        assert completion.longest_gap_ms * (completion.output_tokens - 1) >= span_ms - 1e-6
    state = engine.state()
    assert (state.running, state.waiting, state.kv_usage) == (0, 0, 0)
    assert state.generation_tokens_total == sum(outputs for _, outputs in scenario.lengths)
    assert state.preemptions == sum(completion.preemptions for completion in completions)


@settings(max_examples=60, deadline=None)
@given(
    scenario=scenarios,
    moments=st.lists(st.floats(0, 5000), max_size=20),
    path=st.sampled_from(["fast", "step by step"]),
)
def test_advancing_changes_no_bit(scenario: Scenario, moments: list[float], path: str) -> None:
    """Results are the same to the last bit however the engine is advanced, and without its fast path."""
    whole, parts = scenario.engine(), scenario.engine()
    whole.advance(math.inf)
    if path == "step by step":
        vars(parts)["_decode"] = lambda _until_ms: None
    for moment in sorted(moments):
        parts.advance(moment)
        parts.state()
    parts.advance(math.inf)
    assert parts.take_completions() == whole.take_completions()
    assert (parts.steps, parts.now_ms >= whole.now_ms) == (whole.steps, True)


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios)
def test_nothing_ends_before_next_ms(scenario: Scenario) -> None:
    """An engine advanced from `next_ms` to `next_ms` never finds a request that ended before."""
    engine = scenario.engine()
    while (next_ms := engine.next_ms) < math.inf:
        assert next_ms > engine.now_ms
        engine.advance(next_ms)
        assert all(c.last_token_ms == next_ms for c in engine.take_completions())


@given(
    gaps=st.lists(st.integers(1, 9), max_size=30),
    since=st.integers(0, 30),
    forgotten=st.integers(0, 30),
)
def test_gap_history(gaps: list[int], since: int, forgotten: int) -> None:
    """It knows the longest step after any that it was not told to forget."""
    history = GapHistory()
    for step, gap in enumerate(gaps, start=1):
        history.add(step, gap)
    history.forget(min(forgotten, since))
    assert history.longest_since(since) == max(gaps[since:], default=0)


def test_long_histories_are_cut() -> None:
    """Steps that become shorter for hours do not pile up in the history of gaps."""
    engine = SchedulerEngine(TIMES, limits(seqs=4, budget=4096, blocks=4000))
    for index in range(1500):  # ever shorter prompts, so ever shorter steps
        engine.submit(arrival_ms=index * 300, input_tokens=3200 - 2 * index, output_tokens=3)
    engine.advance(math.inf)
    assert engine._batch.gaps is not None
    assert len(engine._batch.gaps) < 1100


def test_steps_that_only_decode_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of traffic are fast: of a busy engine's steps, most are computed together."""
    engine = SchedulerEngine(TIMES, limits(seqs=64, budget=2048, blocks=27000))
    begin_step = Mock(wraps=engine._scheduler.begin_step)
    monkeypatch.setattr(engine._scheduler, "begin_step", begin_step)
    completions = serve_closed_loop(
        engine, concurrency=64, input_tokens=[512] * 2000, output_tokens=[125] * 2000
    )
    assert len(completions) == 2000
    assert begin_step.call_count < engine.steps / 4

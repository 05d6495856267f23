"""Short answers: their shares make the tail of the ITL, as the emulator's engine shows it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analyzer.engine import sizing
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engine, Engines
from analyzer.engine.nodes import bins_of_one
from analyzer.engine.percentiles import latency, means
from analyzer.errors import InvalidParameterError
from analyzer.step_times import SHORT_BOUNDS, EngineLimits, Lengths, StepTimes
from emulator.engines import step_times as emulated
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine

STEPS = StepTimes(
    base_ms=8.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=5e-5
)
LIMITS = EngineLimits(max_num_seqs=128, max_num_batched_tokens=4096, kv_tokens=320_000)
SHARES = (0.01, 0.06, 0.08, 0.1)


def drawn(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaps of mean 1, prompts and answers: one answer of ten has 1 to 50 tokens."""
    rng = np.random.default_rng(seed)
    prompts = np.clip(np.rint(rng.lognormal(7.6, 0.8, count)), 1, 60_000).astype(int)
    answers = np.clip(np.rint(rng.lognormal(5.6, 0.5, count)), 60, 4000).astype(int)
    below = np.searchsorted(SHARES, rng.random(count))
    for place, (low, high) in enumerate(((1, 1), (2, 5), (6, 20), (21, 50))):
        some = below == place
        answers[some] = rng.integers(low, high + 1, some.sum())
    return rng.exponential(1.0, count), prompts, answers


def served(
    rate_rps: float, gaps: np.ndarray, prompts: np.ndarray, answers: np.ndarray
) -> np.ndarray:
    """Mean ITL of each request in ms, 0 of those of one token, by the engine that schedules as vLLM does."""
    done = serve_open_loop(
        SchedulerEngine(
            emulated.StepTimes(
                base_ms=STEPS.base_ms,
                per_request_ms=STEPS.per_request_ms,
                per_prefill_token_ms=STEPS.per_prefill_token_ms,
                per_context_token_ms=STEPS.per_context_token_ms,
            ),
            emulated.SchedulerLimits(
                max_num_seqs=LIMITS.max_num_seqs,
                max_num_batched_tokens=LIMITS.max_num_batched_tokens,
                kv_blocks=20_000,
            ),
        ),
        arrival_ms=(np.cumsum(gaps) * 1000.0 / rate_rps).tolist(),
        input_tokens=prompts.tolist(),
        output_tokens=answers.tolist(),
    )
    steady = done[len(done) // 10 : -len(done) // 40]
    return np.array(
        [(one.last_token_ms - one.first_token_ms) / max(one.output_tokens - 1, 1) for one in steady]
    )


def engine(prompts: np.ndarray, answers: np.ndarray, *, shares: bool) -> Engine:
    """The replica with the lengths served."""
    return Engine(
        step_times=STEPS,
        limits=LIMITS,
        lengths=Lengths(
            input_tokens=float(prompts.mean()),
            output_tokens=float(answers.mean()),
            input_cv=float(prompts.std() / prompts.mean()),
            output_cv=float(answers.std() / answers.mean()),
            short_answers=tuple(float((answers <= bound).mean()) for bound in SHORT_BOUNDS)
            if shares
            else (),
        ),
    )


@pytest.mark.parametrize("rate_rps", [1.0, 2.0, 3.0])
def test_the_tail_of_the_itl_is_that_of_short_answers(rate_rps: float) -> None:
    """Misses of 40 ms within a factor of 1.5; by mean and variation alone less than a quarter of them."""
    gaps, prompts, answers = drawn(7, 12_000)
    target = np.array([40.0])
    true = float((served(rate_rps, gaps, prompts, answers) > 40.0).mean())
    known, unknown = (
        float(latency(one, engine_state.at_rate(one, np.array([rate_rps]))).itl_exceeds(target)[0])
        for one in (
            Engines.of([engine(prompts, answers, shares=shares)]) for shares in (True, False)
        )
    )
    assert abs(math.log(known / true)) < math.log(1.5)
    assert unknown < 0.25 * true


def test_mean_itl_of_requests_counts_short_answers() -> None:
    """Those of one token have none."""
    gaps, prompts, answers = drawn(8, 12_000)
    one = Engines.of([engine(prompts, answers, shares=True)])
    itl = served(2.0, gaps, prompts, answers)
    true = float(itl[itl > 0.0].mean())
    mean = means(one, engine_state.at_rate(one, np.array([2.0])))[1]
    assert float(mean[0]) == pytest.approx(true, rel=0.05)


def test_replicas_of_a_load_aware_gateway_have_fewer_prompts_behind_short_answers() -> None:
    """More of them miss fewer; a replica alone is as one that shares with none."""
    _, prompts, answers = drawn(9, 5000)
    alone = Engines.of([engine(prompts, answers, shares=True)])
    rows = np.array([0])
    missed = [
        float(
            latency(one, engine_state.at_rate(one, np.array([2.0]))).itl_exceeds(np.array([60.0]))[
                0
            ]
        )
        for one in (alone, *(alone.take(rows, np.array([count])) for count in (1.0, 2.0, 8.0)))
    ]
    assert missed[0] == missed[1] > missed[2] > missed[3]


def test_a_row_without_shares_is_what_it_is_alone() -> None:
    """Rows do not influence each other, and shares of zero are no shares."""
    _, prompts, answers = drawn(10, 5000)
    pair = [engine(prompts, answers, shares=shares) for shares in (False, True)]
    zeros = replace(pair[0], lengths=replace(pair[0].lengths, short_answers=(0.0,) * 4))
    both = sizing.size_engines(Engines.of(pair), itl_ms=40.0, percentile=0.99).rate_rps
    for row, alone in ((0, pair[0]), (0, zeros), (1, pair[1])):
        given = sizing.size_engines(Engines.of([alone]), itl_ms=40.0, percentile=0.99)
        assert float(given.rate_rps[0]) == pytest.approx(float(both[row]), rel=1e-6)
    assert both[1] < 0.8 * both[0]


def test_log_normal_answers_are_no_short_ones() -> None:
    """Shares that the distribution has by itself move the rate by hardly anything."""
    rng = np.random.default_rng(11)
    answers = np.maximum(np.rint(rng.lognormal(3.6, 0.9, 100_000)), 1).astype(int)
    prompts = np.rint(rng.lognormal(6.0, 0.8, 100_000)).astype(int)
    known, plain = (
        sizing.size_engine(engine(prompts, answers, shares=shares), itl_ms=40.0, percentile=0.99)
        for shares in (True, False)
    )
    assert (answers <= SHORT_BOUNDS[-1]).mean() > 0.5
    assert known.rate_rps == pytest.approx(plain.rate_rps, rel=0.03)


@pytest.mark.parametrize("shares", [(1.0,) * 4, (0.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)])
def test_only_short_answers(shares: tuple[float, ...]) -> None:
    """Nothing long is left, or the mean is of other requests: rates stay finite."""
    lengths = Lengths(
        input_tokens=500.0, output_tokens=3.0, input_cv=1.0, output_cv=0.3, short_answers=shares
    )
    held = sizing.size_engine(
        Engine(step_times=STEPS, limits=LIMITS, lengths=lengths), itl_ms=60.0, percentile=0.95
    )
    assert held.rate_rps > 0.0


@pytest.mark.parametrize(
    "shares",
    [(0.1, 0.05, 0.2, 0.3), (0.1, 0.2, 0.3, 1.1), (0.1, 0.2), (-0.1, 0.0, 0.0, 0.0),
     (0.0, 0.0, 0.0, math.nan)],
    ids=["falls", "beyond 1", "two", "negative", "no number"],
)  # fmt: skip
def test_wrong_shares_are_named(shares: tuple[float, ...]) -> None:
    """For one replica and for rows alike."""
    lengths = Lengths(input_tokens=500.0, output_tokens=100.0, short_answers=shares)
    wrong = Engine(step_times=STEPS, limits=LIMITS, lengths=lengths)
    assert bins_of_one(shares) is None
    with pytest.raises(InvalidParameterError, match="short_answers"):
        sizing.size_engine(wrong, itl_ms=60.0)

"""What a replica serves while its KV cache is full, and that no sized rate keeps it there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analyzer.engine import percentiles, search, sizing
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from emulator.engines.protocol import Completion
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from tests.analyzer.engine import lengths

STEPS = {
    "base_ms": 12.0,
    "per_request_ms": 0.06,
    "per_prefill_token_ms": 0.1,
    "per_context_token_ms": 7e-5,
}
SEQS, BUDGET = 128, 2048
HEADROOM = 0.05


def tokens(mean: float, cv: float, count: int, seed: int) -> NDArray[np.int64]:
    return lengths.tokens(mean, cv, count, seed, longest=5 * mean)


def replica(prompt: NDArray[np.int64], output: NDArray[np.int64], blocks: int) -> Engines:
    return lengths.replica(STEPS, prompt, output, blocks=blocks, seqs=SEQS, budget=BUDGET)


def served(
    arrival_ms: NDArray[np.float64],
    prompt: NDArray[np.int64],
    output: NDArray[np.int64],
    blocks: int,
) -> list[Completion]:
    limits = SchedulerLimits(max_num_seqs=SEQS, max_num_batched_tokens=BUDGET, kv_blocks=blocks)
    return serve_open_loop(
        SchedulerEngine(StepTimes(**STEPS), limits),
        arrival_ms=arrival_ms.tolist(),
        input_tokens=prompt.tolist(),
        output_tokens=output.tolist(),
    )


@pytest.mark.parametrize(
    ("means", "blocks"), [((1500, 200), 1600), ((700, 700), 1400), ((120, 600), 500)]
)
def test_what_a_full_kv_cache_serves(means: tuple[int, int], blocks: int) -> None:
    """Rate and preemptions of a saturated replica are those of the engine, whatever the lengths."""
    prompt, output = (tokens(mean, 0.6, 700, seed) for seed, mean in enumerate(means))
    done = served(np.zeros(700), prompt, output, blocks)
    ends = sorted((one.last_token_ms, one.output_tokens) for one in done)[140:561]
    made = sum(count for _, count in ends[:-1]) / output.mean()
    engines = replica(prompt, output, blocks)
    assert engines.full_rate[0] == pytest.approx(made / (ends[-1][0] - ends[0][0]), rel=0.06)
    preempted = np.mean([one.preemptions for one in done])
    assert engines.preempted[0] == pytest.approx(preempted, abs=0.25)


def test_hardly_any_is_preempted_where_several_requests_end_with_each_step() -> None:
    """What ends with a step frees more than the next generates: a fifth of what one by one would cost."""
    prompt, output = (tokens(mean, 0.6, 700, seed) for seed, mean in enumerate((260, 40)))
    done = served(np.zeros(700), prompt, output, 1400)
    engines = replica(prompt, output, 1400)
    assert engines.kv_batch[0] > 1.5 * output.mean()
    preempted = np.mean([one.preemptions for one in done])
    assert engines.preempted[0] == pytest.approx(preempted, abs=0.05)


def test_sized_replica_gets_out_of_preemption() -> None:
    """Where a loose ITL target alone is asked for, the rate still lets a burst of four batches drain."""
    prompt, output = (tokens(mean, 0.6, 1500, seed) for seed, mean in enumerate((250, 900)))
    engines = replica(prompt, output, 900)
    held = sizing.size_engines(engines, itl_ms=1000.0, percentile=0.99, headroom=HEADROOM)
    assert search.BINDINGS[held.binding[0]] == "kv"
    drained = 1000.0 * engines.full_rate[0] * (1.0 - HEADROOM)
    assert held.rate_rps[0] == pytest.approx(drained, rel=1e-6)
    gaps = np.random.default_rng(5).exponential(1000.0 / held.rate_rps[0], 1500)
    gaps[: int(4 * engines.kv_batch[0])] = 0.0
    done = served(np.cumsum(gaps), prompt, output, 900)
    ttft = np.array([one.first_token_ms - one.arrival_ms for one in done])
    assert np.median(ttft[-200:]) < 0.2 * ttft[:200].max()


def test_waits_end_before_preemption_costs_what_a_full_cache_does() -> None:
    """At 0.93 of what a cache of 68 requests serves once it stays full, few wait, and are soon through."""
    prompt, output = (tokens(mean, 0.4, 4000, seed) for seed, mean in enumerate((60, 250)))
    engines = replica(prompt, output, 900)
    rate = 0.93 * engines.full_rate
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1.0 / rate[0], 4000))
    done = served(arrivals, prompt, output, 900)
    assert sum(one.preemptions for one in done) > 5
    ttft = np.mean([one.first_token_ms - one.arrival_ms for one in done[400:]])
    state = engine_state.at_rate(engines, 1000.0 * rate)
    assert percentiles.means(engines, state)[0][0] == pytest.approx(ttft, rel=0.15)

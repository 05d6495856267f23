"""How long requests wait for a KV cache that holds a handful of them, and what is kept free for it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analyzer.engine import percentiles
from analyzer.engine import state as engine_state
from analyzer.engine.columns import Engines
from emulator.engines.runs import serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from tests.analyzer.engine import lengths

STEPS = {
    "base_ms": 12.0,
    "per_request_ms": 0.06,
    "per_prefill_token_ms": 0.05,
    "per_context_token_ms": 3e-5,
}
SEQS, BUDGET, REQUESTS = 128, 4096, 12_000


def replica(prompt: NDArray[np.int64], output: NDArray[np.int64], blocks: float) -> Engines:
    return lengths.replica(STEPS, prompt, output, blocks=blocks, seqs=SEQS, budget=BUDGET)


@pytest.mark.parametrize(
    ("prompts", "answers", "blocks", "load"),
    [
        pytest.param((150, 0.4), (800, 0.5), 200, 0.55, id="short prompts"),
        pytest.param((200, 0.6), (700, 0.3), 330, 0.6, id="short prompts, larger"),
        pytest.param((1500, 0.5), (400, 1.2), 600, 0.6, id="long prompts, answers that differ"),
        pytest.param((2500, 0.6), (500, 1.1), 800, 0.5, id="longer prompts"),
    ],
)
def test_time_to_first_token_beside_a_small_cache(
    prompts: tuple[float, float], answers: tuple[float, float], blocks: int, load: float
) -> None:
    """Mean TTFT is that of the engine: short prompts begin together and wait later, when preempted."""
    longest = int(0.45 * 16 * blocks)
    prompt, output = (
        lengths.tokens(*pair, REQUESTS, seed, longest=longest)
        for seed, pair in enumerate((prompts, answers), 1)
    )
    engines = replica(prompt, output, blocks)
    assert engines.kv_batch[0] < 12
    rate = load * engines.full_rate
    limits = SchedulerLimits(max_num_seqs=SEQS, max_num_batched_tokens=BUDGET, kv_blocks=blocks)
    arrivals = np.cumsum(np.random.default_rng(3).exponential(1.0 / rate[0], REQUESTS))
    done = serve_open_loop(
        SchedulerEngine(StepTimes(**STEPS), limits),
        arrival_ms=arrivals.tolist(),
        input_tokens=prompt.tolist(),
        output_tokens=output.tolist(),
    )
    ttft = np.mean([one.first_token_ms - one.arrival_ms for one in done[500:]])
    state = engine_state.at_rate(engines, 1000.0 * rate)
    assert percentiles.means(engines, state)[0][0] == pytest.approx(ttft, rel=0.12)


def test_less_is_kept_free_for_a_small_cache() -> None:
    """Four percent for one of forty requests and more, half of that for one of ten, nothing without."""
    prompt, output = (
        lengths.tokens(mean, 0.5, REQUESTS, seed, longest=10_000)
        for seed, mean in enumerate((1000, 200), 1)
    )
    each = replica(prompt, output, 1e4).context[0] + 8.0
    kept = [
        replica(prompt, output, (requests * each + 0.6 * prompt.mean()) / 16.0).kv_tail[0]
        for requests in (10.0, 40.0, 100.0, 1000.0)
    ]
    assert kept == pytest.approx([0.02, 0.04, 0.04, 0.0], rel=0.02)

"""What a replica under an exact engine shows, window by window, for the learning of its step times.

The engine is `emulator.engines.scheduler_engine`, which knows nothing of the formulas that are learned with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analyzer.engine import sizing
from analyzer.engine.columns import Engine
from analyzer.engine.learning import PARAMETERS, StepObservation
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from emulator.engines import step_times as engine_times
from emulator.engines.scheduler_engine import SchedulerEngine

WINDOW_MS = 60_000.0
BUDGET = 2048
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=BUDGET, kv_tokens=432_000)
SMALL = StepTimes(
    base_ms=6.4, per_request_ms=0.03, per_prefill_token_ms=0.025, per_context_token_ms=4e-5
)
LARGE = StepTimes(
    base_ms=22.0, per_request_ms=0.12, per_prefill_token_ms=0.067, per_context_token_ms=1e-4
)
SHORT = Lengths(input_tokens=512, output_tokens=128, input_cv=1.0, output_cv=0.8)
LONG = Lengths(input_tokens=2048, output_tokens=256, input_cv=1.0, output_cv=0.8)


def capacity(steps: StepTimes, lengths: Lengths, itl_ms: float) -> float:
    """Largest rate of one replica, requests per second."""
    engine = Engine(step_times=steps, limits=LIMITS, lengths=lengths)
    return sizing.size_engine(engine, ttft_ms=2000.0, itl_ms=itl_ms).rate_rps


def drawn(rng: np.random.Generator, mean: float, cv: float, count: int) -> NDArray[np.int64]:
    """Log-normal lengths in tokens, shape (count,)."""
    sigma = math.sqrt(math.log1p(cv * cv))
    lengths = rng.lognormal(math.log(mean) - sigma * sigma / 2, sigma, count)
    return np.maximum(lengths, 1).astype(np.int64)


def windows(
    true: StepTimes, lengths: Lengths, rates_rps: NDArray[np.float64]
) -> Iterator[StepObservation]:
    """What a replica with these step times shows in each window of Poisson arrivals at these rates."""
    rng = np.random.default_rng(3)
    engine = SchedulerEngine(
        engine_times.StepTimes(**{name: getattr(true, name) for name in PARAMETERS}),
        engine_times.SchedulerLimits(
            max_num_seqs=256, max_num_batched_tokens=BUDGET, kv_blocks=27_000
        ),
    )
    before, start = engine.state(), 0.0
    for rate in rates_rps:
        count = rng.poisson(rate * WINDOW_MS / 1000)
        arrivals = np.sort(rng.uniform(start, start + WINDOW_MS, count))
        inputs = drawn(rng, lengths.input_tokens, lengths.input_cv, count)
        outputs = drawn(rng, lengths.output_tokens, lengths.output_cv, count)
        for at, one, other in zip(
            arrivals.tolist(), inputs.tolist(), outputs.tolist(), strict=True
        ):
            engine.submit(arrival_ms=at, input_tokens=one, output_tokens=other)
        start += WINDOW_MS
        engine.advance(start)
        now = engine.state()
        finished = now.finished - before.finished
        yield StepObservation(
            rate_rps=finished / WINDOW_MS * 1000,
            lengths=replace(
                lengths,
                input_tokens=(now.prompt_tokens - before.prompt_tokens) / finished,
                output_tokens=(now.generation_tokens - before.generation_tokens) / finished,
            ),
            itl_ms=(now.itl_ms[0] - before.itl_ms[0]) / (now.itl_ms[1] - before.itl_ms[1]),
            ttft_ms=(now.ttft_ms[0] - before.ttft_ms[0]) / (now.ttft_ms[1] - before.ttft_ms[1]),
            requests=finished,
            budget=BUDGET,
        )
        before = now

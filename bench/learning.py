"""How soon step times are right: a profile that is 30 % off, an estimate, and no profile at all.

Replicas are driven in virtual time by `emulator.engines.scheduler_engine`, which knows nothing of the
formulas that are learned with: `python -P bench/learning.py`. One window is a minute; load moves between a
fifth and four fifths of what a replica holds, or stays at half of it. Capacity is the largest rate with an
ITL of 2.5 times the base.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from analyzer.engine import learning, sizing
from analyzer.engine.columns import Engine
from analyzer.engine.learning import PARAMETERS, State, StepObservation
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from emulator.engines import step_times as engine_times
from emulator.engines.scheduler_engine import SchedulerEngine

WINDOW_MS = 60_000.0
WINDOWS = 20
BUDGET = 2048
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=BUDGET, kv_tokens=432_000)
ENGINES = {
    "small": StepTimes(
        base_ms=6.4, per_request_ms=0.03, per_prefill_token_ms=0.025, per_context_token_ms=4e-5
    ),
    "large": StepTimes(
        base_ms=22.0, per_request_ms=0.12, per_prefill_token_ms=0.067, per_context_token_ms=1e-4
    ),
}
LENGTHS = (
    Lengths(input_tokens=512, output_tokens=128, input_cv=1.0, output_cv=0.8),
    Lengths(input_tokens=2048, output_tokens=256, input_cv=1.0, output_cv=0.8),
)


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


def wrong_by(true: StepTimes, factors: tuple[float, ...]) -> StepTimes:
    """Step times that are off by these factors, in the order of `PARAMETERS`."""
    return StepTimes(
        **{
            name: getattr(true, name) * factor
            for name, factor in zip(PARAMETERS, factors, strict=True)
        }
    )


def taught(state: State, seen: tuple[StepObservation, ...]) -> State:
    """The state after these windows."""
    for one in seen:
        state = learning.update(state, one).state
    return state


def usable_after(state: State, seen: tuple[StepObservation, ...]) -> str:
    """Windows until sizing uses the step times."""
    for number, one in enumerate(seen, start=1):
        state = learning.update(state, one).state
        if state.usable:
            return str(number)
    return f"> {len(seen)}"


def main() -> None:
    """Print one line per engine, lengths and kind of load."""
    print(
        "worst of 16 combinations of 30 % in each step time; capacity after 10 and 20 minutes, ITL after 10"
    )
    print(
        f"{'engine':6s} {'in/out':9s} {'load':8s} {'before':>7s} {'10 min':>7s} {'20 min':>7s} {'ITL':>6s}",
        end="",
    )
    print("   minutes until used (capacity then): estimate 25 % off, no profile")
    for (name, true), lengths, moves in itertools.product(ENGINES.items(), LENGTHS, (True, False)):
        target = 2.5 * true.base_ms
        top = capacity(true, lengths, target)
        swing = 0.3 * np.sin(np.arange(WINDOWS) / 10 * 2 * np.pi) if moves else np.zeros(WINDOWS)
        seen = tuple(windows(true, lengths, top * (0.5 + swing)))

        def off(
            steps: StepTimes, lengths: Lengths = lengths, target: float = target, top: float = top
        ) -> float:
            return capacity(steps, lengths, target) / top - 1.0

        errors = []
        for signs in itertools.product((0.7, 1.3), repeat=len(PARAMETERS)):
            start = learning.start(wrong_by(true, signs))
            early = taught(start, seen[:10])
            late = taught(early, seen[10:])
            errors.append((off(start.seed), off(early.latency), off(late.latency), early.itl_error))
        worst = [max(column, key=abs) for column in zip(*errors, strict=True)]
        estimate = learning.start(wrong_by(true, (1.25,) * 4), error=0.1)
        shown = [
            f"{usable_after(start, seen)} ({off(taught(start, seen[:10]).latency):+.0%} at 10)"
            for start in (estimate, learning.start())
        ]
        print(
            f"{name:6s} {lengths.input_tokens:.0f}/{lengths.output_tokens:<5.0f}"
            f" {'moving' if moves else 'constant':8s} "
            + " ".join(f"{value:+7.1%}" for value in worst[:3])
            + f" {worst[3]:+6.1%}   {', '.join(shown)}",
            flush=True,
        )


if __name__ == "__main__":
    main()

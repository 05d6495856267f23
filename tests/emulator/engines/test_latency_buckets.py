"""Histograms of latencies of engines in virtual time, as vLLM's page has them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import pytest

from emulator.engine import EngineProfile
from emulator.engines.profile import ProfileEngine
from emulator.engines.protocol import VirtualEngine
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes
from emulator.vllm_metrics import ITL_BUCKETS, TTFT_BUCKETS

TIMES = StepTimes(
    base_ms=7, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=2e-3
)
LIMITS = SchedulerLimits(max_num_seqs=8, max_num_batched_tokens=512, kv_blocks=400)
REQUESTS = ((1500, 300), (40, 1), (900, 700), (20, 5), (700, 400), (2000, 60), (300, 900))


def counted(bounds: Sequence[float], latencies_ms: Sequence[float]) -> tuple[int, ...]:
    """How many latencies are in each bucket, those beyond the last bound at the end."""
    counts = [0] * (len(bounds) + 1)
    for latency in latencies_ms:
        counts[bisect_left(bounds, latency / 1000.0)] += 1
    return tuple(counts)


def submitted(engine: VirtualEngine) -> None:
    """All requests arrive at once."""
    for inputs, outputs in REQUESTS:
        engine.submit(arrival_ms=0.0, input_tokens=inputs, output_tokens=outputs)


def gaps_by_step(engine: SchedulerEngine) -> list[float]:
    """Time between each token and the one before, seen by ending one step after the other."""
    submitted(engine)
    made, last, gaps = dict.fromkeys(range(len(REQUESTS)), 0), dict[int, float](), list[float]()
    engine.advance(math.nextafter(0.0, math.inf))
    while engine.step_end_ms < math.inf:
        end = engine.step_end_ms
        engine.advance(end)
        ended = {item.number for item in engine.take_completions()}
        for number in list(made):
            tokens = REQUESTS[number][1] if number in ended else engine.generated(number)
            if tokens > made[number]:
                gaps += [end - last[number]] if number in last else []
                made[number], last[number] = tokens, end
            if number in ended:
                del made[number]
        engine.advance(math.nextafter(end, math.inf))
    return gaps


@pytest.mark.parametrize("blocks", [400, 170], ids=["fits", "preempts"])
def test_every_gap_is_in_its_bucket(blocks: int) -> None:
    """Steps that are skipped in one go count as those that are seen one by one, preempted requests too."""
    limits = SchedulerLimits(max_num_seqs=8, max_num_batched_tokens=512, kv_blocks=blocks)
    engine = SchedulerEngine(TIMES, limits)
    submitted(engine)
    engine.advance(math.inf)
    state = engine.state()
    assert (state.preemptions > 0) == (blocks == 170)
    gaps = gaps_by_step(SchedulerEngine(TIMES, limits))
    assert len(gaps) == state.itl_ms[1] == sum(state.itl_buckets)
    assert state.itl_buckets == counted(ITL_BUCKETS, gaps)
    assert sum(count > 0 for count in state.itl_buckets) >= 2


@pytest.mark.parametrize(
    "engine",
    [
        SchedulerEngine(TIMES, LIMITS),
        ProfileEngine(
            EngineProfile(alpha_ms=20.0, beta_ms=2.0, gamma_ms=5.0, delta_ms=0.02, max_batch=4)
        ),
    ],
    ids=["scheduler", "profile"],
)
def test_requests_are_in_the_buckets_of_their_latencies(engine: VirtualEngine) -> None:
    """Times to first token and mean gaps of requests; one of a single token has a mean gap of 0."""
    submitted(engine)
    engine.advance(math.inf)
    done = engine.take_completions()
    state = engine.state()
    ttft = [item.first_token_ms - item.arrival_ms for item in done]
    tpot = [
        (item.last_token_ms - item.first_token_ms) / max(item.output_tokens - 1, 1) for item in done
    ]
    assert len(done) == len(REQUESTS)
    assert state.ttft_buckets == counted(TTFT_BUCKETS, ttft)
    assert state.tpot_buckets == counted(ITL_BUCKETS, tpot)

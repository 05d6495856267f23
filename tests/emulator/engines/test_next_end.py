"""What an engine knows of the next end of a request, while others come and leave."""

from __future__ import annotations

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.engines.step_times import SchedulerLimits, StepTimes

TIMES = StepTimes(
    base_ms=5.0, per_request_ms=0.2, per_prefill_token_ms=0.05, per_context_token_ms=0.001,
    per_prompt_ms=0.7, per_sqrt_request_ms=0.1,
)  # fmt: skip


def engine(*, seqs: int = 8, budget: int = 256, blocks: int = 400) -> SchedulerEngine:
    """An idle one."""
    limits = SchedulerLimits(max_num_seqs=seqs, max_num_batched_tokens=budget, kv_blocks=blocks)
    return SchedulerEngine(TIMES, limits)


def next_end(driven: SchedulerEngine) -> float:
    """End of the next request if no other comes; the engine stays as it is."""
    later = copy.deepcopy(driven)
    later.take_completions()
    later.advance(math.inf)
    return min((done.last_token_ms for done in later.take_completions()), default=math.inf)


def test_the_next_end_is_known_from_the_step_that_computes_the_prompt() -> None:
    """Whoever drives an engine need not look at it after the prompt, nor shortly before an end."""
    driven = engine()
    for outputs in (90, 50, 70):
        driven.submit(arrival_ms=driven.now_ms, input_tokens=60, output_tokens=outputs)
        driven.advance(driven.now_ms + 31.0)
        assert driven.next_ms == pytest.approx(next_end(driven), rel=1e-8)


@settings(max_examples=150, deadline=None)
@given(
    seqs=st.sampled_from([1, 2, 8]),
    budget=st.sampled_from([8, 17, 256]),
    blocks=st.sampled_from([8, 20, 400]),
    turns=st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0, 7.3, 40.0]),
            st.integers(1, 60),
            st.integers(1, 60),
            st.booleans(),
        ),
        min_size=1,
        max_size=25,
    ),
)
def test_no_request_ends_before(
    seqs: int, budget: int, blocks: int, turns: list[tuple[float, int, int, bool]]
) -> None:
    """The moment is never later than the next end, whatever has come, waits or was cancelled before."""
    driven = engine(seqs=seqs, budget=budget, blocks=blocks)
    at_ms = 0.0
    for wait_ms, inputs, outputs, leaves in turns:
        at_ms += wait_ms
        driven.advance(at_ms)
        assert driven.next_ms <= next_end(driven)
        number = driven.submit(arrival_ms=at_ms, input_tokens=inputs, output_tokens=outputs)
        assert driven.next_ms <= next_end(driven)
        if leaves:
            driven.cancel(number // 2)
            assert driven.next_ms <= next_end(driven)

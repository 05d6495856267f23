"""Work: the rate times the size of the requests, and how much that usually changes."""

from __future__ import annotations

import numpy as np
import pytest

from adapter.controller.demand import work
from adapter.controller.demand.work import Work
from adapter.planning import fleet
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths, StepTimes

STEPS = fleet.Profile(
    accelerator="G",
    latency=StepTimes(
        base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
    ),
)
LINEAR = fleet.Profile(
    accelerator="G", latency=LatencyParameters(alpha_ms=20, beta_ms=0.4, gamma_ms=5, delta_ms=0.1)
)


def lengths(inputs: float, *, cv: float = 0.0) -> Lengths:
    return Lengths(input_tokens=inputs, output_tokens=200.0, input_cv=cv, output_cv=cv)


def worked(inputs: list[float], *, rate: float = 30.0, cv: float = 0.0) -> Work:
    """The work of a constant rate whose mean prompts are these, one each 15 s."""
    recorded: Work | None = None
    for index, tokens in enumerate(inputs):
        recorded = work.record(recorded, STEPS, lengths(tokens, cv=cv), rate, at=15.0 * index)
    assert recorded is not None
    return recorded


def test_longer_prompts_at_the_same_rate_are_more_work() -> None:
    """1,000 more tokens of 0.04 ms beside 46 + 18 ms: half as much again, in requests of the first size."""
    grown = worked([1000.0] * 20 + [1800.0] * 40)
    first = 0.04 * 1000 + (0.05 + 4e-5 * 1100) * 200
    second = 0.04 * 1800 + (0.05 + 4e-5 * 1900) * 200
    assert grown.trend.level == pytest.approx(30.0 * second / first, rel=0.01)


def test_lengths_that_come_and_go_are_a_usual_change() -> None:
    """The rate is constant: only the prompts change the load, by half for three minutes of six."""
    assert worked([*([900.0] * 12), *([1350.0] * 12)] * 4).usual_change(60.0) > 0.05
    assert worked([900.0] * 96).usual_change(60.0) == 0.0


def test_what_chance_shows_of_the_mean_length_is_no_change() -> None:
    """A mean of 1,800 lengths that vary by as much as they are long is uncertain by 2.4 %."""
    generator = np.random.default_rng(1)
    inputs, mean = [], 1000.0
    for _ in range(96):
        mean += 0.22 * (generator.normal(1000.0, 1000.0 / 450**0.5) - mean)
        inputs.append(mean)
    assert worked(inputs, cv=1.0).usual_change(60.0) < 0.01


def test_sizes_of_decode_and_prefill_times() -> None:
    """Time per prompt token, and per token of the answer."""
    recorded = work.record(None, LINEAR, lengths(100.0), 1.0, at=0.0)
    assert recorded is not None
    assert recorded.size_ms == pytest.approx(0.1 * 100 + 0.4 * 200)


def test_another_profile_starts_over() -> None:
    """Sizes by two profiles cannot be compared."""
    before = worked([1000.0] * 20)
    after = work.record(before, LINEAR, lengths(1000.0), 30.0, at=1000.0)
    assert after is not None
    assert after.trend.count == 1


def test_requests_that_take_no_time_have_no_size() -> None:
    """Such a profile says nothing of work."""
    nothing = fleet.Profile(
        accelerator="G", latency=LatencyParameters(alpha_ms=1, beta_ms=0, gamma_ms=0, delta_ms=0)
    )
    assert work.record(None, nothing, lengths(10.0), 1.0, at=0.0) is None


def test_what_is_no_newer_is_ignored() -> None:
    """Two scrape cycles may show one moment."""
    before = worked([1000.0] * 3)
    assert work.record(before, STEPS, lengths(1000.0), 90.0, at=30.0) is before

"""Parameters of one pair of lengths as step times."""

from __future__ import annotations

import pytest

from analyzer.engine.conversion import lengths_left, step_times
from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths, StepTimes

AT = Lengths(input_tokens=512, output_tokens=128)


def measured_again(steps: StepTimes, at: Lengths) -> LatencyParameters:
    """What a benchmark of an engine with these step times measures: each prompt slows those that decode."""
    interference = (steps.per_prefill_token_ms * at.input_tokens) / at.output_tokens
    context = at.input_tokens + at.output_tokens / 2
    return LatencyParameters(
        alpha_ms=steps.base_ms - interference,
        beta_ms=steps.per_request_ms + steps.per_context_token_ms * context + interference,
        gamma_ms=steps.base_ms,
        delta_ms=steps.per_prefill_token_ms,
    )


def test_round_trip_at_the_same_lengths() -> None:
    """alpha, beta and delta come back at the lengths that they were measured at."""
    measured = LatencyParameters(alpha_ms=7.0, beta_ms=0.25, gamma_ms=12.0, delta_ms=0.04)
    back = measured_again(step_times(measured, AT), AT)
    assert back.alpha_ms == pytest.approx(7.0)
    assert back.beta_ms == pytest.approx(0.25)
    assert back.delta_ms == pytest.approx(0.04)


def test_a_delta_that_was_no_prefill_time() -> None:
    """Where delta implies more interference than beta has, beta counts as interference and stays."""
    measured = LatencyParameters(alpha_ms=7.0, beta_ms=0.05, gamma_ms=1.0, delta_ms=0.1)
    steps = step_times(measured, AT)
    assert steps.per_prefill_token_ms == pytest.approx(0.05 / 4)
    assert steps.per_request_ms == 0
    assert measured_again(steps, AT).beta_ms == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("now", "left"),
    [((512, 128), False), ((760, 128), False), ((780, 128), True), ((512, 32), True)],
)
def test_lengths_that_left(now: tuple[float, float], *, left: bool) -> None:
    """Lengths have left where one of them moved by more than a factor of 1.5."""
    assert lengths_left(AT, Lengths(input_tokens=now[0], output_tokens=now[1])) is left


def test_negative_parameters_are_refused() -> None:
    """A negative parameter is named."""
    with pytest.raises(InvalidParameterError, match="beta_ms"):
        step_times(LatencyParameters(alpha_ms=7, beta_ms=-1, gamma_ms=1, delta_ms=0), AT)

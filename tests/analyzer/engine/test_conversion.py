"""Parameters of one pair of lengths as step times, and back."""

from __future__ import annotations

import pytest

from analyzer.engine.conversion import latency_parameters, lengths_left, step_times
from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths, StepTimes

AT = Lengths(input_tokens=512, output_tokens=128)


def test_round_trip_at_the_same_lengths() -> None:
    """alpha, beta and delta come back at the lengths that they were measured at."""
    measured = LatencyParameters(alpha_ms=7.0, beta_ms=0.25, gamma_ms=12.0, delta_ms=0.04)
    back = latency_parameters(step_times(measured, AT), AT)
    assert back.alpha_ms == pytest.approx(7.0)
    assert back.beta_ms == pytest.approx(0.25)
    assert back.delta_ms == pytest.approx(0.04)


def test_beta_is_mostly_interference() -> None:
    """Beta = per_request + per_context ctx + per_prefill in / out, as measured on real servers."""
    steps = StepTimes(
        base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
    )
    beta = latency_parameters(steps, AT).beta_ms
    assert beta == pytest.approx(0.05 + 4e-5 * (512 + 64) + 0.04 * 4)


def test_a_delta_that_was_no_prefill_time() -> None:
    """Where delta implies more interference than beta has, beta counts as interference and stays."""
    measured = LatencyParameters(alpha_ms=7.0, beta_ms=0.05, gamma_ms=1.0, delta_ms=0.1)
    steps = step_times(measured, AT)
    assert steps.per_prefill_token_ms == pytest.approx(0.05 / 4)
    assert steps.per_request_ms == 0
    assert latency_parameters(steps, AT).beta_ms == pytest.approx(0.05)


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

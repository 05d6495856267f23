"""Drift: one episode begins at a limit and ends well below it."""

from __future__ import annotations

import dataclasses

from adapter.controller.estimates import drift
from adapter.controller.estimates.drift import Drift, Observed
from analyzer.engine import learning
from analyzer.step_times import StepTimes

SEED = StepTimes(
    base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=0.0
)


def state(itl_error: float, ttft_error: float = 0.0, *, accepted: int = 8) -> learning.State:
    return dataclasses.replace(
        learning.start(SEED), itl_error=itl_error, ttft_error=ttft_error, accepted=accepted
    )


def after(
    before: Drift | None, itl_error: float, *, now: float = 0.0, ttft: float = 0.0
) -> Drift | None:
    seen = Observed(itl_ms=15.0, ttft_ms=300.0)
    return drift.after(before, state(itl_error, ttft), seen, accelerator="H100", now=now)


def test_an_episode_has_the_numbers_of_its_beginning() -> None:
    """Observed and predicted stand in the message, which does not move while the episode lasts."""
    begun = after(None, 0.5)
    assert begun is not None
    assert begun.active
    assert "ITL observed 15.0 ms, predicted 10.0 ms (+50%)" in begun.message
    assert after(begun, 0.7, now=60.0) is begun
    ended = after(begun, 0.05, now=120.0)
    assert ended is not None
    assert not ended.active
    assert "right again" in ended.message


def test_an_error_at_the_limit_is_one_episode() -> None:
    """Between the two limits nothing begins and nothing ends."""
    right = after(None, 0.1)
    assert right is not None
    assert after(right, 0.2) is right
    begun = after(right, -0.26)
    assert begun is not None
    assert begun.active
    assert after(begun, -0.2) is begun


def test_episodes_do_not_follow_each_other_closely() -> None:
    """Ten minutes lie between the beginnings of two."""
    begun = after(None, 0.5, now=0.0)
    ended = after(begun, 0.0, now=120.0)
    again = after(ended, 0.5, now=300.0)
    assert again is ended
    later = after(ended, 0.5, now=700.0)
    assert later is not None
    assert later.active


def test_ttft_counts_with_a_limit_of_its_own() -> None:
    """A mean TTFT swings more than a mean ITL."""
    calm = after(None, 0.0, ttft=0.4)
    assert calm is None
    begun = after(None, 0.0, ttft=0.6)
    assert begun is not None
    assert "TTFT observed 300.0 ms" in begun.message


def test_too_few_windows_say_nothing() -> None:
    """Neither do predictions of a prior that nobody relies on."""
    seen = Observed(itl_ms=15.0, ttft_ms=None)
    few = state(0.5, accepted=2)
    assert drift.after(None, few, seen, accelerator="H100", now=0.0) is None
    unknown = dataclasses.replace(learning.start(), itl_error=0.5, accepted=6)
    assert drift.after(None, unknown, seen, accelerator="H100", now=0.0) is None

"""Targets go up at once, down after a window, and by steps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.returns import Hold
from optimizer.stabilization import Recommendation, StabilizationLimits, stabilize


def fold(
    desired: list[int],
    limits: StabilizationLimits,
    *,
    step: float = 10.0,
    before: int | None = None,
) -> list[int]:
    """What is published when these numbers are desired one after the other."""
    published: list[int] = []
    history: tuple[Recommendation, ...] = ()
    for index, number in enumerate(desired):
        stable = stabilize(number, before=before, history=history, now=index * step, limits=limits)
        before, history = stable.replicas, stable.history
        published.append(before)
    return published


@pytest.mark.parametrize(
    ("desired", "limits", "published"),
    [
        pytest.param([1, 5, 2], StabilizationLimits(), [1, 5, 2], id="off"),
        pytest.param([1, 5, 9], StabilizationLimits(down_seconds=60), [1, 5, 9], id="up-at-once"),
        pytest.param(
            [5, 2, 2, 2, 2], StabilizationLimits(down_seconds=30), [5, 5, 5, 2, 2], id="down-late"
        ),
        pytest.param(
            [5, 2, 4, 2, 2, 2],
            StabilizationLimits(down_seconds=30),
            [5, 5, 5, 4, 4, 2],
            id="highest",
        ),
        pytest.param([1, 9, 9, 9], StabilizationLimits(step_up=3), [1, 4, 7, 9], id="step-up"),
        pytest.param([9, 1, 1, 1], StabilizationLimits(step_down=3), [9, 6, 3, 1], id="step-down"),
        pytest.param(
            [9, 1, 1, 1, 1],
            StabilizationLimits(down_seconds=20, step_down=5),
            [9, 9, 4, 1, 1],
            id="both",
        ),
        pytest.param(
            [8, 4, 4, 4, 4],
            StabilizationLimits(down_seconds=30, fall_seconds=20),
            [8, 8, 4, 4, 4],
            id="far-fall",
        ),
        pytest.param(
            [8, 7, 7, 7, 7],
            StabilizationLimits(down_seconds=30, fall_seconds=20),
            [8, 8, 8, 7, 7],
            id="one-replica-less",
        ),
        pytest.param(
            [8, 6, 4, 4, 4, 4],
            StabilizationLimits(down_seconds=40, fall_seconds=20),
            [8, 8, 6, 4, 4, 4],
            id="fall-in-parts",
        ),
        pytest.param(
            [20, 17, 17, 17, 17],
            StabilizationLimits(down_seconds=30, fall_seconds=20),
            [20, 20, 20, 17, 17],
            id="small-part-of-many",
        ),
    ],
)
def test_what_is_published(
    desired: list[int], limits: StabilizationLimits, published: list[int]
) -> None:
    """Each rule alone and both together."""
    assert fold(desired, limits) == published


def test_the_reason_names_what_held() -> None:
    """The window with the seconds that are left, or the step."""
    history = (Recommendation(0.0, 5),)
    held = stabilize(
        2, before=5, history=history, now=20.0, limits=StabilizationLimits(down_seconds=60)
    )
    assert held.reason == "held at 5 for 40 s more by the stabilization window"
    up = stabilize(9, before=2, history=(), now=0.0, limits=StabilizationLimits(step_up=3))
    assert up.reason == "5 instead of 9: 3 more at a time"
    assert stabilize(9, before=2, history=(), now=0.0, limits=StabilizationLimits()).reason == ""


def test_the_reason_says_how_long_a_far_fall_is_held() -> None:
    """Less than the window, which holds what is near."""
    limits = StabilizationLimits(down_seconds=100.0, fall_seconds=40.0)
    history = (Recommendation(0.0, 8), Recommendation(10.0, 5))
    stable = stabilize(4, before=8, history=history, now=30.0, limits=limits)
    assert (stable.replicas, stable.reason) == (
        8,
        "held at 8 for 10 s more by the stabilization window",
    )
    stable = stabilize(4, before=8, history=stable.history, now=50.0, limits=limits)
    assert (stable.replicas, stable.reason) == (
        5,
        "held at 5 for 60 s more by the stabilization window",
    )


def test_a_maximum_is_kept_whatever_the_window_says() -> None:
    """A bound that was lowered counts at once."""
    history = (Recommendation(0.0, 8),)
    limits = StabilizationLimits(down_seconds=600)
    stable = stabilize(3, before=8, history=history, now=10.0, limits=limits, maximum=4)
    assert stable.replicas == 4


NUMBERS = st.lists(st.integers(0, 30), min_size=1, max_size=40)


@given(NUMBERS, st.integers(1, 5), st.integers(1, 5), st.floats(0, 100))
def test_steps_are_never_exceeded(desired: list[int], up: int, down: int, seconds: float) -> None:
    """From one publication to the next, whatever is desired."""
    limits = StabilizationLimits(down_seconds=seconds, step_up=up, step_down=down)
    published = fold(desired, limits)
    for before, after in itertools.pairwise(published):
        assert -down <= after - before <= up


@given(NUMBERS, st.floats(0, 100))
def test_the_window_neither_raises_nor_starves(desired: list[int], seconds: float) -> None:
    """Without steps what is published lies between what is desired and the most that was desired lately."""
    published = fold(desired, StabilizationLimits(down_seconds=seconds))
    for index, number in enumerate(published):
        recent = [w for at, w in enumerate(desired[: index + 1]) if (index - at) * 10.0 < seconds]
        assert desired[index] <= number <= max([*recent, desired[index]])


def test_what_the_arrivals_ask_for_stays_when_the_queue_is_gone() -> None:
    """Of 20 replicas that a queue asked for, the 8 that the arrivals took with it count for the window."""
    limits = StabilizationLimits(down_seconds=90)
    stable = stabilize(20, before=4, history=(), now=0.0, limits=limits, brief=True, lasting=8)
    published = {}
    for now in (20.0, 40.0, 80.0, 100.0):
        stable = stabilize(
            3, before=stable.replicas, history=stable.history, now=now, limits=limits
        )
        published[now] = stable.replicas
    assert published == {20.0: 20, 40.0: 8, 80.0: 8, 100.0: 3}


def test_a_queue_that_is_gone_tells_how_long_its_arrivals_keep_replicas() -> None:
    """Eight are published, and as many stay for the window: not 30 s, as what the queue asked for does."""
    limits = StabilizationLimits(down_seconds=90)
    history = (Recommendation(0.0, 20, brief=True, lasting=8),)
    held = stabilize(3, before=8, history=history, now=20.0, limits=limits)
    assert held.reason == "held at 8 for 70 s more by the stabilization window"


def test_a_far_fall_from_a_queue_takes_no_replicas_of_the_arrivals() -> None:
    """The far fall's window of 20 s ends before the queue's 30 s do; 8 of the 20 are not far above 7."""
    limits = StabilizationLimits(down_seconds=40, fall_seconds=20)
    history = (Recommendation(0.0, 20, brief=True, lasting=8),)
    assert stabilize(7, before=20, history=history, now=25.0, limits=limits).replicas == 8


def test_levels_have_their_own_holds() -> None:
    """What is above the last level goes with it."""
    limits = StabilizationLimits(down_seconds=40, holds=(Hold(3, 40.0), Hold(6, 20.0)))
    assert fold([9, 2, 2, 2, 2], limits) == [9, 9, 3, 3, 2]
    assert fold([5, 2, 2, 2, 2], limits) == [5, 5, 3, 3, 2]
    assert fold([3, 2, 2, 2, 2], limits) == [3, 3, 3, 3, 2]


def test_a_queue_holds_no_level_for_longer() -> None:
    """Of 9 for a queue the arrivals asked for 4."""
    limits = StabilizationLimits(
        down_seconds=40, brief_seconds=10, holds=(Hold(3, 40.0), Hold(6, 20.0))
    )
    history = (Recommendation(0.0, 9, brief=True, lasting=4),)
    for now, left in ((5.0, 9), (15.0, 4), (25.0, 3), (45.0, 2)):
        assert stabilize(2, before=9, history=history, now=now, limits=limits).replicas == left

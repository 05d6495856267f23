"""Step times learned from what a replica shows, against an engine that schedules step by step.

The engine is `emulator.engines.scheduler_engine`, which knows nothing of the formulas that are learned with.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest

from analyzer.engine import learning, sizing
from analyzer.engine.columns import Engine
from analyzer.engine.learning import PARAMETERS, StepObservation
from analyzer.errors import InvalidParameterError
from analyzer.step_times import Lengths, StepTimes
from tests.fakes.replay.scheduled_windows import (
    LARGE,
    LIMITS,
    LONG,
    SHORT,
    SMALL,
    capacity,
    windows,
)

TOPS = {(SMALL, SHORT): 28.0, (SMALL, LONG): 6.8, (LARGE, SHORT): 9.8, (LARGE, LONG): 2.5}
"""About what a replica holds with tokens in 2.5 times the base, requests per second. Requests are drawn by
it, and what is learned differs by some percent between draws."""


@functools.cache
def ten_minutes(true: StepTimes, lengths: Lengths, swing: float) -> tuple[StepObservation, ...]:
    """Windows of load around half of what the replica holds, by a share of it to both sides."""
    rates = TOPS[true, lengths] * (0.5 + swing * np.sin(np.arange(10) / 10 * 2 * np.pi))
    return tuple(windows(true, lengths, rates))


def learned(
    state: learning.State, true: StepTimes, lengths: Lengths, *, swing: float = 0.3, first: int = 10
) -> learning.State:
    """The state after ten minutes of load between a fifth and four fifths of what the replica holds."""
    for seen in ten_minutes(true, lengths, swing)[:first]:
        state = learning.update(state, seen).state
    return state


def wrong_by(true: StepTimes, factors: tuple[float, ...]) -> StepTimes:
    """Step times that are off by these factors, in the order of `PARAMETERS`."""
    return StepTimes(
        **{
            name: getattr(true, name) * factor
            for name, factor in zip(PARAMETERS, factors, strict=True)
        }
    )


CASES = [
    pytest.param(true, lengths, id=f"{name}-{int(lengths.input_tokens)}")
    for name, true in (("small", SMALL), ("large", LARGE))
    for lengths in (SHORT, LONG)
]


@pytest.mark.parametrize(("true", "lengths"), CASES)
def test_an_unknown_model_is_learned(true: StepTimes, lengths: Lengths) -> None:
    """After ten minutes of changing load the capacity of a model that nobody measured is within 12 %."""
    state = learned(learning.start(), true, lengths)
    assert state.usable
    assert abs(state.itl_error) < 0.1
    target = 2.5 * true.base_ms
    assert capacity(state.latency, lengths, target) == pytest.approx(
        capacity(true, lengths, target), rel=0.12
    )
    assert state.latency.base_ms == pytest.approx(true.base_ms, rel=0.1)
    assert state.latency.per_prefill_token_ms == pytest.approx(true.per_prefill_token_ms, rel=0.15)


SIGNS = tuple(itertools.product((0.7, 1.3), repeat=len(PARAMETERS)))
"""Each of the four step times 30 % too small or too large."""


@pytest.mark.parametrize(("true", "lengths"), CASES)
@pytest.mark.parametrize(("swing", "error"), [(0.3, 0.1), (0.0, 0.16)], ids=["moving", "constant"])
def test_a_profile_that_is_wrong_is_repaired(
    true: StepTimes, lengths: Lengths, swing: float, error: float
) -> None:
    """Every step time 30 % off, either way: after ten minutes latencies are right, the capacity nearly.

    Load that does not move tells the capacity less well than load that does.
    """
    target = 2.5 * true.base_ms
    right = capacity(true, lengths, target)
    for signs in SIGNS:
        state = learned(learning.start(wrong_by(true, signs)), true, lengths, swing=swing)
        assert state.usable
        assert abs(state.itl_error) < 0.05, signs
        assert capacity(state.latency, lengths, target) == pytest.approx(right, rel=error), signs


@pytest.mark.parametrize(("true", "lengths"), CASES)
@pytest.mark.parametrize("off", [0.5, 0.7])
def test_a_profile_that_is_too_fast_is_corrected_after_two_windows(
    true: StepTimes, lengths: Lengths, off: float
) -> None:
    """Half or 30 % too small: after two windows most of the capacity's error is gone; one is no proof."""
    wrong = wrong_by(true, (off,) * 4)
    start = learning.start(wrong)
    assert not learned(start, true, lengths, first=1).usable
    state = learned(start, true, lengths, first=2)
    assert state.usable
    target = 2.5 * true.base_ms
    right, said = capacity(true, lengths, target), capacity(wrong, lengths, target)
    left = capacity(state.latency, lengths, target) - right
    assert left < 0.5 * (said - right)


@pytest.mark.parametrize(("true", "lengths"), CASES)
def test_a_profile_that_is_too_slow_is_corrected_after_five_windows(
    true: StepTimes, lengths: Lengths
) -> None:
    """What lets a variant have fewer replicas than its profile says is used once it is certain."""
    start = learning.start(wrong_by(true, (1.3,) * 4))
    assert not learned(start, true, lengths, first=4).usable
    assert learned(start, true, lengths, first=5).usable


@pytest.mark.parametrize(("true", "lengths"), CASES)
@pytest.mark.parametrize("off", [0.8, 1.25, 0.5])
def test_an_estimate_is_used_once_it_is_confirmed(
    true: StepTimes, lengths: Lengths, off: float
) -> None:
    """Said to be 10 % off, it is a fifth or half: used after five minutes, right after ten."""
    start = learning.start(wrong_by(true, (off,) * 4), error=0.1)
    assert not start.usable
    early = learned(start, true, lengths, swing=0.0, first=5)
    assert early.usable
    assert early.itl_spread <= learning.USABLE_ERROR
    late = learned(start, true, lengths)
    target = 2.5 * true.base_ms
    assert capacity(late.latency, lengths, target) == pytest.approx(
        capacity(true, lengths, target), rel=0.15
    )
    assert late.proven


def test_comparing_changes_no_step_times() -> None:
    """What may not be tuned is compared: the errors say how far off it is, the step times stay."""
    state = learning.start(wrong_by(SMALL, (0.5,) * 4))
    for seen in ten_minutes(SMALL, SHORT, 0.3):
        state = learning.compare(state, seen)
    assert state.latency == wrong_by(SMALL, (0.5,) * 4)
    assert state.itl_error > 0.6
    nothing = dataclasses.replace(steady(), rate_rps=0.0)
    assert learning.compare(state, nothing) == state


def steady() -> StepObservation:
    """One window at half load."""
    return ten_minutes(SMALL, SHORT, 0.0)[0]


def test_a_constant_batch_proves_nothing() -> None:
    """Right predictions of one batch only do not prove an unknown model: it is used late, and only near."""
    state, seen = learning.start(), steady()
    used = []
    for _ in range(20):
        state = learning.update(state, seen).state
        used.append(state.usable)
    assert used.index(True) == learning.LOCAL_WINDOWS - 1
    assert all(used[learning.LOCAL_WINDOWS - 1 :])
    assert state.local
    assert not state.proven
    assert seen.batch < state.most_requests <= 2.0 * seen.batch
    assert 0 < state.confidence < 1
    # Two other loads prove it, and it is good for more.
    for share in (0.6, 0.7, 0.6, 0.7, 0.6):
        lighter = dataclasses.replace(seen, rate_rps=share * seen.rate_rps)
        state = learning.update(state, lighter).state
    assert state.proven
    assert not state.local
    assert state.most_requests > 1.9 * seen.batch


@pytest.mark.parametrize(("true", "lengths"), CASES)
def test_a_constant_load_teaches_the_capacity_near_it(true: StepTimes, lengths: Lengths) -> None:
    """Of one load alone: ITL at and 20 % above it within 12 %, never more capacity than there is."""
    state = learned(learning.start(), true, lengths, swing=0.0)
    assert state.usable
    rate = 0.5 * capacity(true, lengths, 2.5 * true.base_ms)
    for near in (1.0, 1.2):
        guessed, real = (
            sizing.analyze_engine(
                Engine(step_times=steps, limits=LIMITS, lengths=lengths), near * rate
            ).itl_ms
            for steps in (state.latency, true)
        )
        assert guessed == pytest.approx(real, rel=0.12)
    limits = dataclasses.replace(LIMITS, max_num_seqs=math.ceil(state.most_requests))
    engine = Engine(step_times=state.latency, limits=limits, lengths=lengths)
    held = sizing.size_engine(engine, ttft_ms=2000.0, itl_ms=2.5 * true.base_ms).rate_rps
    assert rate < held < 2.0 * rate


def test_what_is_far_from_the_estimate_is_refused_until_it_stays() -> None:
    """A window that cannot be is an outlier; when all windows are so, the replica has changed."""
    state, seen = learned(learning.start(SMALL), SMALL, SHORT), steady()
    other = dataclasses.replace(seen, itl_ms=2 * seen.itl_ms, ttft_ms=2 * (seen.ttft_ms or 0.0))
    update = learning.update(state, other)
    assert update.outcome == "outlier"
    assert update.state.logs == state.logs
    for _ in range(30):
        update = learning.update(update.state, other)
    assert update.outcome == "accepted"
    assert update.state.latency.base_ms > 1.5 * SMALL.base_ms
    # A measured profile is not another model's: it stays within its bound.
    assert max(abs(log) for log in update.state.logs) <= learning.PROFILE_BOUND + 1e-9


@pytest.mark.parametrize(
    "change",
    [
        {"rate_rps": 0.0},
        {"itl_ms": math.nan},
        {"itl_ms": 0.0},
        {"ttft_ms": math.inf},
        {"requests": 0.0},
        {"lengths": dataclasses.replace(SHORT, output_tokens=1.0)},
    ],
    ids=str,
)
def test_what_is_no_measurement_changes_nothing(change: dict[str, float]) -> None:
    """Nothing arrived, one token each, or no number: the state stays as it was."""
    state = learning.start()
    updated = learning.update(state, dataclasses.replace(steady(), **change))  # type: ignore[arg-type] # fields by name
    assert (updated.outcome, updated.state) == ("uninformative", state)


def test_ttft_may_be_missing() -> None:
    """Where requests wait for a place only the ITL counts, and a 0 in a profile stays 0."""
    profile = dataclasses.replace(SMALL, per_context_token_ms=0.0, per_sqrt_request_ms=0.2)
    seen = dataclasses.replace(steady(), ttft_ms=None)
    updated = learning.update(learning.start(profile), seen)
    assert updated.outcome == "accepted"
    assert updated.state.latency.per_context_token_ms == 0
    assert updated.state.latency.per_sqrt_request_ms > 0
    assert updated.state.ttft_error == 0


def test_an_error_that_is_none_is_refused() -> None:
    """The expected error of an estimate is a number."""
    with pytest.raises(InvalidParameterError, match="error"):
        learning.start(SMALL, error=math.nan)


@pytest.mark.parametrize(("name", "value"), [("base_ms", 0.0), ("per_request_ms", math.nan)])
def test_a_seed_that_is_none_is_refused(name: str, value: float) -> None:
    """The error names the step time."""
    with pytest.raises(InvalidParameterError, match=name):
        learning.start(dataclasses.replace(SMALL, **{name: value}))

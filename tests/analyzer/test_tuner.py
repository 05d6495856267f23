"""The tuner finds parameters that are wrong by half, in the model's world and in an emulated server's."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer import errors, queueing, tuner
from analyzer.latency import LatencyParameters
from analyzer.queueing import Replica
from emulator.engine import Engine, EngineProfile, Request
from tests.fakes import virtual_time

TRUE = {"alpha_ms": 10.0, "beta_ms": 0.5, "gamma_ms": 20.0, "delta_ms": 0.02}
OUTPUT_TOKENS, MAX_BATCH = 40, 16
WRONG = list(itertools.product((0.5, 1.5), repeat=4))


def seeded(factors: tuple[float, ...], *, enabled: bool = True) -> tuner.State:
    wrong = {
        name: value * factor for (name, value), factor in zip(TRUE.items(), factors, strict=True)
    }
    return tuner.start(LatencyParameters(**wrong), enabled=enabled)


def observation(
    rate: float, prompt: float, itl_ms: float, ttft_ms: float
) -> tuner.LatencyObservation:
    return tuner.LatencyObservation(
        rate_rps=rate, input_tokens=prompt, output_tokens=OUTPUT_TOKENS, max_batch=MAX_BATCH,
        itl_ms=itl_ms, ttft_ms=ttft_ms, requests=rate * 60,
    )  # fmt: skip


def modelled(count: int, seed: int = 1, noise: float = 0.03) -> Iterator[tuner.LatencyObservation]:
    """What the model itself would show at changing load, with noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        rate, prompt = rng.uniform(1, 14), rng.uniform(100, 600)
        replica = Replica(
            **TRUE, input_tokens=prompt, output_tokens=OUTPUT_TOKENS,
            max_batch=MAX_BATCH, max_queue=10 * MAX_BATCH,
        )  # fmt: skip
        steady = queueing.analyze(replica, rate)
        itl, ttft = np.exp(rng.normal(0, noise, 2)) * (steady.itl_ms, steady.ttft_ms)
        yield observation(rate, prompt, itl, ttft)


def run(
    state: tuner.State, seen: Iterator[tuner.LatencyObservation] | list[tuner.LatencyObservation]
) -> tuner.State:
    for item in seen:
        state = tuner.update(state, item).state
    return state


def errors_of(state: tuner.State) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    errors: np.ndarray[tuple[int], np.dtype[np.float64]] = np.abs(
        np.array(state.parameters) / np.array(list(TRUE.values())) - 1.0
    )
    return errors


@pytest.mark.parametrize("factors", WRONG)
def test_parameters_wrong_by_half_are_found(factors: tuple[float, ...]) -> None:
    """From any corner of +-50 %, sixty noisy observations bring every parameter near the truth."""
    before, state = seeded(factors), run(seeded(factors), modelled(60))
    assert np.allclose(errors_of(before), 0.5)
    assert (errors_of(state) < [0.06, 0.15, 0.2, 0.2]).all(), errors_of(state)
    assert state.usable
    assert state.confidence > 0.6 > before.confidence


async def emulated(windows: int, seconds: float = 60.0) -> list[tuner.LatencyObservation]:
    """What an emulated server shows while its load changes from window to window."""
    rng = np.random.default_rng(2)
    gaps: list[float] = []
    firsts: list[float] = []

    def token(request: Request, gap_ms: float) -> None:
        (gaps if request.generated else firsts).append(gap_ms)

    profile = EngineProfile(
        alpha_ms=TRUE["alpha_ms"], beta_ms=TRUE["beta_ms"], gamma_ms=TRUE["gamma_ms"],
        delta_ms=TRUE["delta_ms"], max_batch=MAX_BATCH,
    )  # fmt: skip
    engine = Engine(profile, on_token=token)
    task = asyncio.create_task(engine.run())
    observations = []
    for _ in range(windows):
        rate, prompt = rng.uniform(1, 12), int(rng.uniform(100, 600))
        gaps.clear()
        firsts.clear()
        for _ in range(rng.poisson(rate * seconds)):
            await asyncio.sleep(rng.exponential(1 / rate))
            engine.submit(input_tokens=prompt, output_tokens=OUTPUT_TOKENS)
        observations.append(observation(rate, prompt, float(np.mean(gaps)), float(np.mean(firsts))))
    task.cancel()
    return observations


def test_an_emulated_server_is_learned() -> None:
    """A server that runs iteration by iteration, unlike the model, teaches its parameters from any corner."""
    seen = virtual_time.run(emulated(40))
    for factors in WRONG:
        state = run(seeded(factors), seen)
        assert (errors_of(state) < [0.08, 0.25, 0.25, 0.25]).all(), (factors, errors_of(state))


def test_outliers_are_refused_and_a_change_is_followed() -> None:
    """A single wild observation changes nothing; the same one again and again is the new truth."""
    state = run(seeded((1, 1, 1, 1)), modelled(30))
    wild = observation(5.0, 300, 120.0, 400.0)
    refused = tuner.update(state, wild)
    assert refused.outcome == "outlier"
    assert refused.surprise > tuner.OUTLIER_THRESHOLD[2]
    assert refused.state.parameters == state.parameters
    healed = tuner.update(refused.state, next(modelled(1, seed=9)))
    assert (healed.outcome, healed.state.outliers) == ("accepted", 0)
    for _ in range(tuner.PATIENCE + 10):
        state = tuner.update(state, wild).state
    replica = Replica(
        **TRUE, input_tokens=300, output_tokens=OUTPUT_TOKENS, max_batch=MAX_BATCH, max_queue=160
    )
    assert queueing.analyze(tuner.tuned(state, replica), 5.0).itl_ms == pytest.approx(120, rel=0.1)


def test_one_operating_point_does_not_invent_the_rest() -> None:
    """At a single load the ITL is met, and what that load does not tell is reported as uncertain."""
    replica = Replica(
        **TRUE, input_tokens=300, output_tokens=OUTPUT_TOKENS, max_batch=MAX_BATCH, max_queue=160
    )
    steady = queueing.analyze(replica, 5.0)
    same = [observation(5.0, 300, steady.itl_ms, steady.ttft_ms)] * 300
    state = run(seeded((1.5, 1.5, 1.5, 1.5)), same)
    assert queueing.analyze(tuner.tuned(state, replica), 5.0).itl_ms == pytest.approx(
        steady.itl_ms, rel=0.02
    )
    varied = run(seeded((1.5, 1.5, 1.5, 1.5)), modelled(300))
    assert state.relative_errors[1] > 3 * varied.relative_errors[1]
    assert all(0 < error <= 0.5 for error in state.relative_errors)


def test_it_is_used_after_its_warm_up_and_never_when_off() -> None:
    """Until enough was accepted, and wherever it is off, the profile stands as it is."""
    replica = Replica(
        **TRUE, input_tokens=300, output_tokens=OUTPUT_TOKENS, max_batch=MAX_BATCH, max_queue=160
    )
    state = seeded((1.5, 1.5, 1.5, 1.5))
    for place, item in enumerate(modelled(tuner.WARM_UP)):
        assert tuner.tuned(state, replica) == replica, place
        state = tuner.update(state, item).state
    assert tuner.tuned(state, replica) != replica
    off = seeded((1.5, 1.5, 1.5, 1.5), enabled=False)
    for item in modelled(20):
        seen = tuner.update(off, item)
        assert (seen.outcome, seen.state) == ("off", off)
    assert tuner.tuned(off, replica) == replica


def test_what_teaches_nothing_is_left_out() -> None:
    """No traffic, no tokens, or a prefill that the profile does not have: nothing changes."""
    state = seeded((1, 1, 1, 1))
    quiet = dataclasses.replace(next(modelled(1)), rate_rps=0.0)
    silent = dataclasses.replace(next(modelled(1)), itl_ms=None, ttft_ms=None)
    for item in (quiet, silent):
        assert tuner.update(state, item) == tuner.Update(state=state, outcome="uninformative")
    decode_only = tuner.start(LatencyParameters(alpha_ms=15, beta_ms=0.5, gamma_ms=0, delta_ms=0))
    learned = run(decode_only, modelled(40))
    assert learned.parameters[2:] == (0, 0)
    assert learned.parameters[0] == pytest.approx(TRUE["alpha_ms"], rel=0.2)


positive = st.floats(min_value=1e-6, max_value=1e7)


@given(
    st.lists(
        st.builds(
            tuner.LatencyObservation,
            rate_rps=st.floats(min_value=0, max_value=1e4),
            input_tokens=st.floats(min_value=0, max_value=1e5),
            output_tokens=st.floats(min_value=0, max_value=1e5),
            max_batch=st.integers(1, 300),
            itl_ms=st.none() | positive,
            ttft_ms=st.none() | positive,
            requests=st.floats(min_value=0, max_value=1e6),
        ),
        max_size=12,
    )
)
def test_whatever_comes_the_parameters_stay_physical(seen: list[tuner.LatencyObservation]) -> None:
    """Positive, finite, within a factor of ten of the seed, with a covariance that is one."""
    state = run(seeded((1, 1, 1, 1)), seen)
    for value, seed, error in zip(state.parameters, state.seed, state.relative_errors, strict=True):
        assert seed / tuner.BOUND * 0.999 <= value <= seed * tuner.BOUND * 1.001
        assert math.isfinite(error)
    assert (np.linalg.eigvalsh(np.array(state.covariance)) > -1e-9).all()
    assert -1e-9 <= state.confidence <= 1
    assert pickle.loads(pickle.dumps(state)) == state  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", ["itl_ms", "ttft_ms", "rate_rps", "requests"])
def test_numbers_that_are_none_are_refused_by_name(name: str) -> None:
    """NaN and negative figures are errors, not lessons."""
    for value in (math.nan, -1.0):
        wrong: dict[str, Any] = {name: value}
        bad = dataclasses.replace(next(modelled(1)), **wrong)
        with pytest.raises(errors.InvalidParameterError, match=f"^{name}: must be"):
            tuner.update(seeded((1, 1, 1, 1)), bad)
    with pytest.raises(errors.InvalidParameterError, match=r"^alpha_ms: must be"):
        tuner.start(LatencyParameters(alpha_ms=-1, beta_ms=0, gamma_ms=0, delta_ms=0))
    with pytest.raises(errors.InvalidParameterError, match="no time"):
        tuner.start(LatencyParameters(alpha_ms=0, beta_ms=0, gamma_ms=0, delta_ms=0))

"""Performance parameters that follow the observed latencies of a running replica: an extended Kalman filter.

State are the logarithms of alpha, beta, gamma and delta, so they stay positive; observed are the logarithms
of ITL and TTFT at a known rate and request size; `queueing.analyze` is the function between them (Bar-Shalom,
Li and Kirubarajan, Estimation with Applications to Tracking and Navigation, 10.3, iterated).

One observation has two numbers for four unknowns. What it does not determine stays near the seed: between
observations the covariance returns to its initial value, so it neither grows nor vanishes. The seed is
the profile, and no parameter leaves [seed / 10, seed * 10]. A parameter of 0 stays 0.

Pure functions: state in, state out. Units: ms, requests per second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analyzer import queueing
from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters
from analyzer.replicas import FloatArray, Replica, Replicas

Outcome = Literal["accepted", "outlier", "uninformative", "off"]

OUTLIER_THRESHOLD = {1: 5.024, 2: 7.378}
"""Largest normalized innovation squared by observed numbers: chi-squared, 97.5 %."""

WARM_UP = 5
"""Accepted observations before the parameters are used."""

PATIENCE = 6
"""Consecutive outliers after which the replica is assumed to have changed."""

BOUND = 10.0
"""Largest factor between a parameter and its seed."""

SEED_DEVIATION = 0.5
"""Standard deviation of the logarithms of a profile's parameters."""

PARAMETERS = ("alpha_ms", "beta_ms", "gamma_ms", "delta_ms")

_FORGETTING = 0.01
_NOISE = 0.03
_FRESH = 0.25
_STEP = 1e-4
_ROUNDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyObservation:
    """Observed latencies and load of one replica over a window.

    Attributes:
        rate_rps: arrival rate of the replica.
        input_tokens: mean per request.
        output_tokens: mean per request.
        max_batch: max batch of the replica.
        itl_ms: mean inter-token latency; None where nothing was decoded.
        ttft_ms: mean time to first token; None where nothing began.
        requests: number of requests that the means are taken over.

    """

    rate_rps: float
    input_tokens: float
    output_tokens: float
    max_batch: int
    itl_ms: float | None
    ttft_ms: float | None
    requests: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Estimate of one variant on one accelerator.

    Attributes:
        seed: alpha, beta, gamma, delta of the profile, ms.
        logs: logarithms of the parameters over their seeds.
        covariance: covariance of `logs`, as rows.
        accepted: observations taken.
        outliers: observations refused since the last one taken.
        enabled: False leaves the seed alone.
        itl_error: mean of observed over predicted ITL less 1, of recent windows when they were new.
        ttft_error: the same of the TTFT.

    """

    seed: tuple[float, float, float, float]
    logs: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    accepted: int = 0
    outliers: int = 0
    enabled: bool = True
    itl_error: float = 0.0
    ttft_error: float = 0.0

    @property
    def parameters(self) -> tuple[float, float, float, float]:
        """Estimates of alpha, beta, gamma, delta, ms."""
        alpha, beta, gamma, delta = (
            value * math.exp(log) for value, log in zip(self.seed, self.logs, strict=True)
        )
        return alpha, beta, gamma, delta

    @property
    def latency(self) -> LatencyParameters:
        """The same as one value."""
        alpha, beta, gamma, delta = self.parameters
        return LatencyParameters(alpha_ms=alpha, beta_ms=beta, gamma_ms=gamma, delta_ms=delta)

    @property
    def relative_errors(self) -> tuple[float, float, float, float]:
        """Standard deviations of the parameters, relative to them; of a 0 it is 0."""
        alpha, beta, gamma, delta = (
            math.sqrt(max(self.covariance[index][index], 0.0)) for index in range(4)
        )
        return alpha, beta, gamma, delta

    @property
    def confidence(self) -> float:
        """From 0, the seed alone, to 1: share of the seed's deviations that the observations removed."""
        known = [
            error for error, seed in zip(self.relative_errors, self.seed, strict=True) if seed > 0
        ]
        return 1.0 - sum(known) / (len(known) * SEED_DEVIATION) if known else 0.0

    @property
    def usable(self) -> bool:
        """Whether enough was observed to plan with `parameters` instead of the seed."""
        return self.enabled and self.accepted >= WARM_UP


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Result of one observation.

    Attributes:
        state: state to pass in with the next observation.
        outcome: accepted, outlier (refused), uninformative (nothing to estimate from), or off.
        surprise: normalized innovation squared; 0 where it was not computed.

    """

    state: State
    outcome: Outcome
    surprise: float = 0.0


def start(latency: LatencyParameters, *, enabled: bool = True) -> State:
    """State before the first observation.

    Raises:
        InvalidParameterError: a parameter is not a number >= 0, or all are 0.

    """
    seed = (latency.alpha_ms, latency.beta_ms, latency.gamma_ms, latency.delta_ms)
    for name, value in zip(PARAMETERS, seed, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise InvalidParameterError(name, f"must be a number >= 0, not {value:g}")
    if not any(seed):
        raise InvalidParameterError(",".join(PARAMETERS), "a request would take no time")
    return State(seed=seed, logs=(0.0,) * 4, covariance=_rows(_prior(seed)), enabled=enabled)


def update(state: State, seen: LatencyObservation) -> Update:
    """Take one observation.

    Raises:
        InvalidParameterError: a figure of the observation is not a number in its range.

    """
    if not state.enabled:
        return Update(state=state, outcome="off")
    values, used = _observed(state, seen)
    if not used.any():
        return Update(state=state, outcome="uninformative")
    prior = np.array(state.logs)
    covariance = np.array(state.covariance)
    covariance += _FORGETTING * (_prior(state.seed) - covariance)
    expected, slopes, noise = _linearized(state.seed, prior, seen, used)
    innovation = values - expected
    spread = slopes @ covariance @ slopes.T + noise
    surprise = float(innovation @ np.linalg.solve(spread, innovation))
    state = _with_errors(state, innovation, used)
    if surprise > OUTLIER_THRESHOLD[int(used.sum())]:
        if state.outliers + 1 < PATIENCE:
            refused = replace(state, outliers=state.outliers + 1)
            return Update(state=refused, outcome="outlier", surprise=surprise)
        # The estimate is wrong, not the observations: start over from here.
        covariance = _prior(state.seed)
    posterior, covariance = corrected(
        prior,
        covariance,
        values,
        lambda logs: _linearized(state.seed, logs, seen, used),
        limit=math.log(BOUND),
    )
    taken = replace(
        state,
        logs=tuple(float(value) for value in posterior),
        covariance=_rows(covariance),
        accepted=state.accepted + 1,
        outliers=0,
    )
    return Update(state=taken, outcome="accepted", surprise=surprise)


def compare(state: State, seen: LatencyObservation) -> State:
    """The state with the errors of one more prediction; its parameters stay as they are.

    Raises:
        InvalidParameterError: a figure of the observation is not a number in its range.

    """
    values, used = _observed(state, seen)
    if not used.any():
        return state
    expected, _, _ = _linearized(state.seed, np.array(state.logs), seen, used)
    return replace(_with_errors(state, values - expected, used), accepted=state.accepted + 1)


def corrected(
    prior: FloatArray,
    covariance: FloatArray,
    values: FloatArray,
    linearized: Callable[[FloatArray], tuple[FloatArray, FloatArray, FloatArray]],
    *,
    limit: float,
) -> tuple[FloatArray, FloatArray]:
    """State (n,) and covariance (n, n) after one observation: the correction of an iterated Kalman filter.

    Args:
        prior: State before, shape (n,).
        covariance: Its covariance, shape (n, n).
        values: What was observed, shape (k,).
        linearized: Expected values (k,), their derivatives (k, n) and the noise (k, k) at a state.
        limit: Largest size of a component of the state.

    """
    posterior = prior
    for _ in range(_ROUNDS):
        expected, slopes, noise = linearized(posterior)
        spread = slopes @ covariance @ slopes.T + noise
        gain = np.linalg.solve(spread, slopes @ covariance).T
        posterior = prior + gain @ (values - expected - slopes @ (prior - posterior))
        posterior = np.clip(posterior, -limit, limit)
    # Joseph's form: symmetric and positive whatever the rounding.
    uncorrected = np.eye(prior.size) - gain @ slopes
    return posterior, uncorrected @ covariance @ uncorrected.T + gain @ noise @ gain.T


def recent_error(before: float, logarithm: float, *, first: bool) -> float:
    """Mean of recent relative errors after one more, given as its logarithm; the first counts in full."""
    error = math.expm1(min(logarithm, 5.0))
    return error if first else before + _FRESH * (error - before)


def _with_errors(
    state: State, innovation: FloatArray, used: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> State:
    first = state.accepted == 0
    logarithms = dict(zip(np.flatnonzero(used).tolist(), innovation.tolist(), strict=True))
    itl, ttft = (
        recent_error(before, logarithms[index], first=first) if index in logarithms else before
        for index, before in enumerate((state.itl_error, state.ttft_error))
    )
    return replace(state, itl_error=itl, ttft_error=ttft)


def _prior(seed: tuple[float, ...]) -> FloatArray:
    return np.diag([SEED_DEVIATION**2 if value > 0 else 0.0 for value in seed])


def _rows(matrix: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _observed(
    state: State, seen: LatencyObservation
) -> tuple[FloatArray, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Logarithms of what was observed and can be explained, and which of ITL and TTFT that is."""
    for name in ("rate_rps", "requests"):
        value = getattr(seen, name)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidParameterError(name, f"must be a number >= 0, not {value:g}")
    figures = []
    for name in ("itl_ms", "ttft_ms"):
        value = getattr(seen, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidParameterError(name, f"must be a number >= 0, not {value:g}")
        figures.append(value or 0.0)
    explained = [
        state.seed[0] + state.seed[1] > 0 and seen.output_tokens > 1,
        # Without a prefill in the model a TTFT is waiting and noise.
        state.seed[2] + state.seed[3] * seen.input_tokens > 0 and seen.input_tokens > 0,
    ]
    used = np.array(
        [figure > 0 and known for figure, known in zip(figures, explained, strict=True)]
    )
    if seen.rate_rps == 0 or seen.requests < 1:
        used[:] = False
    return np.log(np.array(figures)[used]), used


def _linearized(
    seed: tuple[float, ...],
    logs: FloatArray,
    seen: LatencyObservation,
    used: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Expected logarithms (k,), their derivatives by `logs` (k, 4), and the noise of observing (k, k)."""
    points = np.vstack([logs, logs + _STEP * np.eye(4), logs - _STEP * np.eye(4)])
    alpha, beta, gamma, delta = (np.array(seed) * np.exp(points)).T
    replicas = Replicas(
        alpha_ms=alpha,
        beta_ms=beta,
        gamma_ms=gamma,
        delta_ms=delta,
        input_tokens=seen.input_tokens,
        output_tokens=max(seen.output_tokens, 1.0),
        max_batch=seen.max_batch,
        max_queue=queueing.MAX_QUEUE_TO_BATCH * seen.max_batch,
    )
    steady = queueing.analyze_all(replicas, seen.rate_rps)
    floor = 1e-12
    logs_of_latency = np.log(np.maximum(np.stack([steady.itl_ms, steady.ttft_ms]), floor))[used]
    slopes = (logs_of_latency[:, 1:5] - logs_of_latency[:, 5:9]) / (2 * _STEP)
    # Waiting swings far more than the model's mean of it, the less requests the more: where it makes up
    # the TTFT, the TTFT tells little about the prefill.
    waits = float(steady.waiting_ms[0] / max(float(steady.ttft_ms[0]), floor))
    noise = np.array(
        [_NOISE**2, _NOISE**2 + (2.0 * waits) ** 2 * (1.0 / seen.requests + 0.25)],
    )[used]
    return logs_of_latency[:, 0], slopes, np.diag(noise)


def tuned(state: State, replica: Replica) -> Replica:
    """The replica with the estimated parameters; unchanged while they are not usable."""
    if not state.usable:
        return replica
    alpha, beta, gamma, delta = state.parameters
    return replace(replica, alpha_ms=alpha, beta_ms=beta, gamma_ms=gamma, delta_ms=delta)

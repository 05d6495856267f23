"""Step times that follow what a running replica shows: learned from a prior, or corrections of a profile.

The filter is that of `tuner`: state are the logarithms of the step times over their seed, observed are the
logarithms of ITL and TTFT. The function between them needs no steady state and is finite everywhere, because
the batch is not predicted but observed: by Little's law n = rate * ITL * (out - 1), and a token is decoded
beside one request more than that (arrivals see the average). With r the prompt tokens per millisecond,

    ITL  = base + (n + 1) (per_request + per_context ctx) + per_prefill r ITL
    TTFT = ITL / 2 + S + W,   S = ITL + per_prefill in,   W = rho / (1 - rho) (1 + cv_in**2) / 2 S'

where S' = per_prefill in + ITL in / budget is what a prompt takes of the queue and rho = rate S'. Where a
gateway chooses the least loaded of N replicas, it sends others elsewhere: the 1 is 1/N, and W is multiplied
by 1/N + (1 - 1/N) (1 - per_prefill r)**2 (`token_times.py`). The TTFT tells prefill from the rest, which
ITL at one pair of lengths cannot; windows at other batches tell base from slope. Step times start from one
of three seeds: a profile that was measured, an estimate (of a catalog) with its expected error, or the wide
prior of an unknown model. Learned times are usable once they have predicted the ITL of windows to come
within `USABLE_ERROR` and the batch has varied; an estimate is so once it has predicted one window, because
it tells base from slope itself. Under a load that stays the same learned times are `local`: they hold at
that batch and near it, whatever the shares of base and slope are, and no farther.

Pure functions: state in, state out. Units: ms, requests per second, tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from analyzer.engine.seeds import (
    ESTIMATE_DEVIATION,
    PRIOR_DEVIATIONS,
    PROFILE_DEVIATIONS,
    first_covariance,
)
from analyzer.errors import InvalidParameterError
from analyzer.replicas import FloatArray
from analyzer.step_times import Lengths, StepTimes
from analyzer.tuner import OUTLIER_THRESHOLD, PATIENCE, Outcome, corrected, recent_error

PARAMETERS = ("base_ms", "per_request_ms", "per_prefill_token_ms", "per_context_token_ms")

PRIOR = StepTimes(
    base_ms=12.0, per_request_ms=0.1, per_prefill_token_ms=0.06, per_context_token_ms=6e-5
)
"""Step times between those of an 8B model on one and a 70B model on two large GPUs."""

USABLE_ERROR = 0.15
"""Mean error of the predicted ITL up to which learned times are used."""

DISTRUST = 2.0
"""Factor on `USABLE_ERROR` for times in use: a surge of load must not take away what sizes for it."""

USABLE_VARIATION = 1.4
"""Factor between the smallest and the largest batch from which learned times are used."""

SEEN_BATCHES = 2.0
"""Step times that were learned from a batch that varied are used up to that many times the largest one."""

WARM_UP = 5
"""Accepted observations before step times are used."""

REFUTED = 2
"""The same of step times slower than the profile that they correct: a variant is too small meanwhile."""

SLOWER = 0.05
"""Excess of the step times over those of the profile, a mean, from which they count as slower."""

LOCAL_WINDOWS = 2 * WARM_UP
"""Accepted observations of one load before learned times are used near it."""

NEAR = 1.25
"""Factor up to which a batch is near the largest one that was seen: its ITL is at most that times as long."""

CONFIRMED = 1
"""Accepted observations before an estimate is used."""

FIRST_PATIENCE = 2
"""Consecutive outliers after which a seed is assumed to be wrong while fewer than `WARM_UP` were accepted."""

PRIOR_BOUND = math.log(10.0)
PROFILE_BOUND = math.log(2.5)
"""Largest logarithm between a parameter and its seed: what is farther from a measurement is another model."""

_FORGETTING = 0.005
_ITL_NOISE = 0.03
_TTFT_NOISE = 0.15
_STEP = 1e-4
_FULL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class StepObservation:
    """What one replica showed over a window.

    Attributes:
        rate_rps: requests per second that one replica served.
        lengths: lengths of its requests.
        itl_ms: mean inter-token latency.
        ttft_ms: mean time to first token; None where requests waited for a slot in the batch.
        requests: number of requests that the means are taken over.
        budget: tokens that one step computes at most.
        sharing: replicas among which a load-aware gateway chooses, 1 where none does.

    """

    rate_rps: float
    lengths: Lengths
    itl_ms: float
    ttft_ms: float | None
    requests: float
    budget: int
    sharing: int = 1

    @property
    def batch(self) -> float:
        """Mean number of requests that decode, by Little's law."""
        return self.rate_rps / 1000.0 * self.itl_ms * max(self.lengths.output_tokens - 1.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is known of the step times of one variant on one accelerator.

    Attributes:
        seed: step times of the profile or the prior.
        learned: whether the seed is no profile: the step times then have to prove themselves before they are
            used.
        error: mean relative error expected of the seed's ITL, where it is an estimate; 0 otherwise.
        deviations: standard deviations of the seed's logarithms, in the order of `PARAMETERS`.
        logs: logarithms of the parameters over their seeds.
        covariance: covariance of `logs`, as rows.
        accepted: observations taken.
        outliers: observations refused since the last one taken.
        itl_error: mean of observed over predicted ITL less 1, of recent windows when they were new.
        ttft_error: the same of the TTFT.
        itl_spread: mean size of the error of the ITL.
        smallest_batch: smallest batch of an accepted observation.
        largest_batch: largest one; 0 without any.
        trusted: True where the step times were usable after the last observation.

    """

    seed: StepTimes
    learned: bool
    error: float = 0.0
    deviations: tuple[float, ...]
    logs: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    accepted: int = 0
    outliers: int = 0
    itl_error: float = 0.0
    ttft_error: float = 0.0
    itl_spread: float = 1.0
    smallest_batch: float = math.inf
    largest_batch: float = 0.0
    trusted: bool = False

    @property
    def parameters(self) -> tuple[float, ...]:
        """Estimates in the order of `PARAMETERS`, ms."""
        return tuple(
            value * math.exp(log) for value, log in zip(_values(self.seed), self.logs, strict=True)
        )

    @property
    def latency(self) -> StepTimes:
        """The same as one value; sqrt(n) moves with n, what a prompt costs once with its tokens."""
        root = self.seed.per_sqrt_request_ms * math.exp(self.logs[1])
        return replace(
            self.seed,
            per_sqrt_request_ms=root,
            per_prompt_ms=self.seed.per_prompt_ms * math.exp(self.logs[2]),
            **dict(zip(PARAMETERS, self.parameters, strict=True)),
        )

    @property
    def confidence(self) -> float:
        """From 0, nothing learned, to 1: share of the seed's deviations that the observations removed."""
        shares = [
            math.sqrt(max(self.covariance[index][index], 0.0)) / deviation
            for index, deviation in enumerate(self.deviations)
            if deviation > 0
        ]
        return max(1.0 - sum(shares) / len(shares), 0.0) if shares else 0.0

    @property
    def proven(self) -> bool:
        """Whether the observations alone are enough to plan with."""
        if not self.learned:
            return self.accepted >= (REFUTED if self.slower else WARM_UP)
        if self.accepted < WARM_UP:
            return False
        varied = self.largest_batch + 1.0 >= USABLE_VARIATION * (self.smallest_batch + 1.0)
        return varied and self._right

    @property
    def slower(self) -> bool:
        """Whether the step times are above those of the seed, in geometric mean."""
        known = [
            log for log, deviation in zip(self.logs, self.deviations, strict=True) if deviation > 0
        ]
        return bool(known) and math.fsum(known) > len(known) * math.log1p(SLOWER)

    @property
    def usable(self) -> bool:
        """Whether the observations, with the seed where it is an estimate, are enough to plan with."""
        confirmed = self.accepted >= CONFIRMED and self._right
        return self.proven or (self.error > 0 and confirmed) or self.local

    @property
    def local(self) -> bool:
        """Whether step times of an unknown model are only known near the one load that was seen."""
        unknown = self.learned and self.error == 0 and self.largest_batch > 0
        return unknown and self.accepted >= LOCAL_WINDOWS and self._right and not self.proven

    @property
    def most_requests(self) -> float:
        """Requests in a batch up to which it is known to hold; infinite of a profile or an estimate."""
        if not self.learned or self.error > 0:
            return math.inf
        # That near is a mean: three standard deviations more were seen.
        near = NEAR * self.largest_batch if self.local else math.inf
        return min(near + 3.0 * math.sqrt(near), SEEN_BATCHES * self.largest_batch)

    @property
    def _right(self) -> bool:
        return self.itl_spread <= USABLE_ERROR * (DISTRUST if self.trusted else 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one observation did; `surprise` is the normalized innovation squared."""

    state: State
    outcome: Outcome
    surprise: float = 0.0


def start(seed: StepTimes | None = None, *, error: float = 0.0) -> State:
    """State before the first observation: of a profile, of an estimate, or of an unknown model.

    Args:
        seed: step times of the profile or the estimate; None of an unknown model.
        error: mean relative error expected of the estimate's ITL; 0 where the seed is a profile.

    Raises:
        InvalidParameterError: a step time or the error is not a number >= 0, or the base is 0.

    """
    if not (math.isfinite(error) and error >= 0):
        raise InvalidParameterError("error", f"must be a number >= 0, not {error:g}")
    learned = seed is None or error > 0
    steps = PRIOR if seed is None else seed
    values = _values(steps)
    for name, value in zip(PARAMETERS, values, strict=True):
        if not (math.isfinite(value) and value >= 0):
            raise InvalidParameterError(name, f"must be a number >= 0, not {value:g}")
    if steps.base_ms == 0:
        raise InvalidParameterError("base_ms", "must be above 0: a step takes time")
    wide: tuple[float, ...] = PRIOR_DEVIATIONS if seed is None else PROFILE_DEVIATIONS
    if seed is not None and error > 0:
        least, most = ESTIMATE_DEVIATION
        wide = (min(max(2.0 * error, least), most),) * len(PARAMETERS)
    deviations = tuple(one if value > 0 else 0.0 for one, value in zip(wide, values, strict=True))
    return State(
        seed=steps,
        learned=learned,
        error=error,
        deviations=deviations,
        logs=(0.0,) * len(PARAMETERS),
        covariance=_rows(first_covariance(deviations, learned=learned)),
    )


def compare(state: State, seen: StepObservation) -> State:
    """The state with the errors of one more prediction; its step times stay as they are."""
    if not _informative(seen):
        return state
    observed = _observed(seen)
    expected, _, _ = _linearized(state.seed, np.array(state.logs), seen, observed.size)
    return replace(_with_errors(state, observed - expected), accepted=state.accepted + 1)


def update(state: State, seen: StepObservation) -> Update:
    """Take one observation; one without load or that is no measurement is uninformative."""
    if not _informative(seen):
        return Update(state=state, outcome="uninformative")
    observed = _observed(seen)
    prior = np.array(state.logs)
    first = first_covariance(state.deviations, learned=state.learned)
    covariance = np.array(state.covariance)
    covariance = covariance + _FORGETTING * (first - covariance)

    def linearized(logs: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        return _linearized(state.seed, logs, seen, observed.size)

    expected, slopes, noise = linearized(prior)
    innovation = observed - expected
    surprise = float(
        innovation @ np.linalg.solve(slopes @ covariance @ slopes.T + noise, innovation)
    )
    state = _with_errors(state, innovation)
    if surprise > OUTLIER_THRESHOLD[observed.size]:
        patience = PATIENCE if state.accepted >= WARM_UP else FIRST_PATIENCE
        if state.outliers + 1 < patience:
            refused = replace(state, outliers=state.outliers + 1, trusted=state.usable)
            return Update(state=refused, outcome="outlier", surprise=surprise)
        covariance = first
        if state.learned:
            # The errors were those of the seed; it takes some right predictions to trust what replaces it.
            state = replace(state, itl_error=0.0, itl_spread=2.0 * USABLE_ERROR, trusted=False)
    posterior, covariance = corrected(
        prior,
        covariance,
        observed,
        linearized,
        limit=PRIOR_BOUND if state.learned else PROFILE_BOUND,
    )
    taken = replace(
        state,
        logs=tuple(float(value) for value in posterior),
        covariance=_rows(covariance),
        accepted=state.accepted + 1,
        outliers=0,
        smallest_batch=min(state.smallest_batch, seen.batch),
        largest_batch=max(state.largest_batch, seen.batch),
    )
    taken = replace(taken, trusted=taken.usable)
    return Update(state=taken, outcome="accepted", surprise=surprise)


def _observed(seen: StepObservation) -> FloatArray:
    """Logarithms of the ITL and, where it counts, of the TTFT."""
    values = [math.log(seen.itl_ms)]
    if seen.ttft_ms is not None and seen.ttft_ms > 0:
        values.append(math.log(seen.ttft_ms))
    return np.array(values)


def _informative(seen: StepObservation) -> bool:
    numbers = (seen.rate_rps, seen.itl_ms, seen.requests, seen.ttft_ms or 0.0)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        return False
    least = min(seen.rate_rps, seen.itl_ms, seen.lengths.output_tokens - 1.0)
    return least > 0 and seen.requests >= 1


def _with_errors(state: State, innovation: FloatArray) -> State:
    """The state with the errors of one more prediction."""
    first = state.accepted == 0
    itl, ttft = float(innovation[0]), state.ttft_error
    if innovation.size > 1:
        ttft = recent_error(ttft, float(innovation[1]), first=first)
    return replace(
        state,
        itl_error=recent_error(state.itl_error, itl, first=first),
        itl_spread=recent_error(state.itl_spread, abs(itl), first=first),
        ttft_error=ttft,
    )


def _values(steps: StepTimes) -> tuple[float, ...]:
    return tuple(float(getattr(steps, name)) for name in PARAMETERS)


def _rows(matrix: FloatArray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _linearized(
    seed: StepTimes, logs: FloatArray, seen: StepObservation, numbers: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Expected logarithms (k,), their derivatives by `logs` (k, 4), and the noise of observing (k, k)."""
    size = len(PARAMETERS)
    points = np.vstack([logs, logs + _STEP * np.eye(size), logs - _STEP * np.eye(size)])
    base, request, prefill, context = (np.array(_values(seed)) * np.exp(points)).T
    lengths, rate = seen.lengths, seen.rate_rps / 1000.0
    held = lengths.cached_tokens + lengths.input_tokens
    held += lengths.output_tokens * (1.0 + lengths.output_cv**2) / 2.0
    own = 1.0 / seen.sharing
    batch = seen.batch + own
    root = seed.per_sqrt_request_ms * np.exp(points[:, 1]) * math.sqrt(batch)
    prompt = prefill * lengths.input_tokens + seed.per_prompt_ms * np.exp(points[:, 2])
    itl = base + batch * (request + context * held) + root + rate * prompt * seen.itl_ms
    served = prompt + seen.itl_ms * lengths.input_tokens / seen.budget
    load = np.minimum(rate * served, _FULL)
    met = own + (1.0 - own) * np.maximum(1.0 - rate * prompt, 0.0) ** 2
    waiting = met * load / (1.0 - load) * (1.0 + lengths.input_cv**2) / 2.0 * served
    ttft = 1.5 * itl + prompt + waiting
    expected = np.log(np.stack([itl, ttft]))[:numbers]
    slopes = (expected[:, 1 : size + 1] - expected[:, size + 1 :]) / (2.0 * _STEP)
    # Waiting swings far more than its mean, the less requests the more.
    waits = float(waiting[0] / ttft[0])
    noise = [
        _ITL_NOISE**2 + 0.05 / seen.requests,
        _TTFT_NOISE**2 + (2.0 * waits) ** 2 * (1.0 / seen.requests + 0.25),
    ]
    return expected[:, 0], slopes, np.diag(noise[:numbers])

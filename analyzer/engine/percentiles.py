"""Means and tails of TTFT and ITL of engines in a steady state.

TTFT: the queue of prompts, log-normal by its mean and variance beyond the shortest step, and the
exponential wait of those who find no place in the batch. ITL: a request's mean over its m = out - 1 decode
steps is the length of a delay cycle over m, inverse Gaussian (the first passage of a diffusion) with mean
(D + prefill backlog / m) / (1 - r) and variance D rate prefill**2 E[in**2] / (m (1 - r)**3): short answers
have heavy tails, because a mixed step meets few tokens. m is log-normal, in seven Gauss-Hermite nodes.

Factors marked CALIBRATED were fitted on 300 random replicas in an exact simulation of vLLM's scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from analyzer.engine.columns import NODE_WEIGHTS, Engines
from analyzer.engine.state import Prompts, State, full_rate
from analyzer.replicas import FloatArray

NOISE = 1.0
"""CALIBRATED: prompts that arrive during one answer come in clusters; share of their variance over
Poisson's."""

BACKLOG_NOISE = 1.0
"""CALIBRATED: the same of what waited when the answer began."""

SLOW = 1.0
"""CALIBRATED: share of the batch's variance that lasts for as long as one answer."""

QUIET = 0.8
"""CALIBRATED: share of the noise that vanishes where everybody waits for a place in the batch."""

_BISECTIONS = 50
QF = 2.0
STALL = 4.0
GAM = 1.0
NR = 1.2
FX = 1.0
_LEAST = -4.0
WSH = 0.543
_HALVES = (0.5 - 0.5 / 3.0**0.5, 0.5 + 0.5 / 3.0**0.5)
_POINTS, _POINT_WEIGHTS = np.polynomial.legendre.leggauss(8)
_POINT_WEIGHTS = _POINT_WEIGHTS / np.sqrt(2.0 * np.pi)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latency:
    """Parameters of the distributions.

    Attributes:
        ttft_ms: shape (M,), mean.
        itl_ms: shape (M,), mean over requests.
        first: distribution of the TTFT of requests that find a place in the batch.
        place_waits: shape (M,), share that waits for a place.
        place_rate: shape (M,), of that wait, per millisecond.
        tokens: distribution of the ITL.

    """

    ttft_ms: FloatArray
    itl_ms: FloatArray
    first: FirstToken
    place_waits: FloatArray
    place_rate: FloatArray
    tokens: TokenTimes

    def ttft_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose TTFT exceeds the target, shape (M,)."""
        prompt = self.first.exceeds(target_ms)
        late = np.maximum(target_ms - self.first.mean_ms, 0.0)
        place = self.place_waits * np.exp(-self.place_rate * late)
        return np.asarray(prompt + place * (1.0 - prompt))

    def itl_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose mean ITL exceeds the target, shape (M,)."""
        return self.tokens.exceeds(target_ms)

    def ttft_quantile(self, share: FloatArray) -> FloatArray:
        """TTFT that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.ttft_exceeds, share, self.first.most_ms + 50.0 / self.place_rate)

    def itl_quantile(self, share: FloatArray) -> FloatArray:
        """Mean ITL that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.itl_exceeds, share, self.tokens.most_ms)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTimes:
    """Mean ITL of requests by the length of their answers, in seven nodes.

    Attributes:
        step_ms: shape (M,), mean step that computes no prompt, and what batches add to its spread.
        slow_ms: shape (M,), standard deviation of it over requests.
        room_ms: shape (M,), most that prompts add to a step.
        quiet: shape (M, 7), share of answers during which no prompt is computed.
        added_ms: shape (M, 7), mean of what prompts add.
        logit: shape (M, 7), of the others: mean of the logit of the share of `room_ms`.
        spread: shape (M, 7), standard deviation of that.

    """

    step_ms: FloatArray
    wide_ms: FloatArray
    slow_ms: FloatArray
    room_ms: FloatArray
    start_ms: FloatArray
    quiet: FloatArray
    added_ms: FloatArray
    odds: FloatArray
    cv: FloatArray
    stalls: FloatArray
    stall_ms: FloatArray

    @property
    def mean_ms(self) -> FloatArray:
        """Mean over requests, shape (M,)."""
        return np.asarray(self.step_ms + ((self.added_ms + self.stalls[:, None] * self.stall_ms) * NODE_WEIGHTS).sum(axis=1))

    @property
    def most_ms(self) -> FloatArray:
        """What practically none exceeds, shape (M,)."""
        return self.step_ms + 8.0 * self.slow_ms.max(axis=1) + self.room_ms.max(axis=1) + 30.0 * (self.stalls[:, None] * self.stall_ms).max(axis=1)

    def exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests beyond the target, shape (M,)."""
        left = (target_ms - self.step_ms)[:, None]
        wide = self.wide_ms[:, None]
        alone = np.maximum(left + wide, 1e-9) / wide
        plain = _beyond(alone, self.slow_ms / wide)
        used = np.clip((left + self.start_ms) / self.room_ms, 1e-12, 1.0 - 1e-12)
        busy = _beyond(used / (1.0 - used) / self.odds, self.cv)
        late = self.quiet * plain + (1.0 - self.quiet) * busy
        if self.stalls.any():
            beyond = np.maximum(target_ms - self.step_ms, 0.0)[:, None] - self.added_ms
            stalled = self.stalls[:, None] * np.exp(-np.maximum(beyond, 0.0) / self.stall_ms)
            late = late + stalled * (1.0 - late)
        return np.asarray((late * NODE_WEIGHTS).sum(axis=1))


def _beyond(ratio: FloatArray, cv: FloatArray) -> FloatArray:
    """Share beyond `ratio` means: gamma (Wilson and Hilferty), log-normal where it varies more."""
    square = cv * cv
    gamma = special.ndtr((1.0 - square / 9.0 - np.cbrt(ratio)) * 3.0 / cv)
    log = np.log1p(square)
    normal = special.ndtr(-(np.log(ratio) + log / 2.0) / np.sqrt(log))
    weight = 1.0 / (1.0 + (square / GAM**2) ** 2)
    return np.asarray(weight * gamma + (1.0 - weight) * normal)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstToken:
    """Time to first token of requests that find a place: a step, the prompt itself, and the others.

    Attributes:
        step_ms: shape (M,), a step without prompts.
        log_mean: shape (M,), mean of the logarithm of the prompt's tokens.
        spread: shape (M,), standard deviation of that.
        token_ms: shape (M,), time of a token of it.
        more_ms: shape (M,), time of a token beyond `phase`, besides.
        phase: shape (M,), tokens.
        alone: shape (M,), share that meets no other prompt.
        rest_ms: shape (M,), longest rest of a step that those meet.
        other_log: shape (M,), mean of the logarithm of the time that other prompts take.
        other_spread: shape (M,), standard deviation of that.
        mean_ms: shape (M,).

    """

    step_ms: FloatArray
    log_mean: FloatArray
    spread: FloatArray
    token_ms: FloatArray
    more_ms: FloatArray
    phase: FloatArray
    alone: FloatArray
    rest_ms: FloatArray
    other_log: FloatArray
    other_spread: FloatArray
    mean_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, queue: Prompts) -> FirstToken:
        """By the moments of what a prompt meets."""
        rest = queue.decode_ms * queue.alive
        rest_square = rest * queue.decode_ms / 3.0
        met = np.maximum(1.0 - queue.alone, 1e-6)
        square = queue.other_variance + queue.other_ms**2
        mean = np.maximum(queue.other_ms - queue.alone * rest / 2.0, 1e-3 * queue.other_ms) / met
        square = np.maximum((square - queue.alone * rest_square) / met, 1.0001 * mean**2)
        shape = (square / mean**2 - 1.0) ** -WSH
        spread = engines.input_spread
        return cls(
            step_ms=queue.decode_ms,
            log_mean=np.log(engines.input_tokens) - spread**2 / 2.0,
            spread=spread,
            token_ms=engines.prefill_ms,
            more_ms=queue.decode_ms / queue.room,
            phase=queue.phase,
            alone=queue.alone,
            rest_ms=rest,
            other_log=np.log(mean) - special.gammaln(1.0 + 1.0 / shape),
            other_spread=1.0 / shape,
            mean_ms=queue.ttft_ms,
        )

    @property
    def most_ms(self) -> FloatArray:
        """What practically none exceeds, shape (M,)."""
        other = np.exp(self.other_log + 3.0 * self.other_spread)
        own = np.exp(self.log_mean + 6.0 * self.spread) * (self.token_ms + self.more_ms)
        return self.step_ms + self.rest_ms + own + other

    def exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share whose time exceeds the target, shape (M,)."""
        left = np.maximum(target_ms - self.step_ms, 1e-9)
        lone = sum(0.5 * special.ndtr(-self._score(left - part * self.rest_ms)) for part in _HALVES)
        # Own time by nodes up to the target, that of others by its distribution.
        top = np.clip(self._score(left), _LEAST + 1e-3, -_LEAST)
        half = 0.5 * (top - _LEAST)[:, None]
        score = _LEAST + half * (_POINTS + 1.0)
        own = self._own_ms(score)
        rest = np.log(np.maximum(left[:, None] - own, 1e-12))
        late = np.exp(-np.exp((rest - self.other_log[:, None]) / self.other_spread[:, None]))
        density = np.exp(-0.5 * score * score) * _POINT_WEIGHTS
        met = special.ndtr(-top) + half[:, 0] * (density * late).sum(axis=1)
        return np.asarray(self.alone * lone + (1.0 - self.alone) * met)

    def _own_ms(self, score: FloatArray) -> FloatArray:
        tokens = np.exp(self.log_mean[:, None] + self.spread[:, None] * score)
        beyond = np.maximum(tokens - self.phase[:, None], 0.0)
        return np.asarray(self.token_ms[:, None] * tokens + self.more_ms[:, None] * beyond)

    def _score(self, time_ms: FloatArray) -> FloatArray:
        """Standard score of the prompt that takes so long."""
        whole = self.token_ms + self.more_ms
        long = (time_ms + self.more_ms * self.phase) / whole
        tokens = np.where(time_ms > self.token_ms * self.phase, long, time_ms / np.maximum(self.token_ms,1e-12))
        return np.asarray((np.log(np.maximum(tokens, 1e-9)) - self.log_mean) / self.spread)


def latency(engines: Engines, state: State) -> Latency:
    """Distributions of TTFT and ITL of M engines."""
    queue = state.prompts
    first = FirstToken.of(engines, queue)
    tokens = _tokens(engines, state, 1.0 - state.prefill_share)
    return Latency(
        ttft_ms=queue.ttft_ms + state.place_waiting_ms,
        itl_ms=tokens.mean_ms,
        first=first,
        place_waits=state.place_waits,
        place_rate=state.place_rate,
        tokens=tokens,
    )


def _tokens(engines: Engines, state: State, free: FloatArray) -> TokenTimes:
    """Distribution of the ITL: delay cycles, and batches that last."""
    queue, rate = state.prompts, state.rate
    lengths = engines.decode_nodes
    decode = engines.decode_ms(state.joined)
    prefill = engines.prefill_ms
    room = prefill * queue.room
    extra = (prefill * queue.excess)[:, None] / lengths
    added = (decode[:, None] + extra) / free[:, None] - decode[:, None]
    # No step is longer than a full one: a smooth minimum.
    use = np.clip(added / room[:, None], 1e-9, 50.0)
    flat = (1.0 + use**QF) ** (1.0 / QF)
    share = use / flat
    noise = NOISE * rate * prefill**2 * engines.square_input * decode / free**3
    tokens = queue.backlog / engines.input_tokens * engines.square_input
    tokens = tokens + (rate * engines.input_tokens) ** 2 * queue.other_variance
    began = BACKLOG_NOISE * (prefill / free) ** 2 * tokens
    # Who waits for a place comes in when another leaves, not in clusters.
    calm = (1.0 - QUIET * state.place_waits)[:, None]
    fast = calm * (noise[:, None] / lengths + began[:, None] / (lengths * lengths))
    bend = engines.root_ms / (2.0 * np.sqrt(state.joined))
    square = engines.slope_square + bend * (2.0 * engines.slope_ms + bend)
    own = engines.slope_square - engines.slope_ms**2
    # Of what other requests add to a step, an answer sees the mean over its own time.
    # More requests make each last longer, so what is above the mean fades more slowly.
    fades = np.maximum(1.0 - rate * engines.decodes * engines.slope_ms / free, 0.05)
    span = np.maximum(lengths * (fades / engines.lasting)[:, None], 1e-3)
    mixed = 2.0 * (span + np.expm1(-span)) / (span * span)
    slow = (SLOW * mixed * (square * state.variance)[:, None] + own[:, None]) / (free * free)[:, None]
    quiet = np.exp(-rate[:, None] * (lengths * decode[:, None] + queue.own_ms[:, None]))
    met = 1.0 - quiet
    wide = np.maximum(decode - engines.base_ms, 1e-3 * decode)
    mean = np.minimum(share / met, 0.98) * room[:, None]
    fast = (fast * (1.0 + NR * queue.load[:, None]) / flat + (share * room[:, None]) ** 2) / met - mean * mean
    fast = np.maximum(fast, 1e-8 * mean * mean)
    part = slow / (slow + fast)
    start = part * wide[:, None]
    most = room[:, None] + start + 6.0 * part * np.sqrt(slow)
    mean = (mean + start) / most
    variance = np.clip((fast + slow) / most**2, 1e-8, 0.9 * mean * (1.0 - mean))
    square = variance / (mean * (1.0 - mean)) ** 2
    odds = mean / (1.0 - mean) * (1.0 + square) ** mean
    hit = -np.expm1(-engines.preempted)
    stall = STALL * engines.preempted / np.maximum(hit, 1e-6) / full_rate(engines)
    stall = np.maximum(stall, 1e-6)[:, None] / lengths
    return TokenTimes(
        stalls=hit * state.place_waits,
        stall_ms=stall,
        step_ms=decode,
        wide_ms=wide,
        slow_ms=np.sqrt(slow) + 1e-6 * decode[:, None],
        room_ms=most,
        start_ms=start,
        quiet=quiet,
        added_ms=share * room[:, None],
        odds=odds,
        cv=np.maximum(np.sqrt(square), 1e-4),
    )


def _quantile(
    exceeds: Callable[[FloatArray], FloatArray], share: FloatArray, high: FloatArray
) -> FloatArray:
    low = np.zeros_like(high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        more = exceeds(middle) > 1.0 - share
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return high

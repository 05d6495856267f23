"""Means and tails of TTFT and ITL of engines in a steady state.

TTFT: a step, the prompt's own computation (log-normal, by nodes up to the target), and what it meets: nobody
(the rest of a step, uniform) or other prompts (Weibull, by the moments of `state.py`); then the exponential
wait of those who find no slot.

ITL: a request's mean over its m = out - 1 decode steps, m log-normal in five Gauss-Hermite nodes. What
prompts add is the length of a delay cycle over m, of variance D rate prefill**2 E[in**2] / (m (1 - r)**3) and
more at high loads; answers during which no prompt arrives have none of it, and no step is longer than a full
one. What other requests add follows their number and contexts, of which an answer sees the mean over its own
time. Sums are gamma distributed, log-normal where they vary more. Preempted requests stall besides.

Numbers marked CALIBRATED were set by `bench/replica_tails.py`, on replicas that it draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analyzer.engine.columns import NODE_WEIGHTS, Engines
from analyzer.engine.state import Prompts, State
from analyzer.replicas import FloatArray

CLUSTERS = 2.4
"""CALIBRATED: prompts come in clusters, at high loads and where they take many steps; what that adds to their
variance."""

STALL = 1.5
"""CALIBRATED: completions that a preempted request waits for; simulated, its longest gap is 1.2 to 1.8."""

QUIET = 0.8
"""CALIBRATED: share of the noise that vanishes where everybody waits for a slot in the batch."""

SKEW = 1.0
"""CALIBRATED: coefficient of variation at which a sum is between gamma and log-normal."""

WEIBULL = 0.543
"""Shape of a Weibull distribution is its coefficient of variation to the power -1.086."""

_BISECTIONS = 50
_LEAST_SCORE = -4.0
_HALVES = (0.5 - 0.5 / 3.0**0.5, 0.5 + 0.5 / 3.0**0.5)
_POINTS, _POINT_WEIGHTS = np.polynomial.legendre.leggauss(8)
_POINT_WEIGHTS = _POINT_WEIGHTS / np.sqrt(2.0 * np.pi)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latency:
    """Parameters of the distributions.

    Attributes:
        first: distribution of the TTFT of requests that find a slot in the batch.
        tokens: distribution of the ITL.
        slot_waits: shape (M,), share that waits for a slot.
        slot_rate: shape (M,), of that wait, per millisecond.

    """

    first: FirstToken
    tokens: TokenTimes
    slot_waits: FloatArray
    slot_rate: FloatArray

    def ttft_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose TTFT exceeds the target, shape (M,)."""
        prompt = self.first.exceeds(target_ms)
        late = np.maximum(target_ms - self.first.mean_ms, 0.0)
        slot = self.slot_waits * np.exp(-self.slot_rate * late)
        return np.asarray(prompt + slot * (1.0 - prompt))

    def itl_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose mean ITL exceeds the target, shape (M,)."""
        return self.tokens.exceeds(target_ms)

    def ttft_quantile(self, share: FloatArray) -> FloatArray:
        """TTFT that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.ttft_exceeds, share, self.first.most_ms + 50.0 / self.slot_rate)

    def itl_quantile(self, share: FloatArray) -> FloatArray:
        """Mean ITL that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.itl_exceeds, share, self.tokens.most_ms)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstToken:
    """Time to first token of requests that find a slot, each field of shape (M,).

    Attributes:
        step_ms: a step without prompts.
        log_mean: mean of the logarithm of the prompt's tokens.
        spread: standard deviation of that.
        token_ms: time of a token of it.
        more_ms: time of a token beyond `phase`, besides.
        phase: tokens.
        alone: share that meets no other prompt.
        rest_ms: longest rest of a step that those meet.
        other_log: logarithm of the scale of the time that other prompts take.
        other_shape: shape of that.
        mean_ms: mean time to first token.

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
    other_shape: FloatArray
    mean_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, queue: Prompts) -> FirstToken:
        """By the moments of what a prompt meets, less those of a step's rest for who meets nobody."""
        from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

        rest = queue.decode_ms * queue.alive
        met = np.maximum(1.0 - queue.alone, 1e-6)
        mean = np.maximum(queue.other_ms - queue.alone * rest / 2.0, 1e-3 * queue.other_ms) / met
        square = queue.other_variance + queue.other_ms**2
        square = (square - queue.alone * rest * queue.decode_ms / 3.0) / met
        shape = np.maximum(square / mean**2 - 1.0, 1e-4) ** -WEIBULL
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
            other_shape=shape,
            mean_ms=queue.ttft_ms,
        )

    @property
    def most_ms(self) -> FloatArray:
        """What practically none exceeds, shape (M,)."""
        other = np.exp(self.other_log + 3.0 / self.other_shape)
        own = np.exp(self.log_mean + 6.0 * self.spread) * (self.token_ms + self.more_ms)
        return self.step_ms + self.rest_ms + own + other

    def exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share whose time exceeds the target, shape (M,)."""
        from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

        left = np.maximum(target_ms - self.step_ms, 1e-9)
        alone = np.zeros_like(left)
        for part in _HALVES:
            alone += 0.5 * special.ndtr(-self._score(left - part * self.rest_ms))
        top = np.clip(self._score(left), _LEAST_SCORE + 1e-3, -_LEAST_SCORE)
        half = 0.5 * (top - _LEAST_SCORE)[:, None]
        score = _LEAST_SCORE + half * (_POINTS + 1.0)
        rest = np.maximum(left[:, None] - self._own_ms(score), 1e-12)
        power = (np.log(rest) - self.other_log[:, None]) * self.other_shape[:, None]
        late = np.exp(-np.exp(np.minimum(power, 50.0)) - 0.5 * score * score)
        met = special.ndtr(-top) + half[:, 0] * (late @ _POINT_WEIGHTS)
        return np.asarray(self.alone * alone + (1.0 - self.alone) * met)

    def _own_ms(self, score: FloatArray) -> FloatArray:
        tokens = np.exp(self.log_mean[:, None] + self.spread[:, None] * score)
        beyond = np.maximum(tokens - self.phase[:, None], 0.0)
        return np.asarray(self.token_ms[:, None] * tokens + self.more_ms[:, None] * beyond)

    def _score(self, time_ms: FloatArray) -> FloatArray:
        """Standard score of the prompt that takes so long."""
        long = (time_ms + self.more_ms * self.phase) / (self.token_ms + self.more_ms)
        short = time_ms / np.maximum(self.token_ms, 1e-12)
        tokens = np.where(time_ms > self.token_ms * self.phase, long, short)
        return np.asarray((np.log(np.maximum(tokens, 1e-9)) - self.log_mean) / self.spread)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTimes:
    """Mean ITL of requests by the length of their answers, in five nodes.

    Attributes:
        step_ms: shape (M,), mean step that computes no prompt.
        wide_ms: shape (M,), what other requests add to it.
        slow_ms: shape (M, 5), standard deviation of that over requests.
        quiet: shape (M, 5), share of answers during which no prompt is computed.
        added_ms: shape (M, 5), mean of what prompts add.
        start_ms: shape (M, 5), of the others: what lies below the sum that is distributed.
        room_ms: shape (M, 5), most of that sum.
        odds: shape (M, 5), mean of the odds of its share of that.
        cv: shape (M, 5), coefficient of variation of the odds.
        stalls: shape (M,), share of requests that are preempted.
        stall_ms: shape (M, 5), mean of what that adds.

    """

    step_ms: FloatArray
    wide_ms: FloatArray
    slow_ms: FloatArray
    quiet: FloatArray
    added_ms: FloatArray
    start_ms: FloatArray
    room_ms: FloatArray
    odds: FloatArray
    cv: FloatArray
    stalls: FloatArray
    stall_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, state: State) -> TokenTimes:
        """By mean and variance of what prompts, other requests and preemption add."""
        added = _Added.of(engines, state)
        decode, room, free = added.decode_ms, added.room_ms[:, None], added.free
        slow = _slow_variance(engines, state, free)
        quiet = np.exp(
            -state.rate[:, None]
            * (engines.decode_nodes * decode[:, None] + state.prompts.own_ms[:, None])
        )
        met = 1.0 - quiet
        mean = np.minimum(added.ms / met, 0.98 * room)
        fast = (_fast_variance(engines, state, free) / added.flat + added.ms**2) / met - mean * mean
        fast = np.maximum(fast, 1e-8 * mean * mean)
        wide = np.maximum(decode - engines.base_ms, 1e-3 * decode)
        part = slow / (slow + fast)
        start = part * wide[:, None]
        most = room + start + 6.0 * part * np.sqrt(slow)
        mean = (mean + start) / most
        variance = np.clip((fast + slow) / most**2, 1e-8, 0.9 * mean * (1.0 - mean))
        # Moments of the odds of a share, by those of the share.
        square = variance / (mean * (1.0 - mean)) ** 2
        stalls, stall = _stalls(engines, state)
        return cls(
            step_ms=decode,
            wide_ms=wide,
            slow_ms=np.sqrt(slow) + 1e-6 * decode[:, None],
            quiet=quiet,
            added_ms=added.ms,
            start_ms=start,
            room_ms=most,
            odds=mean / (1.0 - mean) * (1.0 + square) ** mean,
            cv=np.maximum(np.sqrt(square), 1e-4),
            stalls=stalls,
            stall_ms=stall,
        )

    @property
    def most_ms(self) -> FloatArray:
        """What practically none exceeds, shape (M,)."""
        stall = 30.0 * (self.stalls[:, None] * self.stall_ms).max(axis=1)
        rest = 8.0 * self.slow_ms.max(axis=1) + self.room_ms.max(axis=1)
        return np.asarray(self.step_ms + rest + stall)

    def exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests beyond the target, shape (M,)."""
        left = (target_ms - self.step_ms)[:, None]
        wide = self.wide_ms[:, None]
        plain = _gamma(np.cbrt(np.maximum(left + wide, 1e-9) / wide), self.slow_ms / wide)
        used = np.clip((left + self.start_ms) / self.room_ms, 1e-12, 1.0 - 1e-12)
        late = self.quiet * plain + (1.0 - self.quiet) * _beyond(
            used / (1.0 - used) / self.odds, self.cv
        )
        if self.stalls.any():
            beyond = np.maximum(left - self.added_ms, 0.0)
            late += self.stalls[:, None] * np.exp(-beyond / self.stall_ms) * (1.0 - late)
        return np.asarray(late @ NODE_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Added:
    """What prompts add to the mean ITL.

    Attributes:
        decode_ms: shape (M,), a step that computes no prompt.
        room_ms: shape (M,), most that prompts add to one.
        free: shape (M,), share of the time that is not theirs.
        flat: shape (M, 5), by what that bound divides the mean.
        ms: shape (M, 5).

    """

    decode_ms: FloatArray
    room_ms: FloatArray
    free: FloatArray
    flat: FloatArray
    ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, state: State) -> _Added:
        """A delay cycle over the answer's steps, none of which is longer than a full one."""
        free = 1.0 - state.prefill_share
        decode = engines.decode_ms(state.joined)
        room = engines.prefill_ms * state.prompts.room
        first = engines.prefill_ms * state.prompts.excess / free
        added = first[:, None] / engines.decode_nodes + (decode * (1.0 / free - 1.0))[:, None]
        use = np.clip(added / room[:, None], 1e-9, 50.0)
        flat = np.sqrt(1.0 + use * use)
        return cls(
            decode_ms=decode, room_ms=room, free=free, flat=flat, ms=use / flat * room[:, None]
        )


def means(engines: Engines, state: State) -> tuple[FloatArray, FloatArray]:
    """Mean TTFT and mean over requests of their mean ITL, each of shape (M,)."""
    added = _Added.of(engines, state)
    stalls, stall = _stalls(engines, state)
    itl = added.decode_ms + (added.ms + stalls[:, None] * stall) @ NODE_WEIGHTS
    return state.prompts.ttft_ms + state.slot_waiting_ms, np.asarray(itl)


def latency(engines: Engines, state: State) -> Latency:
    """Distributions of TTFT and ITL of M engines."""
    return Latency(
        first=FirstToken.of(engines, state.prompts),
        tokens=TokenTimes.of(engines, state),
        slot_waits=state.slot_waits,
        slot_rate=state.slot_rate,
    )


def _fast_variance(engines: Engines, state: State, free: FloatArray) -> FloatArray:
    """Of the ITL, by prompts that arrive during the answer and those that waited when it began."""
    queue, rate = state.prompts, state.rate
    during = rate * engines.prefill_ms**2 * engines.square_input * queue.decode_ms / free**3
    tokens = queue.backlog / engines.input_tokens * engines.square_input
    tokens = tokens + (rate * engines.input_tokens) ** 2 * queue.other_variance
    began = (engines.prefill_ms / free) ** 2 * tokens
    # Who waits for a slot comes in when another leaves, not in clusters.
    clusters = CLUSTERS * (0.25 + 1.0 - queue.together) * queue.load
    noise = (1.0 - QUIET * state.slot_waits) * (1.0 + clusters)
    each = 1.0 / engines.decode_nodes
    return np.asarray(each * ((noise * during)[:, None] + (noise * began)[:, None] * each))


def _slow_variance(engines: Engines, state: State, free: FloatArray) -> FloatArray:
    """Of the ITL, by the numbers of other requests, their contexts, and the request's own."""
    bend = engines.root_ms / (2.0 * np.sqrt(state.joined))
    square = engines.slope_square + bend * (2.0 * engines.slope_ms + bend)
    own = engines.slope_square - engines.slope_ms**2
    # More requests make each last longer, so what is above the mean fades more slowly.
    fades = 1.0 - state.rate * engines.decodes * engines.slope_ms / free
    fades = np.maximum(fades, 0.05) / engines.lasting
    span = np.maximum(engines.decode_nodes * fades[:, None], 1e-3)
    mixed = 2.0 * (span + np.expm1(-span)) / (span * span)
    each = 1.0 / (free * free)
    return np.asarray(mixed * (square * state.variance * each)[:, None] + (own * each)[:, None])


def _stalls(engines: Engines, state: State) -> tuple[FloatArray, FloatArray]:
    """Share of requests that are preempted, shape (M,), and what that adds to their ITL, (M, 5)."""
    hit = -np.expm1(-engines.preempted)
    stall = STALL * engines.preempted / np.maximum(hit, 1e-6) / engines.full_rate
    return hit * state.slot_waits, np.maximum(stall, 1e-6)[:, None] / engines.decode_nodes


def _gamma(root: FloatArray, cv: FloatArray) -> FloatArray:
    """Share of a gamma distribution beyond the cube of `root` means (Wilson and Hilferty)."""
    from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

    return np.asarray(special.ndtr((1.0 - cv * cv / 9.0 - root) * 3.0 / cv))


def _beyond(ratio: FloatArray, cv: FloatArray) -> FloatArray:
    """Share beyond `ratio` means: gamma, log-normal where it varies more."""
    from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

    logs = np.log(ratio)
    square = cv * cv
    spread = np.log1p(square)
    normal = special.ndtr(-(logs + spread / 2.0) / np.sqrt(spread))
    square /= SKEW * SKEW
    weight = 1.0 / (1.0 + square * square)
    return np.asarray(normal + weight * (_gamma(np.exp(logs / 3.0), cv) - normal))


def _quantile(
    exceeds: Callable[[FloatArray], FloatArray], share: FloatArray, high: FloatArray
) -> FloatArray:
    low = np.zeros_like(high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        more = exceeds(middle) > 1.0 - share
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return high

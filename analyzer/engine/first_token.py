"""Time to first token: a step, the prompt's own computation, and the prompts that it meets.

The prompt is log-normal, by nodes up to the target. Where it finds no other prompt it waits for the rest of a
step (uniform), else for other prompts (Weibull, by the moments of `state.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analyzer.engine.columns import Engines
from analyzer.engine.crowding import LARGEST
from analyzer.engine.nodes import log_gamma, normal, weighted
from analyzer.engine.state import Prompts, State
from analyzer.replicas import FloatArray

WEIBULL = 0.543
"""Shape of a Weibull distribution is its coefficient of variation to the power -1.086."""

_LEAST_SCORE = -4.0
POINTS, POINT_WEIGHTS = np.polynomial.legendre.leggauss(8)
POINTS = POINTS[:, None]
POINT_WEIGHTS = POINT_WEIGHTS / np.sqrt(2.0 * np.pi)


class FirstToken(NamedTuple):
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
        sway: coefficient of variation of the steps.
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
    sway: FloatArray
    other_log: FloatArray
    other_shape: FloatArray
    mean_ms: FloatArray

    @classmethod
    def of(cls, engines: Engines, queue: Prompts) -> FirstToken:
        """Distributions by the moments of the work ahead of a prompt, less what a step alone adds."""
        rest = queue.decode_ms * queue.alive
        met = np.maximum(1.0 - queue.alone, 1e-6)
        mean = np.maximum(queue.other_ms - queue.alone * rest / 2.0, 1e-3 * queue.other_ms) / met
        square = queue.other_variance + queue.other_ms**2
        square = (square - queue.alone * rest * queue.decode_ms / 3.0) / met
        # Steps, and the prompts of longer steps, sway together.
        square = square + (queue.sway * (queue.decode_ms + mean)) ** 2
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
            sway=queue.sway,
            other_log=np.log(mean) - log_gamma(1.0 + 1.0 / shape),
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
        spare_ms = np.maximum(target_ms - self.step_ms, 1e-9)
        # A step and the rest of one, whose mean and variance two equal chances have.
        middle = self.step_ms + 0.5 * self.rest_ms
        spread = np.sqrt(self.rest_ms * self.rest_ms / 12.0 + (self.sway * middle) ** 2)
        early = normal(-self._score(target_ms - middle + spread))
        late = normal(-self._score(target_ms - middle - spread))
        top = np.clip(self._score(spare_ms), _LEAST_SCORE + 1e-3, -_LEAST_SCORE)
        half = 0.5 * (top - _LEAST_SCORE)

        def density(point: FloatArray) -> FloatArray:
            score = _LEAST_SCORE + half * (point + 1.0)
            rest = np.maximum(spare_ms - self._own_ms(score), 1e-12)
            power = (np.log(rest) - self.other_log) * self.other_shape
            return np.asarray(np.exp(-np.exp(np.minimum(power, 50.0)) - 0.5 * score * score))

        met = normal(-top) + half * weighted(density, POINT_WEIGHTS, POINTS)
        return np.asarray(self.alone * (0.5 * early + 0.5 * late) + (1.0 - self.alone) * met)

    def _own_ms(self, score: FloatArray) -> FloatArray:
        tokens = np.exp(self.log_mean + self.spread * score)
        beyond = np.maximum(tokens - self.phase, 0.0)
        return np.asarray(self.token_ms * tokens + self.more_ms * beyond)

    def _score(self, time_ms: FloatArray) -> FloatArray:
        """Standard score of the prompt that takes so long."""
        long = (time_ms + self.more_ms * self.phase) / (self.token_ms + self.more_ms)
        short = time_ms / np.maximum(self.token_ms, 1e-12)
        tokens = np.where(time_ms > self.token_ms * self.phase, long, short)
        return np.asarray((np.log(np.maximum(tokens, 1e-9)) - self.log_mean) / self.spread)


def waited_variance(engines: Engines, state: State, free: FloatArray) -> FloatArray:
    """Variance of the time that prompts take which wait when an answer begins, shape (M,)."""
    queue = state.prompts
    tokens = queue.backlog / engines.input_tokens * engines.square_input
    tokens = tokens + (state.rate * engines.input_tokens) ** 2 * queue.other_variance
    return np.asarray((engines.prefill_ms / free) ** 2 * tokens)


def places_ms(
    engines: Engines, decode_ms: FloatArray, each_ms: FloatArray, *, cached: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Most that prompts which wait when an answer begins add: in all, and to each of its steps, (M,).

    They take the other places of the batch, if all are free, and those of requests that end meanwhile: of a
    full batch, one of its requests per `slot_steps` each; later prompts have their part of these. A full KV
    cache holds now more requests, now fewer: it is no bound of tails, but on average one (`cached`).

    Args:
        engines: M of them.
        decode_ms: shape (M,), a step that computes no prompt.
        each_ms: shape (M,), what later prompts add to it.
        cached: whether the KV cache has as many places as it holds requests.

    """
    prompt = engines.prefill_ms * engines.input_tokens
    places = np.maximum(engines.kv_batch, 1.0) if cached else LARGEST
    seqs = np.where(engines.kv_binds, places, engines.max_num_seqs)
    full = engines.decode_ms(seqs) + prompt * seqs / engines.slot_steps
    return prompt * (seqs - 1.0), np.maximum(full - decode_ms - each_ms, 0.0)

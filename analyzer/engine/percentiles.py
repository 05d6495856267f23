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

from analyzer.engine.columns import NODE_WEIGHTS, Engines
from analyzer.engine.state import State
from analyzer.replicas import FloatArray

NOISE = 1.4
"""CALIBRATED: prompts that arrive during one answer come in clusters; share of their variance over
Poisson's."""

BACKLOG_NOISE = 1.0
"""CALIBRATED: the same of what waited when the answer began."""

SLOW = 0.9
"""CALIBRATED: share of the batch's variance that lasts for as long as one answer."""

QUIET = 0.8
"""CALIBRATED: share of the noise that vanishes where everybody waits for a place in the batch."""

_BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latency:
    """Parameters of the distributions.

    Attributes:
        ttft_ms: shape (M,), mean.
        itl_ms: shape (M,), mean over requests.
        shift_ms: shape (M,), least TTFT.
        scale_ms: shape (M,), mean of the TTFT beyond it, without the wait for a place.
        spread: shape (M,), standard deviation of the logarithm of that.
        place_waits: shape (M,), share that waits for a place.
        place_rate: shape (M,), of that wait, per millisecond.
        node_ms: shape (M, 7), mean ITL of answers of each length.
        node_variance: shape (M, 7).

    """

    ttft_ms: FloatArray
    itl_ms: FloatArray
    shift_ms: FloatArray
    scale_ms: FloatArray
    spread: FloatArray
    place_waits: FloatArray
    place_rate: FloatArray
    node_ms: FloatArray
    node_variance: FloatArray

    def ttft_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose TTFT exceeds the target, shape (M,)."""
        from scipy import special  # noqa: PLC0415 - takes long to load, and means do without

        beyond = np.maximum(target_ms - self.shift_ms, 1e-9) / self.scale_ms
        prompt = special.ndtr(-(np.log(beyond) + self.spread**2 / 2.0) / self.spread)
        late = np.maximum(target_ms - self.shift_ms - self.scale_ms, 0.0)
        place = self.place_waits * np.exp(-self.place_rate * late)
        return np.asarray(prompt + place * (1.0 - prompt))

    def itl_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose mean ITL exceeds the target, shape (M,)."""
        from scipy import special  # noqa: PLC0415 - as above

        # Inverse Gaussian, with exp(2 shape / mean) Phi(-far) in terms of erfcx, which cannot overflow.
        target = target_ms[:, None]
        root = np.sqrt(
            self.node_ms * self.node_ms * self.node_ms / (2.0 * target * self.node_variance)
        )
        ratio = target / self.node_ms
        near = root * (ratio - 1.0)
        far = special.erfcx(root * (ratio + 1.0)) * np.exp(-np.minimum(near * near, 700.0))
        tails = 0.5 * (special.erfc(near) - far)
        return np.asarray((np.maximum(tails, 0.0) * NODE_WEIGHTS).sum(axis=1))

    def ttft_quantile(self, share: FloatArray) -> FloatArray:
        """TTFT that this share of requests does not exceed, shape (M,)."""
        high = self.shift_ms + self.scale_ms * np.exp(8.0 * self.spread)
        high += 50.0 / self.place_rate
        return _quantile(self.ttft_exceeds, share, high)

    def itl_quantile(self, share: FloatArray) -> FloatArray:
        """Mean ITL that this share of requests does not exceed, shape (M,)."""
        high = (self.node_ms + 40.0 * np.sqrt(self.node_variance)).max(axis=1)
        return _quantile(self.itl_exceeds, share, high)


def latency(engines: Engines, state: State) -> Latency:
    """Distributions of TTFT and ITL of M engines."""
    queue, rate = state.prompts, state.rate
    free = 1.0 - state.prefill_share
    token = queue.token_ms
    below = 1.0 - np.minimum(queue.load, 0.9995)
    wait_variance = queue.waiting_ms**2 + rate * token**3 * engines.cube_input / (3.0 * below)
    own_variance = (token * engines.input_tokens * engines.input_cv) ** 2
    partly = queue.decode_ms * (1.0 - queue.filled)
    idle_free = -np.expm1(-state.batch)
    variance = own_variance + wait_variance + partly**2 * (idle_free / 12.0 + 0.05)
    mean = queue.ttft_ms
    shift = np.minimum(queue.decode_ms + 0.5 * queue.rest_ms, 0.9 * mean)
    scale = mean - shift
    node, node_variance = _nodes(engines, state, wait_variance * queue.filled + own_variance, free)
    return Latency(
        ttft_ms=mean + state.place_waiting_ms,
        itl_ms=np.asarray((node * NODE_WEIGHTS).sum(axis=1)),
        shift_ms=shift,
        scale_ms=scale,
        spread=np.sqrt(np.log1p(variance / scale**2)),
        place_waits=state.place_waits,
        place_rate=state.place_rate,
        node_ms=node,
        node_variance=node_variance,
    )


def _nodes(
    engines: Engines, state: State, time_variance: FloatArray, free: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the ITL of answers of each length, shape (M, 7)."""
    queue, rate = state.prompts, state.rate
    lengths = engines.decode_nodes
    decode = engines.decode_ms(state.joined)
    prefill = engines.prefill_ms
    room = prefill * queue.room
    extra = np.minimum((prefill * queue.backlog)[:, None] / lengths, room[:, None])
    mean = (decode[:, None] + extra) / free[:, None]
    # No step is longer than a full one: a smooth minimum.
    use = np.clip((mean - decode[:, None]) / room[:, None], 0.0, 50.0)
    flat = np.sqrt(np.sqrt(1.0 + (use * use) * (use * use)))
    mean = decode[:, None] + room[:, None] * use / flat
    noise = NOISE * rate * prefill**2 * engines.square_input * decode / free**3
    duration = queue.own_ms + queue.filled * (queue.rest_ms + queue.waiting_ms)
    tokens = duration * rate * engines.square_input
    tokens = tokens + (rate * engines.input_tokens) ** 2 * time_variance
    began = BACKLOG_NOISE * (prefill / free) ** 2 * tokens
    # Who waits for a place comes in when another leaves, not in clusters.
    quiet = (1.0 - QUIET * state.place_waits)[:, None]
    fast = quiet * (noise[:, None] / lengths + began[:, None] / (lengths * lengths))
    slope = engines.slope_ms + engines.root_ms / (2.0 * np.sqrt(state.joined))
    slow = SLOW * (slope / free) ** 2 * state.variance
    most = room**2 / 4.0
    variance = np.minimum(fast / (flat * flat), most[:, None]) + slow[:, None]
    return mean, np.maximum(variance, (1e-4 * mean) ** 2)


def _quantile(
    exceeds: Callable[[FloatArray], FloatArray], share: FloatArray, high: FloatArray
) -> FloatArray:
    low = np.zeros_like(high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        more = exceeds(middle) > 1.0 - share
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return high

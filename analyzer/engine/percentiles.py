"""Means and tails of TTFT and ITL of engines in a steady state.

TTFT: what `first_token.py` has of requests that find a slot in the batch; then the exponential wait of those
who find none. ITL: `token_times.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analyzer.engine import token_times
from analyzer.engine.columns import Engines
from analyzer.engine.first_token import FirstToken
from analyzer.engine.state import State
from analyzer.engine.token_times import TokenTimes
from analyzer.replicas import FloatArray

_BISECTIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latency:
    """Parameters of the distributions.

    Attributes:
        first: distribution of the TTFT of requests that find a slot in the batch.
        tokens: distribution of the ITL.
        state: steady state that they are of.

    """

    first: FirstToken
    tokens: TokenTimes
    state: State

    def ttft_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose TTFT exceeds the target, shape (M,)."""
        return ttft_exceeds(self.first, self.state, target_ms)

    def itl_exceeds(self, target_ms: FloatArray) -> FloatArray:
        """Share of requests whose mean ITL exceeds the target, shape (M,)."""
        return self.tokens.exceeds(target_ms)

    def ttft_quantile(self, share: FloatArray) -> FloatArray:
        """TTFT that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.ttft_exceeds, share, self.first.most_ms + 50.0 / self.state.slot_rate)

    def itl_quantile(self, share: FloatArray) -> FloatArray:
        """Mean ITL that this share of requests does not exceed, shape (M,)."""
        return _quantile(self.itl_exceeds, share, self.tokens.most_ms)


def ttft_exceeds(first: FirstToken, state: State, target_ms: FloatArray) -> FloatArray:
    """Share of requests whose TTFT exceeds the target, those that wait for a slot included, shape (M,)."""
    prompt = first.exceeds(target_ms)
    late = np.maximum(target_ms - first.mean_ms - state.slot_begins_ms, 0.0)
    slot = state.slot_waits * np.exp(-state.slot_rate * late)
    return np.asarray(prompt + slot * (1.0 - prompt))


def means(engines: Engines, state: State) -> tuple[FloatArray, FloatArray]:
    """Mean TTFT and mean over requests of their mean ITL, each of shape (M,)."""
    return state.prompts.ttft_ms + state.slot_waiting_ms, token_times.mean(engines, state)


def latency(engines: Engines, state: State) -> Latency:
    """Distributions of TTFT and ITL of M engines."""
    return Latency(
        first=FirstToken.of(engines, state.prompts),
        tokens=TokenTimes.of(engines, state),
        state=state,
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

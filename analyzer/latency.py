"""Latency of one replica as two lines over the batch, the form of published profiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_STEP_MS = 0.1
"""Shortest step of a small batch that is believed: servers of the smallest models need more."""
_SMALL_BATCH = 16
"""Its requests. A fit to full batches alone may leave nothing but a time of each request."""


def unit_problem(
    base_ms: float, per_request_ms: float = 0.0, per_sqrt_request_ms: float = 0.0
) -> str:
    """Why times of steps are in another unit than ms, by a small batch; empty where nothing says so."""
    step_ms = (
        base_ms + per_request_ms * _SMALL_BATCH + per_sqrt_request_ms * math.sqrt(_SMALL_BATCH)
    )
    if step_ms >= LEAST_STEP_MS:
        return ""
    return (
        f"a step with {_SMALL_BATCH} requests takes {step_ms:.3g} ms, which no server reaches; times are in"
        " ms: multiply seconds by 1000"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyParameters:
    """Coefficients of decode and prefill time, each >= 0, in milliseconds.

    Decode time (ITL) in a batch of n is `alpha_ms + beta_ms * n`; prefill time is
    `gamma_ms + delta_ms * input_tokens * n`.

    Attributes:
        alpha_ms: decode time of an empty batch.
        beta_ms: decode time that each request in the batch adds.
        gamma_ms: prefill time of an empty batch.
        delta_ms: prefill time that each input token of each request in the batch adds.

    """

    alpha_ms: float
    beta_ms: float
    gamma_ms: float = 0.0
    delta_ms: float = 0.0

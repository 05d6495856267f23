"""Latency of one replica as two lines over the batch, the form of published profiles."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_STEP_MS = 0.2
"""Less than any server takes for a step with one request, and more than most take in seconds."""


def unit_problem(step_ms: float) -> str:
    """Why times are in another unit than ms, by a step with one request; empty where nothing says so."""
    if step_ms >= LEAST_STEP_MS:
        return ""
    return (
        f"a step with one request takes {step_ms:.3g} ms, which no server reaches; times are in ms: multiply"
        " seconds by 1000"
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

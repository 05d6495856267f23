"""Parameters that were measured at one pair of lengths (alpha, beta, gamma, delta) as step times.

With chunked prefill each decode step also carries somebody's prompt, so at fixed lengths

    ITL(n) = base + per_request n + per_context n ctx + per_prefill (n - 1) in / out,    ctx = in + out / 2

and what a benchmark at those lengths calls alpha and beta is

    alpha = base - per_prefill in / out
    beta  = per_request + per_context ctx + per_prefill in / out
    gamma = base                      the step that a prompt ends with
    delta = per_prefill               as one request's prefill shows it

Four numbers at one pair of lengths do not tell per_request from per_context; `CONTEXT_SHARE` of what beta
has beyond the interference of prompts is taken for context. Without the lengths there is no conversion: the
parameters then hold as they are (`queueing`).

Units: milliseconds, tokens.
"""

from __future__ import annotations

import math

from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths, StepTimes

CONTEXT_SHARE = 0.5
"""Share of the context in the decode time that grows with the batch; measured servers have
0.3 (8B) to 0.65 (70B) at 1,000 tokens."""


def step_times(measured: LatencyParameters, at: Lengths) -> StepTimes:
    """Step times of an engine whose latency parameters were measured at these lengths.

    Where beta is smaller than the interference that delta implies, all of beta counts as interference: delta
    was then no prefill time.

    Raises:
        InvalidParameterError: a parameter is not a number >= 0, or alpha is 0.

    """
    for name in ("alpha_ms", "beta_ms", "gamma_ms", "delta_ms"):
        value = getattr(measured, name)
        if not (math.isfinite(value) and value >= 0):
            raise InvalidParameterError(name, f"must be a number >= 0, not {value:g}")
    if measured.alpha_ms == 0:
        raise InvalidParameterError("alpha_ms", "must be above 0: a step takes time")
    ratio = at.input_tokens / at.output_tokens
    prefill = measured.delta_ms
    if prefill * ratio > measured.beta_ms:
        prefill = measured.beta_ms / ratio
    decode = measured.beta_ms - prefill * ratio
    return StepTimes(
        base_ms=measured.alpha_ms + prefill * ratio,
        per_request_ms=(1.0 - CONTEXT_SHARE) * decode,
        per_prefill_token_ms=prefill,
        per_context_token_ms=CONTEXT_SHARE * decode / _context(at),
    )


def lengths_left(at: Lengths, now: Lengths, factor: float = 1.5) -> bool:
    """Whether the traffic's mean lengths have left those of the measurement by more than the factor."""
    pairs = (
        (at.input_tokens + at.cached_tokens, now.input_tokens + now.cached_tokens),
        (at.output_tokens, now.output_tokens),
    )
    return any(max(one, two) > factor * max(min(one, two), 1.0) for one, two in pairs)


def _context(at: Lengths) -> float:
    return at.cached_tokens + at.input_tokens + at.output_tokens / 2.0

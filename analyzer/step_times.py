"""How long one step of a continuous-batching engine takes, and what limits its batch.

One step that serves n requests, computes p prompt tokens and reads c tokens of context takes

    step = base + per_request * n + per_sqrt_request * sqrt(n) + per_prefill_token * p + per_context_token * c
           + per_prompt * prompts

per_sqrt_request is 0 but for mixtures of experts, whose steps bend over the batch: the more requests, the
more experts' weights a step reads, until it reads all of them. On measured servers one term in sqrt(n)
predicts such steps as well as a saturating exponential or a power with an exponent of its own.

per_prompt, 0 unless measurements show it, is what a prompt costs once, whatever its length: tokenization,
scheduling, the launch of its prefill, and the step that is not captured as a graph.

These numbers belong to model, GPU and engine and do not move with the traffic; decode time, its slope over
the batch, prefill interference and TTFT follow from them and from the lengths of the requests that are
there now.

Units: milliseconds, tokens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Coefficients of one engine step, each finite and >= 0, in milliseconds.

    Attributes:
        base_ms: time of a step whatever it does; greater than 0.
        per_request_ms: time that each request in the step adds.
        per_prefill_token_ms: time that each prompt token computed in the step adds.
        per_context_token_ms: time that each token of context adds, once per step and request that holds it.
        per_sqrt_request_ms: time per square root of the requests in the step; 0 for dense models.
        per_prompt_ms: time that each prompt adds once, whatever its length; 0 where it is not measured.

    """

    base_ms: float
    per_request_ms: float
    per_prefill_token_ms: float
    per_context_token_ms: float
    per_sqrt_request_ms: float = 0.0
    per_prompt_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What bounds the batch of one engine.

    Attributes:
        max_num_seqs: most requests in service at once.
        max_num_batched_tokens: most tokens, prompt and decode together, that one step computes.
        kv_tokens: tokens that the KV cache holds; None where it is unknown and so does not bind.

    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_tokens: int | None = None


SHORT_BOUNDS = (1, 5, 20, 50)
"""Tokens up to which answers are short: bounds that servers' histograms have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of the requests that are there now.

    Attributes:
        input_tokens: mean prompt tokens that are computed, less what the prefix cache serves.
        output_tokens: mean generated tokens, at least 1.
        input_cv: coefficient of variation (standard deviation over mean) of the prompt tokens.
        output_cv: the same of the generated tokens.
        cached_tokens: mean prompt tokens that the prefix cache serves; they fill KV cache and cost no
            prefill.
        short_answers: shares of answers of at most `SHORT_BOUNDS` tokens, each 0 to 1; empty where they are
            not known, and answers are taken as log-normal.

    """

    input_tokens: float
    output_tokens: float
    input_cv: float = 0.0
    output_cv: float = 0.0
    cached_tokens: float = 0.0
    short_answers: tuple[float, ...] = ()

"""How long one step of a continuous-batching engine takes, and what bounds its batch.

A step that serves n requests, computes p prompt tokens, begins q prompts and leaves its requests with c
tokens of context takes

    base_ms + per_request_ms * n + per_sqrt_request_ms * sqrt(n) + per_prefill_token_ms * p
    + per_context_token_ms * c + per_prompt_ms * q

whatever the traffic is: the coefficients belong to model, accelerator and engine. per_sqrt_request_ms is 0
but for mixtures of experts, per_prompt_ms where it was not measured. A preempted request begins again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

BLOCK_TOKENS = 16
"""Tokens of one block of KV cache, vLLM's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Coefficients of a step's time in milliseconds; ValueError for negative or non-finite ones.

    Attributes:
        base_ms: time of every step, greater than 0.
        per_request_ms: added by each request that the step serves.
        per_prefill_token_ms: added by each prompt token that the step computes.
        per_context_token_ms: added by each token of context of the served requests, counted after the step.
        per_sqrt_request_ms: times the square root of the requests that the step serves.
        per_prompt_ms: added by each request that the step admits, once whatever the length of its prompt.

    """

    base_ms: float
    per_request_ms: float = 0.0
    per_prefill_token_ms: float = 0.0
    per_context_token_ms: float = 0.0
    per_sqrt_request_ms: float = 0.0
    per_prompt_ms: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name}: must be a finite number of ms >= 0, not {value}")
        if self.base_ms == 0:
            raise ValueError("base_ms: must be > 0, or steps without work would take no time")

    def requests_ms(self, requests: int) -> float:
        """Part of a step that does not depend on tokens, for so many requests that it serves."""
        linear = self.base_ms + self.per_request_ms * requests
        return linear + self.per_sqrt_request_ms * math.sqrt(requests)

    def step_ms(
        self, *, requests: int, prefill_tokens: int, context_tokens: int, prompts: int = 0
    ) -> float:
        """Duration of one step in ms; `prompts` are those that it begins."""
        # One fixed order of the sum: SchedulerEngine's fast path gives the same bits.
        prompt = self.per_prefill_token_ms * prefill_tokens + self.per_prompt_ms * prompts
        return self.requests_ms(requests) + prompt + self.per_context_token_ms * context_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """What bounds a batch, under vLLM's names; ValueError for limits that no vLLM server starts with.

    Attributes:
        max_num_seqs: most requests in service at once.
        max_num_batched_tokens: most tokens, prompt and decode together, of one step; >= max_num_seqs.
        kv_blocks: blocks of KV cache that requests can hold, 16 tokens each. vLLM's `num_gpu_blocks`
            counts one more, which no request gets.
        watermark: fraction of `num_gpu_blocks` that an admission leaves free while others run.
        reserve_full_input: admit a request only when blocks are free for its whole prompt and what it had
            generated, as vLLM's `scheduler_reserve_full_isl` does by default; else for its first chunk.

    """

    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    watermark: float = 0.0
    reserve_full_input: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "kv_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, not {getattr(self, name)}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: must be >= max_num_seqs ({self.max_num_seqs}), "
                f"not {self.max_num_batched_tokens}"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark: must be >= 0 and < 1, not {self.watermark}")

    @property
    def watermark_blocks(self) -> int:
        """The watermark in whole blocks."""
        return int(self.watermark * (self.kv_blocks + 1))


def blocks_of(tokens: int) -> int:
    """Blocks of KV cache that so many tokens fill, the last of them in part."""
    return -(-tokens // BLOCK_TOKENS)


def check_lengths(
    limits: SchedulerLimits, input_tokens: int, output_tokens: int, cached_tokens: int = 0
) -> None:
    """ValueError, which names the field, for a request that such an engine can never serve."""
    if input_tokens < 1 or output_tokens < 1:
        raise ValueError(
            f"input_tokens, output_tokens: must be >= 1, not {input_tokens} and {output_tokens}"
        )
    if not 0 <= cached_tokens <= input_tokens:
        raise ValueError(f"cached_tokens: must be 0 to {input_tokens}, not {cached_tokens}")
    # The last token comes out and is never computed.
    needed = blocks_of(input_tokens + output_tokens - 1)
    if needed > limits.kv_blocks:
        raise ValueError(
            f"input_tokens, output_tokens: {input_tokens} and {output_tokens} need {needed} blocks of "
            f"KV cache, more than kv_blocks ({limits.kv_blocks}); shorten the request or raise kv_blocks"
        )

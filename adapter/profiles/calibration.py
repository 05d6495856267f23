"""What measured servers taught of raw estimates: kernels alone are not all that a step takes."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.step_times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Factors of an engine's raw step times, learned on measured groups of rows.

    Attributes:
        base: factor of the base time.
        per_request: factor of the times per request and per its square root.
        per_prefill_token: factor of the time per prompt token.
        per_context_token: factor of the time per token of context.
        error: mean relative error of ITL on a group that the factors were not learned from.
        groups: number of groups that the factors were learned from.

    """

    base: float
    per_request: float
    per_prefill_token: float
    per_context_token: float
    error: float
    groups: int

    def apply(self, raw: StepTimes) -> StepTimes:
        """Calibrated step times."""
        return StepTimes(
            base_ms=raw.base_ms * self.base,
            per_request_ms=raw.per_request_ms * self.per_request,
            per_prefill_token_ms=raw.per_prefill_token_ms * self.per_prefill_token,
            per_context_token_ms=raw.per_context_token_ms * self.per_context_token,
            per_sqrt_request_ms=raw.per_sqrt_request_ms * self.per_request,
        )

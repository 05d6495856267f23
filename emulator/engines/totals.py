"""Counters of an engine in virtual time."""

from __future__ import annotations

from emulator.engines.protocol import EngineState
from emulator.engines.scheduler_batch import Work


class Totals:
    """Counters of an engine since its beginning.

    Attributes:
        first_tokens: requests that have a first token; `prompt` and `cached` are tokens of their prompts.
        generated: tokens produced.
        ttft_ms: sum over first tokens.
        left_itl_ms: sum of the gaps of requests that have left the engine.

    """

    def __init__(self) -> None:
        self.finished = self.prompt_finished = self.generated_finished = 0
        self.first_tokens = self.prompt = self.cached = self.generated = 0
        self.ttft_ms = self.left_itl_ms = 0.0

    def first_token(self, work: Work) -> None:
        """It has its first token."""
        self.first_tokens += 1
        self.ttft_ms += work.first_token_ms - work.arrival_ms
        self.prompt += work.input_tokens
        self.cached += work.cached_tokens

    def finish(self, work: Work) -> None:
        """It was served to its end."""
        self.finished += 1
        self.prompt_finished += work.input_tokens
        self.generated_finished += work.output_tokens

    def leave(self, work: Work) -> None:
        """It is no more in the engine."""
        if work.generated:
            self.left_itl_ms += work.last_token_ms - work.first_token_ms

    def state(
        self, *, running: int, waiting: int, kv_usage: float, preemptions: int, itl_ms: float
    ) -> EngineState:
        """The counters beside the gauges; `itl_ms` sums the gaps of requests that are in the engine."""
        return EngineState(
            running=running,
            waiting=waiting,
            kv_usage=kv_usage,
            preemptions=preemptions,
            finished=self.finished,
            prompt_tokens=self.prompt_finished,
            generation_tokens=self.generated_finished,
            ttft_ms=(self.ttft_ms, self.first_tokens),
            itl_ms=(self.left_itl_ms + itl_ms, self.generated - self.first_tokens),
            prompt_tokens_total=self.prompt,
            cached_tokens_total=self.cached,
            generation_tokens_total=self.generated,
        )

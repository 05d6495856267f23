"""Counters of an engine in virtual time."""

from __future__ import annotations

import math
from bisect import bisect_left

from emulator.engines.protocol import EngineState
from emulator.engines.scheduler_batch import Work
from emulator.vllm_metrics import ITL_BUCKETS_MS, TTFT_BUCKETS_MS


class Totals:
    """Counters of an engine since its beginning.

    Attributes:
        first_tokens: requests that have a first token; `prompt` and `cached` are tokens of their prompts.
        generated: tokens produced.
        ttft_ms: sum over first tokens.
        left_itl_ms: sum of the gaps of requests that have left the engine.
        ttft_buckets: first tokens in each bucket of vLLM's histogram; `itl_buckets` and `tpot_buckets` alike.

    """

    def __init__(self) -> None:
        self.finished = self.prompt_finished = self.generated_finished = 0
        self.first_tokens = self.prompt = self.cached = self.generated = 0
        self.ttft_ms = self.left_itl_ms = 0.0
        self._place = 0  # bucket of the last gap, and its bounds
        self._above_ms, self._up_to_ms = math.inf, -math.inf
        self.ttft_buckets = [0] * (len(TTFT_BUCKETS_MS) + 1)
        self.itl_buckets = [0] * (len(ITL_BUCKETS_MS) + 1)
        self.tpot_buckets = [0] * (len(ITL_BUCKETS_MS) + 1)

    def first_token(self, work: Work) -> None:
        """It has its first token."""
        self.generated += 1
        self.first_tokens += 1
        ttft_ms = work.first_token_ms - work.arrival_ms
        self.ttft_ms += ttft_ms
        self.ttft_buckets[bisect_left(TTFT_BUCKETS_MS, ttft_ms)] += 1
        self.prompt += work.input_tokens
        self.cached += work.cached_tokens

    def gaps(self, number: int, gap_ms: float) -> None:
        """So many tokens that are not first ones, each that long after the one before."""
        self.generated += number
        if not self._above_ms < gap_ms <= self._up_to_ms:
            self._find(gap_ms)
        self.itl_buckets[self._place] += number

    def _find(self, gap_ms: float) -> None:
        """Have the bucket of a gap at hand: the next ones are mostly in the same."""
        self._place = place = bisect_left(ITL_BUCKETS_MS, gap_ms)
        self._above_ms = ITL_BUCKETS_MS[place - 1] if place else -math.inf
        self._up_to_ms = ITL_BUCKETS_MS[place] if place < len(ITL_BUCKETS_MS) else math.inf

    def steps(self, number: int, requests: int, span_ms: float, longest_ms: float) -> None:
        """Tokens of so many consecutive steps that only decode, and take `span_ms` together.

        They grow evenly, as their context does: the first is as far below their mean as the last is above it.
        """
        self.generated += number * requests
        shortest_ms = 2.0 * span_ms / number - longest_ms
        if self._above_ms < shortest_ms and longest_ms <= self._up_to_ms:
            self.itl_buckets[self._place] += number * requests
            return
        shortest_ms = min(shortest_ms, longest_ms)
        self._find(longest_ms)
        first, last = bisect_left(ITL_BUCKETS_MS, shortest_ms), self._place
        done, slope = 0, (longest_ms - shortest_ms) / max(number - 1, 1)
        for place in range(first, last):
            # A step whose time is the bound up to rounding may count on either side.
            up_to = min(int((ITL_BUCKETS_MS[place] - shortest_ms) / slope) + 1, number)
            self.itl_buckets[place] += (up_to - done) * requests
            done = up_to
        self.itl_buckets[last] += (number - done) * requests

    def finish(self, work: Work) -> None:
        """It was served to its end."""
        self.finished += 1
        self.prompt_finished += work.input_tokens
        self.generated_finished += work.output_tokens
        # The only token of a request has a mean gap of 0, as on vLLM's page.
        tpot_ms = (work.last_token_ms - work.first_token_ms) / max(work.output_tokens - 1, 1)
        self.tpot_buckets[bisect_left(ITL_BUCKETS_MS, tpot_ms)] += 1

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
            ttft_buckets=tuple(self.ttft_buckets),
            itl_buckets=tuple(self.itl_buckets),
            tpot_buckets=tuple(self.tpot_buckets),
        )

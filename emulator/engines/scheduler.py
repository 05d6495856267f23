"""What each step of vLLM's v1 scheduler serves.

A step serves the running requests first, in the order of their admission, then admits waiting ones in order:

- it computes at most `max_num_batched_tokens`; a decoding request takes one, a prompt takes what is left of
  the budget and goes on in the next step;
- at most `max_num_seqs` run; an admission needs free KV blocks for all that the request has to compute;
- where a running request finds no block, the one admitted last is preempted: it loses its blocks and its
  place, waits in front of all others, and computes prompt and generated tokens anew. Such a step admits
  nobody.

Left out: speculative decoding, async scheduling, priorities, `long_prefill_token_threshold`.
"""

from __future__ import annotations

import math
from collections import deque

from emulator.engines.scheduler_batch import Batch, Work
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, StepTimes

_MANY_STEPS = 1 << 62
_ROUNDED = 1.0 - 1e-9
"""What a product is multiplied by, so as not to be more than the sum of the steps' times."""


class Scheduler:
    """Chooses the requests of one step after the other.

    Attributes:
        batch: requests in service.
        waiting: the others, the next to be admitted first.
        completing: requests whose prompt the step in progress completes, in order.
        preemptions: counter.
        requests_ms: part of a step that does not depend on tokens, by the number of requests that it serves.

    """

    def __init__(self, times: StepTimes, limits: SchedulerLimits, *, gaps: bool = True) -> None:
        self.times = times
        self.limits = limits
        self.batch = Batch(limits, gaps=gaps)
        self._budget = limits.max_num_batched_tokens
        self._most = limits.max_num_seqs
        self.requests_ms = [times.requests_ms(number) for number in range(self._most + 1)]
        self.waiting: deque[Work] = deque()
        self.completing: list[Work] = []
        self.preemptions = 0

    def may_admit(self, work: Work) -> bool:
        """Whether the running requests leave it a place, a token and its blocks."""
        batch, limits = self.batch, self.limits
        if len(batch.running) >= limits.max_num_seqs:
            return False
        budget = limits.max_num_batched_tokens - batch.decoding
        return budget > 0 and self._blocks_to_admit(work, budget) <= batch.free_blocks

    def _blocks_to_admit(self, work: Work, budget: int) -> int:
        tokens = work.input_tokens + work.generated
        limits = self.limits
        if not limits.reserve_full_input:
            tokens = min(tokens, work.cached_tokens + budget)
        spared = limits.watermark_blocks if limits.watermark and self.batch.running else 0
        return -(-tokens // BLOCK_TOKENS) + spared

    def begin_step(self, at_ms: float) -> float:
        """Choose what the step from that moment on serves; gives its duration in ms."""
        batch, waiting = self.batch, self.waiting
        preempted = self._take_decode_blocks(at_ms) if batch.decoding else False
        decoding = batch.decoding
        partial = batch.partial
        if partial is None and not waiting:
            # The very sum of StepTimes.step_ms, without its call, as below.
            context_ms = self.times.per_context_token_ms * (batch.context_tokens + decoding)
            return self.requests_ms[len(batch.running)] + context_ms
        budget = self._budget - decoding
        prefill = prompt_context = begun = 0
        if partial is not None:
            chunk = min(partial.total_tokens - partial.computed_tokens, budget)
            if batch.grow(partial, chunk):
                prefill += self._compute(partial, chunk)
                prompt_context += partial.computed_tokens
                budget -= chunk
            else:
                self._preempt(partial, at_ms)
                preempted = True
        while waiting and budget > 0 and not preempted:
            work = waiting[0]
            if len(batch.running) >= self._most:
                break
            if self._blocks_to_admit(work, budget) > batch.free_blocks:
                break
            chunk = self._admit(waiting.popleft(), budget, at_ms)
            begun += 1
            prefill += self._compute(work, chunk)
            prompt_context += work.computed_tokens
            budget -= chunk
        times = self.times
        prompt_ms = times.per_prefill_token_ms * prefill + times.per_prompt_ms * begun
        context = batch.context_tokens + batch.decoding + prompt_context
        fixed_ms = self.requests_ms[len(batch.running)] + prompt_ms
        return fixed_ms + times.per_context_token_ms * context

    def _admit(self, work: Work, budget: int, at_ms: float) -> int:
        """Put it into the batch with blocks for its first chunk; gives the chunk's tokens."""
        work.computed_tokens = work.cached_tokens
        chunk = min(work.total_tokens - work.cached_tokens, budget)
        self.batch.grow(work, chunk)  # there are as many, as was looked at before
        self.batch.admit(work)
        if math.isnan(work.start_ms):
            work.start_ms = at_ms
        return chunk

    def _compute(self, work: Work, chunk: int) -> int:
        """The step computes a chunk for which blocks are taken; tokens of it that cost as a prompt's."""
        done = work.computed_tokens == work.total_tokens
        self.batch.partial = None if done else work
        if done:
            self.completing.append(work)
        return 0 if work.generated and done and chunk == 1 else chunk

    def _take_decode_blocks(self, at_ms: float) -> bool:
        """A block for each decoding request that needs one; whether others lost theirs for it."""
        batch = self.batch
        needed = batch.blocks_for_step()
        if needed <= batch.free_blocks:
            batch.free_blocks -= needed
            return False
        for work in list(batch.needing_block()):
            while work.decoding and not batch.free_blocks:
                self._preempt(batch.last_admitted(), at_ms)
            if not work.decoding:  # nor is any after it
                break
            batch.free_blocks -= 1
        return True

    def _preempt(self, work: Work, at_ms: float) -> None:
        self.batch.leave(work, at_ms)
        work.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(work)

    def nothing_ends_before(self, end_ms: float) -> float:
        """A moment not before the step in progress ends, until which no request does unless others come."""
        batch = self.batch
        if self.waiting or batch.partial is not None:
            return end_ms
        # Those that decode after the step in progress; where one ends with it, no step is left.
        requests = batch.decoding
        context = batch.context_tokens + requests
        steps = batch.steps_to_end() - 1 if requests else _MANY_STEPS
        for work in self.completing:
            requests += 1
            context += work.computed_tokens
            steps = min(steps, work.output_tokens - work.generated - 1)
        if not requests:
            return end_ms
        # Steps grow until one preempts somebody; any 16 of them take a block for each request.
        steps = min(steps, batch.free_blocks // requests * BLOCK_TOKENS)
        if steps <= 0:
            return end_ms
        grown = context + requests * (steps + 1) / 2
        span_ms = steps * (self.requests_ms[requests] + self.times.per_context_token_ms * grown)
        return max((end_ms + span_ms) * _ROUNDED, end_ms)

    def withdraw(self) -> list[Work]:
        """Take the requests that were never in service out of the queue."""
        never = [work for work in self.waiting if math.isnan(work.start_ms)]
        self.waiting = deque(work for work in self.waiting if not math.isnan(work.start_ms))
        return never

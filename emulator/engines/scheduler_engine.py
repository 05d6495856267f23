"""An engine that schedules as vLLM's v1 scheduler does, in virtual time.

`emulator.scheduler` says what a step serves, `emulator.step_times` how long it takes. A token comes out at
the end of the step that computes the last missing one. Requests that arrive up to the beginning of a step can
be in it. Prefix-cache hits are given with the request: the engine does not know what two of them share.

Steps that only decode cost a few additions each, whatever the batch, and their times are added one by one:
results have the same bits however often the engine is advanced.
"""

from __future__ import annotations

import math
from collections import deque

from emulator.engines.protocol import Completion, EngineState, FirstToken
from emulator.engines.scheduler import Scheduler
from emulator.engines.scheduler_batch import Work
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, StepTimes, check_lengths
from emulator.engines.totals import Totals

_FIRST_TOKENS = 4096
"""First tokens that are kept for a reader who may not exist."""


class SchedulerEngine:
    """One replica; see the module's docstring, and `emulator.engines.VirtualEngine` for the methods."""

    def __init__(self, times: StepTimes, limits: SchedulerLimits, *, gaps: bool = True) -> None:
        """An idle engine at 0 ms; without `gaps` it does not know the longest gaps of requests."""
        self.times = times
        self.limits = limits
        self.now_ms = 0.0
        self._at_ms = 0.0  # a step began, or will begin, here
        self._end_ms = math.inf  # of the step in progress
        self._step_ms = 0.0  # likewise
        self._scheduler = Scheduler(times, limits, gaps=gaps)
        self._batch = self._scheduler.batch
        self._coming: deque[Work] = deque()  # by arrival, later than the last step began
        self._known: dict[int, Work] = {}  # that have not ended
        self._leaving: list[Work] = []  # cancelled during the step in progress
        self._completions: list[Completion] = []
        self._first_tokens: deque[FirstToken] = deque(maxlen=_FIRST_TOKENS)
        self._submitted = 0
        self._last_arrival_ms = 0.0
        self._totals = Totals()

    @property
    def max_requests(self) -> int:
        """`max_num_seqs`."""
        return self.limits.max_num_seqs

    @property
    def steps(self) -> int:
        """Steps that have ended."""
        return self._batch.steps

    @property
    def step_end_ms(self) -> float:
        """End of the step in progress; inf when there is none."""
        return self._end_ms

    @property
    def next_ms(self) -> float:
        """No request ends before; inf while there is nothing to do."""
        if self._end_ms == math.inf:
            begins_ms = self._at_ms
            if not (self._batch.running or self._scheduler.waiting):
                if not self._coming:
                    return math.inf
                begins_ms = max(begins_ms, self._coming[0].arrival_ms)
            return begins_ms + self.times.base_ms
        if self._coming or self._leaving:
            return self._end_ms
        return self._scheduler.nothing_ends_before(self._end_ms)

    def submit(
        self, *, arrival_ms: float, input_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> int:
        """Let a request arrive; hits count in whole blocks, and never for the prompt's last token."""
        earliest = max(self.now_ms, self._last_arrival_ms)
        if not earliest <= arrival_ms < math.inf:
            raise ValueError(f"arrival_ms: must be finite and >= {earliest}, not {arrival_ms}")
        check_lengths(self.limits, input_tokens, output_tokens, cached_tokens)
        hits = min(cached_tokens, input_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        work = Work(self._submitted, arrival_ms, input_tokens, output_tokens, hits)
        self._submitted += 1
        self._last_arrival_ms = arrival_ms
        self._known[work.number] = work
        self._coming.append(work)
        return work.number

    def advance(self, until_ms: float) -> None:
        """Let everything happen that ends at that moment or before; `inf` serves all."""
        if not until_ms >= self.now_ms:
            raise ValueError(f"until_ms: must be >= {self.now_ms}, not {until_ms}")
        batch, scheduler, coming = self._batch, self._scheduler, self._coming
        waiting, running = scheduler.waiting, batch.running
        while True:
            if self._end_ms != math.inf:
                if self._end_ms > until_ms:
                    break
                self._end_step()
            # An idle engine waits for the next request.
            if coming:
                if not waiting and not running:
                    self._at_ms = max(self._at_ms, coming[0].arrival_ms)
                self._arrive()
            if self._at_ms >= until_ms or not (waiting or running):
                break
            if batch.decoding and batch.partial is None:
                if not (waiting and scheduler.may_admit(waiting[0])):
                    self._decode(until_ms)
                    if self._at_ms >= until_ms:
                        break
                if coming:
                    self._arrive()
            self._step_ms = scheduler.begin_step(self._at_ms)
            self._end_ms = self._at_ms + self._step_ms
        self.now_ms = until_ms if until_ms < math.inf else max(self.now_ms, self._at_ms)

    def _arrive(self) -> None:
        coming, waiting, at_ms = self._coming, self._scheduler.waiting, self._at_ms
        while coming and coming[0].arrival_ms <= at_ms:
            waiting.append(coming.popleft())

    def _decode(self, until_ms: float) -> None:
        """End the steps up to that moment that nothing but decoding happens in."""
        batch = self._batch
        most_steps = batch.steps_to_end() - 1
        if most_steps <= 0:
            return
        next_ms = self._coming[0].arrival_ms if self._coming else math.inf
        parts_ms = self._scheduler.requests_ms[batch.decoding], self.times.per_context_token_ms
        at_ms, longest_ms, steps = batch.decoded_until(
            self._at_ms, parts_ms, most_steps=most_steps, until_ms=until_ms, arrival_ms=next_ms
        )
        if steps:
            self._totals.steps(steps, batch.decoding, at_ms - self._at_ms, longest_ms)
            batch.decode(steps, longest_ms)
            self._at_ms = at_ms

    def _end_step(self) -> None:
        """Give out the tokens of the step in progress."""
        batch, scheduler = self._batch, self._scheduler
        self._at_ms, self._end_ms = self._end_ms, math.inf
        self._totals.gaps(batch.decoding, self._step_ms)
        batch.end_steps(1, self._step_ms)
        completing = scheduler.completing
        if completing:
            scheduler.completing = []
        if self._leaving:
            for work in self._leaving:
                self._drop(work)
            self._leaving.clear()
        for work in batch.ended():
            self._finish(work)
        for work in completing:
            if work.number in self._known:
                self._prompt_done(work)

    def _prompt_done(self, work: Work) -> None:
        """Its prompt is computed, for the first time or anew, and gives a token."""
        if work.generated:
            gap_ms = self._at_ms - work.last_token_ms
            work.longest_gap_ms = max(work.longest_gap_ms, gap_ms)
            self._totals.gaps(1, gap_ms)
        else:
            work.first_token_ms = self._at_ms
            self._first_tokens.append((self._at_ms, work.arrival_ms))
            self._totals.first_token(work)
        work.generated += 1
        work.last_token_ms = self._at_ms
        if work.generated == work.output_tokens:
            self._finish(work)
        else:
            self._batch.join(work, self._at_ms)

    def _finish(self, work: Work) -> None:
        self._drop(work)
        self._totals.finish(work)
        self._completions.append(work.completion())

    def _drop(self, work: Work) -> None:
        """It leaves batch and engine."""
        self._batch.leave(work, self._at_ms)
        self._forget(work)

    def _forget(self, work: Work) -> None:
        del self._known[work.number]
        self._totals.leave(work)

    def take_completions(self) -> list[Completion]:
        """Requests that ended since the last call."""
        taken, self._completions = self._completions, []
        return taken

    def take_first_tokens(self) -> list[FirstToken]:
        """First tokens since the last call, the latest thousands of them."""
        taken = list(self._first_tokens)
        self._first_tokens.clear()
        return taken

    def generated(self, number: int) -> int:
        """Tokens that a request in the engine has."""
        return self._batch.generated(self._known[number])

    def cancel(self, number: int) -> bool:
        """Drop a request; one that runs leaves at the end of the step in progress."""
        work = self._known.get(number)
        if work is None or work in self._leaving:
            return False
        if work in self._batch.running:
            if self._end_ms == math.inf:
                self._drop(work)
            else:
                self._leaving.append(work)
            return True
        (self._scheduler.waiting if work in self._scheduler.waiting else self._coming).remove(work)
        self._forget(work)
        return True

    def withdraw_waiting(self) -> list[int]:
        """Take out the requests that were never in service, by arrival."""
        never = [*self._scheduler.withdraw(), *self._coming]
        self._coming.clear()
        list(map(self._forget, never))
        return [work.number for work in never]

    def state(self) -> EngineState:
        """Gauges and counters."""
        batch, totals = self._batch, self._totals
        itl_ms = sum(
            (self._at_ms if work.decoding else work.last_token_ms) - work.first_token_ms
            for work in self._known.values()
            if work.generated
        )
        waiting = sum(work.arrival_ms <= self.now_ms for work in self._coming)
        return totals.state(
            running=len(batch.running),
            waiting=waiting + len(self._scheduler.waiting),
            kv_usage=(self.limits.kv_blocks - batch.free_blocks) / self.limits.kv_blocks,
            preemptions=self._scheduler.preemptions,
            itl_ms=itl_ms,
        )

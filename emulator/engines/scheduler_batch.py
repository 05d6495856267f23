"""The running requests of a scheduler-true engine, their KV blocks, and the gaps between tokens.

Every decoding request gets one token in each step, so none of them is touched while nothing happens to it:
its tokens follow from the number of steps since it joined, the blocks that a step needs from how many
requests are at the same offset within a block, and its longest gap from the steps since it joined.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

from emulator.engines.protocol import Completion
from emulator.engines.step_times import BLOCK_TOKENS, SchedulerLimits, blocks_of

NOT_DECODING = -1


@dataclass(slots=True, eq=False)
class Work:
    """One request in the engine.

    Attributes:
        generated: tokens produced; while it decodes, those at `joined_step`.
        computed_tokens: tokens whose KV is computed, or is being computed by the step in progress; while it
            decodes, those at `joined_step`.
        joined_step: steps that had ended when it began to decode; likewise `last_step` when it will end.
        last_token_ms: while it decodes, that at `joined_step`.

    """

    number: int
    arrival_ms: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    generated: int = 0
    computed_tokens: int = 0
    joined_step: int = 0
    last_step: int = NOT_DECODING
    start_ms: float = math.nan
    first_token_ms: float = math.nan
    last_token_ms: float = math.nan
    longest_gap_ms: float = 0.0
    preemptions: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens to have computed before the next token comes out."""
        return self.input_tokens + self.generated

    @property
    def decoding(self) -> bool:
        """Whether each step gives it a token."""
        return self.last_step != NOT_DECODING

    def completion(self) -> Completion:
        """What is told of it after its last token."""
        return Completion(
            self.number,
            self.arrival_ms,
            self.start_ms,
            self.first_token_ms,
            self.last_token_ms,
            self.longest_gap_ms,
            self.input_tokens,
            self.output_tokens,
            self.preemptions,
        )


class GapHistory:
    """Longest of the latest steps; keeps only those that are longer than all after them."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._gaps_ms: list[float] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, gap_ms: float) -> None:
        """Steps up to this number, of which the longest took `gap_ms`."""
        steps, gaps = self._steps, self._gaps_ms
        while gaps and gaps[-1] <= gap_ms:
            gaps.pop()
            steps.pop()
        steps.append(step)
        gaps.append(gap_ms)

    def longest_since(self, step: int) -> float:
        """Longest of the steps after this number in ms; 0 when there are none."""
        index = bisect_right(self._steps, step)
        return self._gaps_ms[index] if index < len(self._gaps_ms) else 0.0

    def forget(self, step: int) -> None:
        """Nobody will ask for that step or those before."""
        index = bisect_right(self._steps, step)
        del self._steps[:index], self._gaps_ms[:index]


class Batch:
    """Requests in service, in the order of their admission.

    Attributes:
        running: those that decode, and at the end at most one whose prompt is computed in part.
        partial: request whose prompt is computed in part.
        steps: steps that have ended.
        free_blocks: blocks that no request holds.
        decoding: number of requests that decode, and `context_tokens` computed for them.
        gaps: the latest steps, from which longest gaps follow; None where nobody asks for them.

    """

    def __init__(self, limits: SchedulerLimits, *, gaps: bool = True) -> None:
        self.limits = limits
        self.running: dict[Work, None] = {}
        self.partial: Work | None = None
        self.steps = 0
        self.free_blocks = limits.kv_blocks
        self.decoding = 0
        self.context_tokens = 0
        self.gaps = GapHistory() if gaps else None
        self._offsets = [0] * BLOCK_TOKENS  # requests by (computed tokens - steps) modulo a block
        self._ends: list[tuple[int, int, Work]] = []  # by last step; preempted ones are left in
        self._joined = 0
        self._forget_at = 1024

    def generated(self, work: Work) -> int:
        """Tokens that it has at the end of the last step."""
        return work.generated + (self.steps - work.joined_step if work.decoding else 0)

    def computed(self, work: Work) -> int:
        """Tokens of context that it holds blocks for, but for the block that the step in progress added."""
        return work.computed_tokens + (self.steps - work.joined_step if work.decoding else 0)

    def admit(self, work: Work) -> None:
        """Put it at the end."""
        self.running[work] = None

    def grow(self, work: Work, tokens: int) -> bool:
        """Take blocks for more tokens of a prompt; false, and nothing is taken, when they are lacking."""
        after = work.computed_tokens + tokens
        held = blocks_of(work.computed_tokens) if work in self.running else 0
        lacking = blocks_of(after) - held
        if lacking > self.free_blocks:
            return False
        self.free_blocks -= lacking
        work.computed_tokens = after
        return True

    def join(self, work: Work, at_ms: float) -> None:
        """Its prompt is computed and a token came out: from now on it decodes."""
        work.joined_step = self.steps
        work.last_step = self.steps + work.output_tokens - work.generated
        work.last_token_ms = at_ms
        self._joined += 1
        heappush(self._ends, (work.last_step, self._joined, work))
        self._offsets[(work.computed_tokens - self.steps) % BLOCK_TOKENS] += 1
        self.decoding += 1
        self.context_tokens += work.computed_tokens

    def leave(self, work: Work, at_ms: float) -> None:
        """Take it out and free its blocks; `at_ms` ended the last step."""
        computed = work.computed_tokens
        if work.last_step != NOT_DECODING:
            made = self.steps - work.joined_step
            self._offsets[(computed - work.joined_step) % BLOCK_TOKENS] -= 1
            computed += made
            self.decoding -= 1
            self.context_tokens -= computed
            work.generated += made
            work.last_token_ms = at_ms
            if self.gaps is None:
                work.longest_gap_ms = math.nan
            else:
                longest = self.gaps.longest_since(work.joined_step)
                work.longest_gap_ms = max(work.longest_gap_ms, longest)
            work.last_step = NOT_DECODING
        if work is self.partial:
            self.partial = None
        del self.running[work]
        self.free_blocks += -(-computed // BLOCK_TOKENS)
        work.computed_tokens = 0

    def last_admitted(self) -> Work:
        """The next to be preempted."""
        return next(reversed(self.running))

    def blocks_for_step(self) -> int:
        """Blocks that the decoding requests need for one step more."""
        return self._offsets[-self.steps % BLOCK_TOKENS]

    def needing_block(self) -> Iterator[Work]:
        """Decoding requests that need a block for one step more, in order."""
        return (
            work
            for work in self.running
            if work.decoding and self.computed(work) % BLOCK_TOKENS == 0
        )

    def steps_to_end(self) -> int:
        """Steps until the first request that decodes has its last token; 0 when none decodes."""
        ends = self._ends
        while ends:
            first = ends[0]
            if first[0] == first[2].last_step:
                return first[0] - self.steps
            heappop(ends)
        return 0

    def ended(self) -> list[Work]:
        """Those whose last token the step just ended has given, each taken off the list."""
        ends, steps = self._ends, self.steps
        if not ends or ends[0][0] > steps:
            return []
        finished = []
        while ends and ends[0][0] <= steps:
            last, _, work = heappop(ends)
            if last == work.last_step:
                finished.append(work)
        return finished

    def steps_within_blocks(self, most: int) -> int:
        """So many of the next `most` steps find their blocks free."""
        rounds = self.free_blocks // self.decoding  # of 16 steps, in which each takes one block
        steps = rounds * BLOCK_TOKENS
        free = self.free_blocks - rounds * self.decoding
        while steps < most:
            free -= self._offsets[-(self.steps + steps) % BLOCK_TOKENS]
            if free < 0:
                return steps
            steps += 1
        return most

    def decoded_until(
        self,
        at_ms: float,
        parts_ms: tuple[float, float],
        *,
        most_steps: int,
        until_ms: float,
        arrival_ms: float,
    ) -> tuple[float, float, int]:
        """End of the steps from a moment on that only decode, their longest one in ms, and their number.

        Args:
            at_ms: Beginning of the first step.
            parts_ms: Part of each step that does not depend on tokens, and part of each token of context.
            most_steps: Most steps to end.
            until_ms: No step ends after this moment.
            arrival_ms: No step begins at this moment or after it.

        """
        requests, context = self.decoding, self.context_tokens
        fixed_ms, context_ms = parts_ms
        longest_ms, steps = 0.0, 0
        # Of most looks at an engine, none of its next steps ends before them.
        if at_ms + (fixed_ms + context_ms * (context + requests)) > until_ms:
            return at_ms, longest_ms, steps
        most_steps = self.steps_within_blocks(most_steps)
        while steps < most_steps and at_ms < arrival_ms:
            context += requests
            # The very sum of StepTimes.step_ms, without its call.
            step_ms = fixed_ms + context_ms * context
            end_ms = at_ms + step_ms
            if end_ms > until_ms:
                break
            at_ms, longest_ms = end_ms, step_ms  # steps grow with their context
            steps += 1
        return at_ms, longest_ms, steps

    def decode(self, steps: int, longest_ms: float) -> None:
        """So many steps have ended that only decoded and found their blocks."""
        rounds, rest = divmod(steps, BLOCK_TOKENS)
        self.free_blocks -= rounds * self.decoding
        for step in range(self.steps, self.steps + rest):
            self.free_blocks -= self._offsets[-step % BLOCK_TOKENS]
        self.end_steps(steps, longest_ms)

    def end_steps(self, steps: int, longest_ms: float) -> None:
        """Count steps whose blocks have been taken."""
        self.steps += steps
        decoding = self.decoding
        self.context_tokens += steps * decoding
        if decoding and self.gaps is not None:
            self.gaps.add(self.steps, longest_ms)
            if len(self.gaps) > self._forget_at:
                oldest = min(w.joined_step for w in self.running if w.decoding)
                self.gaps.forget(oldest)
                self._forget_at = 2 * len(self.gaps) + 1024

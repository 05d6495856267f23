"""Requests in service that are only in a gauge: those of one address that are there, by what its page counts.

Requests are conserved. Whoever is in service and has not ended has had a first token, or is in prefill; by
Little's law those between arrival and first token are, on average, the growth of the sum of times to first
token over time. A gauge that grows by more than first tokens and these explain has the others alone, until
their first tokens come, tokens are timed for as many, or the KV cache holds more than what the others have:
prompts of many, computed side by side, may take minutes to the first tokens of any of them.

Where a page has no first tokens, or counts them as requests end (trtllm-serve, Triton without streams), many
more in service than a server ever had count from when more end.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from adapter.collector.model_servers import PodMetrics

CHANCE = 2.0
"""Standard deviations of requests between two pages up to which more or fewer are chance."""

PREFILL = 16.0
"""Requests in prefill, or waiting for it, at once beyond as many as a server ever had."""

LESS = 0.7
"""Share of a mean over pages which the next page keeps."""

_FEW = 2.0
"""Requests between two lines of a page."""

_ERRORS = 3.0
"""Standard deviations of requests in prefill at two pages up to which more are chance."""

_LATE_SECONDS = 2.0
"""Age of a gauge where several processes write a page: SGLang's scheduler sets it every 40 steps."""

_LEVELS = 6
"""Pages of which the one with most requests without a first token counts: gauges may be older than counters,
and what was preempted comes back."""

_ENDED = 0.25
"""Share of many more requests in service that must end beyond the usual number, where nothing else says that
they are served."""

_VARIES = 1.5
"""Requests of which the KV cache may hold more than it usually does of one, by chance: two standard
deviations of 0.75 of the mean, which are those of lengths at most."""

_BEGUN = 0.5
"""Share of those in service that must have had a first token, for these to be counted as they come."""

JUMPED = (
    "{number:.0f} requests in service are not counted: no tokens or ends of theirs came (the gauge jumped; a"
    " restart of the pod clears it where it stays)"
)


@dataclass(slots=True)
class Service:
    """What the pages of one address say of its requests in service.

    Attributes:
        doubted: Requests in the gauge that got no token.
        most: Most requests that it had in service, without these.

    """

    doubted: float = 0.0
    most: float = 0.0
    _levels: deque[float] = field(default_factory=lambda: deque(maxlen=_LEVELS))
    _without: float = 0.0
    _prefill: float = 0.0
    _begun: float = 0.0
    _before: float = 0.0
    _ended_rps: float = 0.0
    _held: float = 0.0
    _as_they_come: bool = False

    def note(self, before: PodMetrics, page: PodMetrics, *, seconds: float, batch: float) -> None:
        """Compare a page with the one before it.

        Args:
            before: Last page of the same process.
            page: This page.
            seconds: Time between the two.
            batch: Largest batch that a profile has; 0 without one.

        """
        begun, ended = page.ttft[1] - before.ttft[1], page.finished - before.finished
        if begun < 0 or ended < 0 or seconds <= 0:
            self.doubted, self.most = 0.0, max(self.most, page.running)
            self._levels.clear()
            return
        if not self.doubted:
            self._learn_held(before)
        elif self._holds_cache(page):
            self.doubted = 0.0
        in_service = before.running - self.doubted
        if in_service >= 1.0:
            ahead = before.ttft[1] - before.finished
            self._as_they_come = ahead >= max(_BEGUN * in_service, 1.0)
        if page.ttft[1] <= 0 or not self._as_they_come:
            self._levels.clear()
            self._note_untimed(before, page, ended=ended, seconds=seconds, batch=batch)
            return
        more = page.running - before.running
        level = page.running + page.finished - page.ttft[1]
        # Requests that end in an error may have had no first token.
        beyond = level - max(self._levels, default=level - more - ended + begun) - self._without
        chance = self._chance(before, page, seconds)
        if beyond <= chance or (self.doubted and self._get_tokens(before, page, seconds=seconds)):
            self.doubted = 0.0
        elif beyond - self.doubted > chance and more > 0:
            self.doubted += min(more, beyond - self.doubted)
        self.doubted = max(min(self.doubted, beyond, page.running), 0.0)
        if self.doubted and self._holds_cache(page):
            self.doubted = 0.0
        if not self.doubted:
            unexplained = more + ended - begun
            self._without = LESS * self._without + (1.0 - LESS) * max(unexplained, 0.0)
        self._levels.append(level - self.doubted)
        self.most = max(self.most, page.running - self.doubted)

    def _chance(self, before: PodMetrics, page: PodMetrics, seconds: float) -> float:
        """Requests by which those without a first token may be more than at the page before."""
        begun = page.ttft[1] - before.ttft[1]
        # What takes long is seen once it is over: it may have been so on the pages before.
        prefill = max(page.ttft[0] - before.ttft[0], 0.0) / seconds
        prefill = self._prefill = max(prefill, LESS * self._prefill)
        late = _LATE_SECONDS * begun / seconds if page.started_at is None else 0.0
        # Those that were preempted had their first tokens before, and come back from the queue.
        back = before.waiting if page.preemptions is None or page.preemptions > 0 else 0.0
        return _FEW + back + prefill + _ERRORS * math.sqrt(2.0 * (prefill + late + self._without))

    def _get_tokens(self, before: PodMetrics, page: PodMetrics, *, seconds: float) -> bool:
        """Whether as many tokens were timed as if most of those that are doubted were in service."""
        served = (page.itl[0] - before.itl[0]) / seconds
        in_gauge, half = 0.5 * (before.running + page.running), 0.5 * self.doubted
        others = max(in_gauge - self.doubted, 0.0)
        return served > 0 and served >= in_gauge - half + min(math.sqrt(others), half)

    def _learn_held(self, page: PodMetrics) -> None:
        """Learn the share of the KV cache that a request in service holds."""
        if page.running < 1.0 or page.kv_cache is None:
            return
        share = LESS if self._held else 0.0
        self._held = share * self._held + (1.0 - share) * page.kv_cache / page.running

    def _holds_cache(self, page: PodMetrics) -> bool:
        """Whether the KV cache holds more than those do that are not doubted, by more than chance.

        Prompts that are computed in parts hold little at first, so that it says of some that all are there.
        """
        if page.kv_cache is None or not self._held:
            return False
        others = max(page.running - self.doubted, 0.0)
        return page.kv_cache / self._held - others > _VARIES * math.sqrt(others)

    def _note_untimed(
        self, before: PodMetrics, page: PodMetrics, *, ended: float, seconds: float, batch: float
    ) -> None:
        """Compare pages without times to first token: many more in service soon show in those that end.

        Those that waited before, and those whose prompts are counted as they come, are in service at once.
        """
        came = max(page.prompt_tokens[1] - before.prompt_tokens[1] - ended, 0.0)
        came += max(before.waiting - page.waiting, 0.0)
        came += max(page.ttft[1] - before.ttft[1] - ended, 0.0)
        self._begun += ended - self._ended_rps * seconds + came
        if self._begun >= _ENDED * self.doubted or self._get_tokens(before, page, seconds=seconds):
            self.doubted = 0.0
        self.doubted = min(self.doubted, max(page.running - self._before, 0.0))
        more = page.running - before.running
        if more - came > max(self.most, batch) + PREFILL:
            if not self.doubted:
                self._before = before.running
            self.doubted += more
            self._begun = 0.0
        elif not self.doubted:
            share = LESS if self._ended_rps else 0.0
            self._ended_rps = share * self._ended_rps + (1.0 - share) * ended / seconds
        self.most = max(self.most, page.running - self.doubted)

    @property
    def note_text(self) -> str:
        """What is not counted; empty for nothing."""
        return JUMPED.format(number=self.doubted) if self.doubted else ""

"""Requests in service that are only in a gauge: those of one address that are there, by what its page counts.

Requests are conserved. Whoever is in service and has not ended has had a first token, or is in prefill; by
Little's law those between arrival and first token are, on average, the growth of the sum of times to first
token over time. A gauge that grows by more than first tokens and these explain has the others alone, until
their first tokens come, or tokens are timed for as many. Servers that count prompts as they come (TGI) show
all that there can be, in the queue too: prompts less requests that ended.

Where a page has neither, many more in service than a server ever had count from when more end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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

_LATE_SECONDS = 1.0
"""Age of a gauge where several processes write a page: SGLang's scheduler sets it every 40 steps."""

_ENDED = 0.25
"""Share of many more requests in service that must end beyond the usual number, where nothing else says that
they are served."""

_AGREED = 3
"""Pages with requests after which it is known that prompts are counted as they come."""

JUMPED = (
    "{number:.0f} requests in service are not counted: no tokens or ends of theirs came (the gauge jumped; a"
    " restart of the pod clears it where it stays)"
)
UNCOUNTED = (
    "{number:.0f} requests in service or in the queue are not counted: as many prompts did not come (the"
    " gauge jumped; a restart of the pod clears it where it stays)"
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
    _excess: float = 0.0
    _without: float = 0.0
    _begun: float = 0.0
    _before: float = 0.0
    _ended_rps: float = 0.0

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
            return
        if page.ttft[1] <= 0:
            self._note_untimed(before, page, ended=ended, seconds=seconds, batch=batch)
            return
        more = page.running - before.running
        unexplained = more + ended - begun
        # Requests that end in an error may have had no first token.
        beyond = unexplained - self._without
        chance = self._chance(before, page, seconds)
        self._excess = max((self._excess if self.doubted else 0.0) + beyond, 0.0)
        if beyond > chance and more > 0:
            self.doubted += min(more, beyond)
        elif self._excess <= chance or self._get_tokens(before, page, seconds=seconds):
            self.doubted = 0.0
        self.doubted = min(self.doubted, self._excess, page.running)
        if not self.doubted:
            self._without = LESS * self._without + (1.0 - LESS) * max(unexplained, 0.0)
        self.most = max(self.most, page.running - self.doubted)

    def _chance(self, before: PodMetrics, page: PodMetrics, seconds: float) -> float:
        """Requests by which those without a first token may be more than at the page before."""
        begun = page.ttft[1] - before.ttft[1]
        prefill = max(page.ttft[0] - before.ttft[0], 0.0) / seconds
        late = _LATE_SECONDS * begun / seconds if page.started_at is None else 0.0
        return _FEW + prefill + _ERRORS * math.sqrt(2.0 * (prefill + late + self._without))

    def _get_tokens(self, before: PodMetrics, page: PodMetrics, *, seconds: float) -> bool:
        """Whether as many tokens were timed as if most of those that are doubted were in service."""
        served = (page.itl[0] - before.itl[0]) / seconds
        in_gauge, half = 0.5 * (before.running + page.running), 0.5 * self.doubted
        others = max(in_gauge - self.doubted, 0.0)
        return served > 0 and served >= in_gauge - half + min(math.sqrt(others), half)

    def _note_untimed(
        self, before: PodMetrics, page: PodMetrics, *, ended: float, seconds: float, batch: float
    ) -> None:
        """Compare pages without times to first token: many more in service soon show in those that end.

        Those that waited before, and those whose prompts are counted as they come, are in service at once.
        """
        came = max(page.prompt_tokens[1] - before.prompt_tokens[1] - ended, 0.0)
        came += max(before.waiting - page.waiting, 0.0)
        self._begun += ended - self._ended_rps * seconds + came
        if self._begun >= _ENDED * self.doubted:
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


@dataclass(slots=True)
class Admissions:
    """Requests that are in gauges alone, where a server counts prompts as they come.

    Attributes:
        left: Those in the queue's gauge.
        idle: Those in the other one.

    """

    left: float = 0.0
    idle: float = 0.0
    _beyond: float = 0.0
    _pages: int = 0

    def note(self, before: PodMetrics, page: PodMetrics) -> bool:
        """Compare a page with the one before it; whether its prompts say how many there can be.

        A server that counts lengths of prompts as requests end shows no more of them than ended.
        """
        came = page.prompt_tokens[1] - before.prompt_tokens[1]
        ended = page.finished - before.finished
        if page.ttft[1] > 0 or came < 0 or ended < 0:
            self._beyond = self.left = self.idle = 0.0
            self._pages = 0
            return False
        more = page.stock - before.stock + ended - came
        known = self._pages >= _AGREED
        if not known:
            under_way = page.prompt_tokens[1] - page.generation_tokens[1]
            agrees = under_way >= max(page.stock - _FEW, 0.5 * page.stock)
            if page.stock > 0 and page.generation_tokens[1] > 0:
                self._pages = self._pages + 1 if agrees else 0
            return False
        if self._beyond or more > _FEW:
            self._beyond = max(self._beyond + more, 0.0)
        self._beyond = min(self._beyond, page.stock)
        self.left = min(self._beyond, page.waiting)
        self.idle = self._beyond - self.left
        return True

    @property
    def note_text(self) -> str:
        """What is not counted; empty for nothing."""
        return UNCOUNTED.format(number=self._beyond) if self._beyond else ""

"""Requests that are in gauges alone, of servers that count prompts as they come, as TGI does.

Requests are conserved: all that run, wait or have ended are no more than the prompts that came. Those whose
prompt is computed are in neither of TGI's gauges, and those whose clients went away never end: prompts may be
more than these.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from adapter.collector.model_servers import PodMetrics

_FEW = 2.0
"""Requests between two lines of a page."""

_AGREED = 3
"""Pages with requests after which it is known that prompts are counted as they come."""

_UNSEEN_PAGES = 40
"""Pages on one of which no prompt is computed: TGI has those in prefill in neither gauge, dozens at once."""

UNCOUNTED = (
    "{number:.0f} requests in service or in the queue are not counted: as many prompts did not come (the"
    " gauge jumped; a restart of the pod clears it where it stays)"
)


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
    _unseen: deque[float] = field(default_factory=lambda: deque(maxlen=_UNSEEN_PAGES))

    def note(self, before: PodMetrics, page: PodMetrics) -> bool:
        """Compare a page with the one before it; whether its prompts say how many there can be.

        A server that counts lengths of prompts as requests end shows no more of them than ended. What came,
        has not ended and is in neither gauge is in prefill, or was given up: gauges are too high where it is
        less than on all of the last pages.
        """
        came = page.prompt_tokens[1] - before.prompt_tokens[1]
        ended = page.finished - before.finished
        if page.ttft[1] > 0 or came < 0 or ended < 0:
            self._beyond = self.left = self.idle = 0.0
            self._pages = 0
            self._unseen.clear()
            return False
        unseen = page.prompt_tokens[1] - page.finished - page.stock
        known = self._pages >= _AGREED
        if not known:
            under_way = page.prompt_tokens[1] - page.generation_tokens[1]
            agrees = under_way >= max(page.stock - _FEW, 0.5 * page.stock)
            if page.stock > 0 and page.generation_tokens[1] > 0:
                self._pages = self._pages + 1 if agrees else 0
            self._unseen.append(unseen)
            return False
        beyond = min(max(min(self._unseen) - unseen, 0.0), page.stock)
        self._beyond = beyond if self._beyond or beyond > _FEW else 0.0
        self._unseen.append(unseen + self._beyond)
        self.left = min(self._beyond, page.waiting)
        self.idle = self._beyond - self.left
        return True

    @property
    def note_text(self) -> str:
        """What is not counted; empty for nothing."""
        return UNCOUNTED.format(number=self._beyond) if self._beyond else ""

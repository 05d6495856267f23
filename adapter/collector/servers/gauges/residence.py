"""How long requests take at one address, by what its pages count, and what that contradicts.

Servers that show no inter-token latencies do not say for how long requests were served between two pages. By
Little's law their gauge of running requests and their counts do: requests in service on average, divided by
the rate at which requests end, is the time that each takes. With it a count that grows by more than a server
can have served is seen, and one that stands still though many should have ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.consistency import COUNTERS, MORE

_KEPT, _KEPT_IN_DOUBT = 0.95, 0.9
"""Shares of what was learned that count after another page: one that is learned from, and one that is not.

What all later pages contradict is forgotten within some minutes, as requests may have become other ones."""

_MOST_IN_DOUBT = 100.0
"""Requests that count as learned from when a page contradicts them; more would be held for longer."""

_LEAST = 10.0
"""Requests that ended before their time in service is known well enough."""

_SHOULD_HAVE_ENDED, _LONG = 5.0, 16.0
"""Requests that should have ended of which none did, seen by chance once in 150 pages; and the number in
service at which twice as many should have: a few may all be much longer than usual."""

_TAKES_UP = 2
"""Pages in a row on which more are in service, as prompts are taken up one after another: a jump is one."""

_CHANCE, _FEW = 3.0, 3.0
"""Standard deviations of requests that end up to which more are chance, and a few more."""

_TIMED_SHARE = 0.8
"""Share of the tokens of requests that ended from which on a server times all."""

_FASTEST_TOKENS, _TIMES_LONGER = 2000.0, 20.0
"""Tokens per second that no request gets, and times the usual length from which they are looked at."""

_TIMES_SERVED = 100.0
"""Times those that ended which may be turned away though nothing waits, and `MORE`: a queue fills and empties
within seconds."""

_FAST = (
    "it counts {tokens:.0f} output tokens per second for each request in service, which no engine generates:"
    " is the unit right?"
)
_TURNED_AWAY = (
    "it counts {rejected:.0f} requests turned away though none waits and there is room in the batch"
)


@dataclass(slots=True)
class Residence:
    """What the pages of one address say of the time that its requests take.

    Attributes:
        silent_pages: Pages in a row on which no counter grew.
        timed: Whether the server has timed the tokens of all requests: some time those that stream alone.
        turns_away: Whether requests were turned away between its last two pages.

    """

    silent_pages: int = 0
    timed: bool = False
    turns_away: bool = False
    _in_service: float = 0.0
    _requests: float = 0.0
    _seconds: float = 0.0
    _uncounted_seconds: float = 0.0
    _tokens: float = 0.0
    _mean: float = 0.0
    _silent: float = 0.0
    _still: float = 0.0
    _now: float = 0.0
    _rises: int = 0

    def note(
        self, before: PodMetrics, page: PodMetrics, *, seconds: float, idle: float = 0.0
    ) -> None:
        """Learn from a page that follows another one; `idle` requests of its gauge are not in service."""
        counted = any(getattr(before, name) != getattr(page, name) for name in COUNTERS)
        self.silent_pages = 0 if counted else self.silent_pages + 1
        self._now = max(min(before.running, page.running) - idle, 0.0)
        in_service = self._now * seconds
        self._silent = 0.0 if counted else self._silent + in_service
        # Where the KV cache fills, tokens come of requests that do not end yet; TGI takes up one prompt after
        # another. A server that counts no tokens at all may show requests as running that it does not serve.
        rises = page.running > before.running and page.generation_tokens[1] > 0
        self._rises = self._rises + 1 if rises else 0
        moved = counted or self._rises >= _TAKES_UP or before.kv_cache != page.kv_cache
        self._still = 0.0 if moved else self._still + in_service
        ended, tokens = _grown(before, page)
        self._uncounted_seconds += seconds
        if not counted or ended <= 0:
            return
        self._seconds = _KEPT * self._seconds + self._uncounted_seconds
        self._uncounted_seconds = 0.0
        self._in_service = _KEPT * self._in_service + in_service
        self._requests = _KEPT * self._requests + ended
        self._tokens = _KEPT * self._tokens + tokens
        self._mean = self._tokens / self._requests
        with_time = page.itl[1] + page.ttft[1]
        if page.finished >= _LEAST and with_time >= _TIMED_SHARE * page.generation_tokens[0]:
            self.timed = True

    def doubt(self) -> None:
        """Note a page that cannot be learned from; busy servers are not doubted for longer than others."""
        share = _KEPT_IN_DOUBT * min(1.0, _MOST_IN_DOUBT / max(self._requests, 1.0))
        self._in_service *= share
        self._requests *= share
        self._seconds *= share
        self._tokens *= share

    def implied(self, before: PodMetrics, page: PodMetrics, *, seconds: float) -> float:
        """Requests that must have been in service on average for the counts to grow by so much.

        By their number or their tokens, whichever needs fewer: lengths change. 0 where inter-token latencies
        say it better, or too little is known yet.
        """
        if page.itl[1] > 0 or self._requests < _LEAST or seconds <= 0:
            return 0.0
        ended, tokens = _grown(before, page)
        # Those that waited for long prompts of others end together after these.
        seconds += self._uncounted_seconds
        share = ended / self._requests
        if tokens > 0 and self._tokens > 0:
            share = min(share, tokens / self._tokens)
        return share * self._in_service / seconds

    def unusual(self, ended: float, *, seconds: float) -> bool:
        """Whether more requests ended in that time than usually do; False while that is not known."""
        if self._requests < _LEAST or self._seconds <= 0:
            return False
        usual = self._requests / self._seconds * seconds
        return ended > usual + _CHANCE * math.sqrt(usual) + _FEW

    def too_fast(self, before: PodMetrics, page: PodMetrics, *, seconds: float) -> str:
        """Why requests cannot have got so many tokens in the time that they were served; empty if they can.

        Where inter-token latencies say it better, nothing is said. A batch of long requests may end at once,
        so what was in service over all that is known counts.
        """
        ended, tokens = _grown(before, page)
        longer = tokens > _TIMES_LONGER * self._mean * max(ended, 1.0) > 0
        if page.itl[1] > 0 or not longer or seconds <= 0:
            return ""
        # Those that came and ended between two pages are in no gauge.
        now = max(before.running, page.running, ended, 1.0)
        served = self._in_service + self._silent + now * seconds
        speed = (self._tokens + tokens) / served
        return _FAST.format(tokens=speed) if speed > _FASTEST_TOKENS else ""

    def turned_away(self, before: PodMetrics, page: PodMetrics, *, batch: float) -> str:
        """Why many cannot have been turned away; empty if they can, asked once a page.

        A limit below the batch is reached by more in service, and goes on turning requests away. `batch`:
        largest batch that a profile has; 0 without one.
        """
        rejected = (page.rejected or 0.0) - (before.rejected or 0.0)
        goes_on, self.turns_away = self.turns_away, rejected > 0
        ended, _ = _grown(before, page)
        empty = before.waiting == page.waiting == 0 and before.running < batch
        as_before = empty and page.running <= before.running and not goes_on
        if as_before and rejected > _TIMES_SERVED * ended + MORE:
            return _TURNED_AWAY.format(rejected=rejected)
        return ""

    @property
    def stands_still(self) -> bool:
        """Whether some requests should have ended since a counter last grew: its queue is doubtful."""
        return self._should_have_ended >= _SHOULD_HAVE_ENDED

    @property
    def hangs(self) -> bool:
        """Whether so many should have that the server hangs."""
        return self._should_have_ended >= _SHOULD_HAVE_ENDED * (1.0 + _LONG / max(self._now, 1.0))

    @property
    def _should_have_ended(self) -> float:
        if self._requests < _LEAST or self._in_service <= 0:
            return 0.0
        return self._still * self._requests / self._in_service


def _grown(before: PodMetrics, page: PodMetrics) -> tuple[float, float]:
    """Requests that ended between two pages, and their tokens; 0 for what fell."""
    tokens = page.generation_tokens[0] - before.generation_tokens[0]
    return max(page.finished - before.finished, 0.0), max(tokens, 0.0)

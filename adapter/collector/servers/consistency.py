"""Whether the counters of one page can follow from those of the page before it, compared with each other.

Servers that show no inter-token latencies do not say for how long requests were served between two pages. By
Little's law their gauge of running requests and their counts do: requests in service on average, divided by
the rate at which requests end, is the time that each takes. With it a count that grows by more than a server
can have served is seen, and one that stands still though many should have ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapter.collector.model_servers import PodMetrics

TIMES_FINISHED, MORE = 4.0, 30.0
"""First tokens that are more than this many times those that ended, and as many more, are not requests whose
clients went away."""

_ROUNDING = 1e-9
"""Share of a sum within which it is the same: Prometheus adds up the series of a pod in any order."""

_SUMS = {
    "prompt_tokens": "input tokens",
    "generation_tokens": "output tokens",
    "ttft": "times to first token",
    "itl": "inter-token latencies",
}

_APART_SHARE, _STEPS = 0.02, 8.0
"""Tokens that may have a time and not be counted yet: share of those of a page that several processes write,
and number beside one of each request in service."""

_KEPT, _KEPT_IN_DOUBT = 0.95, 0.9
"""Shares of what was learned that count after another page: one that is learned from, and one that is not.

What all later pages contradict is forgotten within some minutes, as requests may have become other ones."""

_MOST_IN_DOUBT = 100.0
"""Requests that count as learned from when a page contradicts them; more would be held for longer."""

_LEAST = 10.0
"""Requests that ended before their time in service is known well enough."""

_SHOULD_HAVE_ENDED = 5.0
"""Requests that should have ended of which none did: by chance that is seen once in 150 pages."""

_LONG = 16.0
"""Number in service at which twice as many should have ended: a few may all be much longer than usual."""

_COUNTERS = ("finished", "ttft", "itl", "generated", "generation_tokens")

AHEAD = "it counts {begun:.0f} first tokens for {ended:.0f} requests that ended: one of the two is wrong"
_LENGTHS = (
    "it has lengths of {measured:.0f} requests where {ended:.0f} ended: one of the two is wrong"
)
_TOKENS = "it has times of {counted:.0f} tokens where {generated:.0f} were generated: one of the two is wrong"
_BEHIND = "it counts {ended:.0f} requests that ended for {begun:.0f} first tokens: one of the two is wrong"
_SUM_FELL = "its sum of {what} fell though its process did not start anew"


def problem(before: PodMetrics, after: PodMetrics) -> str:
    """What contradicts on two pages of one process; empty for nothing.

    More requests ended than began or ran, many more began than ended or run, or a sum fell and its count did
    not.
    """
    for name, what in _SUMS.items():
        (total, count), (was, number) = getattr(after, name), getattr(before, name)
        if count >= number and total < was * (1.0 - _ROUNDING):
            return _SUM_FELL.format(what=what)
    begun = after.ttft[1] - before.ttft[1]
    ended = after.finished - before.finished
    measured = after.generation_tokens[1] - before.generation_tokens[1]
    if measured > TIMES_FINISHED * max(ended, 0.0) + MORE:
        return _LENGTHS.format(measured=measured, ended=ended)
    if after.ttft[1] <= 0 and before.ttft[1] <= 0:
        counted = min(before.generation_tokens[1], measured) > 0
        beyond = counted and ended > TIMES_FINISHED * measured + MORE
        return _LENGTHS.format(measured=measured, ended=ended) if beyond else ""
    served = max(ended, 0.0) + max(after.running - before.running, 0.0)
    if begun > TIMES_FINISHED * served + MORE:
        return AHEAD.format(begun=begun, ended=ended)
    if ended > TIMES_FINISHED * max(begun, 0.0) + before.stock + MORE:
        return _BEHIND.format(begun=begun, ended=ended)
    return _more_than_generated(before, after)


def _more_than_generated(before: PodMetrics, after: PodMetrics) -> str:
    """Whether more tokens had a time than were generated; empty where that is not so, or not known.

    Each first token and each gap to a next one is of one token; steps that verify drafts have fewer. Servers
    of embeddings generate none, and have a time to the first.
    """
    generated = (after.generated or 0.0) - (before.generated or 0.0)
    if before.generated is None or after.generated is None or generated <= 0:
        return ""
    # A server that runs requests and has generated no more than ended ones got counts tokens as requests end,
    # which llm-d-inference-sim does, and times them as they come.
    if after.running > 0 and after.generated <= after.generation_tokens[0]:
        return ""
    counted = sum(
        max(of[1] - was[1], 0.0) for of, was in ((after.ttft, before.ttft), (after.itl, before.itl))
    )
    # Where several processes write a page, it has no start of one, and its parts are of different moments.
    share = _APART_SHARE if after.started_at is None else 0.0
    if counted > (1.0 + share) * generated + before.running + after.running + _STEPS:
        return _TOKENS.format(counted=counted, generated=generated)
    return ""


@dataclass(slots=True)
class Residence:
    """What the pages of one address say of the time that its requests take.

    Attributes:
        silent_pages: Pages in a row on which no counter grew.

    """

    silent_pages: int = 0
    _in_service: float = 0.0
    _requests: float = 0.0
    _tokens: float = 0.0
    _silent: float = 0.0
    _now: float = 0.0

    def note(
        self, before: PodMetrics, page: PodMetrics, *, seconds: float, idle: float = 0.0
    ) -> None:
        """Learn from a page that follows another one; `idle` requests of its gauge are not in service."""
        counted = any(getattr(before, name) != getattr(page, name) for name in _COUNTERS)
        self.silent_pages = 0 if counted else self.silent_pages + 1
        self._now = max(min(before.running, page.running) - idle, 0.0)
        in_service = self._now * seconds
        self._silent = 0.0 if counted else self._silent + in_service
        ended, tokens = _grown(before, page)
        if not counted or ended <= 0:
            return
        self._in_service = _KEPT * self._in_service + in_service
        self._requests = _KEPT * self._requests + ended
        self._tokens = _KEPT * self._tokens + tokens

    def doubt(self) -> None:
        """Note a page that cannot be learned from; busy servers are not doubted for longer than others."""
        share = _KEPT_IN_DOUBT * min(1.0, _MOST_IN_DOUBT / max(self._requests, 1.0))
        self._in_service *= share
        self._requests *= share
        self._tokens *= share

    def implied(self, before: PodMetrics, page: PodMetrics, *, seconds: float) -> float:
        """Requests that must have been in service on average for the counts to grow by so much.

        By their number or their tokens, whichever needs fewer: lengths change. 0 where inter-token latencies
        say it better, or too little is known yet.
        """
        if page.itl[1] > 0 or self._requests < _LEAST or seconds <= 0:
            return 0.0
        ended, tokens = _grown(before, page)
        share = ended / self._requests
        if tokens > 0 and self._tokens > 0:
            share = min(share, tokens / self._tokens)
        return share * self._in_service / seconds

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
        return self._silent * self._requests / self._in_service


def _grown(before: PodMetrics, page: PodMetrics) -> tuple[float, float]:
    """Requests that ended between two pages, and their tokens; 0 for what fell."""
    tokens = page.generation_tokens[0] - before.generation_tokens[0]
    return max(page.finished - before.finished, 0.0), max(tokens, 0.0)

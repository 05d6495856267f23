"""How many requests came to a server, by all that its page counts of them over some time.

Requests that ended, and those that are there, are all that came but those whose clients went away: servers
do not count these as ended, though most had a first token. So first tokens are a second count. Where it is
ahead, the requests between the two had tokens of their own, beside those of requests that ended; as many
count as these tokens say. Requests that ended count no further than any other count of them: lengths, first
tokens or prompts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from adapter.collector.windows.growth import Growth

MOST_REJECTED = 2.0
"""Rejected requests that count as demand, per admitted one: who is turned away comes again, and more
often the fewer are admitted. With more replicas more are admitted, so that more may count."""

_USUAL_PART = 0.25
"""Part of the tokens of a usual request from which on one that was given up counts whole."""

_FEW = 3.0
"""Requests that ended, from which on most of their tokens are of the same time."""

_BETWEEN = 2.0
"""Requests that are counted between two lines of a page."""

_UNTIMED = 0.1
"""Share of the tokens of requests that ended from which on they are not all timed, so that nothing is known
of others: some servers time those that stream alone."""


class Counts(NamedTuple):
    """What was counted of requests; amounts may be negative, where gauges fell.

    Attributes:
        arrivals: Requests that came, by those that ended and those that are there.
        begun: The same by first tokens and the queue.
        rejected: Requests that were turned away.
        ended: Requests that ended with their tokens known.
        ended_tokens: Output tokens of these.
        tokens: Output tokens of all requests; NaN where they are not counted as they come.
        alone: Requests that ended beyond all other counts of them.

    """

    arrivals: float = 0.0
    begun: float = 0.0
    rejected: float = 0.0
    ended: float = 0.0
    ended_tokens: float = 0.0
    tokens: float = 0.0
    alone: float = 0.0

    def plus(self, growth: Growth, share: float = 1.0) -> Counts:
        """These and a part of what a pod counted."""
        tokens, ended = growth.generation_tokens
        return Counts(
            self.arrivals + share * growth.arrivals,
            self.begun + share * growth.begun,
            self.rejected + share * growth.rejected,
            self.ended + share * ended,
            self.ended_tokens + share * tokens,
            self.tokens + share * _tokens(growth),
            self.alone + share * growth.alone,
        )

    @property
    def any(self) -> bool:
        """Whether there is any of them."""
        return bool(self.arrivals or self.begun or self.rejected)

    @property
    def offered(self) -> float:
        """Requests that came: those that were admitted, and those turned away."""
        arrivals = self.arrivals - max(self.alone - _BETWEEN, 0.0)
        return offered(max(arrivals, min(self.begun, arrivals + self._given_up)), self.rejected)

    @property
    def _given_up(self) -> float:
        """Most requests whose clients went away, by their tokens; infinite where these are not known."""
        if self.ended <= 0 or self.ended_tokens <= 0 or math.isnan(self.tokens):
            return math.inf
        of_others = self.tokens - self.ended_tokens
        # Few that end had their tokens before.
        if of_others < -_UNTIMED * self.ended_tokens and self.ended >= _FEW:
            return math.inf
        return max(of_others, 0.0) / (_USUAL_PART * self.ended_tokens / self.ended)


def offered(admitted: float, rejected: float) -> float:
    """Requests that came: those that were admitted, and those turned away as far as they count."""
    admitted = max(admitted, 0.0)
    return admitted + min(rejected, MOST_REJECTED * admitted)


def _tokens(growth: Growth) -> float:
    """Output tokens of all requests, those under way included; NaN where they are not counted."""
    if growth.generated is not None:
        return growth.generated
    # First tokens of requests that ended: whether the count of all first tokens is right is the question.
    return growth.itl[1] + growth.generation_tokens[1] if growth.itl[1] > 0 else math.nan

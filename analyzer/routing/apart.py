"""Replicas behind a load-aware gateway that are so many that requests seldom meet.

Such a gateway sends a request to a replica that has none, while there is one: requests are then computed
alone, whatever a replica could do with several. Long prompts and short answers need that: a prompt of
another request takes many times what the answer does. How many replicas it takes is a question of how many
requests are there at once, and not of what one replica carries among random arrivals.

With a requests at once in the mean (rate x time alone, Little's law), N replicas are all taken for the
share P(K >= N) of the arrivals, K Poisson with mean a: exact where requests never wait, whatever the
distribution of their times. Bursts of a dispersion z count as P(K / z >= N / z) with mean a / z (Hayward's
approximation, as in Fredericks, Bell System Technical Journal 59, 1980). A request meets another when it
arrives at N that are taken, or when another one does and joins it: `MEETINGS` times as often at most.
"""

from __future__ import annotations

import math

MEETINGS = 2.0
"""Requests that meet another for each arrival that finds no empty replica: both of them."""

MOST_AT_ONCE = 500.0
"""Requests at once up to which replicas for each of them are considered."""


def replicas_apart(at_once: float, share: float, *, dispersion: float = 1.0) -> int | None:
    """Fewest replicas at which at most this share of the requests meets another; None for no number.

    Args:
        at_once: Requests in service at once, a mean, of computing each alone.
        share: Share of the requests that may meet another, >= 0.
        dispersion: Variance of the number of arrivals over its mean; less than 1 counts as 1.

    """
    if not (share > 0 and 0 <= at_once <= MOST_AT_ONCE):
        return None
    spread = max(dispersion, 1.0)
    mean, most = at_once / spread, share / MEETINGS
    # P(K >= n) for n = 0, 1, ...: what is left of the distribution.
    left, chance, number = 1.0, math.exp(-mean), 0
    while left > most:
        left -= chance
        number += 1
        chance *= mean / number
        if number > mean and chance <= 0.0:
            break
    return max(math.ceil(number * spread), 1)

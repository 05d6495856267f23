"""Rates at which requests arrive, from the growth of pods' counters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from adapter.collector.windows.counts import Counts
from adapter.collector.windows.growth import Growth, Sample


def rate(
    items: Iterable[Growth],
    start: float,
    latest: Mapping[str, Sample],
    origins: Mapping[str, float],
    *,
    until: float = -math.inf,
) -> float:
    """Requests per second after `start`, of all pods together.

    Each pod's arrivals are divided by the time that its own samples cover, since pods are not sampled at
    one moment; those of a departed pod by the whole window, since its requests then went to the others: until
    the last sample of these, at `until` where they are another variant's.
    """
    counts, ends = dict[str, Counts](), dict[str, float]()
    for item in items:
        before = counts.get(item.endpoint) or Counts()
        counts[item.endpoint] = before.plus(item, item.share_after(start))
        ends[item.endpoint] = item.at
    last = max(until, max(ends.values(), default=start))
    total = 0.0
    for endpoint, all_counts in counts.items():
        end = ends[endpoint] if endpoint in latest else last
        span = end - max(origins.get(endpoint, start), start)
        total += all_counts.offered / span if span > 0 else 0.0
    return total

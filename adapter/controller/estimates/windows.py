"""Windows of traffic that profiles are learned from: those whose load and latencies belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapter.collector.traffic import Traffic

MOVED_SHARE, MOVED_ERRORS = 0.3, 3.0
"""Change of the rate within a window, as a share and in standard errors, that makes it no observation."""

MIXED = 0.5
"""Standard deviation of the inter-token latencies in the parts of a window, over their mean, that makes it no
observation: latencies rise faster than loads, so that the mean of both belongs to neither."""

FULL_CACHE = 0.95
"""Share of the KV cache in use from which the next request may have to wait for room."""


def steady(traffic: Traffic, window: float) -> bool:
    """Whether rate and latencies of a window (seconds) belong together.

    Where the rate has just changed, the window's mean rate is not the one that its latencies come from; nor
    is it where a burst came and went.
    """
    if _variation(traffic.itl_samples) > MIXED:
        return False
    requests = traffic.arrival_rate_rps * window
    if requests <= 0 or not traffic.recent:
        return True
    seconds, rate = traffic.recent[0]
    expected = traffic.arrival_rate_rps * seconds
    largest = max(MOVED_SHARE * expected, MOVED_ERRORS * math.sqrt(expected))
    return abs(rate * seconds - expected) <= largest


def cache_was_full(traffic: Traffic) -> bool:
    """Whether a KV cache is or was full within the long window, so that first tokens waited for room.

    The queue does not tell: it may have been worked off, and the mean TTFT of the window still has it.
    """
    return bool(traffic.preemptions_rps) or (traffic.kv_cache or 0.0) >= FULL_CACHE


def _variation(samples: Sequence[tuple[float, float]]) -> float:
    """Coefficient of variation of latencies with their numbers of tokens; 0 without any."""
    tokens = sum(count for _, count in samples)
    mean = sum(latency * count for latency, count in samples) / tokens if tokens > 0 else 0.0
    if mean <= 0:
        return 0.0
    square = sum((latency - mean) ** 2 * count for latency, count in samples) / tokens
    return math.sqrt(square) / mean

"""Windows of traffic that profiles are learned from: those whose load and latencies belong together."""

from __future__ import annotations

import math

from adapter.collector.traffic import Traffic

MOVED_SHARE, MOVED_ERRORS = 0.3, 3.0
"""Change of the rate within a window, as a share and in standard errors, that makes it no observation."""

FULL_CACHE = 0.95
"""Share of the KV cache in use from which the next request may have to wait for room."""


def steady(traffic: Traffic, window: float) -> bool:
    """Whether rate and latencies of a window (seconds) belong together.

    Where the rate has just changed, the window's mean rate is not the one that its latencies come from.
    """
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

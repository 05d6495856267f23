"""Windows of traffic that profiles are learned from: those whose load and latencies belong together."""

from __future__ import annotations

import math

from adapter.collector.traffic import Traffic

MOVED_SHARE, MOVED_ERRORS = 0.3, 3.0
"""Change of the rate within a window, as a share and in standard errors, that makes it no observation."""


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

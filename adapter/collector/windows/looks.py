"""Counts of arrivals between looks at a variant's pods, and how irregular they are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from adapter.collector.windows.counts import Counts
from adapter.collector.windows.growth import Growth

PAIRS = 8
"""Pairs of windows from which their dispersion can be told."""

OUTLIERS = 0.1
"""Share of the pairs that count no more than the largest of the others: where the rate itself rises or falls,
windows differ by more than the dispersion."""

SAME_LOOK = 0.5
"""Share of a window's length within which the samples of several pods are one look."""


class _Window(NamedTuple):
    seconds: float
    arrivals: float


def dispersion(growths: Iterable[Growth], seconds: float, *, until: float) -> float | None:
    """Variance of the arrivals in windows of some seconds over their mean; 1 for Poisson arrivals.

    Neighbouring windows are compared, so that the rate may change slowly: with a and b Poisson arrivals in
    windows of s and t seconds, (a t - b s)^2 / (s t (a + b)) is 1 on average at any rate. Arrivals that a
    client or a time stamp gathers every few seconds are irregular at that scale only, which says nothing of
    longer windows, nor the reverse.

    Args:
        growths: Growth of the pods' counters, the oldest first.
        seconds: Length of the windows; no less than the time between two looks counts.
        until: End of the last window, monotonic seconds.

    Returns:
        None while there are fewer than `PAIRS` pairs of windows with arrivals.

    """
    seen = sorted(
        _irregularity(first, second)
        for first, second in pairwise(_windows(growths, seconds, until))
        if first.arrivals + second.arrivals > 0
    )
    if len(seen) < PAIRS:
        return None
    regular = seen[: len(seen) - int(OUTLIERS * len(seen))]
    return (sum(regular) + (len(seen) - len(regular)) * regular[-1]) / len(seen)


def _irregularity(first: _Window, second: _Window) -> float:
    difference = first.arrivals * second.seconds - second.arrivals * first.seconds
    both = first.arrivals + second.arrivals
    return difference * difference / (first.seconds * second.seconds * both)


def _windows(growths: Iterable[Growth], seconds: float, until: float) -> list[_Window]:
    """Arrivals in consecutive windows of that many seconds, each of whole looks."""
    windows: list[_Window] = []
    begun, last_at, counts = None, -1.0, Counts()
    for item in growths:
        if item.at > until:
            break
        if begun is None:
            begun = last_at = item.since
        new_look = item.at - last_at > SAME_LOOK * seconds
        if new_look and last_at - begun > (1.0 - 0.5 * SAME_LOOK) * seconds:
            windows.append(_Window(last_at - begun, counts.offered))
            begun, counts = last_at, Counts()
        if new_look:
            last_at = item.at
        counts = counts.plus(item)
    return windows

"""Moments of the lengths of requests, from the buckets of a server's histograms."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from adapter.collector.model_servers import Labels, Moments, SumCount
from adapter.collector.servers.totals import LARGEST

_LENGTHS_COUNT = 10
"""Least number of finished requests from which a variation of lengths is taken."""


def moments(samples: Iterable[tuple[str, Labels, float]], names: tuple[str, ...]) -> Moments | None:
    """Moments of one pod's histogram, summed over its engines; None without a usable one.

    Args:
        samples: Buckets of all histograms.
        names: Names of the wanted one's buckets, the newest first.

    """
    cumulative: dict[str, dict[float, float]] = {}
    for name, labels, value in samples:
        if name in names:
            try:
                bound = float(labels.get("le", ""))
            except ValueError:
                return None
            if not (math.isfinite(value) and 0 <= value <= LARGEST) or math.isnan(bound):
                return None
            bound = bound if bound <= LARGEST else math.inf
            bounds = cumulative.setdefault(name, {})
            bounds[bound] = bounds.get(bound, 0.0) + value
    chosen = next((cumulative[name] for name in names if name in cumulative), None)
    if chosen is None:
        return None
    total = squares = count = lower = 0.0
    for bound, below in sorted(chosen.items()):
        inside = below - count
        if inside < 0:
            return None  # counts up to a bound only grow with it
        if inside > 0:
            mean, square = _within(lower, bound)
            total += inside * mean
            squares += inside * square
            count = below
        lower = bound
    return total, squares, count


@lru_cache(maxsize=4096)
def _within(lower: float, upper: float) -> SumCount:
    """Mean of what is in one bucket, and the mean square to add up for the variance of the whole.

    Lengths within a bucket are taken as uniform by their logarithm, because bounds grow by factors; within
    the first one as uniform, and beyond the last bound as that bound. Grouping widens a smooth distribution
    once and spreading over the bucket again, each by the same factor (Sheppard's correction, by logarithms):
    both are taken off the mean square. Requests that are all in one bucket so have no variance.
    """
    if math.isinf(upper):
        return lower, lower * lower
    if upper <= 1:
        return upper, upper * upper
    if lower <= 0:
        mean, square = upper / 2.0, upper * upper / 3.0
    else:
        ratio = max(math.log(upper / lower), 1e-16)  # neighbouring numbers have no quotient
        mean = (upper - lower) / ratio
        square = (upper * upper - lower * lower) / (2.0 * ratio)
    return mean, mean**4 / square


def moments_growth(before: Moments | None, after: Moments | None) -> Moments:
    """Growth of moments; none where one of the two samples has no histogram, as those of Prometheus."""
    if before is None or after is None:
        return (0.0, 0.0, 0.0)
    if after[2] < before[2]:
        return after
    return (after[0] - before[0], after[1] - before[1], after[2] - before[2])


def variation(growths: Iterable[Moments]) -> float | None:
    """Coefficient of variation of the lengths of requests; None for too few."""
    total = squares = count = 0.0
    for growth in growths:
        total += growth[0]
        squares += growth[1]
        count += growth[2]
    if count < _LENGTHS_COUNT or total <= 0:
        return None
    return math.sqrt(max(count * squares / (total * total) - 1.0, 0.0))

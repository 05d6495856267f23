"""Moments of the lengths of requests, from the buckets of a server's histograms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from adapter.collector.model_servers import Labels, SumCount
from adapter.collector.servers.totals import LARGEST, NO_SHORT, Moments
from analyzer.step_times import SHORT_BOUNDS

_LENGTHS_COUNT = 10
"""Least number of finished requests from which a variation of lengths is taken."""

_SHORT_COUNT = 100
"""The same for shares of short ones, of which few requests have none or too many."""

_FINE = 10.0
"""Bound that the first buckets must reach down to, to tell short requests."""


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
    return Moments(total, squares, count, _short(chosen, count))


def _short(below: Mapping[float, float], count: float) -> tuple[float, ...]:
    """Requests of at most `SHORT_BOUNDS` tokens, by counts up to bounds; zeros where bounds are coarse.

    Between two bounds, lengths are uniform by their logarithm, the first ones from a half on.
    """
    bounds = sorted(bound for bound in below if bound > 0.0)
    if not bounds or bounds[0] > _FINE or count <= 0:
        return NO_SHORT
    logs = [math.log(0.5), *(math.log(bound) for bound in bounds if math.isfinite(bound))]
    counts = [0.0, *(below[bound] for bound in bounds if math.isfinite(bound))]
    return tuple(float(np.interp(math.log(most), logs, counts)) for most in SHORT_BOUNDS)


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
        return Moments(0.0, 0.0, 0.0)
    if after.count < before.count:
        return after
    return Moments(
        after.total - before.total,
        after.squares - before.squares,
        after.count - before.count,
        tuple(now - then for now, then in zip(after.short, before.short, strict=True)),
    )


def variation(growths: Iterable[Moments]) -> float | None:
    """Coefficient of variation of the lengths of requests; None for too few."""
    total = squares = count = 0.0
    for growth in growths:
        total += growth.total
        squares += growth.squares
        count += growth.count
    if count < _LENGTHS_COUNT or total <= 0:
        return None
    return math.sqrt(max(count * squares / (total * total) - 1.0, 0.0))


def short_shares(growths: Iterable[Moments]) -> tuple[float, ...]:
    """Shares of requests of at most `SHORT_BOUNDS` tokens; empty for too few requests or coarse buckets."""
    count, short = 0.0, [0.0] * len(SHORT_BOUNDS)
    for growth in growths:
        count += growth.count
        short = [known + more for known, more in zip(short, growth.short, strict=True)]
    if count < _SHORT_COUNT or not short[-1] > 0.0:
        return ()
    shares, least = [], 0.0
    for number in short:
        # Estimates of Prometheus are extrapolated bucket by bucket.
        least = min(max(number / count, least), 1.0)
        shares.append(least)
    return tuple(shares)

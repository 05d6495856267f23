"""Histograms of latencies: quantiles and shares below a bound, values taken as uniform within a bucket."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul, sub

import numpy as np


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many observations are in which bucket.

    Attributes:
        bounds: Finite upper bounds of the buckets in seconds, ascending; the first bucket begins at 0.
        counts: Observations in each bucket, those beyond the last bound at the end.

    """

    bounds: tuple[float, ...]
    counts: array[float]

    @property
    def count(self) -> float:
        """Observations in all."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Value in seconds that this share of the observations does not exceed; None without any.

        Beyond the last bound it is that bound: more is not known.
        """
        count = self.count
        if count <= 0:
            return None
        rank, counts, bounds = share * count, self.counts, self.bounds
        sums = list(accumulate(counts))
        place = bisect_left(sums, rank)
        while place < len(bounds) and counts[place] <= 0:
            place += 1
        if place >= len(bounds):
            return bounds[-1]
        below, lower = (sums[place - 1], bounds[place - 1]) if place else (0.0, 0.0)
        part = max(rank - below, 0.0) / counts[place]
        return min(lower + (bounds[place] - lower) * part, bounds[place])

    def within(self, seconds: float) -> float | None:
        """Share of the observations of at most that many seconds, 0 to 1; None without any.

        What is beyond the last bound counts as longer, whatever the number of seconds.
        """
        count = self.count
        return min(self.below(seconds) / count, 1.0) if count > 0 else None

    def below(self, seconds: float) -> float:
        """Observations of at most that many seconds."""
        place = bisect_left(self.bounds, seconds)
        whole = sum(self.counts[:place])
        if place == len(self.bounds):
            return whole
        lower = self.bounds[place - 1] if place else 0.0
        return whole + self.counts[place] * max(seconds - lower, 0.0) / (self.bounds[place] - lower)

    def beyond(self, seconds: float) -> float:
        """Observations in buckets that begin at that many seconds or later: they were longer for certain."""
        return sum(self.counts[bisect_left(self.bounds, seconds) + 1 :])

    @property
    def least_mean(self) -> float:
        """Seconds that the mean is at least: that of the lower bounds of the buckets; 0 without any."""
        count = self.count
        total = sum(map(mul, self.counts[1:], self.bounds))
        return total / count if count > 0 else 0.0

    def scaled(self, factor: float) -> Histogram:
        """The same observations, each that many times as long."""
        return (
            self if factor == 1 else Histogram(tuple(b * factor for b in self.bounds), self.counts)
        )

    def grown_from(self, before: Histogram) -> Histogram | None:
        """What was added since an earlier time; None where nothing was.

        Where a bucket shrank or the buckets are others, counting began anew in between: all of it is new.
        """
        if before.bounds != self.bounds:
            return self if self.count > 0 else None
        grown = array("d", map(sub, self.counts, before.counts))
        if min(grown) < 0:
            grown = self.counts
        return Histogram(self.bounds, grown) if any(grown) else None


def _summed(parts: list[array[float]]) -> array[float]:
    """Counts of the same buckets added up, in order."""
    if len(parts) == 1:
        return parts[0]
    rows = np.frombuffer(b"".join(parts)).reshape(len(parts), -1)
    return array("d", np.add.reduce(rows, axis=0).tobytes())


def merged(parts: Iterable[Histogram]) -> Histogram | None:
    """All observations together; None without any.

    Pods of two versions may have other bounds: the buckets are then those between the bounds of all, with
    what is uniform within a bucket divided among its parts.
    """
    shown: dict[tuple[float, ...], list[array[float]]] = {}
    for part in parts:
        shown.setdefault(part.bounds, []).append(part.counts)
    histograms = [Histogram(bounds, _summed(counts)) for bounds, counts in shown.items()]
    if len(histograms) <= 1:
        return histograms[0] if histograms else None
    bounds = sorted({bound for item in histograms for bound in item.bounds})
    counts, last = array("d"), 0.0
    for bound in bounds:
        below = sum(item.below(bound) for item in histograms)
        counts.append(max(below - last, 0.0))
        last = max(last, below)
    counts.append(max(sum(item.count for item in histograms) - last, 0.0))
    return Histogram(tuple(bounds), counts)

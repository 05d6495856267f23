"""Moments of the lengths of requests, from the buckets of a server's histograms."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from adapter.collector.model_servers import Labels, SumCount
from adapter.collector.servers.totals import LARGEST, LENGTH_BOUNDS, Moments, bounds_of
from adapter.resources.texts.known import Known
from analyzer.step_times import SHORT_BOUNDS

_LENGTHS_COUNT = 10
"""Least number of finished requests from which a variation of lengths is taken."""

_SHORT_COUNT = 100
"""The same for shares of short ones, of which few requests have none or too many."""

_RARE_SHARE = 0.001
"""Share of the requests up to which the longest are too rare to tell how lengths vary: a tenth of what the
99th percentile leaves. One prompt of 50,000 tokens in thousands of 500 makes the tail of a log-normal four
times as long, and is gone from the window minutes later."""

_FINE = 10.0
"""Bound that the first buckets must reach down to, to tell short requests."""

_LEAST = 1e-200
"""Bound below which the next bucket is taken to begin there."""

_CACHED_CHARACTERS = 16 * 1024
"""Longest text of bounds whose layout is kept."""


class _Layout(NamedTuple):
    """Where the samples of a histogram go, by its bounds alone, which are the same on page after page.

    Attributes:
        places: Bucket of each sample.
        squares: Mean and mean square of what is in each bucket, as `_within`.
        finite: Buckets that have a finite bound greater than 0.
        short: Places of `SHORT_BOUNDS`: the number of `finite` up to each, then how far it is above their
            last bound and how wide the next bucket is, by logarithms; 0 and 1 beyond the last bound. Empty
            where the buckets do not tell.
        by_length: The same of `LENGTH_BOUNDS`.

    """

    places: tuple[int, ...]
    squares: tuple[SumCount, ...]
    finite: tuple[int, ...]
    short: tuple[tuple[int, float, float], ...]
    by_length: tuple[tuple[int, float, float], ...]


def moments(samples: Iterable[tuple[str, Labels, float]], names: tuple[str, ...]) -> Moments | None:
    """Moments of one pod's histogram, summed over its engines; None without a usable one.

    Args:
        samples: Buckets of all histograms.
        names: Names of the wanted one's buckets, the newest first.

    """
    shown: dict[str, tuple[list[str], list[float]]] = {}
    for name, labels, value in samples:
        if name in names:
            bounds, values = shown.setdefault(name, ([], []))
            bounds.append(labels.get("le", ""))
            values.append(value)
    layouts = {name: _layout_of(bounds) for name, (bounds, _) in shown.items()}
    if None in layouts.values() or not all(
        0 <= value <= LARGEST for _, values in shown.values() for value in values
    ):
        return None
    chosen = next((name for name in names if name in shown), "")
    layout = layouts.get(chosen)
    return None if layout is None else _moments(layout, shown[chosen][1])


def of_buckets(bounds: Sequence[str], values: Sequence[float]) -> Moments | None:
    """Moments of one histogram, as `moments`: its buckets' bounds `le`, and what is counted up to each."""
    layout = _layout_of(bounds)
    if layout is None or not all(0 <= value <= LARGEST for value in values):
        return None
    return _moments(layout, values)


def _moments(layout: _Layout, values: Sequence[float]) -> Moments | None:
    cumulative = [0.0] * len(layout.squares)
    for place, value in zip(layout.places, values, strict=True):
        cumulative[place] += value
    total = squares = count = 0.0
    for below, (mean, square) in zip(cumulative, layout.squares, strict=True):
        inside = below - count
        if inside < 0:
            return None  # counts up to a bound only grow with it
        if inside > 0:
            total += inside * mean
            squares += inside * square
            count = below
    if not layout.short or count <= 0:
        return Moments(total, squares, count)
    counts = [0.0, *(cumulative[place] for place in layout.finite)]
    short, by_length = (
        tuple(
            (counts[at + 1] - counts[at]) / whole * part + counts[at] if part else counts[at]
            for at, part, whole in places
        )
        for places in (layout.short, layout.by_length)
    )
    return Moments(total, squares, count, short, by_length)


def _layout_of(written: Sequence[str]) -> _Layout | None:
    """The layout of samples with these bounds `le`; None where one is no number."""
    bounds = tuple(written)
    kept = sum(map(len, bounds)) <= _CACHED_CHARACTERS
    return _known_layout(*bounds) if kept else _layout(*bounds)


def _layout(*written: str) -> _Layout | None:
    bounds = bounds_of(written)
    if bounds is None:
        return None
    ordered = sorted(set(bounds))
    place = {bound: number for number, bound in enumerate(ordered)}
    return _Layout(
        places=tuple(place[bound] for bound in bounds),
        squares=tuple(_within(*pair) for pair in pairwise((0.0, *ordered))),
        finite=tuple(place[bound] for bound in ordered if 0.0 < bound < math.inf),
        short=tuple(_places(SHORT_BOUNDS, [bound for bound in ordered if bound > 0.0])),
        by_length=tuple(_places(LENGTH_BOUNDS, [bound for bound in ordered if bound > 0.0])),
    )


_known_layout = Known(_layout)
"""Layouts by the texts of their bounds. Pages may have thousands, ever others: all together are bounded."""


def _places(wanted: Sequence[float], bounds: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """Where some lengths are among these bounds; nothing where bounds are coarse.

    Between two bounds, lengths are uniform by their logarithm, the first ones from a half on.
    """
    if not bounds or bounds[0] > _FINE:
        return
    logs = [math.log(0.5), *(math.log(bound) for bound in bounds if math.isfinite(bound))]
    for most in map(math.log, wanted):
        at = bisect_right(logs, most) - 1
        last = at + 1 == len(logs)
        yield at, 0.0 if last else most - logs[at], 1.0 if last else logs[at + 1] - logs[at]


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
        # Neighbouring numbers have no quotient, and that by nearly nothing is too large a number.
        ratio = max(math.log(upper / max(lower, _LEAST)), 1e-16)
        mean = (upper - lower) / ratio
        square = (upper * upper - lower * lower) / (2.0 * ratio)
    return mean, mean**4 / square


def moments_growth(before: Moments | None, after: Moments | None) -> Moments:
    """Growth of moments; none where one of the two samples has no histogram, as those of Prometheus."""
    if before is None or after is None:
        return Moments(0.0, 0.0, 0.0)
    if after.count < before.count:
        return after
    ended = before.by_length if before.count > 0 else (0.0,) * len(after.by_length)
    return Moments(
        after.total - before.total,
        after.squares - before.squares,
        after.count - before.count,
        tuple(now - then for now, then in zip(after.short, before.short, strict=True)),
        tuple(now - then for now, then in zip(after.by_length, ended, strict=False)),
    )


def variation(growths: Iterable[Moments], *, but_rare: bool = False) -> float | None:
    """Coefficient of variation of the lengths of requests; None for too few.

    Args:
        growths: Their moments.
        but_rare: Whether the longest ones, where they are no more than `_RARE_SHARE`, count as the longest of
            the others; up to twice that share a part of them does. For prompts, which are over in seconds:
            a long answer holds its place and its KV cache for as long as it takes.

    """
    total = squares = count = 0.0
    known = []
    for growth in growths:
        total += growth.total
        squares += growth.squares
        count += growth.count
        if but_rare and growth.by_length:
            known.append(growth.by_length)
    if count < _LENGTHS_COUNT or total <= 0:
        return None
    usual = _without_rare(total, squares, count, [sum(up_to) for up_to in zip(*known, strict=True)])
    return math.sqrt(max(count * usual.squares / (usual.total * usual.total) - 1.0, 0.0))


def _without_rare(total: float, squares: float, count: float, up_to: Sequence[float]) -> Moments:
    """The moments, with the rare longest requests at the bound that all others are within.

    Args:
        total: Sum of the tokens of all requests.
        squares: Sum of their squares.
        count: All requests.
        up_to: Requests of at most `LENGTH_BOUNDS` tokens each; empty where the buckets do not tell.

    """
    most = _RARE_SHARE * count
    first = next((at for at, below in enumerate(up_to) if count - below < 2.0 * most), len(up_to))
    if first >= len(up_to) or up_to[first] >= count:
        return Moments(total, squares, count)
    bound, rare = float(LENGTH_BOUNDS[first]), count - up_to[first]
    part = min(2.0 - rare / most, 1.0)
    above = _between(LENGTH_BOUNDS[first:], up_to[first:])
    less = Moments(
        total - part * (above.total - above.count * bound),
        squares - part * (above.squares - above.count * bound * bound),
        count,
    )
    if up_to[-1] >= count and less.total > 0 and less.squares * count >= less.total**2:
        return less
    # How far buckets go beyond the last bound is not known: the others are known by their numbers alone.
    below = _between((0, *LENGTH_BOUNDS[: first + 1]), (0.0, *up_to[: first + 1]))
    usual = below.total + rare * bound, below.squares + rare * bound * bound
    return Moments(
        usual[0] + (1.0 - part) * max(total - usual[0], 0.0),
        usual[1] + (1.0 - part) * max(squares - usual[1], 0.0),
        count,
    )


def _between(bounds: Sequence[int], up_to: Sequence[float]) -> Moments:
    """Moments of requests between some bounds, by how many have at most each."""
    total = squares = 0.0
    for (lower, before), (upper, after) in pairwise(zip(bounds, up_to, strict=True)):
        mean, square = _within(float(lower), float(upper))
        total += max(after - before, 0.0) * mean
        squares += max(after - before, 0.0) * square
    return Moments(total, squares, max(up_to[-1] - up_to[0], 0.0))


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

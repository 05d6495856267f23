"""Histograms of a server's latencies, from the buckets on its page.

What is wrong with a bucket costs percentiles alone: the load of a pod is known without them. Pods of one
version have the same bounds in the same order, so these are read once for all of them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import pairwise

from adapter.collector.servers.histogram import Histogram
from adapter.collector.servers.totals import LARGEST, bounds_of
from adapter.resources.texts.known import Known

MOST_BOUNDS = 200
"""Buckets of one histogram that are kept; servers have some twenty."""

MOST_SAMPLES = 4096
"""Samples of one histogram, over all engines of a pod."""

_CACHED_CHARACTERS = 16 * 1024
"""Longest text of bounds that is kept parsed."""

_Layout = tuple[tuple[float, ...], int, tuple[int, ...]]
"""Finite bounds, number of buckets with the one beyond, and the bucket of each sample."""


def histogram(bounds: Sequence[str], values: Sequence[float]) -> Histogram | None:
    """The histogram of one pod, summed over its engines; None without a usable one.

    Args:
        bounds: Upper bounds `le` in seconds as written, one per sample.
        values: Observations up to there.

    """
    # A sum is no number where one of its parts is none.
    if not 0 < len(values) <= MOST_SAMPLES or min(values) < 0 or not sum(values) <= LARGEST:
        return None
    written = tuple(bounds)
    short = sum(map(len, written)) <= _CACHED_CHARACTERS
    layout = _known_layout(*written) if short else None
    if layout is None:
        return None
    finite, number, places = layout
    cumulative = [0.0] * number
    for place, value in zip(places, values, strict=True):
        cumulative[place] += value
    if sorted(cumulative) != cumulative:
        return None
    counts = array("d", cumulative[:1])
    counts.extend(after - before for before, after in pairwise(cumulative))
    if number == len(finite):
        counts.append(0.0)
    return Histogram(finite, counts)


def _layout(*written: str) -> _Layout | None:
    """Where samples with these bounds go; None where they are no bounds of latencies."""
    bounds = bounds_of(written)
    if bounds is None or not all(bound > 0 for bound in bounds):
        return None
    ordered = sorted(set(bounds))
    finite = tuple(bound for bound in ordered if bound < math.inf)
    if not finite or len(finite) > MOST_BOUNDS:
        return None
    place = {bound: number for number, bound in enumerate(ordered)}
    return finite, len(ordered), tuple(place[bound] for bound in bounds)


_known_layout = Known(_layout)
"""Layouts by the texts of their bounds. Pages may have thousands, ever others: all together are bounded."""

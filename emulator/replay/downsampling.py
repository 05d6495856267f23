"""Curves with fewer samples that look the same in a picture."""

from __future__ import annotations

import numpy as np

from emulator.replay.results import FloatArray


def thinned(seconds: FloatArray, values: FloatArray, points: int) -> tuple[FloatArray, FloatArray]:
    """At most about four samples for each of that many points: ends, lowest, highest, and all gaps."""
    if len(seconds) <= 4 * points:
        return seconds, values
    keep: set[int] = set()
    edges = np.linspace(0, len(seconds), points + 1).astype(int)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        known = start + np.flatnonzero(np.isfinite(values[start:end]))
        if known.size < end - start:
            keep.add(start + int(np.flatnonzero(~np.isfinite(values[start:end]))[0]))
        if known.size:
            keep.update((int(known[0]), int(known[-1])))
            keep.update((int(known[values[known].argmin()]), int(known[values[known].argmax()])))
    order = sorted(keep)
    return seconds[order], values[order]


def changes(time: FloatArray, *values: FloatArray) -> tuple[FloatArray, ...]:
    """Only the samples at which one of the values is another than before, and the last."""
    keep = np.zeros(len(time), dtype=bool)
    keep[:1] = keep[-1:] = True
    for item in values:
        same = (item[1:] == item[:-1]) | (np.isnan(item[1:]) & np.isnan(item[:-1]))
        keep[1:] |= ~same
    return tuple(item[keep] for item in (time, *values))


def joined(time: FloatArray, values: FloatArray, longest: float) -> tuple[FloatArray, FloatArray]:
    """Without the samples that have no value; a gap stays where more than `longest` is missing."""
    known = np.isfinite(values)
    x, y = time[known], values[known]
    at = np.flatnonzero(np.diff(x) > longest) + 1
    return np.insert(x, at, x[at]), np.insert(y, at, np.nan)

"""Downsampling of curves: fewer samples, the same picture."""

from __future__ import annotations

import numpy as np

from emulator.replay.results import FloatArray


def min_max(seconds: FloatArray, values: FloatArray, points: int) -> tuple[FloatArray, FloatArray]:
    """Keep first, last, minimum and maximum of each of `points` bins, and one sample of each gap."""
    if len(seconds) <= 4 * points:
        return seconds, values
    keep: set[int] = set()
    edges = np.linspace(0, len(seconds), points + 1).astype(int)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        finite = start + np.flatnonzero(np.isfinite(values[start:end]))
        if finite.size < end - start:
            keep.add(start + int(np.flatnonzero(~np.isfinite(values[start:end]))[0]))
        if finite.size:
            keep.update((int(finite[0]), int(finite[-1])))
            keep.update(
                (int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()]))
            )
    order = sorted(keep)
    return seconds[order], values[order]


def changes(time: FloatArray, *values: FloatArray) -> tuple[FloatArray, ...]:
    """Keep the samples at which one of the step curves changes, and the last."""
    keep = np.zeros(len(time), dtype=bool)
    keep[:1] = keep[-1:] = True
    for item in values:
        same = (item[1:] == item[:-1]) | (np.isnan(item[1:]) & np.isnan(item[:-1]))
        keep[1:] |= ~same
    return tuple(item[keep] for item in (time, *values))


def bridge_gaps(
    time: FloatArray, values: FloatArray, longest: float
) -> tuple[FloatArray, FloatArray]:
    """Drop samples without a value; a gap (NaN) remains where they span more than `longest`."""
    finite = np.isfinite(values)
    x, y = time[finite], values[finite]
    at = np.flatnonzero(np.diff(x) > longest) + 1
    return np.insert(x, at, x[at]), np.insert(y, at, np.nan)

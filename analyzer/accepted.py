"""Arrival rates at which a given rate is accepted and the rest is blocked by a full queue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyzer import chain
from analyzer.replicas import BoolArray, FloatArray
from analyzer.roots import find_roots

BLOCKING_TOLERANCE = 1e-13
"""Share of blocked requests below which a replica counts as accepting all."""


def arrivals(
    table: chain.Chain, target: FloatArray, most: FloatArray, reached: BoolArray
) -> FloatArray:
    """Arrival rates whose accepted part is `target`, shape (M,); `target` itself where none is blocked."""
    short = target * table.seen(target).accepted - target
    rows = np.flatnonzero(reached & (short < -BLOCKING_TOLERANCE * target))
    loads = target.copy()
    if rows.size:

        def excess(load: FloatArray, some: NDArray[np.intp]) -> FloatArray:
            seen = table.take(rows[some]).seen(load)
            return np.asarray(load * seen.accepted - target[rows[some]])

        top = most[rows]
        at_top = excess(top, np.arange(rows.size))
        loads[rows] = find_roots(
            excess,
            target[rows],
            top,
            relative=1e-14,
            absolute=1e-300,
            residual=2e-15,
            at_low=short[rows],
            at_high=at_top,
        )
    return loads

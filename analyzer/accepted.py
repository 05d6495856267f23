"""Arrivals of which a wanted number is accepted, where the rest finds the queue full."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyzer import chain
from analyzer.replicas import BoolArray, FloatArray
from analyzer.roots import find_roots

NOBODY = 1e-13
"""Share of blocked requests that is none."""


def arrivals(
    table: chain.Chain, wanted: FloatArray, most: FloatArray, reached: BoolArray
) -> FloatArray:
    """Loads of which as much as wanted is accepted, shape (M,); as wanted where nobody is blocked."""
    short = wanted * table.seen(wanted).accepted - wanted
    rows = np.flatnonzero(reached & (short < -NOBODY * wanted))
    loads = wanted.copy()
    if rows.size:

        def excess(load: FloatArray, some: NDArray[np.intp]) -> FloatArray:
            seen = table.take(rows[some]).seen(load)
            return np.asarray(load * seen.accepted - wanted[rows[some]])

        top = most[rows]
        at_top = excess(top, np.arange(rows.size))
        loads[rows] = find_roots(
            excess,
            wanted[rows],
            top,
            relative=1e-14,
            absolute=1e-300,
            residual=2e-15,
            at_low=short[rows],
            at_high=at_top,
        )
    return loads

"""Arrivals of which a wanted number is accepted, where the rest finds the queue full."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyzer import chain, roots
from analyzer.replicas import BoolArray, FloatArray

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
        loads[rows] = roots.bracketed(excess, wanted[rows], top, short[rows], at_top)
    return loads

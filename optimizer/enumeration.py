"""The best plan of a few variants, found by trying all of them: a solver takes longer to load than that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optimizer.columns import Columns

FloatArray = NDArray[np.float64]

_OPTIONS, _PLANS = 256, 4096
"""Ways to serve one variant, added up over all of them, and plans that are tried, at most."""

_TIE = 1e-9
"""Relative distance of sums that are equal on paper."""


def best(columns: Columns, goals: Sequence[FloatArray]) -> FloatArray | None:
    """Values of the columns in the best plan; None where there are too many plans, or none.

    Args:
        columns: what the variants can get.
        goals: weights of the columns in what is minimized, one goal after another.

    """
    full, part = len(columns.full), len(columns.part)
    if full + part + columns.most[full + part :].sum() > _OPTIONS:
        return None
    used, free = columns.devices, columns.free
    weights = np.array(goals)
    options = _options(columns)
    # Of the plans so far: devices taken, what they reach, and the option of each variant.
    taken, worth = np.zeros((1, len(free))), np.zeros((1, len(goals)))
    picks = np.zeros((1, 0), dtype=np.intp)
    for rows in options:
        if len(taken) * len(rows) > _PLANS:
            return None
        before, option = np.indices((len(taken), len(rows)), dtype=np.intp).reshape(2, -1)
        after = taken[before] + (rows @ used.T)[option]
        fits = (after <= free + _TIE).all(axis=1)
        before, option, taken = before[fits], option[fits], after[fits]
        worth = worth[before] + (rows @ weights.T)[option]
        picks = np.column_stack([picks[before], option])
    left = np.arange(len(picks))
    if not left.size:
        return None
    for reached in worth.T:
        least = reached[left].min()
        left = left[reached[left] <= least + _TIE * max(abs(least), 1.0)]
    chosen = [rows[pick] for rows, pick in zip(options, picks[left[0]], strict=True)]
    return np.asarray(np.sum(chosen, axis=0))


def _options(columns: Columns) -> list[FloatArray]:
    """For each variant everything that it can get, one row of column values each."""
    full, part, most = len(columns.full), len(columns.part), columns.most
    rows: list[list[FloatArray]] = [
        [] if served else [np.zeros(most.size)] for served in columns.must
    ]
    every = np.eye(most.size)
    for column, (index, _) in enumerate(columns.full):
        rows[index].append(every[column])
    for column, (index, _) in enumerate(columns.part, full):
        rows[index] += [
            every[column] + more * every[column + part]
            for more in range(int(most[column + part]) + 1)
        ]
    return [np.array(options).reshape(-1, most.size) for options in rows]

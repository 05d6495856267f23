"""The error that no monotone prediction of measured rows avoids.

ITL and TTFT do not fall with concurrency or prompt where the rest is equal, and grow at most in proportion
to the other requests inside. Of all functions that keep to this (whatever their form), `least_errors` takes
those closest to the taught rows, by least absolute relative error, and among these the one closest to the
other rows. What it still misses them by is no matter of form: rows of equal or nearly equal loads
contradict each other, because something that the file does not name differs between them.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from analyzer.fitting.benchmark_rows import BenchmarkRows
from analyzer.replicas import BoolArray, FloatArray

_EQUAL = 0.02
_OTHERS_COUNT = 1e-3
"""Weight of the other rows beside the taught ones: they decide between functions that teach equally well."""


def least_errors(rows: BenchmarkRows, measured: FloatArray, taught: BoolArray) -> FloatArray:
    """Relative error that is left on each row, shape (M,).

    Args:
        rows: M loads.
        measured: ITL or TTFT of each, > 0, shape (M,).
        taught: rows that the function is fitted to, shape (M,).

    """
    below, ratio = _order(rows)
    size = rows.size
    # Unknown are each row's prediction over its measurement and its error; pairs give inequalities.
    first, second = np.nonzero(below)
    count = first.size
    grown_first, grown_second = np.nonzero(np.isfinite(ratio))
    grown = grown_first.size
    pairs = np.arange(count)
    more = count + np.arange(grown)
    each = np.arange(size)
    above, under = count + grown + each, count + grown + size + each
    entries = [
        (pairs, first, measured[first]),
        (pairs, second, -measured[second]),
        (more, grown_second, measured[grown_second]),
        (more, grown_first, -measured[grown_first] * ratio[grown_first, grown_second]),
        (above, each, np.ones(size)),
        (above, size + each, -np.ones(size)),
        (under, each, -np.ones(size)),
        (under, size + each, -np.ones(size)),
    ]
    lines, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.csr_matrix(
        (values, (lines, columns)), shape=(count + grown + 2 * size, 2 * size)
    )
    limits = np.concatenate([np.zeros(count + grown), np.ones(size), -np.ones(size)])
    cost = np.concatenate([np.zeros(size), np.where(taught, 1.0, _OTHERS_COUNT)])
    solution = linprog(cost, A_ub=matrix, b_ub=limits, bounds=(0, None), method="highs")
    return np.asarray(solution.x[size:])


def _order(rows: BenchmarkRows) -> tuple[BoolArray, FloatArray]:
    """[a, b]: a's value is at most b's; and the most that b's is over a's, infinite where nothing says."""
    n, prompt = rows.concurrency, rows.input_tokens
    equal_output = _near(rows.output_tokens)
    equal_prompt = _near(prompt)
    slower = n[:, None] <= n * (1 + 1e-4)
    below = equal_output & slower & (equal_prompt | (prompt[:, None] <= prompt))
    np.fill_diagonal(below, val=False)
    same = equal_output & equal_prompt & slower
    np.fill_diagonal(same, val=False)
    others = np.maximum(n - 1.0, 0.25)
    return below, np.where(same, np.maximum(others / others[:, None], 1.0), np.inf)


def _near(values: FloatArray) -> BoolArray:
    return np.asarray(np.abs(values[:, None] - values) <= _EQUAL * np.maximum(values, 1.0))

"""Roots of many functions of one variable at once, each within a bracket.

Chandrupatla's method (Advances in Engineering Software 28, 1997): inverse quadratic interpolation where the
last three points promise that it converges, else bisection. It is written here, and not taken from
scipy.optimize, because loading that package takes longer than most analyses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analyzer.replicas import FloatArray

STEPS = 2_000
"""Limit of the evaluations: bisection alone needs fewer for any bracket of doubles."""


def find_roots(
    function: Callable[[FloatArray, NDArray[np.intp]], FloatArray],
    low: FloatArray,
    high: FloatArray,
    *,
    relative: float,
    absolute: float,
    residual: float = 0.0,
    at_low: FloatArray | None = None,
    at_high: FloatArray | None = None,
) -> FloatArray:
    """Roots between `low` and `high`, one for each row; NaN where the function has one sign at both ends.

    Args:
        function: Takes points and the rows that they belong to, both of one length; returns values.
        low: Lower ends of the brackets, one for each row.
        high: Upper ends of the brackets.
        relative: Width of a bracket that is narrow enough, as a share of the root.
        absolute: Width that is narrow enough, added to the relative one.
        residual: Magnitude of a value that counts as zero.
        at_low: Values at the lower ends where they are known already, which saves an evaluation.
        at_high: Values at the upper ends, likewise.

    """
    roots = np.full(low.size, np.nan)
    rows = np.arange(low.size)
    a, b = high.astype(np.float64), low.astype(np.float64)
    fa = function(a, rows) if at_high is None else at_high
    fb = function(b, rows) if at_low is None else at_low
    bracketed = np.sign(fa) * np.sign(fb) <= 0.0
    rows = rows[bracketed]
    a, b, fa, fb = np.stack((a, b, fa, fb))[:, bracketed]
    step = np.full(rows.size, 0.5)
    for _ in range(STEPS):
        better = np.abs(fa) < np.abs(fb)
        best, value = np.where(better, a, b), np.where(better, fa, fb)
        least = 0.5 * (np.abs(best) * relative + absolute) / np.maximum(np.abs(b - a), _SMALLEST)
        done = (least > 0.5) | (np.abs(value) <= residual)
        roots[rows[done]] = best[done]
        rows = rows[~done]
        a, b, fa, fb, step, least = np.stack((a, b, fa, fb, step, least))[:, ~done]
        if not rows.size:
            break
        point = a + np.clip(step, least, 1.0 - least) * (b - a)
        at_point = function(point, rows)
        same = np.sign(at_point) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = point, at_point
        step = _next_step((a, b, c), (fa, fb, fc))
    roots[rows] = np.where(np.abs(fa) < np.abs(fb), a, b)
    return roots


_SMALLEST = np.finfo(np.float64).tiny


def _next_step(
    points: tuple[FloatArray, FloatArray, FloatArray],
    values: tuple[FloatArray, FloatArray, FloatArray],
) -> FloatArray:
    """Next point between the first two, as a share of their distance; the third is the one before."""
    (a, b, c), (fa, fb, fc) = points, values
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        interpolates = (phi**2 < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
    return np.where(interpolates & np.isfinite(step), step, 0.5)

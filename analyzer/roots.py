"""Roots of many functions at once within brackets, by Chandrupatla's method.

Inverse quadratic interpolation where it is safe, bisection elsewhere (Chandrupatla 1997, Advances in
Engineering Software 28, 145-149; Scherer, Computational Physics, 6.1.7.3). The same method as
`scipy.optimize.elementwise`, without what that spends on one call, which is ten times what a function of
one row costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analyzer.replicas import FloatArray

RELATIVE = 1e-14
"""Width of the last bracket, relative to the root."""

ZERO = 2e-15
"""A value so small counts as a root: float noise."""

_TINY = 1e-300
_ITERATIONS = 200


def bracketed(
    function: Callable[[FloatArray, NDArray[np.intp]], FloatArray],
    low: FloatArray,
    high: FloatArray,
    at_low: FloatArray,
    at_high: FloatArray,
) -> FloatArray:
    """A root in each bracket, shape (M,).

    Args:
        function: values at points of shape (m,) of the functions of those rows.
        low: ends of the brackets, shape (M,).
        high: the same.
        at_low: values there, of the opposite sign of those at the other end.
        at_high: the same.

    """
    found = np.where(np.abs(at_low) < np.abs(at_high), low, high)
    rows = np.arange(low.size)
    one, two, f_one, f_two = low, high, at_low, at_high
    part = np.full(low.size, 0.5)
    for _ in range(_ITERATIONS):
        if not rows.size:
            break
        point = one + part * (two - one)
        value = function(point, rows)
        same = np.sign(value) == np.sign(f_one)
        three, f_three = np.where(same, one, two), np.where(same, f_one, f_two)
        two, f_two = np.where(same, two, one), np.where(same, f_two, f_one)
        one, f_one = point, value
        nearer = np.abs(f_one) < np.abs(f_two)
        best = np.where(nearer, one, two)
        found[rows] = best
        width = np.abs(two - one)
        least = (2.0 * RELATIVE * np.abs(best) + _TINY) / np.maximum(width, _TINY)
        going = (least <= 0.5) & (np.minimum(np.abs(f_one), np.abs(f_two)) > ZERO)
        part = _next((one, two, three), (f_one, f_two, f_three), np.minimum(least, 0.5))
        if not going.all():
            rows, part = rows[going], part[going]
            one, two, f_one, f_two = one[going], two[going], f_one[going], f_two[going]
    return found


def _next(
    points: tuple[FloatArray, FloatArray, FloatArray],
    values: tuple[FloatArray, FloatArray, FloatArray],
    least: FloatArray,
) -> FloatArray:
    """Where between the first point (0) and the second (1) the next one is."""
    (one, two, three), (f_one, f_two, f_three) = points, values
    with np.errstate(all="ignore"):
        xi = (one - two) / (three - two)
        phi = (f_one - f_two) / (f_three - f_two)
        inverse = (phi * phi < xi) & ((1.0 - phi) ** 2 < 1.0 - xi)
        quadratic = f_one / (f_two - f_one) * f_three / (f_two - f_three)
        quadratic += (
            (three - one) / (two - one) * f_one / (f_three - f_one) * f_two / (f_three - f_two)
        )
    part = np.where(inverse & np.isfinite(quadratic), quadratic, 0.5)
    return np.clip(part, least, 1.0 - least)

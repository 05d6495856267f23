"""Robust least squares with coefficients >= 0 for the times of a step.

Residuals stand between logarithms, because a timing's noise grows with it. The fit starts from least
absolute residuals (Barrodale and Roberts 1973) and goes on with Tukey's bisquare weights (Beaton and Tukey
1974, 4.685 robust standard deviations: 95 % efficient where nothing is wrong), so a whole batch size that
is off does not bend what the others say. Each round is a linear problem with bounds (Lawson and Hanson
1974, `scipy.optimize.nnls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from analyzer.replicas import BoolArray, FloatArray

_TUNING = 4.685
_MAD_TO_DEVIATION = 1.4826
_LEAST_SCALE = 0.005
"""Timings repeat no better than this, so no row is thrown out for less."""
_L1_ROUNDS, _ROUNDS = 30, 20
_LEAST_RESIDUAL = 1e-3
_LEAST_WEIGHT = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regression:
    """Coefficients of one robust fit, y = design @ coefficients.

    Attributes:
        coefficients: shape (P,), >= 0.
        errors: standard errors, shape (P,); 0 where the rows leave no freedom.
        residuals: log(fitted / measured), shape (M,).
        outliers: rows that count less than half, shape (M,).

    """

    coefficients: FloatArray
    errors: FloatArray
    residuals: FloatArray
    outliers: BoolArray

    @property
    def error(self) -> float:
        """Mean absolute residual; one row adds at most 0.3, so that it cannot choose a form."""
        return float(np.minimum(np.abs(self.residuals), 0.3).mean())


def robust(design: FloatArray, measured: FloatArray) -> Regression:
    """Fit `measured` (M,), > 0, by the columns of `design` (M, P) with coefficients >= 0."""
    weights = np.ones(measured.size)
    for _ in range(_L1_ROUNDS):
        coefficients = _weighted(design, measured, weights)
        left = _residuals(design, measured, coefficients)
        weights = 1.0 / np.maximum(np.abs(left), _LEAST_RESIDUAL)
    for _ in range(_ROUNDS):
        left = _residuals(design, measured, coefficients)
        scale = _scale(left, int((coefficients > 0).sum()))
        weights = np.maximum(1.0 - (left / (_TUNING * scale)) ** 2, 0.0) ** 2
        weights = np.maximum(weights, _LEAST_WEIGHT)
        coefficients = _weighted(design, measured, weights)
    left = _residuals(design, measured, coefficients)
    return Regression(
        coefficients=coefficients,
        errors=_errors(design, measured, coefficients, left, weights),
        residuals=left,
        outliers=np.asarray(weights < 0.5),
    )


def independent(design: FloatArray, order: Sequence[int], share: float = 0.05) -> list[int]:
    """Columns of `design`, tried in `order`, that the ones taken before do not already give.

    A column of which less than `share` of its length is left beside the others moves with them in these rows:
    lengths that differ by the jitter of a benchmark do not separate two terms.
    """
    taken: list[int] = []
    for column in order:
        values = design[:, column]
        length = float(np.linalg.norm(values))
        if length <= 0.0:
            continue
        left = values
        if taken:
            others = design[:, taken]
            left = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
        if float(np.linalg.norm(left)) > share * length:
            taken.append(column)
    return taken


def _weighted(design: FloatArray, measured: FloatArray, weights: FloatArray) -> FloatArray:
    roots = np.sqrt(weights / weights.max())
    sizes = np.abs(design).max(axis=0)
    sizes[sizes == 0.0] = 1.0
    solution, _ = nnls(design / sizes * (roots / measured)[:, None], roots, maxiter=1000)
    return np.asarray(solution / sizes)


def _residuals(design: FloatArray, measured: FloatArray, coefficients: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(design @ coefficients / measured, 1e-9)))


def _scale(left: FloatArray, used: int) -> float:
    """Robust standard deviation; the fit passes through `used` rows exactly, which carry no information."""
    free = np.sort(np.abs(left))[min(max(used - 1, 0), left.size - 1) :]
    return max(_MAD_TO_DEVIATION * float(np.median(free)), _LEAST_SCALE)


def _errors(
    design: FloatArray,
    measured: FloatArray,
    coefficients: FloatArray,
    left: FloatArray,
    weights: FloatArray,
) -> FloatArray:
    errors = np.zeros(coefficients.size)
    inside = coefficients > 0
    freedom = float(weights.sum()) - int(inside.sum())
    if freedom < 0.5:
        return errors
    scaled = design[:, inside] * (np.sqrt(weights) / measured)[:, None]
    sizes = np.linalg.norm(scaled, axis=0)
    variance = float((weights * left**2).sum()) / freedom
    covariance = np.linalg.pinv((scaled / sizes).T @ (scaled / sizes)) * variance
    errors[inside] = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / sizes
    return errors

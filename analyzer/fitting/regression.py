"""Robust least squares with coefficients >= 0 for the times of a step.

Residuals stand between logarithms, because a timing's noise grows with it. The fit starts from least
absolute residuals (Barrodale and Roberts 1973) and goes on with Tukey's bisquare weights (Beaton and Tukey
1974, 4.685 robust standard deviations: 95 % efficient where nothing is wrong), so a whole batch size that
is off does not bend what the others say. Each round is a linear problem with bounds (Lawson and Hanson
1974, `scipy.optimize.nnls`).
"""

from __future__ import annotations

import itertools
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
_FIRST_SCALE = 0.01
"""Standard deviation of the rows that the prior is weighed with until the residuals say."""
_FORM_SCALE = 0.02
"""Standard deviation that a form is off by where rows are few, whatever their residuals say."""
_FREEDOM = 3.0
_SETTLED = 1e-4
_FAR = 10.0
"""A second start, with that much wider priors: contradicted priors have two minima."""
_WILD, _BETTER = 0.7, 0.7
"""A residual from which on another start is tried, and the share that it must lower the error to."""
_FEW_WILD = 8
"""One row in so many may remain that far off in it: more are another kind of row, not mistakes."""
_LEAST_USUAL = 0.2
"""Share of the median from which on a measurement says how large columns are, in that fit."""
_ROUNDING = 1e-7
_TINY = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regression:
    """Coefficients of one robust fit, y = design @ coefficients.

    Attributes:
        coefficients: shape (P,), >= 0.
        errors: standard errors, shape (P,); 0 where the rows leave no freedom.
        residuals: log(fitted / measured), shape (M,).
        outliers: rows that count less than half, shape (M,).
        left_out_error: mean absolute residual of each row in a fit without it; one row adds at most 0.3.

    """

    coefficients: FloatArray
    errors: FloatArray
    residuals: FloatArray
    outliers: BoolArray
    left_out_error: float

    @property
    def error(self) -> float:
        """Mean absolute residual; one row adds at most 0.3, so that it cannot choose a form."""
        return _capped(self.residuals)


def robust(
    design: FloatArray, measured: FloatArray, spreads: FloatArray | None = None
) -> Regression:
    """Fit `measured` (M,), > 0, by the columns of `design` (M, P) with coefficients >= 0.

    Args:
        design: one row per measurement.
        measured: what the columns add up to.
        spreads: how large a share of a measurement each column is expected to be at most, shape (P,): the
            standard deviation of a normal prior about zero. Columns that the rows do not tell apart share
            what they have in common instead of one taking all of it; the prior fades as the residuals get
            smaller. None for no prior.

    """
    shares = spreads
    spreads = _prior(design, measured, shares)
    coefficients, weights, scale = _tukey(design, measured, spreads, bounded=False)
    deviations = _residuals(design, measured, coefficients)
    if np.abs(deviations).max() > _WILD:
        # A measurement far too small outweighs all others while errors are relative to it.
        usual = measured >= _LEAST_USUAL * np.median(measured)
        prior = _prior(design[usual], measured[usual], shares)
        other = _tukey(design, measured, prior, bounded=True)
        apart = _residuals(design, measured, other[0])
        few = int((np.abs(apart) > _WILD).sum()) <= measured.size // _FEW_WILD
        if few and _capped(apart) < _BETTER * _capped(deviations):
            (coefficients, weights, scale), spreads = other, prior
    deviations = _residuals(design, measured, coefficients)
    return Regression(
        coefficients=coefficients,
        errors=_errors(design / measured[:, None], coefficients, deviations, weights, spreads),
        residuals=deviations,
        outliers=np.asarray(weights < 0.5),
        left_out_error=_left_out(
            design / measured[:, None],
            coefficients,
            deviations,
            weights,
            scale=scale,
            spreads=spreads,
        ),
    )


def _prior(
    design: FloatArray, measured: FloatArray, shares: FloatArray | None
) -> FloatArray | None:
    """Standard deviations of the coefficients that give the `shares` of `robust`."""
    if shares is None:
        return None
    most = (design / measured[:, None]).max(axis=0)
    return np.where(most > 0, shares / np.maximum(most, _TINY), np.inf)


def _tukey(
    design: FloatArray, measured: FloatArray, spreads: FloatArray | None, *, bounded: bool
) -> tuple[FloatArray, FloatArray, float]:
    """Coefficients, weights and scale of `robust`; `bounded`: errors relative to the larger of both sides."""
    weights, scale = np.ones(measured.size), _FIRST_SCALE
    if bounded:
        weights = np.minimum(measured / np.median(measured), 1.0) ** 2
    for _ in range(_L1_ROUNDS):
        coefficients = _weighted(design, measured, weights, scale, spreads)
        deviations = _residuals(design, measured, coefficients)
        weights = 1.0 / np.maximum(np.abs(deviations), _LEAST_RESIDUAL)
        if bounded:
            weights *= np.exp(-2.0 * np.maximum(deviations, 0.0))
        if spreads is not None:  # The prior stands beside rows of weight 1.
            weights *= _FIRST_SCALE
    for _ in range(_ROUNDS):
        deviations = _residuals(design, measured, coefficients)
        used = int((coefficients > 0).sum())
        if spreads is not None:
            used = min(used, max(measured.size // 2, 1))
        scale = _scale(deviations, used)
        bound = _TUNING * max(scale, _LEAST_SCALE)
        weights = np.maximum(np.maximum(1.0 - (deviations / bound) ** 2, 0.0) ** 2, _LEAST_WEIGHT)
        if bounded:
            weights *= np.exp(-2.0 * np.maximum(deviations, 0.0))
        coefficients = _weighted(design, measured, weights, scale, spreads)
    return coefficients, weights, scale


def _capped(deviations: FloatArray) -> float:
    """Mean absolute residual; one row adds at most 0.3."""
    return float(np.minimum(np.abs(deviations), 0.3).mean())


def informed(
    design: FloatArray,
    measured: FloatArray,
    priors: Sequence[tuple[FloatArray, FloatArray]],
    *,
    form_scale: float = _FORM_SCALE,
) -> Regression:
    """Fit as `robust` does, with coefficients near usual ones.

    The prior of each coefficient is Student's t with three degrees of freedom, so that rows which contradict
    it win; it does not fade, because few rows are met exactly by too many forms.

    Args:
        design: one row per measurement.
        measured: what the columns add up to.
        priors: means and deviations (infinite: none) of the coefficients, both of shape (P,), of each kind of
            server there is; the kind that explains the rows best is taken.
        form_scale: standard deviation that the form is off by, whatever the residuals say.

    """
    relative = design / measured[:, None]
    fits: list[tuple[float, Regression]] = []
    for (means, deviations), start in itertools.product(priors, (1.0, _FAR)):
        known = np.isfinite(deviations)
        wide = np.where(known, deviations, 1e6 * float(measured.max()))
        offsets, weights, scale, coefficients = _near(
            design, measured, means, wide, known, start=start, form_scale=form_scale
        )
        beyond = np.clip(offsets / (_TUNING * scale), -1.0, 1.0) ** 2
        loss = _TUNING**2 / 6.0 * float((1.0 - (1.0 - beyond) ** 3).sum())
        off = ((coefficients - means) / wide)[known]
        loss += measured.size * float(np.log(scale)) + float(np.log(wide[known]).sum())
        loss += (_FREEDOM + 1.0) / 2.0 * float(np.log1p(off**2 / _FREEDOM).sum())
        spreads = np.where(known, wide, np.inf)
        fitted = Regression(
            coefficients=coefficients,
            errors=_errors(relative, coefficients, offsets, weights, spreads),
            residuals=offsets,
            outliers=np.asarray(weights < 0.5),
            left_out_error=_left_out(
                relative, coefficients, offsets, weights, scale=scale, spreads=spreads
            ),
        )
        fits.append((loss, fitted))
    return min(fits, key=lambda pair: pair[0])[1]


def _near(
    design: FloatArray,
    measured: FloatArray,
    means: FloatArray,
    wide: FloatArray,
    known: BoolArray,
    *,
    start: float,
    form_scale: float,
) -> tuple[FloatArray, FloatArray, float, FloatArray]:
    """Residuals, weights, scale and coefficients of one start of `informed`."""
    relative = design / measured[:, None]
    weights, scale = np.ones(measured.size), form_scale
    spreads = np.where(known, start, 1.0) * wide
    for rounds in (_L1_ROUNDS, _ROUNDS):
        coefficients = means
        for _ in range(rounds):
            before, coefficients = coefficients, _pulled(relative, weights, scale, means, spreads)
            deviations = _residuals(design, measured, coefficients)
            if rounds == _L1_ROUNDS:
                weights = form_scale / np.maximum(np.abs(deviations), 0.1 * form_scale)
            else:
                used = min(int((coefficients > 0).sum()), max(measured.size // 2, 1))
                scale = max(_scale(deviations, used), form_scale)
                inside = np.maximum(1.0 - (deviations / (_TUNING * scale)) ** 2, 0.0)
                weights = np.maximum(inside**2, _LEAST_WEIGHT)
            off = (coefficients - means) / wide
            spreads = np.where(known, wide * np.sqrt((_FREEDOM + off**2) / (_FREEDOM + 1.0)), wide)
            if np.allclose(before, coefficients, rtol=_SETTLED, atol=0.0):
                break
    return deviations, weights, scale, coefficients


def _pulled(
    relative: FloatArray, weights: FloatArray, scale: float, means: FloatArray, spreads: FloatArray
) -> FloatArray:
    roots = np.sqrt(weights)
    sizes = np.abs(relative).max(axis=0)
    sizes[sizes == 0.0] = 1.0
    matrix = np.vstack([relative / sizes * roots[:, None], np.diag(scale / (spreads * sizes))])
    solution, _ = nnls(matrix, np.concatenate([roots, scale * means / spreads]), maxiter=2000)
    return np.asarray(solution / sizes)


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
        remainder = values
        if taken:
            others = design[:, taken]
            remainder = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
        if float(np.linalg.norm(remainder)) > share * length:
            taken.append(column)
    return taken


def _weighted(
    design: FloatArray,
    measured: FloatArray,
    weights: FloatArray,
    scale: float,
    spreads: FloatArray | None,
) -> FloatArray:
    roots = np.sqrt(weights if spreads is not None else weights / weights.max())
    sizes = np.abs(design).max(axis=0)
    sizes[sizes == 0.0] = 1.0
    matrix, target = design / sizes * (roots / measured)[:, None], roots
    if spreads is not None:
        matrix = np.vstack([matrix, np.diag(scale / (spreads * sizes))])
        target = np.concatenate([roots, np.zeros(sizes.size)])
    solution, _ = nnls(matrix, target, maxiter=1000)
    return np.asarray(solution / sizes)


def _residuals(design: FloatArray, measured: FloatArray, coefficients: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.maximum(design @ coefficients / measured, 1e-9)))


def _scale(deviations: FloatArray, used: int) -> float:
    """Robust standard deviation; the fit passes through `used` rows exactly, which carry no information."""
    free = np.sort(np.abs(deviations))[min(max(used - 1, 0), deviations.size - 1) :]
    return max(_MAD_TO_DEVIATION * float(np.median(free)), _ROUNDING)


def _left_out(
    relative: FloatArray,
    coefficients: FloatArray,
    deviations: FloatArray,
    weights: FloatArray,
    *,
    scale: float,
    spreads: FloatArray | None,
) -> float:
    """Mean residual of rows left out, from each row's leverage (Allen 1974)."""
    inside = (coefficients > 0) & (np.abs(relative).max(axis=0) > 0)
    scaled = relative[:, inside] * np.sqrt(weights)[:, None]
    sizes = np.linalg.norm(scaled, axis=0)
    scaled = scaled / sizes
    information = scaled.T @ scaled
    if spreads is not None:
        information += np.diag((scale / (spreads[inside] * sizes)) ** 2)
    leverage = ((scaled @ np.linalg.pinv(information)) * scaled).sum(axis=1)
    alone = np.abs(deviations) / np.maximum(1.0 - leverage, _LEAST_RESIDUAL)
    return float(np.minimum(alone, 0.3).mean())


def _errors(
    relative: FloatArray,
    coefficients: FloatArray,
    deviations: FloatArray,
    weights: FloatArray,
    spreads: FloatArray | None,
) -> FloatArray:
    errors = np.zeros(coefficients.size)
    inside = coefficients > 0
    freedom = float(weights.sum()) - int(inside.sum())
    if freedom < 0.5:
        return errors
    scaled = relative[:, inside] * np.sqrt(weights)[:, None]
    sizes = np.linalg.norm(scaled, axis=0)
    variance = float((weights * deviations**2).sum()) / freedom
    information = (scaled / sizes).T @ (scaled / sizes)
    if spreads is not None:
        information += np.diag(variance / (spreads[inside] * sizes) ** 2)
    covariance = np.linalg.pinv(information) * variance
    errors[inside] = np.sqrt(np.maximum(np.diag(covariance), 0.0)) / sizes
    return errors

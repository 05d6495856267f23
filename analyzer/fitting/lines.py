"""Parameters of a replica from benchmark rows, by robust least squares.

Two lines are fitted, each with both coefficients >= 0 and residuals between logarithms, because a timing's
noise grows with it:

    ITL  = alpha + beta  * batch
    TTFT = gamma + delta * input_tokens * batch

Residuals count less the farther they are beyond 1.345 of their robust standard deviation (Huber 1964),
which keeps 95 % of the efficiency of least squares where nothing is wrong. Standard errors are those of the
weighted fit at its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from analyzer.errors import FitError, InvalidParameterError
from analyzer.replicas import BoolArray, FloatArray, checked

Quality = Literal["good", "fair", "poor"]

_TUNING = 1.345
_MAD_TO_DEVIATION = 1.4826
_ROUNDS = 20
_GOOD, _FAIR = 0.05, 0.15
"""Median relative errors up to which a fit is good or fair."""
_LEAST_SCALE = 1e-9
_LEAST_MS = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """One fitted line, y = base + slope * x.

    Attributes:
        base: value at x = 0, ms.
        slope: growth with x, ms.
        base_error: standard error of base; 0 where the rows leave no freedom.
        slope_error: standard error of slope.
        rows: rows used.
        outliers: rows that count less than half, as indices into the input.
        median_error: median of the absolute residuals, relative to the rows.
        r_squared: share of the variance of the logarithms that the line explains, outliers excluded.
        quality: grade of the median error.
        doubts: sentences on what the rows do not determine.

    """

    base: float
    slope: float
    base_error: float
    slope_error: float
    rows: int
    outliers: tuple[int, ...]
    median_error: float
    r_squared: float
    quality: Quality
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Both lines; `prefill` is None where no row has a TTFT."""

    decode: Line
    prefill: Line | None

    @property
    def quality(self) -> Quality:
        """The worse of the lines' qualities."""
        qualities = [self.decode.quality, *([self.prefill.quality] if self.prefill else [])]
        return max(qualities, key=("good", "fair", "poor").index)


def fit(
    *,
    batch: ArrayLike,
    input_tokens: ArrayLike,
    itl_ms: ArrayLike,
    ttft_ms: ArrayLike,
    max_batch: int | None = None,
) -> Fit:
    """Fit decode and prefill times to benchmark rows.

    Args:
        batch: mean number of requests in service, or concurrency, shape (M,), > 0.
        input_tokens: mean per request, shape (M,), >= 0; NaN in rows without a TTFT.
        itl_ms: mean inter-token latency, shape (M,); NaN where it was not measured.
        ttft_ms: mean time to first token, shape (M,); NaN where it was not measured.
        max_batch: of the server that was measured. A higher concurrency fills the batch, and its TTFT
            includes waiting, so it is not used.

    Raises:
        FitError: the rows do not determine the decode times.
        InvalidParameterError: a number is out of range; names the row.

    """
    size = np.size(batch)
    inside = checked("batch", batch, size, above=0.0)
    prompt = checked("input_tokens", input_tokens, size, least=0.0, optional=True)
    itl = checked("itl_ms", itl_ms, size, above=0.0, optional=True)
    ttft = checked("ttft_ms", ttft_ms, size, above=0.0, optional=True)
    missing = np.flatnonzero(~np.isnan(ttft) & np.isnan(prompt))
    if missing.size:
        row = int(missing[0])
        raise InvalidParameterError("input_tokens", "is missing beside a TTFT", index=row)
    queued: BoolArray = np.zeros(size, dtype=np.bool_) if max_batch is None else inside > max_batch
    served = np.minimum(inside, np.inf if max_batch is None else max_batch)
    decode = _line(served, itl, ~np.isnan(itl), ("itl_ms", "batch", "alpha", "beta"))
    # Without a prompt there is no prefill to fit.
    timed = ~np.isnan(ttft) & ~queued & (np.nan_to_num(prompt) > 0)
    if not timed.any():
        return Fit(decode=decode, prefill=None)
    load = np.where(timed, prompt * served, np.nan)
    names = ("ttft_ms", "input tokens * batch", "gamma", "delta")
    return Fit(decode=decode, prefill=_line(load, ttft, timed, names))


def _line(x: FloatArray, y: FloatArray, used: BoolArray, names: tuple[str, str, str, str]) -> Line:
    observed, over, base_name, slope_name = names
    indices = np.flatnonzero(used)
    if indices.size < 2:
        raise FitError(
            f"{observed}: {indices.size} usable rows; {base_name} and {slope_name} need at least 2"
        )
    x, y = x[indices], y[indices]
    if np.ptp(x) <= 1e-9 * x.max():
        raise FitError(
            f"{over}: the same in all rows, so {base_name} and {slope_name} cannot be separated;"
            " measure at two loads or more"
        )
    reach = x.max()

    def residuals(line: FloatArray) -> FloatArray:
        return np.asarray(np.log(np.maximum(line[0] + line[1] * x / reach, _LEAST_MS) / y))

    line, scale = _robust(residuals, float(np.median(y)))
    line = np.where(line < 1e-9 * line.max(), 0.0, line)
    deviations = residuals(line)
    weights = np.minimum(1.0, _TUNING * scale / np.maximum(np.abs(deviations), _LEAST_SCALE))
    errors = _errors(x / reach, y * np.exp(deviations), deviations, weights)
    median = float(np.median(np.abs(deviations)))
    trusted = weights > 0.5
    logs = np.log(y[trusted])
    spread = float(((logs - logs.mean()) ** 2).sum())
    doubts = []
    freedom = int(trusted.sum()) - 2
    if freedom < 1:
        doubts.append(f"{trusted.sum()} rows determine two parameters exactly: errors are unknown")
    for name, value, error in zip((base_name, slope_name), line, errors, strict=True):
        if value == 0.0:
            doubts.append(f"{name} is at its bound 0")
        elif error > 0.5 * value:
            doubts.append(
                f"{name} is uncertain by {error / value:.0%}: measure at more distinct loads"
            )
    return Line(
        base=float(line[0]),
        slope=float(line[1] / reach),
        base_error=float(errors[0]),
        slope_error=float(errors[1] / reach),
        rows=indices.size,
        outliers=tuple(int(index) for index in indices[~trusted]),
        median_error=median,
        r_squared=1.0 - float((deviations[trusted] ** 2).sum()) / spread if spread > 0 else 1.0,
        quality="good" if median <= _GOOD else "fair" if median <= _FAIR else "poor",
        doubts=tuple(doubts),
    )


def _errors(
    x: FloatArray, fitted: FloatArray, deviations: FloatArray, weights: FloatArray
) -> FloatArray:
    """Standard errors of the weighted fit, shape (2,); zeros where the rows leave no freedom."""
    freedom = weights.sum() - 2.0
    if freedom < 0.5:
        return np.zeros(2)
    design = np.column_stack([1.0 / fitted, x / fitted]) * np.sqrt(weights)[:, None]
    variance = float((weights * deviations**2).sum()) / freedom
    return np.asarray(np.sqrt(np.diag(np.linalg.pinv(design.T @ design)) * variance))


def _robust(
    residuals: Callable[[FloatArray], FloatArray], start: float
) -> tuple[FloatArray, float]:
    """Huber fit of both coefficients from `start`, and the robust standard deviation of its residuals."""
    # Both unknowns are times at a load (none, the largest), so they are of one size.
    line = np.array([start, start])
    scale = 0.1
    for _ in range(_ROUNDS):
        solution = least_squares(
            residuals, line, bounds=(0.0, np.inf), loss="huber", f_scale=_TUNING * scale,
            x_scale=np.full(2, start), xtol=1e-12, ftol=1e-12, gtol=1e-12,
        )  # fmt: skip
        before, line = scale, solution.x
        left = residuals(line)
        scale = max(_MAD_TO_DEVIATION * float(np.median(np.abs(left))), _LEAST_SCALE)
        if abs(scale - before) <= 1e-3 * before:
            break
    return line, scale

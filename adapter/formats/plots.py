"""Pictures of the model, as PNG files; they need matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapter.errors import InputError, UsageError
from adapter.formats import benchmarks, cases, step_cases
from analyzer import queueing
from analyzer.engine import sizing
from analyzer.errors import InvalidParameterError
from analyzer.fitting import lines
from analyzer.replicas import PARAMETERS, FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 200
_SHARE = 0.95
_NO_TARGET_MS = 1e9


@dataclass(frozen=True, slots=True)
class _Curves:
    """Latencies of one replica at rising rates, each of shape (N,); ms and requests per second."""

    rates: FloatArray
    most_rps: float
    means: dict[str, FloatArray]
    high: dict[str, FloatArray]
    limit: str


def write_analysis(case: cases.Case | step_cases.StepCase, path: Path) -> None:
    """Draw mean and 95th percentile of TTFT and ITL of one replica against the arrival rate.

    Raises:
        UsageError: matplotlib is not installed, or the case has no meaning.
        InputError: the file cannot be written.

    """
    share = _SHARE if case.percentile is None else case.percentile / 100
    try:
        if isinstance(case, step_cases.StepCase):
            curves = _step_curves(case, share)
        else:
            curves = _linear_curves(case, share)
    except InvalidParameterError as error:
        raise UsageError(f"{cases.named(error.parameter)}: {error.problem}") from error
    figure = new_figure((9.0, 6.0))
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axis, name, target in (
        (upper, "ttft", case.target_ttft_ms),
        (lower, "itl", case.target_itl_ms),
    ):
        axis.plot(curves.rates, curves.means[name], color="C0", label="mean")
        axis.plot(curves.rates, curves.high[name], color="C1", label=f"p{share * 100:g}")
        if target is not None:
            axis.axhline(target, color="C3", linestyle=":", label="target")
        axis.axvline(curves.most_rps, color="grey", linestyle="--", linewidth=0.8)
        axis.set_ylabel(f"{name.upper()} (ms)")
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    upper.set_yscale("symlog", linthresh=100)
    lower.set_xlabel(f"arrival rate of one replica (req/s); dashed: {curves.limit}")
    save(figure, path)


def _linear_curves(case: cases.Case, share: float) -> _Curves:
    single = queueing.Replicas(**dict(zip(PARAMETERS, case.parameters, strict=True)))
    replicas = single.take(np.zeros(_POINTS, dtype=np.intp))
    rates = np.linspace(0.0, 1.1, _POINTS) * single.max_rate_rps
    means = queueing.analyze_all(replicas, rates)
    high = queueing.percentiles_all(replicas, rates, share)
    return _Curves(
        rates,
        float(single.max_rate_rps[0]),
        {"ttft": means.ttft_ms, "itl": means.itl_ms},
        {"ttft": high.ttft_ms, "itl": high.itl_ms},
        "its own speed, mu(max batch)",
    )


@np.errstate(all="ignore")
def _step_curves(case: step_cases.StepCase, share: float) -> _Curves:
    single = step_cases.engines_of([case])
    # No target binds, so the replica is bound by what it keeps up with.
    most = float(sizing.size_engines(single, itl_ms=_NO_TARGET_MS, headroom=0.0).rate_rps[0])
    if not most > 0:
        raise UsageError("no plot: a replica does not keep up with any load")
    engines = single.take(np.zeros(_POINTS, dtype=np.intp))
    rates = np.linspace(0.0, most, _POINTS)
    means = sizing.analyze_engines(engines, rates)
    ttft, itl = sizing.quantiles(engines, rates, np.full(_POINTS, share))
    return _Curves(
        rates,
        most,
        {"ttft": _drawn(means.ttft_ms), "itl": _drawn(means.itl_ms)},
        {"ttft": _drawn(ttft), "itl": _drawn(itl)},
        "the most that it keeps up with",
    )


def _drawn(values: FloatArray) -> FloatArray:
    """NaN, which leaves a gap, where a latency grows without end."""
    return np.where(np.isfinite(values), values, np.nan)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty picture of that many inches.

    Raises:
        UsageError: matplotlib is not installed.

    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise UsageError("pictures need matplotlib; in a clone: pip install '.[plots]'") from error
    return Figure(figsize=size, layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file.

    Raises:
        InputError: the file cannot be written.

    """
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def write_fit(rows: Sequence[benchmarks.Row], fit: lines.Fit, path: Path) -> None:
    """Draw benchmark rows, outliers marked, with the lines fitted to them.

    Raises:
        UsageError: matplotlib is not installed.
        InputError: the file cannot be written.

    """
    figure = new_figure((9.0, 4.5))
    batch = np.array([row.batch for row in rows])
    load = batch * np.array([row.input_tokens for row in rows])
    itl = np.array([row.itl_ms for row in rows])
    ttft = np.array([row.ttft_ms for row in rows])
    panels = [(batch, itl, fit.decode, "batch", "ITL (ms)")]
    if fit.prefill is not None:
        panels.append((load, ttft, fit.prefill, "input tokens * batch", "TTFT (ms)"))
    for axis, (x, y, line, x_name, y_name) in zip(
        np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True
    ):
        axis.plot(x, y, "o", color="C0", label="measured")
        if line.outliers:
            at = list(line.outliers)
            axis.plot(x[at], y[at], "x", color="C3", markersize=10, label="outlier")
        ends = np.array([0.0, np.nanmax(x)])
        label = f"{line.base:.4g} + {line.slope:.4g} x"
        axis.plot(ends, line.base + line.slope * ends, color="C1", label=label)
        axis.set_xlabel(x_name)
        axis.set_ylabel(y_name)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend()
    save(figure, path)

"""Pictures of the model, as PNG files; they need matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapter.errors import InputError, UsageError
from adapter.formats import benchmarks, cases
from analyzer import queueing
from analyzer.errors import InvalidParameterError
from analyzer.fitting import lines
from analyzer.replicas import PARAMETERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 200
_SHARE = 0.95


def write_analysis(case: cases.Case, path: Path) -> None:
    """Draw mean and 95th percentile of TTFT and ITL of one replica against the arrival rate.

    Raises:
        UsageError: matplotlib is not installed, or the case has no meaning.
        InputError: the file cannot be written.

    """
    try:
        single = queueing.Replicas(**dict(zip(PARAMETERS, case.parameters, strict=True)))
    except InvalidParameterError as error:
        raise UsageError(f"{cases.named(error.parameter)}: {error.problem}") from error
    replicas = single.take(np.zeros(_POINTS, dtype=np.intp))
    share = _SHARE if case.percentile is None else case.percentile / 100
    rates = np.linspace(0.0, 1.1, _POINTS) * single.max_rate_rps
    means = queueing.analyze_all(replicas, rates)
    high = queueing.percentiles_all(replicas, rates, share)
    figure = new_figure((9.0, 6.0))
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axis, name, target in (
        (upper, "ttft", case.target_ttft_ms),
        (lower, "itl", case.target_itl_ms),
    ):
        axis.plot(rates, getattr(means, f"{name}_ms"), color="C0", label="mean")
        axis.plot(rates, getattr(high, f"{name}_ms"), color="C1", label=f"p{share * 100:g}")
        if target is not None:
            axis.axhline(target, color="C3", linestyle=":", label="target")
        axis.axvline(float(single.max_rate_rps[0]), color="grey", linestyle="--", linewidth=0.8)
        axis.set_ylabel(f"{name.upper()} (ms)")
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
    upper.set_yscale("symlog", linthresh=100)
    lower.set_xlabel("arrival rate of one replica (req/s); dashed: its own speed, mu(max batch)")
    save(figure, path)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty picture of that many inches.

    Raises:
        UsageError: matplotlib is not installed.

    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise UsageError(
            "pictures need matplotlib: pip install 'variant-adapter[plots]'"
        ) from error
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

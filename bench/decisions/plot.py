"""The picture of `decision_quality.py`: attainment over cost on each public trace, ours and the rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapter.formats import plots
from bench.decisions.suite import Done
from emulator.replay import report, tables
from emulator.replay.frontier import curves
from emulator.replay.frontier.curves import Point

_COLUMNS = 3
_TICKS = {0.3: "70 %", 0.1: "90 %", 0.03: "97 %", 0.01: "99 %", 0.001: "99.9 %", 0.0: "100 %"}


def draw(done: Sequence[Done], path: Path) -> None:
    """Draw one small plot per trace and start-up time."""
    rows = math.ceil(len(done) / _COLUMNS)
    figure = plots.new_figure((10.0, 0.5 + 2.5 * rows))
    for number, item in enumerate(done, start=1):
        _one(figure.add_subplot(rows, min(_COLUMNS, len(done)), number), item)
    plots.save(figure, path)


def _one(axes: Any, item: Done) -> None:
    ink, muted, grid, ours, rivals = (
        report.COLORS[name][0] for name in ("ink", "muted", "grid", "own0", "own1")
    )
    frontier = curves.frontier(item.comparison.results)
    axes.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
    axes.set_ylim(0.5, -2e-4)
    axes.set_yticks(list(_TICKS), list(_TICKS.values()))
    axes.minorticks_off()
    axes.axhspan(1 - tables.GOAL, -2e-4, color=grid, alpha=0.6, linewidth=0)
    axes.grid(color=grid, linewidth=0.6)
    for points in frontier.rivals.values():
        _line(axes, points, ".-", color=muted, linewidth=0.6, markersize=3, alpha=0.6)
    _line(axes, frontier.best, "-", color=rivals, linewidth=1.4, label="rivals' frontier")
    _line(axes, frontier.ours, "o-", color=ours, markersize=4, linewidth=1.6, label="ours")
    bound = item.comparison.bound
    if bound is not None:
        at = [bound.gpu_hours], [1 - bound.within]
        axes.plot(*at, "D", color=ink, markersize=4, label="clairvoyant")
    right = 2.2 * max(p.gpu_hours for p in frontier.ours)
    axes.set_xlim(0, right)
    axes.set_title(item.case.name, loc="left", color=ink, fontsize=8)
    axes.set_xlabel("GPU-hours", color=muted, fontsize=8)
    axes.tick_params(length=0, labelcolor=muted, labelsize=7)
    axes.legend(fontsize=6, frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Any, points: Sequence[Point], form: str, **style: Any) -> None:
    axes.plot([p.gpu_hours for p in points], [1 - p.within for p in points], form, **style)

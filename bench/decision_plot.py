"""The picture of `decision_quality.py`: SLO attainment over cost, by policy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from adapter.formats import plots
from bench.decision_suite import COST_LIMIT, Case
from emulator.replay import plots as replay_plots
from emulator.replay import report, tables


def draw(cases: Sequence[Case], path: Path) -> None:
    """Draw SLO attainment over cost, one point per policy: medians over the suite."""
    first = cases[0].comparison
    names = replay_plots.palette(first)
    colors = report.COLORS
    ink, muted, grid, good = (colors[name][0] for name in ("ink", "muted", "grid", "good"))
    figure = plots.new_figure((8.0, 4.6))
    axes = figure.subplots()
    points = [
        (
            result.title,
            statistics.median(
                case.comparison.cost_ratio(case.of(result.policy)) or 0.0 for case in cases
            ),
            1.0 - statistics.median(case.of(result.policy).within for case in cases),
            colors[names[result.policy]][0],
            result is first.bound,
        )
        for result in first.results
    ]
    right = max(cost for _, cost, _, _, _ in points)
    axes.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
    axes.set_ylim(1.0, -2e-4)
    ticks = {1.0: "0 %", 0.5: "50 %", 0.1: "90 %", 0.01: "99 %", 0.001: "99.9 %", 0.0: "100 %"}
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    left = min(0.9, *(cost for _, cost, _, _, _ in points)) - 0.05
    axes.set_xlim(left, right + 0.42 * (right - left))
    axes.grid(color=grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.fill_between(
        [left, COST_LIMIT], 1 - tables.GOAL, -2e-4, color=good, alpha=0.15, linewidth=0
    )
    for title, cost, missed, color, is_bound in points:
        axes.plot([cost], [missed], "D" if is_bound else "o", color=color, markersize=8, zorder=3)
        axes.annotate(title, (cost, missed), (9, _shift(missed, cost, points)), color=ink,
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(muted)
    axes.tick_params(length=0, labelcolor=muted)
    axes.set_xlabel("cost over the clairvoyant's", color=muted)
    axes.set_title(
        f"requests within the SLO, medians over {len(cases)} replays",
        loc="left",
        color=ink,
        fontsize=10,
    )
    plots.save(figure, path)


def _shift(
    missed: float, cost: float, points: Sequence[tuple[str, float, float, str, bool]]
) -> float:
    """Vertical shift of a label in points, away from a near point's label."""
    for _, other_cost, other, _, _ in points:
        near = abs(math.log((missed + 1e-3) / (other + 1e-3))) < 0.35 and (
            abs(other_cost - cost) < 1.0
        )
        if near and (other, other_cost) != (missed, cost):
            return 7.0 if (missed, cost) < (other, other_cost) else -7.0
    return 0.0

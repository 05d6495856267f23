"""Plots of a replay: time series of each policy, and SLO attainment over cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size

from adapter.formats import plots
from emulator.replay import downsampling, svg, tables
from emulator.replay.results import ClassResult, Comparison, Curves, FloatArray, PolicyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID, _BAD, _BOUND = (svg.PLACEHOLDERS[name] for name in svg.SHARED)
_WIDTH_INCHES = 4.6
_POINTS = 1600
"""Points of one curve in all plots together; each plot has at least 40."""
_NINES = {0.0: "100 %", 1e-3: "99.9 %", 1e-2: "99 %", 1e-1: "90 %", 1.0: "0 %"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Scales shared by all plots of one variant, so that policies can be compared.

    Attributes:
        unit: Symbol of the time axis' unit.
        unit_seconds: Seconds of one unit.
        end: End of the time axis, in units.
        warm_up: End of the warm-up, in units.
        tops: Largest value of each panel, by the panel's name.
        ttft_from_ms: TTFT from which its axis is logarithmic.
        points: Points of a curve after downsampling.

    """

    unit: str
    unit_seconds: float
    end: float
    warm_up: float
    tops: Mapping[str, float]
    ttft_from_ms: float
    points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """Axes of one quantity under one policy, with the data to draw."""

    axes: Axes
    classes: tuple[ClassResult, ...]
    curves: Curves
    bound: Curves | None
    view: View
    color: str


def palette(comparison: Comparison) -> dict[str, str]:
    """Name of the colour variable of each policy."""
    others = [item.policy for item in comparison.results if item is not comparison.bound]
    colors = {policy: f"own{i % svg.OWN_COLORS}" for i, policy in enumerate(others)}
    return colors | ({} if comparison.bound is None else {comparison.bound.policy: "bound"})


def view(comparison: Comparison, variant: str) -> View:
    """Scales that fit every policy's curves of a variant."""
    shown = [item for item in comparison.results if variant in item.curves]
    curves = [item.curves[variant] for item in shown]
    classes = [item for result in shown for item in _classes(result, variant)]
    ttft = [item.ttft_target_ms for item in classes]
    unit, unit_seconds = _unit(comparison.duration_seconds)
    end = max([comparison.duration_seconds, *(_top([item.seconds], 0.0) for item in curves)])
    pictures_in_all = sum(len(item.curves) for item in comparison.results)
    return View(
        unit=unit,
        unit_seconds=unit_seconds,
        end=end / unit_seconds,
        warm_up=comparison.warm_up_seconds / unit_seconds,
        tops={
            "load": _top((item.offered_rpm for item in curves), 1.0),
            "replicas": _common(
                [max(_top([i.created], 1.0), _top([i.desired], 1.0)) for i in curves]
            ),
            "ttft": max(
                [_top((item.ttft_p95_ms for item in curves), 1.0), *filter(math.isfinite, ttft)]
            ),
            "itl": _itl_top(curves, [item.itl_target_ms for item in classes]),
            "queue": _common([_top([item.waiting], 10.0) for item in curves]),
            "cost": _common([_top([item.cost_cents], 1.0) for item in curves]),
        },
        ttft_from_ms=10.0 ** math.floor(math.log10(max(min(ttft, default=1000.0), 1.0) / 5)),
        points=int(np.clip(_POINTS // max(pictures_in_all, 1), 40, 200)),
    )


def over_time(comparison: Comparison, result: PolicyResult, variant: str, shared: View) -> str:
    """Draw load, replicas, latencies, queue and cost of one variant under one policy, as stacked panels.

    Raises:
        UsageError: Matplotlib is not installed.

    """
    bound = comparison.bound
    other = None if bound is None or bound is result else bound.curves.get(variant)
    curves, color = result.curves[variant], svg.PLACEHOLDERS[palette(comparison)[result.policy]]
    classes = _classes(result, variant)
    figure = plots.new_figure((_WIDTH_INCHES, 6.6))
    with svg.style(f"{result.policy}/{variant}"):
        every = _stacked(figure)
        for axes, (_, heading, draw) in zip(every, _PANELS, strict=True):
            _prepare(axes, heading, shared)
            draw(_Panel(axes=axes, curves=curves, bound=other, classes=classes, view=shared,
                        color=color))  # fmt: skip
        every[-1].set_xlabel(f"time, {shared.unit}", color=_MUTED, labelpad=2)
        label = f"{result.title}, {variant}: load, replicas, TTFT, ITL, queue, cost"
        return svg.text(figure, label)


def trade_off(comparison: Comparison, every: Comparison | None = None) -> str:
    """Draw SLO attainment over cost, one point per policy; the best is at the upper left.

    Args:
        comparison: Policies with a name in the plot.
        every: All policies, whose curves are drawn too; None for those of the comparison.

    Raises:
        UsageError: Matplotlib is not installed.

    """
    names, bound = palette(comparison), comparison.bound
    relative = bound is not None and bound.cost_cents > 0
    points = [
        (comparison.cost_ratio(item) or 0.0 if relative else item.cost_cents, 1 - item.within)
        for item in comparison.results
    ]
    figure = plots.new_figure((_WIDTH_INCHES, 3.4))
    with svg.style("trade-off"):
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.15, 0.12, 0.81, 0.8))
        _style(axes, "requests within SLO")
        _nines(axes, [x for x, _ in points])
        axes.set_xlabel("cost / clairvoyant's" if relative else "cost, cents", color=_MUTED)
        if every is not None:
            _curves(axes, every, names, bound.cost_cents if bound and relative else 1.0)
        for result, (x, y) in zip(comparison.results, points, strict=True):
            color = svg.PLACEHOLDERS[names[result.policy]]
            axes.plot([x], [y], "D" if result is bound else "o", color=color, markersize=6,
                      clip_on=False, zorder=3)  # fmt: skip
        _label(axes, points, comparison)
        return svg.text(figure, "Requests within the SLO over cost, by policy")


def _curves(axes: Axes, every: Comparison, names: Mapping[str, str], unit_cents: float) -> None:
    """Draw the points of each family, joined, in the colour of the one that is named."""
    families: dict[str, list[PolicyResult]] = {}
    for result in every.results:
        families.setdefault(result.family or result.policy, []).append(result)
    for members in families.values():
        color = next((names[item.policy] for item in members if item.policy in names), None)
        if color is None:
            continue
        points = sorted((item.cost_cents / unit_cents, 1 - item.within) for item in members)
        axes.plot(*zip(*points, strict=True), ".-", color=svg.PLACEHOLDERS[color], linewidth=0.8,
                  markersize=4, alpha=0.7)  # fmt: skip


def _load(panel: _Panel) -> None:
    time = _time(panel.curves, panel.view)
    x, y = downsampling.min_max(time, panel.curves.offered_rpm, panel.view.points)
    panel.axes.fill_between(x, y, color=_MUTED, alpha=0.35, linewidth=0)
    panel.axes.plot(x, y, color=_MUTED, linewidth=0.8)
    _scale(panel.axes, panel.view.tops["load"] * 1.05)


def _replicas(panel: _Panel) -> None:
    axes, curves, view_of = panel.axes, panel.curves, panel.view
    time = _time(curves, view_of)
    x, ready, created = downsampling.changes(time, curves.ready, curves.created)
    axes.fill_between(x, ready, created, step="post", color=panel.color, alpha=0.3, linewidth=0)
    if panel.bound is not None:
        other = downsampling.changes(_time(panel.bound, view_of), panel.bound.ready)
        axes.plot(*other, drawstyle="steps-post", color=_BOUND, linewidth=1.2, dashes=(4, 2))
    axes.plot(x, ready, drawstyle="steps-post", color=panel.color, linewidth=1.6)
    desired = downsampling.changes(time, curves.desired)
    axes.plot(*desired, drawstyle="steps-post", color=_INK, linewidth=0.9, dashes=(1, 1.5))
    _cut(panel, "replicas", (curves.created, curves.desired))


def _ttft(panel: _Panel) -> None:
    axes, start = panel.axes, panel.view.ttft_from_ms
    top = max(panel.view.tops["ttft"] * 1.6, start * 100)
    axes.set_yscale("symlog", linthresh=start, linscale=0.7)
    first, last = round(math.log10(start)), math.floor(math.log10(top))
    ticks = [10.0**power for power in range(first, last + 1)]
    axes.set_yticks([0.0, *ticks], ["0", *map(_round_ms, ticks)])
    axes.minorticks_off()
    axes.set_ylim(0, top)
    targets = [(item.service_class, item.ttft_target_ms) for item in panel.classes]
    _latency(panel, panel.curves.ttft_p95_ms, targets)


def _itl(panel: _Panel) -> None:
    _scale(panel.axes, panel.view.tops["itl"] * 1.3)
    targets = [(item.service_class, item.itl_target_ms) for item in panel.classes]
    _latency(panel, panel.curves.itl_p95_ms, targets)


def _latency(panel: _Panel, values: FloatArray, targets: Sequence[tuple[str, float]]) -> None:
    """Draw the curve, the area above the strictest target, and the targets."""
    bridged = downsampling.bridge_gaps(
        _time(panel.curves, panel.view), values, 0.02 * panel.view.end
    )
    x, y = downsampling.min_max(*bridged, panel.view.points)
    known = [target for _, target in targets if math.isfinite(target)]
    if known:
        strictest = min(known)
        panel.axes.fill_between(x, np.where(np.isfinite(y), np.maximum(y, strictest), np.nan),
                                strictest, color=_BAD, alpha=0.3, linewidth=0)  # fmt: skip
    panel.axes.plot(x, y, color=panel.color, linewidth=1.2)
    gap = np.concatenate([[True], ~np.isfinite(y), [True]])
    alone = np.isfinite(y) & gap[:-2] & gap[2:]
    panel.axes.plot(x[alone], y[alone], ".", color=panel.color, markersize=3)
    _targets(panel.axes, targets)


def _targets(axes: Axes, targets: Sequence[tuple[str, float]]) -> None:
    """Draw a line per target; labels stand side by side, so that those of close targets do not overlap."""
    names_by_target: dict[float, list[str]] = {}
    for name, target in targets:
        if target < axes.get_ylim()[1]:
            names_by_target.setdefault(target, []).append(name)
    ordered = sorted(names_by_target)
    for target in ordered:
        axes.axhline(target, color=_INK, linewidth=0.8, dashes=(5, 3))
    labelled = ordered if len(ordered) <= 3 else [ordered[0], ordered[-1]]
    for i, target in enumerate(labelled):
        names = tables.plain(", ".join(names_by_target[target])) if len(ordered) > 1 else ""
        short = f"{names[:13]}…" if len(names) > 14 else names
        text = f"SLO {short} {tables.target_ms(target)}".replace("  ", " ")
        axes.text(0.99 - 0.36 * i, target, text, transform=axes.get_yaxis_transform(), ha="right",
                  va="bottom", color=_INK, fontsize=8.5, parse_math=False)  # fmt: skip


def _queue(panel: _Panel) -> None:
    time = _time(panel.curves, panel.view)
    x, y = downsampling.min_max(time, panel.curves.waiting, panel.view.points)
    panel.axes.fill_between(x, y, color=panel.color, alpha=0.3, linewidth=0)
    panel.axes.plot(x, y, color=panel.color, linewidth=1.0)
    _cut(panel, "queue", (panel.curves.waiting,))


def _cost(panel: _Panel) -> None:
    axes, points = panel.axes, panel.view.points
    if panel.bound is not None:
        other = downsampling.min_max(_time(panel.bound, panel.view), panel.bound.cost_cents, points)
        axes.plot(*other, color=_BOUND, linewidth=1.2, dashes=(4, 2))
    time = _time(panel.curves, panel.view)
    x, y = downsampling.min_max(time, panel.curves.cost_cents, points)
    axes.plot(x, y, color=panel.color, linewidth=1.6)
    _cut(panel, "cost", (panel.curves.cost_cents,))


_PANELS: tuple[tuple[float, str, Callable[[_Panel], None]], ...] = (
    (0.55, "offered load, requests/min", _load),
    (1.25, "replicas", _replicas),
    (1.2, "TTFT p95, logarithmic", _ttft),
    (0.8, "ITL p95, ms", _itl),
    (0.7, "requests waiting", _queue),
    (0.8, "cost so far, cents", _cost),
)


def _stacked(figure: Figure) -> Sequence[Axes]:
    figure.set_layout_engine("none")
    heights = [height for height, _, _ in _PANELS]
    grid = {"height_ratios": heights, "left": 0.15, "right": 0.985, "top": 0.965, "bottom": 0.072}
    panels: Sequence[Axes] = figure.subplots(
        len(_PANELS), 1, sharex=True, gridspec_kw={**grid, "hspace": 0.48}
    ).tolist()
    return panels


def _prepare(axes: Axes, heading: str, shared: View) -> None:
    _style(axes, heading)
    axes.set_xlim(0, shared.end)
    if shared.warm_up > 0:
        axes.axvspan(0, shared.warm_up, color=_GRID, alpha=0.6, linewidth=0)


def _style(axes: Axes, heading: str) -> None:
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_MUTED, labelsize=9)
    axes.set_title(heading, loc="left", fontsize=9.5, pad=3, color=_INK)


def _scale(axes: Axes, top: float) -> None:
    """Scale from 0 to `top`, with few integer ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415 - optional, and slow

    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _nines(axes: Axes, costs: Sequence[float]) -> None:
    """Scale SLO misses downwards logarithmically, and the cost axis to fit all costs."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - optional, and slow to import

    axes.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
    axes.set_ylim(1.5, -2e-4)
    axes.set_yticks(list(_NINES), list(_NINES.values()))
    axes.minorticks_off()
    axes.axhspan(1 - tables.GOAL, -2e-4, color=_GRID, alpha=0.6, linewidth=0)
    room = 0.1 * max(max(costs) - min(costs), 0.2 * max(costs), 1e-9)
    axes.set_xlim(min(costs) - room, max(costs) + room)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _label(axes: Axes, points: Sequence[tuple[float, float]], comparison: Comparison) -> None:
    """Write a name beside each point where it overlaps nothing; a line connects names that are far away."""
    scale = 72.0 / axes.figure.dpi
    at = [axes.transData.transform(point) * scale for point in points]
    taken = [(x - 5.0, y - 5.0, x + 5.0, y + 5.0) for x, y in at]
    limits = tuple(float(edge) * scale for edge in axes.bbox.extents)
    names = palette(comparison)
    for result, (x, y), point in zip(comparison.results, at, points, strict=True):
        name = tables.plain(result.title)
        text = name if cell_len(name) <= 36 else f"{set_cell_size(name, 35)}…"
        box = svg.free_box(x, y, 4.7 * cell_len(text), taken, limits)
        taken.append(box)
        aside, shift = box[2] < x, (box[1] + box[3]) / 2 - y
        line = {"arrowstyle": "-", "color": svg.PLACEHOLDERS[names[result.policy]], "shrinkA": 0}
        axes.annotate(text, point, (box[2 if aside else 0] - x, shift), textcoords="offset points",
                      ha="right" if aside else "left", va="center", fontsize=9, color=_INK,
                      parse_math=False, arrowprops=line if abs(shift) > 6 else None)  # fmt: skip


def _classes(result: PolicyResult, variant: str) -> tuple[ClassResult, ...]:
    """Results of the service classes of the variant's model."""
    model = result.curves[variant].model
    return tuple(item for item in result.classes if item.model == model)


def _time(curves: Curves, shared: View) -> FloatArray:
    return curves.seconds / shared.unit_seconds


def _unit(seconds: float) -> tuple[str, float]:
    if seconds <= 300:
        return "s", 1.0
    return ("min", 60.0) if seconds <= 10_800 else ("h", 3600.0)


def _top(arrays: Iterable[FloatArray], least: float) -> float:
    return max([least, *(float(a[np.isfinite(a)].max()) for a in arrays if np.isfinite(a).any())])


def _common(peaks: Sequence[float]) -> float:
    """The highest peak, limited to three times the median, so that outliers do not flatten other curves."""
    return min(max(peaks, default=1.0), 3 * float(np.median(peaks)) if peaks else 1.0)


def _cut(panel: _Panel, name: str, values: Iterable[FloatArray]) -> None:
    """Apply the common scale; the heading says where it cuts off values."""
    top, peak = panel.view.tops[name], _top(values, 0.0)
    _scale(panel.axes, top * 1.08)
    if peak > top * 1.08:
        heading = panel.axes.get_title(loc="left")
        panel.axes.set_title(f"{heading}; cut off, up to {_short(peak)}", loc="left", color=_BAD,
                             fontsize=9.5, pad=3)  # fmt: skip


def _itl_top(curves: Iterable[Curves], targets: Sequence[float]) -> float:
    """Top of the ITL axis: curves and targets, without targets so high that they would flatten the curves."""
    known = _top((item.itl_p95_ms for item in curves), min(targets, default=1.0))
    return max([known, *(target for target in targets if target <= 2 * known)])


def _short(value: float) -> str:
    return f"{value / 1000:,.0f}k" if value >= 10_000 else f"{value:,.0f}"


def _round_ms(value: float) -> str:
    return f"{value / 1000:,.0f} s" if value >= 1000 else f"{value:g} ms"

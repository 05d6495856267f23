"""Pictures of a replay as SVG to be put into a page, whose style sheet gives the colours.

Matplotlib draws with stand-in colours, which the finished text trades for variables (`var(--ink)`): one picture
suits a light and a dark page. Equal input gives equal text.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter import pictures
from adapter.replay import tables
from adapter.replay.outcome import Curves, FloatArray, Outcome, Replayed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OWN_COLORS = 8
"""Policies that have a colour of their own, `own0` and so on; more share them."""
_SHARED = ("ink", "muted", "grid", "bad", "bound")
_STAND_INS = {name: f"#01010{i}" for i, name in enumerate(_SHARED)} | {
    f"own{i}": f"#02020{i}" for i in range(OWN_COLORS)
}
_INK, _MUTED, _GRID, _BAD, _BOUND = (_STAND_INS[name] for name in _SHARED)
_WIDTH_INCHES = 5.0
_POINTS = 1600
"""Of one curve in all pictures together, at least 40 in each."""
_NINES = {0.0: "100 %", 1e-3: "99.9 %", 1e-2: "99 %", 1e-1: "90 %", 1.0: "0 %"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What all pictures of one variant share, so that they can be compared.

    Attributes:
        unit: of time, of `unit_seconds`.
        tops: the highest value of each panel.
        ttft_from_ms: from here on TTFT is on a logarithmic scale.
        points: of a curve.

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
    """One policy's axes of one quantity, with what it needs to be drawn."""

    axes: Axes
    outcome: Outcome
    curves: Curves
    bound: Curves | None
    view: View
    color: str


def palette(replayed: Replayed) -> dict[str, str]:
    """The name of each policy's colour."""
    others = [item.policy for item in replayed.outcomes if item is not replayed.bound]
    found = {policy: f"own{i % OWN_COLORS}" for i, policy in enumerate(others)}
    return found | ({} if replayed.bound is None else {replayed.bound.policy: "bound"})


def view(replayed: Replayed, variant: str) -> View:
    """Scales that hold every policy's curves of a variant."""
    curves = [item.curves[variant] for item in replayed.outcomes if variant in item.curves]
    classes = [item for outcome in replayed.outcomes for item in _judged(outcome, variant)]
    ttft = [item.ttft_target_ms for item in classes]
    unit, unit_seconds = _unit(replayed.duration_seconds)
    end = max([replayed.duration_seconds, *(_top([item.seconds], 0.0) for item in curves)])
    pictures_in_all = sum(len(item.curves) for item in replayed.outcomes)
    return View(
        unit=unit,
        unit_seconds=unit_seconds,
        end=end / unit_seconds,
        warm_up=replayed.warm_up_seconds / unit_seconds,
        tops={
            "load": _top((item.offered_rpm for item in curves), 1.0),
            "replicas": _top((a for i in curves for a in (i.created, i.ready, i.desired)), 1.0),
            "ttft": max(_top((item.ttft_p95_ms for item in curves), 1.0), *ttft, 1.0),
            "itl": max(
                _top((item.itl_p95_ms for item in curves), 1.0),
                *(item.itl_target_ms for item in classes),
                1.0,
            ),
            "queue": _top((item.waiting for item in curves), 10.0),
            "cost": _top((item.cost_cents for item in curves), 1.0),
        },
        ttft_from_ms=10.0 ** math.floor(math.log10(max(min(ttft, default=1000.0), 1.0) / 5)),
        points=int(np.clip(_POINTS // max(pictures_in_all, 1), 40, 200)),
    )


def over_time(replayed: Replayed, outcome: Outcome, variant: str, shared: View) -> str:
    """Load, replicas, latencies, queue and cost of one variant under one policy, one above the other.

    Raises:
        UsageError: matplotlib is not installed.

    """
    bound = replayed.bound
    other = None if bound is None or bound is outcome else bound.curves.get(variant)
    figure = pictures.new_figure((_WIDTH_INCHES, 6.1))
    with _look(f"{outcome.policy}/{variant}"):
        figure.set_layout_engine("none")
        every = figure.subplots(
            len(_PANELS),
            1,
            sharex=True,
            gridspec_kw={
                "height_ratios": [height for height, _, _ in _PANELS],
                "left": 0.125, "right": 0.985, "top": 0.965, "bottom": 0.07, "hspace": 0.42,
            },
        )  # fmt: skip
        for axes, (_, heading, draw) in zip(every, _PANELS, strict=True):
            _prepare(axes, heading, shared)
            color = _STAND_INS[palette(replayed)[outcome.policy]]
            curves = outcome.curves[variant]
            draw(
                _Panel(
                    axes=axes, outcome=outcome, curves=curves, bound=other, view=shared, color=color
                )
            )
        every[-1].set_xlabel(f"time, {shared.unit}", color=_MUTED)
        every[-1].tick_params(labelbottom=True)
        return _svg(figure, f"{outcome.title}, {variant}: load, replicas, TTFT, ITL, queue, cost")


def trade_off(replayed: Replayed) -> str:
    """Share within the SLO over cost, a point for each policy; the best is on the upper left.

    Raises:
        UsageError: matplotlib is not installed.

    """
    figure = pictures.new_figure((_WIDTH_INCHES, 3.4))
    with _look("trade-off"):
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.14, 0.13, 0.83, 0.8))
        _style(axes, "requests within SLO")
        relative = replayed.bound is not None and replayed.bound.cost_cents > 0
        costs = [replayed.cost_ratio(o) if relative else o.cost_cents for o in replayed.outcomes]
        points = [
            (float(cost or 0.0), min(max(1 - o.within, 0.0), 1.0))
            for cost, o in zip(costs, replayed.outcomes, strict=True)
        ]
        axes.set_yscale("symlog", linthresh=1e-3, linscale=0.5)
        axes.set_ylim(1.6, -2e-4)
        axes.set_yticks(list(_NINES), list(_NINES.values()))
        axes.minorticks_off()
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        room = max(high - low, 0.1 * high, 1e-9)
        axes.set_xlim(low - 0.1 * room, high + 0.1 * room)
        axes.axhspan(1 - tables.GOAL, -2e-4, color=_GRID, alpha=0.5, linewidth=0)
        axes.set_xlabel("cost / clairvoyant's cost" if relative else "cost, cents", color=_MUTED)
        names = palette(replayed)
        for outcome, (x, y) in zip(replayed.outcomes, points, strict=True):
            marker = "D" if outcome is replayed.bound else "o"
            axes.plot([x], [y], marker, color=_STAND_INS[names[outcome.policy]], markersize=6,
                      clip_on=False, zorder=3)  # fmt: skip
        _label_points(axes, points, [tables.plain(item.title) for item in replayed.outcomes])
        return _svg(figure, "Requests within the SLO over cost, by policy")


def thinned(seconds: FloatArray, values: FloatArray, points: int) -> tuple[FloatArray, FloatArray]:
    """At most about four samples for each of that many points: ends, lowest, highest, and all gaps."""
    if len(seconds) <= 4 * points:
        return seconds, values
    keep: set[int] = set()
    edges = np.linspace(0, len(seconds), points + 1).astype(int)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        known = start + np.flatnonzero(np.isfinite(values[start:end]))
        if known.size < end - start:
            keep.add(start + int(np.flatnonzero(~np.isfinite(values[start:end]))[0]))
        if known.size:
            keep.update((int(known[0]), int(known[-1])))
            keep.update((int(known[values[known].argmin()]), int(known[values[known].argmax()])))
    order = sorted(keep)
    return seconds[order], values[order]


def _load(panel: _Panel) -> None:
    x, y = thinned(_time(panel), panel.curves.offered_rpm, panel.view.points)
    panel.axes.fill_between(x, y, color=_MUTED, alpha=0.35, linewidth=0)
    panel.axes.plot(x, y, color=_MUTED, linewidth=0.8)
    _scale(panel, "load")


def _replicas(panel: _Panel) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - optional, and slow to import

    axes, curves = panel.axes, panel.curves
    time, ready, created = _changes(_time(panel), curves.ready, curves.created)
    axes.fill_between(time, ready, created, step="post", color=panel.color, alpha=0.3, linewidth=0)
    if panel.bound is not None:
        other, (x, y) = panel.bound, (panel.bound.seconds, panel.bound.ready)
        x, y = _changes(other.seconds / panel.view.unit_seconds, y)
        axes.plot(x, y, drawstyle="steps-post", color=_BOUND, linewidth=1.2, dashes=(4, 2))
    axes.plot(time, ready, drawstyle="steps-post", color=panel.color, linewidth=1.6)
    time, desired = _changes(_time(panel), curves.desired)
    axes.plot(time, desired, drawstyle="steps-post", color=_INK, linewidth=0.9, dashes=(1, 1.5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_ylim(0, panel.view.tops["replicas"] * 1.08)


def _ttft(panel: _Panel) -> None:
    axes, start = panel.axes, panel.view.ttft_from_ms
    top = max(panel.view.tops["ttft"] * 1.6, start * 100)
    axes.set_yscale("symlog", linthresh=start, linscale=0.4)
    decades = range(round(math.log10(start)), math.floor(math.log10(top)) + 1)
    ticks = [0.0, *(10.0**i for i in decades)]
    axes.set_yticks(ticks, ["0", *(_round_ms(tick) for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set_ylim(0, top)
    _latency(panel, panel.curves.ttft_p95_ms, "ttft_target_ms")


def _itl(panel: _Panel) -> None:
    _scale(panel, "itl", room=1.25)
    _latency(panel, panel.curves.itl_p95_ms, "itl_target_ms")


def _latency(panel: _Panel, values: FloatArray, target: str) -> None:
    """The curve, what of it is above the strictest target, and the targets."""
    x, y = _joined(_time(panel), values, 0.02 * panel.view.end)
    x, y = thinned(x, y, panel.view.points)
    alone = np.isfinite(y) & _next_to_gap(y)
    targets: dict[float, list[str]] = {}
    for item in _judged(panel.outcome, panel.curves_name):
        targets.setdefault(getattr(item, target), []).append(item.service_class)
    ordered = sorted(value for value in targets if math.isfinite(value))
    if ordered:
        over = np.where(np.isfinite(y), y, 0.0) > ordered[0]
        panel.axes.fill_between(x, y, ordered[0], where=over.tolist(), interpolate=True, color=_BAD,
                                alpha=0.25, linewidth=0)  # fmt: skip
    panel.axes.plot(x, y, color=panel.color, linewidth=1.2)
    panel.axes.plot(x[alone], y[alone], ".", color=panel.color, markersize=2.5)
    _targets(panel, ordered, targets)

"""Plots as inline SVG, drawn by the server: lines over time or load, horizontal limits, and marks.

Colours come from the style sheet by class, so the plots are dark or light as the page is, and lines differ by
their dashes too. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 8, 10, 24
_X_TICKS, _Y_TICKS = 4, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a plot.

    Attributes:
        label: Name in the legend.
        style: Number of its colour and dashes, from 1.
        points: Pairs of x and y; a y that is None or not finite leaves a gap.
        steps: Whether values hold until the next point.

    """

    label: str
    style: int
    points: Sequence[tuple[float, float | None]]
    steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A horizontal line, such as an SLO target."""

    label: str
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One point, such as what is measured now."""

    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What a plot shows.

    Attributes:
        title: Quantity.
        unit: Unit of y.
        lines: Lines; at least one point of them is known, or the plot says that nothing is.
        limits: Horizontal lines.
        marks: Vertical marks with their text.
        spots: Points.
        x_from: Least x.
        x_to: Largest x.
        x_time: Whether x is a Unix time.
        x_unit: Unit of x where it is no time.
        y_most: Largest y that is drawn; None draws all.

    """

    title: str
    unit: str
    lines: Sequence[Line]
    x_from: float
    x_to: float
    limits: Sequence[Limit] = ()
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    spots: Sequence[Spot] = ()
    x_time: bool = True
    x_unit: str = ""
    y_most: float | None = None

    @property
    def known(self) -> list[float]:
        """Every y of the lines and points."""
        heights = [y for line in self.lines for _, y in line.points if _finite(y)]
        return [y for y in heights if y is not None] + [spot.y for spot in self.spots]

    @property
    def summary(self) -> str:
        """Text for who does not see the plot: the last, least and largest value of each line."""
        parts = []
        for line in self.lines:
            values = [y for _, y in line.points if y is not None and _finite(y)]
            if values:
                last, least, most = (
                    short(number) for number in (values[-1], min(values), max(values))
                )
                parts.append(f"{line.label} last {last}, from {least} to {most}")
        parts += [f"{limit.label} {short(limit.y)}" for limit in self.limits]
        parts += [f"{spot.label} {short(spot.y)} at {short(spot.x)}" for spot in self.spots]
        return f"{self.title} in {self.unit}: " + ("; ".join(parts) or "nothing is known")


def short(value: float) -> str:
    """A number with three digits, thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k" if abs(value) < 1e6 else f"{value:.2e}"
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"


def svg(plot: Plot) -> Markup:
    """The plot as an `svg` element."""
    top = _top(plot)
    size, label = f"0 0 {WIDTH} {HEIGHT}", escape(plot.summary)
    parts = [f'<svg class="plot" viewBox="{size}" role="img" aria-label="{label}">']
    parts += _grid(plot, top)
    if not plot.known:
        middle = _LEFT + (WIDTH - _LEFT) // 2
        parts.append(f'<text x="{middle}" y="{HEIGHT // 2}">nothing is known yet</text>')
    for limit in plot.limits:
        if limit.y <= top:
            y = f"{_y(limit.y, top):.1f}"
            parts.append(
                f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            )
    for x, text in plot.marks:
        if plot.x_from <= x <= plot.x_to:
            at = f"{_x(plot, x):.1f}"
            parts.append(
                f'<g class="mark"><title>{escape(text)}</title><line x1="{at}" x2="{at}"'
                f' y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/><path d="M{at} {_TOP}l-4 -7h8z"/></g>'
            )
    for line in plot.lines:
        path = _path(plot, line, top)
        if path:
            parts.append(f'<path class="line s{int(line.style)}" d="{path}"/>')
    for spot in plot.spots:
        if plot.x_from <= spot.x <= plot.x_to:
            x_, y_ = _x(plot, spot.x), _y(min(spot.y, top), top)
            parts.append(
                f'<circle class="spot" cx="{x_:.1f}" cy="{y_:.1f}" r="5">'
                f"<title>{escape(spot.label)}</title></circle>"
            )
    parts.append("</svg>")
    # Numbers, constants and escaped texts only.
    return Markup("".join(parts))  # noqa: S704


def _top(plot: Plot) -> float:
    known = [*plot.known, *(limit.y for limit in plot.limits)]
    most = max(known, default=0.0)
    if plot.y_most is not None:
        most = min(most, plot.y_most)
    return _steps(most if most > 0 else 1.0, _Y_TICKS)[-1]


def _steps(most: float, count: int) -> list[float]:
    """Round numbers from 0 to one that is no less than `most`."""
    raw = most / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    return [step * place for place in range(math.ceil(most / step * 0.999) + 1)]


def _grid(plot: Plot, top: float) -> Iterable[str]:
    for tick in _steps(top, _Y_TICKS):
        y = _y(tick, top)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="y" x="{_LEFT - 5}" y="{y + 4:.1f}">{short(tick)}</text>'
    for place in range(_X_TICKS + 1):
        x = plot.x_from + (plot.x_to - plot.x_from) * place / _X_TICKS
        at = _x(plot, x)
        anchor = "first" if place == 0 else "last" if place == _X_TICKS else "x"
        yield f'<text class="{anchor}" x="{at:.1f}" y="{HEIGHT - 6}">{_x_text(plot, x)}</text>'


def _x_text(plot: Plot, x: float) -> str:
    if not plot.x_time:
        return short(x)
    form = "%H:%M" if plot.x_to - plot.x_from > 600 else "%H:%M:%S"
    return datetime.fromtimestamp(x, UTC).strftime(form)


def _path(plot: Plot, line: Line, top: float) -> str:
    pieces: list[str] = []
    pen = False
    before = 0.0
    for x, y in line.points:
        if y is None or not _finite(y) or not plot.x_from <= x <= plot.x_to:
            pen = False
            continue
        at, height = _x(plot, x), _y(min(y, top), top)
        if not pen:
            # A point without neighbours is seen as a dot of the round line cap.
            pieces.append(f"M{at:.1f} {height:.1f}h0")
        elif line.steps:
            pieces.append(f"V{before:.1f}H{at:.1f}V{height:.1f}")
        else:
            pieces.append(f"L{at:.1f} {height:.1f}")
        pen, before = True, height
    return "".join(pieces)


def _x(plot: Plot, x: float) -> float:
    span = max(plot.x_to - plot.x_from, 1e-9)
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (x - plot.x_from) / span


def _y(y: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * max(y, 0.0) / top


def _finite(y: float | None) -> bool:
    return y is not None and math.isfinite(y)

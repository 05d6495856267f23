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

from adapter.logs import printable

WIDTH, HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 8, 10, 24
_X_TICKS, _Y_TICKS = 5, 4
_TIME_STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200)


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
        band: Places of the two lines between which the plot is filled; None fills nothing.
        whole: Whether y is a number of things.

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
    band: tuple[int, int] | None = None
    whole: bool = False

    @property
    def drawn(self) -> list[Line]:
        """Lines of which at least one point is known."""
        return [line for line in self.lines if any(_finite(y) for _, y in line.points)]

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
    size, label = f"0 0 {WIDTH} {HEIGHT}", escape(printable(plot.summary))
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
                f'<g class="mark"><title>{escape(printable(text))}</title><line x1="{at}" x2="{at}"'
                f' y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/><path d="M{at} {_TOP}l-4 -7h8z"/></g>'
            )
    if plot.band is not None:
        parts.append(f'<path class="band" d="{_area(plot, *plot.band, top)}"/>')
    for line in plot.lines:
        path = _path(plot, line, top)
        if path:
            parts.append(f'<path class="line s{int(line.style)}" d="{path}"/>')
    for spot in plot.spots:
        if plot.x_from <= spot.x <= plot.x_to:
            x_, y_ = _x(plot, spot.x), _y(min(spot.y, top), top)
            parts.append(
                f'<circle class="spot" cx="{x_:.1f}" cy="{y_:.1f}" r="5">'
                f"<title>{escape(printable(spot.label))}</title></circle>"
            )
    parts.append("</svg>")
    # Numbers, constants and escaped texts only.
    return Markup("".join(parts))  # noqa: S704


def _top(plot: Plot) -> float:
    known = [*plot.known, *(limit.y for limit in plot.limits)]
    most = max(known, default=0.0)
    if plot.y_most is not None:
        most = min(most, plot.y_most)
    return _steps(most if most > 0 else 1.0, _Y_TICKS, whole=plot.whole)[-1]


def _steps(most: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers from 0 to one that is no less than `most`."""
    raw = max(most / count, 1.0) if whole else most / count
    size = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(size * factor for factor in factors if size * factor >= raw * 0.999)
    return [step * place for place in range(math.ceil(most / step * 0.999) + 1)]


def _grid(plot: Plot, top: float) -> Iterable[str]:
    for tick in _steps(top, _Y_TICKS, whole=plot.whole):
        y = _y(tick, top)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="y" x="{_LEFT - 5}" y="{y + 4:.1f}">{short(tick)}</text>'
    for x in _x_ticks(plot):
        at = _x(plot, x)
        anchor = "last" if at > WIDTH - _RIGHT - 20 else "x"
        yield f'<path class="grid" d="M{at:.1f} {HEIGHT - _BOTTOM}v4"/>'
        yield f'<text class="{anchor}" x="{at:.1f}" y="{HEIGHT - 6}">{_x_text(plot, x)}</text>'


def _x_ticks(plot: Plot) -> list[float]:
    """Round times or loads within the plot."""
    if not plot.x_time:
        return [x for x in _steps(max(plot.x_to, 1e-9), _X_TICKS) if x <= plot.x_to]
    span = plot.x_to - plot.x_from
    step = next((item for item in _TIME_STEPS if span / item <= _X_TICKS), _TIME_STEPS[-1])
    first = math.ceil(plot.x_from / step)
    return [float(place * step) for place in range(first, math.floor(plot.x_to / step) + 1)]


def _x_text(plot: Plot, x: float) -> str:
    return datetime.fromtimestamp(x, UTC).strftime("%H:%M") if plot.x_time else short(x)


def _area(plot: Plot, lower: int, upper: int, top: float) -> str:
    """Outlines of the areas between two lines, wherever both are known."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for (x, low), (_, high) in zip(plot.lines[lower].points, plot.lines[upper].points, strict=True):
        inside = plot.x_from <= x <= plot.x_to
        if low is None or high is None or not (_finite(low) and _finite(high) and inside):
            runs.append([])
            continue
        runs[-1].append((_x(plot, x), _y(min(low, top), top), _y(min(high, top), top)))
    pieces = []
    for run in filter(None, runs):
        ends = [f"{x:.1f} {high:.1f}" for x, _, high in run]
        ends += [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(run)]
        pieces.append(f"M{'L'.join(ends)}Z")
    return "".join(pieces)


def bar(share: float | None) -> Markup:
    """A share as a bar, beside the number that says the same."""
    if share is None or not math.isfinite(share):
        return Markup()
    width = 100.0 * min(max(share, 0.0), 1.0)
    return Markup(  # noqa: S704 - a number and constants only
        '<svg class="bar" viewBox="0 0 100 8" aria-hidden="true" preserveAspectRatio="none">'
        f'<rect class="whole" width="100" height="8"/><rect width="{width:.1f}" height="8"/></svg>'
    )


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

"""A comparison on a terminal: its table, a small plot of attainment over cost, and ours beside the rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from emulator.replay import tables
from emulator.replay.frontier import curves
from emulator.replay.frontier.curves import Frontier, Point
from emulator.replay.results import Comparison, PolicyResult

_COLUMNS, _LINES = 62, 13
_NINES = (
    (0.0, "100 %"),
    (1e-3, "99.9 %"),
    (1e-2, "99 %"),
    (3e-2, "97 %"),
    (1e-1, "90 %"),
    (0.3, "70 %"),
)
_LEAST_MISS = 3e-4
"""Share of missed requests at which the axis ends: less is drawn as 100 %."""
_CURVE, _RIVAL, _OURS, _BOUND = ".", "o", "#", "+"


def table(comparison: Comparison) -> Table:
    """Table for a terminal of at least `tables.WIDTH` columns; of many policies the best of each curve."""
    every, comparison = len(comparison.results), tables.best_shown(comparison)
    left_out = every - len(comparison.results)
    shown = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    shown.title = Text(tables.title(comparison))
    if left_out:
        shown.caption = Text(
            f"Of each curve the cheapest that meets the SLO, else the best; --json has {left_out} more"
        )
    shown.add_column(tables.COLUMNS[0], overflow="fold", min_width=12)
    for name in tables.COLUMNS[1:]:
        shown.add_column(_narrow(name), justify="right", overflow="fold")
    for row in tables.rows(comparison):
        style = "dim" if row.service_class else _style(row.result)
        label = ("  " if row.service_class else "") + row.label
        shown.add_row(*(Text(cell) for cell in (label, *row.cells)), style=style)
    return shown


def _narrow(name: str) -> str:
    """A heading wrapped at nine characters, where its words are that short."""
    wrapped = [""]
    for word in name.replace("-", "- ").split():
        joined = f"{wrapped[-1]} {word}".strip()
        wrapped = [*wrapped[:-1], joined] if len(joined) <= 9 else [*wrapped, word]
    return "\n".join(wrapped)


def _style(result: PolicyResult) -> str:
    return "green" if result.within >= tables.GOAL else ""


def lines(comparison: Comparison) -> list[Text]:
    """The plot with its key, and a sentence for each point of ours; empty without ours or without a rival."""
    frontier = curves.frontier(comparison.results)
    if not frontier.ours or not frontier.best:
        return []
    bounds = [
        _point(item)
        for item in comparison.results
        if (item.family or item.policy) in curves.BOUNDS - {"static"}
    ]
    return [*_plot(frontier, bounds), Text(), *map(Text, sentences(frontier))]


def sentences(frontier: Frontier) -> list[str]:
    """Ours at each of its costs beside the best rival there."""
    said = []
    for item in frontier.beside:
        head = f"{item.point.policy}: {_percent(item.point.within)} at {_hours(item.point)}"
        if item.rival is None:
            said.append(f"{head}; no rival is that cheap")
            continue
        points = 100 * item.ahead
        ahead = f"{abs(points):.2f} points {'more' if points >= 0 else 'less'}"
        said.append(f"{head}; best rival there {item.rival} {_percent(item.rival_within)}: {ahead}")
    return said


def _point(result: PolicyResult) -> Point:
    return Point(
        policy=result.policy,
        cost_cents=result.cost_cents,
        gpu_hours=result.gpu_hours,
        within=result.within,
    )


def _plot(frontier: Frontier, bounds: Sequence[Point]) -> list[Text]:
    rivals = [point for points in frontier.rivals.values() for point in points]
    shown = [*frontier.ours, *rivals, *bounds]
    left, right = _range(frontier, bounds)
    worst = min(
        max(1 - min(point.within for point in shown if point.cost_cents <= right), 0.02), 0.6
    )
    grid = [[" "] * _COLUMNS for _ in range(_LINES)]

    def put(cost: float, within: float, sign: str) -> None:
        if not left <= cost <= right or 1 - within > worst:
            return
        column = round((cost - left) / (right - left) * (_COLUMNS - 1))
        grid[_line(1 - within, worst)][column] = sign

    for column in range(_COLUMNS):
        cost = left + (right - left) * column / (_COLUMNS - 1)
        kept = [curves.within_at(curve, cost) for curve in frontier.rivals.values()]
        known = [item for item in kept if not math.isnan(item)]
        if known:
            put(cost, max(known), _CURVE)
    for sign, points in ((_RIVAL, rivals), (_BOUND, bounds), (_OURS, frontier.ours)):
        for point in points:
            put(point.cost_cents, point.within, sign)
    labels = {_line(missed, worst): text for missed, text in reversed(_NINES) if missed <= worst}
    drawn = [Text("requests within SLO over cost", style="bold")]
    for number, row in enumerate(grid):
        drawn.append(_colored(f"{labels.get(number, ''):>7} |{''.join(row)}"))
    drawn.append(Text(f"{'':>7} +{'-' * _COLUMNS}"))
    middle = f"{right:,.0f} cents"
    drawn.append(Text(f"{'':>8} {left:,.0f}{middle:>{_COLUMNS - len(f'{left:,.0f}')}}"))
    drawn.append(
        Text(
            f"{'':>8} {_OURS} ours   {_RIVAL} rivals   {_CURVE} their frontier"
            + (f"   {_BOUND} bounds" if bounds else "")
        )
    )
    return drawn


def _range(frontier: Frontier, bounds: Sequence[Point]) -> tuple[float, float]:
    """Costs that are shown: from the cheapest to a quarter beyond where both sides keep most."""
    costs = [point.cost_cents for point in (*frontier.ours, *frontier.best, *bounds)]
    most = max(frontier.ours[-1].cost_cents, *(point.cost_cents for point in frontier.best[-1:]))
    near = 2.5 * frontier.ours[-1].cost_cents
    right = 1.05 * min(most, near)
    return 0.95 * min(costs), max(right, 1.05 * frontier.ours[-1].cost_cents)


def _line(missed: float, worst: float) -> int:
    """Line of a share of missed requests, on a logarithmic scale; 0 is the top."""
    depth = math.log(max(missed, _LEAST_MISS) / _LEAST_MISS) / math.log(worst / _LEAST_MISS)
    return min(round(depth * (_LINES - 1)), _LINES - 1)


def _colored(line: str) -> Text:
    text = Text(line)
    head = line.index("|") + 1
    for position, sign in enumerate(line[head:], start=head):
        if sign in {_OURS, _BOUND}:
            text.stylize("green" if sign == _OURS else "dim", position, position + 1)
    return text


def _percent(share: float) -> str:
    return f"{math.floor(share * 1e4 + 1e-6) / 100:.2f} %"


def _hours(point: Point) -> str:
    return f"{point.gpu_hours:,.2f} GPU-hours"

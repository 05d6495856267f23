"""What a replay found, in numbers: for the terminal, as a document for programs, and in Markdown."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from emulator.replay.results import ClassOutcome, Outcome, Replayed

GOAL = 0.99
"""Share of requests within their SLO from which on a policy is said to meet it."""
_GOAL = f"{GOAL * 100:g} %"
WIDTH = 100
"""Columns of the narrowest terminal in which the table is whole."""
NONE = "–"  # noqa: RUF001 - the dash that typography has for "no value"
COLUMNS = (
    "policy",
    "within SLO",
    "TTFT p95",
    "ITL p95",
    "GPU-hours",
    "cost, cents",
    "cost / bound",
    "scaled up + down",
    "recovery, median / worst",
    "queue peak",
)
_SUMMARY = (
    "policy",
    "traces",
    f"≥ {_GOAL} within SLO",
    "within SLO, median",
    "worst",
    "cost / bound, median",
    "scale events, median",
    "recovery, median / worst",
)
_NO_CELLS = ("",) * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a policy, or one of its service classes where there are several.

    Attributes:
        label: what stands in the first column.
        cells: what stands in the others.
        service_class: None for the policy itself.

    """

    label: str
    cells: tuple[str, ...]
    outcome: Outcome
    service_class: ClassOutcome | None = None


def rows(replayed: Replayed) -> tuple[Row, ...]:
    """The table's lines, in the order of the policies."""
    return tuple(row for outcome in replayed.outcomes for row in _rows(replayed, outcome))


def table(replayed: Replayed) -> Table:
    """For a terminal, which has to have `WIDTH` columns."""
    found = Table(box=None, pad_edge=False, title=Text(_title(replayed)), title_justify="left")
    found.add_column(COLUMNS[0], overflow="fold", min_width=12)
    for name in COLUMNS[1:]:
        found.add_column(_narrow(name), justify="right", overflow="fold")
    for row in rows(replayed):
        style = "dim" if row.service_class else _style(row.outcome)
        label = ("  " if row.service_class else "") + row.label
        found.add_row(*(Text(cell) for cell in (label, *row.cells)), style=style)
    return found


def document(replayed: Replayed, *, curves: bool = False) -> dict[str, Any]:
    """For programs: six digits of every number, and null for one that is not there."""
    return {
        "scenario": replayed.scenario,
        "trace": replayed.trace,
        "duration_seconds": _number(replayed.duration_seconds),
        "requests": replayed.requests,
        "warm_up_seconds": _number(replayed.warm_up_seconds),
        "facts": dict(replayed.facts),
        "outcomes": [_outcome(replayed, item, curves) for item in replayed.outcomes],
    }


def markdown(replayed_list: Sequence[Replayed]) -> str:
    """A summary over all traces, then one table for each."""
    parts = [_summary(replayed_list)] if len(replayed_list) > 1 else []
    parts += [_section(item) for item in replayed_list]
    return "\n".join(parts)


def findings(replayed: Replayed) -> tuple[str, ...]:
    """Which policy meets the SLO for the least, and how the others do: a sentence each."""
    others = [item for item in replayed.outcomes if item is not replayed.bound]
    if not others:
        return ("No policy was replayed.",)
    good = sorted((item for item in others if item.within >= GOAL), key=lambda i: i.cost_cents)
    if not good:
        found = [_closest(replayed, max(others, key=lambda item: item.within))]
    else:
        found = [_best(replayed, good[0]), *_rest(replayed, good[1:], len(others))]
    bound = replayed.bound
    if bound is not None and bound.within < GOAL:
        found.append(f"Even the clairvoyant keeps only {percent(bound.within)} within the SLO.")
    return tuple(found)


def headline(replayed: Replayed) -> str:
    """The findings in one line."""
    return " ".join(findings(replayed))


def percent(share: float) -> str:
    """Rounded down: 100 % is all of them."""
    return NONE if math.isnan(share) else f"{math.floor(share * 1e4 + 1e-6) / 100:.2f} %"


def duration_ms(value: float) -> str:
    """Three digits, as milliseconds or, from a second on, as seconds."""
    if not math.isfinite(value):
        return NONE
    number, unit = (value / 1000, "s") if value >= 999.5 else (value, "ms")
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    return f"{number:,.{digits}f} {unit}"


def target_ms(value: float) -> str:
    """As it was chosen: without zeros at the end."""
    if not math.isfinite(value):
        return NONE
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def plain(name: str) -> str:
    """A name without what moves a cursor or is no character of XML."""
    return "".join(letter if letter.isprintable() else " " for letter in name)


def ratio(value: float | None) -> str:
    """Of a cost to the bound's."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.2f}×"  # noqa: RUF001


def recovery(seconds: Iterable[float]) -> str:
    """Median and worst time; what never came back is the worst there is."""
    values = [math.inf if math.isnan(item) else item for item in seconds]
    if not values:
        return NONE
    middle, worst = statistics.median(values), max(values)
    if math.isinf(middle):
        return "never"
    return f"{middle:,.0f} s / never" if math.isinf(worst) else f"{middle:,.0f} / {worst:,.0f} s"


def _rows(replayed: Replayed, outcome: Outcome) -> Iterable[Row]:
    only = outcome.classes[0] if len(outcome.classes) == 1 else None
    latency = map(duration_ms, (only.ttft_p95_ms, only.itl_p95_ms)) if only else ("", "")
    yield Row(
        label=plain(outcome.title),
        cells=(
            percent(outcome.within),
            *latency,
            f"{outcome.gpu_hours:,.2f}",
            f"{outcome.cost_cents:,.0f}",
            ratio(replayed.cost_ratio(outcome)),
            f"{outcome.scale_ups} + {outcome.scale_downs}",
            recovery(outcome.recovery_seconds),
            f"{outcome.queue_peak:,}",
        ),
        outcome=outcome,
    )
    if only:
        return
    models = {item.model for item in outcome.classes}
    for item in outcome.classes:
        yield Row(
            label=plain(item.service_class + (f", {item.model}" if len(models) > 1 else "")),
            cells=(
                percent(item.within),
                duration_ms(item.ttft_p95_ms),
                duration_ms(item.itl_p95_ms),
                *_NO_CELLS,
            ),
            outcome=outcome,
            service_class=item,
        )


def _narrow(name: str) -> str:
    """A heading in lines of at most nine letters, where its words are that short."""
    lines = [""]
    for word in name.replace("-", "- ").split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if len(joined) <= 9 else [*lines, word]
    return "\n".join(lines)


def _style(outcome: Outcome) -> str:
    return "green" if outcome.within >= GOAL else ""


def _title(replayed: Replayed) -> str:
    return plain(
        f"{replayed.trace} on {replayed.scenario}: {replayed.requests:,} requests in"
        f" {replayed.duration_seconds:,.0f} s, the first {replayed.warm_up_seconds:,.0f} s not judged"
    )


def _price(replayed: Replayed, outcome: Outcome) -> str:
    found = replayed.cost_ratio(outcome)
    if found is None:
        return f"for {outcome.cost_cents:,.0f} cents"
    more = round((found - 1) * 100)
    if more == 0:
        return "for what the clairvoyant bound costs"
    return f"for {abs(more)} % {'more' if more > 0 else 'less'} than the clairvoyant bound costs"


def _best(replayed: Replayed, outcome: Outcome) -> str:
    return (
        f"“{plain(outcome.title)}” keeps {percent(outcome.within)} of requests within the SLO"
        f" {_price(replayed, outcome)}."
    )


def _closest(replayed: Replayed, outcome: Outcome) -> str:
    return (
        f"No policy keeps {_GOAL} of requests within the SLO; closest is “{plain(outcome.title)}”"
        f" with {percent(outcome.within)} {_price(replayed, outcome)}."
    )


def _rest(replayed: Replayed, good: Sequence[Outcome], total: int) -> list[str]:
    """Who else meets the SLO, and at what price."""
    if total == 1:
        return []
    missed = total - 1 - len(good)
    if not good:
        who = "The other policy misses" if missed == 1 else f"The other {missed} policies miss"
        return [f"{who} {_GOAL}."]
    found = [f"Next is “{plain(good[0].title)}” {_price(replayed, good[0])}."]
    if missed:
        found.append(f"{missed} of {total} policies {'miss' if missed > 1 else 'misses'} {_GOAL}.")
    return found


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _outcome(replayed: Replayed, outcome: Outcome, curves: bool) -> dict[str, Any]:  # noqa: FBT001
    steps = [math.inf if math.isnan(item) else item for item in outcome.recovery_seconds]
    found_ratio = replayed.cost_ratio(outcome)
    found: dict[str, Any] = {
        "policy": outcome.policy,
        "title": outcome.title,
        "within": _number(outcome.within),
        "gpu_hours": _number(outcome.gpu_hours),
        "cost_cents": _number(outcome.cost_cents),
        "cost_ratio": None if found_ratio is None else _number(found_ratio),
        "scale_ups": outcome.scale_ups,
        "scale_downs": outcome.scale_downs,
        "recovery_seconds": [_number(item) for item in steps],
        "recovery_median_seconds": _number(statistics.median(steps)) if steps else None,
        "recovery_worst_seconds": _number(max(steps)) if steps else None,
        "never_recovered": sum(map(math.isinf, steps)),
        "queue_peak": outcome.queue_peak,
        "classes": [_rounded(dataclasses.asdict(item)) for item in outcome.classes],
        "notes": list(outcome.notes),
    }
    if curves:
        found["curves"] = {
            name: _rounded({item.name: getattr(of, item.name) for item in dataclasses.fields(of)})
            for name, of in outcome.curves.items()
        }
    return found


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_value(value) for name, value in values.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_number(item) for item in value.tolist()]
    return _number(value) if isinstance(value, float) else value


def _section(replayed: Replayed) -> str:
    lines = [[_label(row), *row.cells] for row in rows(replayed)]
    facts = "; ".join(f"{name}: {value}" for name, value in replayed.facts.items())
    notes = [
        f"- {_escaped(outcome.title)}: {_escaped(note)}"
        for outcome in replayed.outcomes
        for note in outcome.notes
    ]
    parts = [f"### {_escaped(replayed.trace)}", "", _escaped(_title(replayed)) + "."]
    parts += [_escaped(facts) + "."] if facts else []
    parts += ["", _aligned(COLUMNS, lines), "", *notes]
    return "\n".join(parts) + ("\n" if notes else "")


def _label(row: Row) -> str:
    return f"· {_escaped(row.label)}" if row.service_class else _escaped(row.label)


def _summary(replayed_list: Sequence[Replayed]) -> str:
    titles: dict[str, str] = {}
    for replayed in replayed_list:
        for outcome in replayed.outcomes:
            titles.setdefault(outcome.policy, outcome.title)
    lines = [_summarized(policy, titles[policy], replayed_list) for policy in titles]
    return f"### Over {len(replayed_list)} traces\n\n{_aligned(_SUMMARY, lines)}\n"


def _summarized(policy: str, title: str, replayed_list: Sequence[Replayed]) -> list[str]:
    found = [(a, o) for a in replayed_list for o in a.outcomes if o.policy == policy]
    outcomes = [outcome for _, outcome in found]
    within = [item.within for item in outcomes]
    ratios = [a.cost_ratio(outcome) for a, outcome in found]
    known = [item for item in ratios if item is not None]
    events = statistics.median(item.scale_ups + item.scale_downs for item in outcomes)
    return [
        _escaped(title),
        str(len(outcomes)),
        f"{sum(item >= GOAL for item in within)} of {len(within)}",
        percent(statistics.median(within)),
        percent(min(within)),
        ratio(statistics.median(known) if known else None),
        f"{events:g}",
        recovery(item for outcome in outcomes for item in outcome.recovery_seconds),
    ]


def _escaped(text: str) -> str:
    """Text that Markdown leaves as it is, also within a table."""
    found = plain(text)
    for letter in "\\`*[]<|":
        found = found.replace(letter, "\\" + letter)
    return found


def _aligned(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose source is a table, too: text to the left, numbers to the right."""
    every = [heads, *lines]
    widths = [max(cell_len(line[i]) for line in every) for i in range(len(heads))]

    def line_of(cells: Sequence[str]) -> str:
        padded = [
            cell + gap if i == 0 else gap + cell
            for i, cell in enumerate(cells)
            for gap in [" " * (widths[i] - cell_len(cell))]
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line_of(heads), f"| {' | '.join(rule)} |", *map(line_of, lines)])

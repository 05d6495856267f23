"""The page of one variant: its numbers, its history as plots, and what its decision depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter.resources.stored_status import Decided
from adapter.ui import rows
from adapter.ui.charts import Limit, Line, Plot, Spot
from adapter.ui.history import MOST_VARIANTS, SPAN_SECONDS, History, Series
from adapter.ui.pages import group as group_page
from adapter.ui.pages.fleet import common
from adapter.ui.pages.past import Answer, joined
from adapter.ui.rendering import clock, number
from adapter.ui.rows import Row
from adapter.ui.snapshots import Snapshot
from adapter.ui.workshop import Analysis

LEAST_SPAN_SECONDS = 600.0
"""Shortest time that plots span."""

GAP_SECONDS = 120.0
"""Longest time without a sample over which a line is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    """What one plot shows.

    Attributes:
        fields: Fields of the history with their label, and whether they hold until the next one.
        slo: Field of the row that has the SLO target; empty for none.
        band: Places of the fields between which the plot is filled.
        factor: What values are multiplied by.
        whole: Whether values are numbers of things.
        marked: Whether decisions are marked.

    """

    title: str
    unit: str
    fields: tuple[tuple[str, str, bool], ...]
    slo: str = ""
    band: tuple[int, int] | None = None
    factor: float = 1.0
    whole: bool = False
    marked: bool = False


def _latency(name: str, title: str) -> _Quantity:
    fields = (
        (name, "mean", False),
        (f"{name}_predicted", "predicted mean", True),
        (f"{name}_p50", "p50", False),
        (f"{name}_p95", "p95", False),
    )
    return _Quantity(title=title, unit="ms", fields=fields, slo=f"{name}_slo", band=(2, 3))


_QUANTITIES = (
    _Quantity(
        title="Load",
        unit="requests/min",
        fields=(
            ("offered", "offered", False),
            ("planned", "planned for", True),
            ("waiting", "requests that wait", False),
        ),
        marked=True,
    ),
    _Quantity(
        title="Replicas",
        unit="",
        fields=(("ready", "ready", True), ("desired", "desired", True)),
        whole=True,
        marked=True,
    ),
    _latency("ttft", "TTFT"),
    _latency("itl", "ITL"),
    _Quantity(
        title="KV cache in use",
        unit="% of the fullest pod",
        fields=(("kv", "in use", False),),
        factor=100.0,
    ),
    _Quantity(
        title="Cost", unit="cents/h for the desired replicas", fields=(("cost", "cost", True),)
    ),
)
"""Plots of a variant's history."""


_MARKS = "Samples of 10 s become means of 1 and 5 minutes with age. Triangles mark decisions."


def context(
    snapshot: Snapshot,
    row: Row,
    document: Mapping[str, Any],
    history: History,
    answer: Answer,
    *,
    now: float,
) -> dict[str, Any]:
    """What the template needs, without the analysis; `answer`: the past from Prometheus."""
    memory = history.series(row.key, now=now)
    series = joined(memory, answer.past, now=now)
    state = snapshot.states.get(row.key)
    since = now if history.since is None else history.since
    if answer.past is not None and len(answer.past.times):
        since = min(since, float(answer.past.times[0]))
    decided = () if state is None else state.history or state.source.history
    load = document.get("load") or {}
    return {
        "here": "variant",
        "row": row,
        "document": _whole(document),
        "group": group_page.context(snapshot, row, document),
        "age": load.get("observedSecondsAgo"),
        "plots": [
            _plot(item, series, row, since=since, decided=decided, now=now) for item in _QUANTITIES
        ],
        "marks": list(reversed(decided)),
        "history_pending": answer.pending,
        "history_note": _note(snapshot, memory, history, answer, now=now),
        **common(snapshot),
    }


def _whole(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every part that the template reads; a refusal has few of them."""
    names = (
        "problem", "drift", "heldBackBy", "configuration", "reason", "decision", "profileSource",
        "metricsSource",
    )  # fmt: skip
    return {name: document.get(name) for name in names}


def _note(
    snapshot: Snapshot, memory: Series | None, history: History, answer: Answer, *, now: float
) -> str:
    """Say what the history holds and what is missing in it."""
    past = answer.past
    if past is not None and len(past.times):
        begin = clock(float(past.times[0]))
        return (
            f"From Prometheus since {begin} where the memory of this process has no load: ready are there the"
            f" replicas that exist. {_MARKS}"
        )
    why = ""
    if answer.pending:
        why = "What was before is being read from Prometheus. "
    elif answer.problem:
        why = f"What was before is not known: {answer.problem}. "
    elif past is not None:
        why = "Prometheus has no series of it: does it scrape the adapter's /metrics? "
    return why + _of_memory(snapshot, memory, history, now=now)


def _of_memory(snapshot: Snapshot, memory: Series | None, history: History, *, now: float) -> str:
    if memory is None:
        if history.unrecorded:
            return f"Not recorded: a history is kept of {MOST_VARIANTS} variants at most."
        return "Nothing is recorded yet; the first sample comes within seconds."
    since = history.since
    text = "The last six hours."
    if since is not None and now - since < SPAN_SECONDS:
        text = (
            f"Recorded in memory since {clock(since)}, when this process started to record; what was before"
            " is missing."
        )
    parts = [text, _MARKS]
    if not snapshot.leading:
        parts.append(
            "While this process follows, only replicas and targets are recorded; load and latencies are"
            " at the leader."
        )
    return " ".join(parts)


def _plot(
    quantity: _Quantity,
    series: Series | None,
    row: Row,
    *,
    since: float,
    decided: Sequence[Decided],
    now: float,
) -> Plot:
    span = min(max(now - since, LEAST_SPAN_SECONDS), SPAN_SECONDS)
    target = getattr(row, quantity.slo) if quantity.slo else None
    label = f"SLO p{row.percentile * 100:g}" if row.percentile else "SLO"
    return Plot(
        title=quantity.title,
        unit=quantity.unit,
        x_from=now - span,
        x_to=now,
        lines=[
            Line(
                label=text,
                style=place,
                steps=steps,
                points=_points(series, field, quantity.factor),
            )
            for place, (field, text, steps) in enumerate(quantity.fields, start=1)
        ],
        limits=[Limit(label=label, y=target)] if target else [],
        marks=[
            (item.at, f"{clock(item.at)}: {item.before} to {item.replicas}: {item.reason}")
            for item in (decided if quantity.marked else ())
        ],
        band=quantity.band,
        whole=quantity.whole,
    )


def _points(series: Series | None, field: str, factor: float) -> list[tuple[float, float | None]]:
    """Times and values; a point without a value where samples are missing, so that no line is drawn."""
    if series is None:
        return []
    points: list[tuple[float, float | None]] = []
    ends = math.inf
    for at, seconds, value in zip(series.times, series.seconds, series.values[field], strict=True):
        if at - seconds / 2 - ends > GAP_SECONDS:
            points.append((float(ends), None))
        points.append((float(at), None if math.isnan(value) else factor * float(value)))
        ends = at + seconds / 2
    return points


def analysis_context(row: Row, analysis: Analysis | None, problem: str) -> dict[str, Any]:
    """What the template of the analysis needs; `problem` says why there is none."""
    spots: dict[str, list[Spot]] = {"ttft": [], "itl": []}
    present = "What its replicas carry now is not known."
    if (
        analysis is not None
        and row.offered is not None
        and math.isfinite(row.offered)
        and row.ready
    ):
        each = row.offered / row.ready
        present = f"Now each of {row.ready} carries about {number(each)}/min."
        for name, value in (("ttft", row.ttft), ("itl", row.itl)):
            if value is not None and math.isfinite(value):
                spots[name].append(Spot(label="measured now", x=each, y=value))
    curves = []
    if analysis is not None and analysis.curve:
        reach = max([analysis.curve[-1][0], *(spot.x for part in spots.values() for spot in part)])
        for place, (name, title, target) in enumerate(
            (("ttft", "TTFT", row.ttft_slo), ("itl", "ITL", row.itl_slo)), start=1
        ):
            points = [(point[0], point[place]) for point in analysis.curve]
            # Beyond the SLO a queue grows without bound, which would flatten all before it.
            known = [y for _, y in points if math.isfinite(y)]
            measured = max((spot.y for spot in spots[name]), default=0.0)
            most = max(2.0 * (target or 0.0), 1.1 * measured) or 4.0 * min(known, default=1.0)
            curves.append(
                Plot(
                    title=title,
                    unit="ms",
                    x_from=0.0,
                    x_to=reach,
                    x_time=False,
                    x_unit="requests/min of one replica",
                    y_most=most,
                    lines=[Line(label="predicted", style=1, points=points)],
                    limits=[Limit(label="SLO", y=target)] if target else [],
                    spots=spots[name],
                )
            )
    return {
        "analysis": analysis,
        "analysis_problem": problem,
        "curves": curves,
        "present_note": present,
        "states": rows.STATES,
    }

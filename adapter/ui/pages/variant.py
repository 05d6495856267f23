"""The page of one variant: its numbers, its history as plots, and what its decision depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adapter.resources.stored_status import Decided
from adapter.ui import rows
from adapter.ui.charts import Limit, Line, Plot, Spot
from adapter.ui.history import MOST_VARIANTS, SPAN_SECONDS, History, Series
from adapter.ui.pages.fleet import common
from adapter.ui.rendering import clock, number
from adapter.ui.rows import Row
from adapter.ui.snapshots import Snapshot
from adapter.ui.workshop import Analysis

LEAST_SPAN_SECONDS = 600.0
"""Shortest time that plots span."""

_QUANTITIES: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...], str], ...] = (
    ("Load", "requests/min", (("offered", "offered", False), ("planned", "planned for", True)), ""),
    ("Replicas", "replicas", (("ready", "ready", True), ("desired", "desired", True)), ""),
    (
        "TTFT",
        "ms",
        (("ttft", "measured", False), ("ttft_predicted", "predicted", True)),
        "ttft_slo",
    ),
    ("ITL", "ms", (("itl", "measured", False), ("itl_predicted", "predicted", True)), "itl_slo"),
    ("KV cache in use", "share", (("kv", "fullest pod", False),), ""),
    ("Cost of desired replicas", "cents/h", (("cost", "cost", True),), ""),
)
"""Title, unit, fields with their label and whether they hold until the next one, and the row's limit."""


_MARKED = frozenset({"Load", "Replicas"})
"""Plots with a mark for each decision."""


def context(
    snapshot: Snapshot, row: Row, document: Mapping[str, Any], history: History, *, now: float
) -> dict[str, Any]:
    """What the template needs, without the analysis."""
    series = history.series(row.key, now=now)
    state = snapshot.states.get(row.key)
    since = now if history.since is None else history.since
    decided = () if state is None else state.history or state.source.history
    load = document.get("load") or {}
    return {
        "here": "variant",
        "row": row,
        "document": _whole(document),
        "age": load.get("observedSecondsAgo"),
        "plots": [
            _plot(item, series, row, since=since, decided=decided, now=now) for item in _QUANTITIES
        ],
        "marks": list(reversed(decided)),
        "history_note": _note(snapshot, series, history, now=now),
        **common(snapshot),
    }


def _whole(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every part that the template reads; a refusal has few of them."""
    names = (
        "problem", "drift", "heldBackBy", "configuration", "reason", "decision", "profileSource",
        "metricsSource",
    )  # fmt: skip
    return {name: document.get(name) for name in names}


def _note(snapshot: Snapshot, series: Series | None, history: History, *, now: float) -> str:
    """Say what the history holds and what is missing in it."""
    if series is None:
        if history.unrecorded:
            return f"Not recorded: a history is kept of {MOST_VARIANTS} variants at most."
        return "Nothing is recorded yet; the first sample comes within seconds."
    parts = []
    since = history.since
    if since is not None and now - since < SPAN_SECONDS:
        parts.append(
            f"Recorded in memory since {clock(since)}, when this process started to record; what was before"
            " is missing."
        )
    else:
        parts.append("The last six hours.")
    parts.append(
        "Samples of 10 s become means of 1 and 5 minutes with age. Triangles mark decisions."
    )
    if not snapshot.leading:
        parts.append(
            "While this process follows, only replicas and targets are recorded; load and latencies are"
            " at the leader."
        )
    return " ".join(parts)


def _plot(
    quantity: tuple[str, str, tuple[tuple[str, str, bool], ...], str],
    series: Series | None,
    row: Row,
    *,
    since: float,
    decided: Sequence[Decided],
    now: float,
) -> Plot:
    title, unit, fields, limit = quantity
    span = min(max(now - since, LEAST_SPAN_SECONDS), SPAN_SECONDS)
    target = getattr(row, limit) if limit else None
    label = f"SLO p{row.percentile * 100:g}" if row.percentile else "SLO"
    return Plot(
        title=title,
        unit=unit,
        x_from=now - span,
        x_to=now,
        lines=[
            Line(label=text, style=place, steps=steps, points=_points(series, field))
            for place, (field, text, steps) in enumerate(fields, start=1)
        ],
        limits=[Limit(label=label, y=target)] if target else [],
        marks=[
            (item.at, f"{clock(item.at)}: {item.before} to {item.replicas}: {item.reason}")
            for item in (decided if title in _MARKED else ())
        ],
    )


def _points(series: Series | None, field: str) -> list[tuple[float, float | None]]:
    if series is None:
        return []
    values = series.values[field]
    return [
        (float(at), None if math.isnan(value) else float(value))
        for at, value in zip(series.times, values, strict=True)
    ]


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

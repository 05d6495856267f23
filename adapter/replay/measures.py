"""How requests fared: shares within their targets, percentiles, and how long a step was felt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adapter.replay.outcome import ClassOutcome, FloatArray
from adapter.replay.scenario import Model, Scenario
from emulator.simulation import Results
from emulator.traces import Trace

RECOVERED = 0.95
"""Share of later requests that must be within their targets for a step to be over."""


def classes(scenario: Scenario, results: Results) -> tuple[ClassOutcome, ...]:
    """One entry per model."""
    return tuple(
        _one(model, _of(results, index), scenario.warm_up)
        for index, model in enumerate(scenario.models)
    )


def good(
    model: Model, columns: Mapping[str, FloatArray]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each request was within both targets."""
    finished = np.isfinite(columns["finish"])
    with np.errstate(invalid="ignore"):
        within = (columns["ttft"] <= model.slo.ttft) & (columns["itl"] <= model.slo.itl)
    return finished & within


def _of(results: Results, index: int) -> dict[str, FloatArray]:
    mine = results.model == index
    return {
        "arrival": results.arrival_ms[mine] / 1000,
        "finish": results.finish_ms[mine],
        "ttft": results.ttft_ms[mine],
        "itl": results.itl_ms[mine],
    }


def _one(model: Model, columns: dict[str, FloatArray], warm_up: float) -> ClassOutcome:
    judged = columns["arrival"] >= warm_up
    columns = {name: values[judged] for name, values in columns.items()}
    number = len(columns["arrival"])
    ttft, itl = columns["ttft"], columns["itl"]
    finished = np.isfinite(columns["finish"])

    def share(what: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
        return float(np.mean(what)) if number else 1.0

    def of(values: FloatArray, how: str) -> float:
        known = values[np.isfinite(values)]
        if not len(known):
            return float("nan")
        return float(np.mean(known) if how == "mean" else np.percentile(known, 95))

    with np.errstate(invalid="ignore"):
        return ClassOutcome(
            service_class=model.service_class,
            model=model.model,
            ttft_target_ms=model.slo.ttft,
            itl_target_ms=model.slo.itl,
            requests=number,
            within=share(good(model, columns)),
            ttft_within=share(ttft <= model.slo.ttft),
            itl_within=share(finished & (itl <= model.slo.itl)),
            ttft_mean_ms=of(ttft, "mean"),
            ttft_p95_ms=of(ttft, "p95"),
            itl_mean_ms=of(itl, "mean"),
            itl_p95_ms=of(itl, "p95"),
            unfinished=int(np.count_nonzero(~finished)),
        )


def recoveries(
    scenario: Scenario, results: Results, spans: Mapping[str, Sequence[tuple[float, float]]]
) -> tuple[float, ...]:
    """Seconds from each step until requests that arrive are within their targets for good."""
    found = []
    for index, model in enumerate(scenario.models):
        columns = _of(results, index)
        fine = good(model, columns)
        for start, end in spans.get(model.model, ()):
            inside = (columns["arrival"] >= start) & (columns["arrival"] < end)
            found.append(_recovery(columns["arrival"][inside] - start, fine[inside], end - start))
    return tuple(found)


def _recovery(
    since: FloatArray, fine: np.ndarray[tuple[int], np.dtype[np.bool_]], length: float
) -> float:
    """From which arrival on enough of all later requests are fine; NaN if that is not in the first 3/4."""
    if not len(since):
        return 0.0
    later = np.cumsum(fine[::-1])[::-1] / np.arange(len(fine), 0, -1)
    # At the last moments a single request would decide.
    enough = np.flatnonzero((later >= RECOVERED) & (since <= 0.75 * length))
    below = np.flatnonzero((later < RECOVERED) & (since <= 0.75 * length))
    if not len(below):
        return 0.0
    after = enough[enough > below[-1]]
    return float(since[after[0]]) if len(after) else float("nan")


def duration(traffic: Mapping[str, Trace]) -> float:
    """Of the longest trace, seconds."""
    return max(trace.duration_seconds for trace in traffic.values())

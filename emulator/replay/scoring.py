"""How requests fared: shares within their targets, percentiles, and how long a step was felt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from emulator.replay.results import ClassResult, FloatArray
from emulator.replay.scenario import Model, Scenario
from emulator.simulation import Results
from emulator.traces import Trace

RECOVERED, AHEAD_SECONDS = 0.95, 120.0
"""Share of the requests of the next two minutes that must be within their targets for a step to be over."""


def classes(scenario: Scenario, results: Results) -> tuple[ClassResult, ...]:
    """One entry per model."""
    return tuple(
        _one(model, _of(scenario, results, model), scenario.warm_up) for model in scenario.models
    )


def good(
    model: Model, columns: Mapping[str, FloatArray]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each request was within both targets."""
    finished = np.isfinite(columns["finish"])
    with np.errstate(invalid="ignore"):
        within = (columns["ttft"] <= model.slo.ttft) & (columns["itl"] <= model.slo.itl)
    return finished & within


def _of(scenario: Scenario, results: Results, model: Model) -> dict[str, FloatArray]:
    # The simulation numbers models in the order of the variants.
    names = list(dict.fromkeys(variant.model for variant in scenario.variants))
    mine = results.model == names.index(model.model)
    return {
        "arrival": results.arrival_ms[mine] / 1000,
        "finish": results.finish_ms[mine],
        "ttft": results.ttft_ms[mine],
        "itl": results.itl_ms[mine],
    }


def _one(model: Model, columns: dict[str, FloatArray], warm_up: float) -> ClassResult:
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
        return ClassResult(
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
    """Seconds from each step until requests that arrive are within their targets again."""
    found = []
    for model in scenario.models:
        columns = _of(scenario, results, model)
        fine = good(model, columns)
        for start, end in spans.get(model.model, ()):
            inside = (columns["arrival"] >= start) & (columns["arrival"] < end)
            found.append(_recovery(columns["arrival"][inside] - start, fine[inside], end - start))
    return tuple(found)


def _recovery(
    since: FloatArray, fine: np.ndarray[tuple[int], np.dtype[np.bool_]], length: float
) -> float:
    """From which arrival on enough of the next ones are fine; NaN if from none in the first 3/4."""
    if not len(since):
        return 0.0
    # All that is to come would hide the end of a bad time among many good requests.
    first = np.arange(len(since))
    last = np.searchsorted(since, since + AHEAD_SECONDS)
    total = np.concatenate([[0], np.cumsum(fine)])
    share = (total[last] - total[first]) / (last - first)
    over = np.flatnonzero((share >= RECOVERED) & (since <= 0.75 * length))
    if not len(over):
        return float("nan")
    return float(since[over[0]]) if over[0] else 0.0


def duration(traffic: Mapping[str, Trace]) -> float:
    """Of the longest trace, seconds."""
    return max(trace.duration_seconds for trace in traffic.values())

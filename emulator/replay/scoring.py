"""Scores of a run: SLO attainment, latency percentiles, and recovery times after steps of the load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from emulator.replay.results import ClassResult, FloatArray
from emulator.replay.scenario import Model, Scenario
from emulator.simulation import Results
from emulator.traces import Trace

BoolArray = npt.NDArray[np.bool_]

RECOVERED_SHARE = 0.95
"""Share of the requests of the next `RECOVERY_WINDOW_SECONDS` within their targets that ends a step."""

RECOVERY_WINDOW_SECONDS = 120.0


def classes(scenario: Scenario, results: Results) -> tuple[ClassResult, ...]:
    """The result of each model's service class, in the order of the scenario's models."""
    return tuple(
        _class_result(model, _columns(scenario, results, model), scenario.warm_up)
        for model in scenario.models
    )


def within_slo(model: Model, columns: Mapping[str, FloatArray]) -> BoolArray:
    """Whether each request finished within both targets."""
    finished = np.isfinite(columns["finish"])
    with np.errstate(invalid="ignore"):
        within = (columns["ttft"] <= model.slo.ttft) & (columns["itl"] <= model.slo.itl)
    return finished & within


def _columns(scenario: Scenario, results: Results, model: Model) -> dict[str, FloatArray]:
    """Arrivals (s), ends and latencies (ms) of one model's requests, in order of arrival."""
    # The simulation numbers models in the order of the variants.
    names = list(dict.fromkeys(variant.model for variant in scenario.variants))
    of_model = rows(results.model == names.index(model.model))
    return {
        "arrival": results.arrival_ms[of_model] / 1000,
        "finish": results.finish_ms[of_model],
        "ttft": results.ttft_ms[of_model],
        "itl": results.itl_ms[of_model],
    }


def rows(chosen: BoolArray) -> slice | BoolArray:
    """The chosen rows for indexing, as a slice where they follow each other: a view, where a mask copies."""
    if not chosen.any():
        return slice(0, 0)
    first, last = int(chosen.argmax()), len(chosen) - int(chosen[::-1].argmax())
    return slice(first, last) if chosen[first:last].all() else chosen


def _class_result(model: Model, columns: dict[str, FloatArray], warm_up: float) -> ClassResult:
    counted = rows(columns.pop("arrival") >= warm_up)
    columns = {name: values[counted] for name, values in columns.items()}
    number = len(columns["finish"])
    ttft, itl = columns["ttft"], columns["itl"]
    finished = np.isfinite(columns["finish"])

    def share(requests: BoolArray) -> float:
        return float(np.mean(requests)) if number else 1.0

    def mean(values: FloatArray) -> float:
        finite = values[np.isfinite(values)]
        return float(np.mean(finite)) if len(finite) else math.nan

    def p95(values: FloatArray) -> float:
        finite = values[np.isfinite(values)]
        # Of a copy already: another one would be the largest of all in memory.
        return float(np.percentile(finite, 95, overwrite_input=True)) if len(finite) else math.nan

    with np.errstate(invalid="ignore"):
        return ClassResult(
            service_class=model.service_class,
            model=model.model,
            ttft_target_ms=model.slo.ttft,
            itl_target_ms=model.slo.itl,
            requests=number,
            within=share(within_slo(model, columns)),
            ttft_within=share(ttft <= model.slo.ttft),
            itl_within=share(finished & (itl <= model.slo.itl)),
            ttft_mean_ms=mean(ttft),
            ttft_p95_ms=p95(ttft),
            itl_mean_ms=mean(itl),
            itl_p95_ms=p95(itl),
            unfinished=int(np.count_nonzero(~finished)),
        )


def recoveries(
    scenario: Scenario, results: Results, steps: Mapping[str, Sequence[tuple[float, float]]]
) -> tuple[float, ...]:
    """Seconds from each upward step of the load until arriving requests are within their targets again.

    Args:
        scenario: The scenario with its models.
        results: The simulated requests.
        steps: Start and end in seconds of each step, by the model's name.

    """
    recovery_seconds = []
    for model in scenario.models:
        columns = _columns(scenario, results, model)
        within = within_slo(model, columns)
        for start, end in steps.get(model.model, ()):
            inside = (columns["arrival"] >= start) & (columns["arrival"] < end)
            since = columns["arrival"][inside] - start
            recovery_seconds.append(_recovery_seconds(since, within[inside], end - start))
    return tuple(recovery_seconds)


def _recovery_seconds(since: FloatArray, within: BoolArray, length: float) -> float:
    """Arrival from which enough of the following requests are within; NaN without one in the first 3/4.

    Args:
        since: Arrivals in seconds since the step, ascending.
        within: Whether each of these requests is within its targets.
        length: Seconds that the step lasts.

    """
    if not len(since):
        return 0.0
    # A share of all following requests would hide the end of a bad time among many good ones.
    first = np.arange(len(since))
    last = np.searchsorted(since, since + RECOVERY_WINDOW_SECONDS)
    total = np.concatenate([[0], np.cumsum(within)])
    share = (total[last] - total[first]) / (last - first)
    recovered = np.flatnonzero((share >= RECOVERED_SHARE) & (since <= 0.75 * length))
    if not len(recovered):
        return math.nan
    return float(since[recovered[0]]) if recovered[0] else 0.0


def duration(traffic: Mapping[str, Trace]) -> float:
    """Duration of the longest trace, seconds."""
    return max(trace.duration_seconds for trace in traffic.values())

"""The bound: a timetable made by who knows the traffic, as cheap as its requests' targets allow.

Replicas follow the true rate around each moment, are asked for as long before as they need to start, and
go when they are no longer needed. How many replicas a rate takes is not left to a model: one factor on the
model's number is searched for, by replaying, until just enough requests are within their targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from adapter.planning import fleet
from adapter.planning import plan as planning
from emulator.replay.adapter_policy import contents_of
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import Scheduled, Static
from emulator.replay.results import FloatArray, PolicyResult
from emulator.replay.running import Progress, Run, run
from emulator.replay.scenario import Scenario, Variant
from emulator.traces import Trace

BIN_SECONDS = 15.0
AROUND_SECONDS = 60.0
"""Width of the window around a moment whose rate counts."""

WANTED = 0.99
"""Share of requests that must be within their targets."""

SEARCH_STEPS = 6
LEAST, MOST = 0.4, 1.6
"""Between which the factor is looked for."""


def search(given: Run, progress: Callable[[int], Progress]) -> tuple[PolicyResult, float]:
    """The cheapest timetable's result, and its factor.

    Args:
        given: scenario and traffic.
        progress: gives, for the number of a try, what is told how far it is.

    """
    capacity = rates_of_one(given.scenario, given.traffic)
    low, high = LEAST, MOST
    best: tuple[PolicyResult, float] | None = None
    for index in range(SEARCH_STEPS):
        factor = high if index == 0 else 0.5 * (low + high)
        result = run(given, _scheduled(timetables(given, capacity, factor)), progress(index))
        if result.within >= WANTED:
            high = factor
            if best is None or result.cost_cents < best[0].cost_cents:
                best = (result, factor)
        elif index == 0:
            best = (
                replace(result, notes=("no timetable of this kind meets the targets",)),
                factor,
            )
            break
        else:
            low = factor
    if best is None:  # the first try sets it
        raise AssertionError
    return best


def _scheduled(table: dict[str, list[tuple[float, int]]]) -> Callable[[ReplayCluster], Scheduled]:
    return lambda cluster: Scheduled(cluster, table)


def peak(given: Run, factor: float) -> Callable[[ReplayCluster], Static]:
    """A fleet of constant size for the highest rate, sized as the timetable is."""
    capacity = rates_of_one(given.scenario, given.traffic)
    table = timetables(given, capacity, factor)
    most = {
        name: max([number for _, number in entries], default=1) for name, entries in table.items()
    }
    return lambda cluster: Static(cluster, most)


def rates_of_one(scenario: Scenario, traffic: Mapping[str, Trace]) -> dict[str, float]:
    """What one replica of each variant carries by the model, requests per second, with mean latencies."""
    contents = contents_of(scenario, percentile=None)
    found = {}
    for source in contents.variants:
        trace = traffic[source.model]
        plan = planning.plan(
            fleet.Fleet(
                accelerators=contents.accelerators,
                service_classes=contents.service_classes,
                variants=(
                    fleet.Variant(
                        name=source.name,
                        model=source.model,
                        service_class=source.service_class,
                        profiles=source.profiles,
                        load=fleet.Load(
                            arrival_rate_rps=1.0,
                            input_tokens=float(np.mean(trace.input_tokens)),
                            output_tokens=float(np.mean(trace.output_tokens)),
                        ),
                        current=fleet.CurrentAllocation(accelerator=source.accelerator, replicas=1),
                        keep_accelerator=True,
                    ),
                ),
            )
        )
        decision = plan.decisions.get(source.name)
        # One whose targets a single request breaks: any number is as good as another.
        found[source.name] = decision.candidate.max_rate_rpm / 60 if decision else math.inf
    return found


def timetables(
    given: Run, capacity: Mapping[str, float], factor: float
) -> dict[str, list[tuple[float, int]]]:
    """When how many replicas are asked for, by variant; a model's rate is shared by its variants' speed."""
    found = {}
    for variant in given.scenario.variants:
        together = sum(
            capacity[item.name] for item in given.scenario.variants if item.model == variant.model
        )
        share = capacity[variant.name] / together if math.isfinite(together) else 1.0
        rates = share * around(given.traffic[variant.model])
        needed = [_needed(variant, factor * rate / capacity[variant.name]) for rate in rates]
        found[variant.name] = _ahead(variant, needed)
    return found


def _needed(variant: Variant, load: float) -> int:
    """Whole replicas within the variant's bounds."""
    return min(max(math.ceil(load - 1e-9), variant.min_replicas, 1), variant.max_replicas)


def around(trace: Trace) -> FloatArray:
    """Requests per second around each bin of the traffic."""
    edges = np.arange(0.0, trace.duration_seconds + BIN_SECONDS, BIN_SECONDS)
    counts, _ = np.histogram(trace.arrival_seconds, edges)
    half = int(AROUND_SECONDS / BIN_SECONDS / 2)
    sums = np.convolve(counts, np.ones(2 * half + 1), mode="same")
    widths = np.convolve(np.ones(len(counts)), np.ones(2 * half + 1), mode="same")
    rates: FloatArray = sums / (widths * BIN_SECONDS)
    return rates


def _ahead(variant: Variant, needed: list[int]) -> list[tuple[float, int]]:
    """Each bin's replicas, and those that must have been asked for to be there in the bins to come."""
    bins = math.ceil(variant.startup / BIN_SECONDS)
    entries: list[tuple[float, int]] = []
    for index in range(len(needed)):
        number = max(needed[index : index + bins + 1])
        if not entries or entries[-1][1] != number:
            entries.append((index * BIN_SECONDS, number))
    return entries

"""The bound: the cheapest schedule of replicas, made with knowledge of the traffic, that meets the SLO.

Replicas follow the true rate around each moment, are created one start-up time before they are needed, and
are removed when they are no longer needed. The queueing model gives the replicas for a rate; a search by
replays finds the factor on this number with which just enough requests are within their targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from adapter.planning import fleet
from adapter.planning import plan as planning
from emulator.replay.adapter_policy import inputs_of
from emulator.replay.cluster import ReplayCluster
from emulator.replay.groups import mixes
from emulator.replay.policies import Scheduled, Static
from emulator.replay.replicas.planner import truth_of
from emulator.replay.replicas.specs import VariantSpec
from emulator.replay.results import FloatArray, PolicyResult
from emulator.replay.running import ReportTime, Run, run
from emulator.replay.scenario import Scenario
from emulator.traces import Trace

BIN_SECONDS = 15.0
WINDOW_SECONDS = 60.0
"""Width of the window around a moment in which the rate is measured."""

WITHIN_TARGET = 0.99
"""Share of requests that must be within their SLO targets."""

SEARCH_STEPS = 6
MIN_FACTOR, MAX_FACTOR = 0.4, 1.6
"""Range in which the factor is searched."""


def search(
    given: Run,
    progress: Callable[[int], ReportTime],
    *,
    within: float = WITHIN_TARGET,
    most: float = MAX_FACTOR,
) -> tuple[PolicyResult, float]:
    """Find the cheapest schedule; its result, and its factor on the model's number of replicas.

    Args:
        given: Scenario and traffic.
        progress: Creates, for the number of a trial from 0, the receiver of its simulated seconds.
        within: Share of requests that must be within their targets.
        most: Largest factor.

    """
    capacity = replica_capacity(given.scenario, given.traffic)
    known = mixes_of(given)
    low, high = MIN_FACTOR, most
    best: tuple[PolicyResult, float] | None = None
    for index in range(SEARCH_STEPS):
        factor = high if index == 0 else 0.5 * (low + high)
        result = run(given, _scheduled(schedules(given, capacity, factor, known)), progress(index))
        if result.within >= within:
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
    """Constructor of a static fleet for the highest rate, sized as the schedule is."""
    capacity = replica_capacity(given.scenario, given.traffic)
    known = mixes_of(given)
    table = schedules(given, capacity, factor, known)
    most = {
        name: max([number for _, number in entries], default=1) for name, entries in table.items()
    }
    for model, group_mixes in known.items():
        highest = factor * float(np.max(windowed_rates(given.traffic[model]), initial=0.0))
        most.update(group_mixes.mix(highest, list(group_mixes.members)))
    return lambda cluster: Static(cluster, most)


def replica_capacity(scenario: Scenario, traffic: Mapping[str, Trace]) -> dict[str, float]:
    """Requests per second, by variant, that one replica serves with mean latencies at their targets."""
    inputs = inputs_of(scenario, percentile=None, profile=truth_of)
    capacity = {}
    for source in inputs.variants:
        trace = traffic[source.model]
        plan = planning.plan(
            fleet.Fleet(
                accelerators=inputs.accelerators,
                service_classes=inputs.service_classes,
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
        # Without a decision a single request misses the targets, whatever the number of replicas.
        capacity[source.name] = decision.candidate.max_rate_rpm / 60 if decision else math.inf
    return capacity


def mixes_of(given: Run) -> dict[str, mixes.Mixes]:
    """What the planner says of each group, by model; kept from one factor to the next."""
    return {
        model: mixes.Mixes(given.scenario, model, given.traffic[model])
        for model in given.scenario.groups
    }


def schedules(
    given: Run,
    capacity: Mapping[str, float],
    factor: float,
    groups: Mapping[str, mixes.Mixes] | None = None,
) -> dict[str, list[tuple[float, int]]]:
    """Times and replicas to set, by variant.

    A group follows the planner's mix of least cost for each moment's rate, or one variant of it does alone,
    whichever is cheapest over time; other variants share a model's rate in proportion to capacity.
    """
    known = mixes_of(given) if groups is None else groups
    entries: dict[str, list[tuple[float, int]]] = {}
    for model in given.scenario.groups:
        entries.update(_of_group(given, model, factor, known[model]))
    for variant in given.scenario.variants:
        if variant.name in entries:
            continue
        share = share_of(given.scenario, capacity, variant)
        rates = share * windowed_rates(given.traffic[variant.model])
        needed = [_needed(variant, factor * rate / capacity[variant.name]) for rate in rates]
        entries[variant.name] = _ahead(variant, needed)
    return entries


def _of_group(
    given: Run, model: str, factor: float, group_mixes: mixes.Mixes
) -> dict[str, list[tuple[float, int]]]:
    """The cheapest timetable of one group that carries its rate."""
    members = group_mixes.members
    rates = factor * windowed_rates(given.traffic[model])
    usable = [
        [name for name, item in members.items() if not _gone(item, index * BIN_SECONDS)]
        for index in range(len(rates))
    ]
    tables = []
    for hold in mixes.HOLDS_SECONDS:
        held = mixes.filled(rates, int(hold / BIN_SECONDS))
        for alone in (None, *members):
            rows = [
                group_mixes.mix(rate, [alone] if alone in names else names)
                for rate, names in zip(held, usable, strict=True)
            ]
            needed = {name: [row[name] for row in rows] for name in members}
            tables.append({name: _ahead(members[name], needed[name]) for name in members})
    return min(tables, key=lambda table: _cost(given, table))


def _cost(given: Run, table: Mapping[str, list[tuple[float, int]]]) -> float:
    """Cost of a timetable until the end of the run, cents."""
    total = 0.0
    for variant in given.scenario.variants:
        entries = table.get(variant.name, [])
        ends = [*(at for at, _ in entries[1:]), given.seconds]
        held = sum(n * (end - at) for (at, n), end in zip(entries, ends, strict=False))
        cost = given.scenario.accelerators[variant.accelerator].cost * variant.devices
        total += cost * held / 3600
    return total


def _gone(variant: VariantSpec, at: float) -> bool:
    return variant.unschedulable is not None and variant.unschedulable.covers(at)


def share_of(scenario: Scenario, capacity: Mapping[str, float], variant: VariantSpec) -> float:
    """Share of its model's rate that a variant gets: that of its replicas' capacity, requests per second."""
    together = sum(capacity[item.name] for item in scenario.variants if item.model == variant.model)
    return capacity[variant.name] / together if math.isfinite(together) else 1.0


def _needed(variant: VariantSpec, load: float) -> int:
    """Whole replicas within the variant's bounds."""
    return min(max(math.ceil(load - 1e-9), variant.min_replicas, 1), variant.max_replicas)


def windowed_rates(trace: Trace) -> FloatArray:
    """Requests per second in the window around each bin of the traffic."""
    edges = np.arange(0.0, trace.duration_seconds + BIN_SECONDS, BIN_SECONDS)
    counts, _ = np.histogram(trace.arrival_seconds, edges)
    half = int(WINDOW_SECONDS / BIN_SECONDS / 2)
    sums = np.convolve(counts, np.ones(2 * half + 1), mode="same")
    widths = np.convolve(np.ones(len(counts)), np.ones(2 * half + 1), mode="same")
    rates: FloatArray = sums / (widths * BIN_SECONDS)
    return rates


def _ahead(variant: VariantSpec, needed: list[int]) -> list[tuple[float, int]]:
    """Changes of replicas: in each bin the most that it and the bins within the start-up time need."""
    bins = math.ceil(variant.startup_time.p95 / BIN_SECONDS)
    entries: list[tuple[float, int]] = []
    for index in range(len(needed)):
        number = max(needed[index : index + bins + 1])
        if not entries or entries[-1][1] != number:
            entries.append((index * BIN_SECONDS, number))
    return entries

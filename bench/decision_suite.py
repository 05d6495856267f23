"""The suite of `decision_quality.py`: traffic with held-out seeds, replayed under every policy.

Each case is one trace with one seed, replayed as `variant-adapter replay` does with
manifests/samples/replay/scenario.yaml. Beside the policies it has the best that is possible without
foresight: a schedule made from the true rate around each moment, but carried out only at that moment.
"""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from emulator import traces
from emulator.replay import clairvoyant, compare, scenario, tables
from emulator.replay.policies import Scheduled
from emulator.replay.results import Comparison, PolicyResult
from emulator.replay.running import Run, run
from emulator.replay.scenario import OfferedTraffic, Scenario

ROOT = Path(__file__).parents[1]
SCENARIO = ROOT / "manifests/samples/replay/scenario.yaml"
WARM_UP_SECONDS = 300.0
SEEDS = (101, 102)
"""Held-out seeds: no parameter was tuned on them."""
TOKENS = {
    "input": {"mean": 128, "cv": 0.8, "max": 2048},
    "output": {"mean": 178, "cv": 0.6, "max": 1024},
}
TRACES: Mapping[str, Mapping[str, Any]] = {
    "poisson": {"kind": "poisson", "duration_seconds": 1800, "rate_rpm": 300},
    "gamma": {"kind": "gamma", "cv": 2.5, "duration_seconds": 1800, "rate_rpm": 300},
    "ramp": {"kind": "ramp", "duration_seconds": 2400, "from_rpm": 100, "to_rpm": 900},
    "diurnal": {
        "kind": "diurnal", "duration_seconds": 3600, "mean_rpm": 600, "amplitude": 0.7,
        "period_seconds": 3600, "noise": 0.1,
    },
    "mmpp": {"kind": "mmpp", "duration_seconds": 3600, "states": [[300, 200], [200, 500]]},
    "step-3x": {"kind": "step", "levels": [[900, 200], [900, 600], [900, 200]]},
    "flash-crowd": {
        "kind": "flash-crowd", "duration_seconds": 2400, "base_rpm": 200, "peak_rpm": 800,
        "start_seconds": 900, "rise_seconds": 60, "hold_seconds": 300, "fall_seconds": 120,
    },
}  # fmt: skip
QUICK = ("poisson", "gamma", "step-3x")

OURS, RIVAL = "ours", "hpa-queue"
GOAL = f"{tables.GOAL * 100:g} %"
COST_LIMIT = 1.15
"""Largest acceptable cost, as a multiple of the clairvoyant's."""
RECOVERY_CYCLES = 2
"""Decision cycles beyond a replica's start-up within which a step must be over."""

SPARE_FACTORS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.1, 2.5)
"""Factors on the model's number of replicas that the schedules without foresight try."""
HOLD_SECONDS = (0.0, 120.0, 300.0)
"""Times for which the schedules without foresight keep replicas that are no longer needed; all are tried."""
SCHEDULES = len(SPARE_FACTORS) * len(HOLD_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithoutForesight:
    """The best of many schedules that know the true rate of each moment, but not of the next one.

    Replicas for a moment's rate, times a constant factor, are created at that moment and start after it. The
    rate is that of the 75 s around the moment, which even favours these schedules.

    Attributes:
        within: Largest share of requests within their targets at no more than `COST_LIMIT` times the bound.
        cost: Least cost, divided by the bound's, that meets `tables.GOAL`; infinite if no schedule does.

    """

    within: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One trace with one seed, replayed.

    Attributes:
        trace: Name of the trace in `TRACES`.
        seed: Seed of the trace.
        comparison: Results of all policies, without curves.
        without_foresight: The best that is possible without foresight.

    """

    trace: str
    seed: int
    comparison: Comparison
    without_foresight: WithoutForesight

    def of(self, policy: str) -> PolicyResult:
        """Result of one policy."""
        return next(item for item in self.comparison.results if item.policy == policy)

    @property
    def cost(self) -> float:
        """Cost of the adapter, divided by the bound's."""
        return self.comparison.cost_ratio(self.of(OURS)) or math.nan

    @property
    def reachable(self) -> bool:
        """Whether attainment and cost targets can be met together without foresight."""
        return self.without_foresight.within >= tables.GOAL

    def __str__(self) -> str:
        return f"{self.trace} {self.seed}"


def events(result: PolicyResult) -> int:
    """Scale events of one policy."""
    return result.scale_ups + result.scale_downs


def suite_scenario() -> Scenario:
    """The sample scenario, with a warm-up for long traces."""
    return scenario.read(SCENARIO).model_copy(update={"warm_up": WARM_UP_SECONDS})


def generator(trace: str, seed: int) -> dict[str, Any]:
    """Description of the trace's generator, see `emulator.traces`."""
    return {**TRACES[trace], "name": f"{trace}, seed {seed}", "seed": seed, "tokens": TOKENS}


def measure(trace_and_seed: tuple[str, int]) -> Case:
    """Replay one trace with one seed."""
    # The control loop would log every decision.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    trace, seed = trace_and_seed
    replayed, given = suite_scenario(), generator(trace, seed)
    model = replayed.models[0].model
    traffic = OfferedTraffic(trace=traces.generate(given), steps=tuple(scenario.steps(given)))
    comparison = compare.compare(replayed, {model: traffic})
    bound = comparison.bound
    if bound is None:
        raise AssertionError
    # Curves are large, and not shown on the page.
    results = tuple(replace(item, curves={}) for item in comparison.results)
    return Case(
        trace=trace,
        seed=seed,
        comparison=replace(comparison, results=results),
        without_foresight=_without_foresight(
            Run(scenario=replayed, traffic={model: traffic.trace}, steps={}), bound.cost_cents
        ),
    )


def _without_foresight(given: Run, bound_cents: float) -> WithoutForesight:
    # A schedule for replicas that start at once creates them when they are needed, not before.
    instant = tuple(item.model_copy(update={"startup": 0.0}) for item in given.scenario.variants)
    unaware = replace(given, scenario=given.scenario.model_copy(update={"variants": instant}))
    capacity = clairvoyant.replica_capacity(given.scenario, given.traffic)
    within, cost = 0.0, math.inf
    for hold in HOLD_SECONDS:
        for factor in SPARE_FACTORS:
            entries = {
                name: _held(schedule, hold)
                for name, schedule in clairvoyant.schedules(unaware, capacity, factor).items()
            }
            result = run(given, functools.partial(Scheduled, schedule=entries))
            ratio = result.cost_cents / bound_cents
            if ratio <= COST_LIMIT:
                within = max(within, result.within)
            if result.within >= tables.GOAL:
                cost = min(cost, ratio)
                if ratio > COST_LIMIT:
                    break  # more only costs more
    return WithoutForesight(within=within, cost=cost)


def _held(schedule: Sequence[tuple[float, int]], hold: float) -> list[tuple[float, int]]:
    """The schedule with every number of replicas kept for `hold` seconds after its end."""
    ends = [at for at, _ in schedule[1:]] + [math.inf]
    times = sorted({at for at, _ in schedule} | {end + hold for end in ends if end < math.inf})
    entries: list[tuple[float, int]] = []
    for at in times:
        numbers = [
            number
            for (start, number), end in zip(schedule, ends, strict=True)
            if start <= at < end + hold
        ]
        if not entries or entries[-1][1] != max(numbers):
            entries.append((at, max(numbers)))
    return entries


def measure_all(traces_and_seeds: Sequence[tuple[str, int]], jobs: int) -> list[Case]:
    """Replay all of them in that order, with a line of progress on stderr for each."""
    cases = []
    for number, case in enumerate(_each(traces_and_seeds, jobs), start=1):
        print(f"{number}/{len(traces_and_seeds)} {case}", file=sys.stderr, flush=True)
        cases.append(case)
    return cases


def _each(traces_and_seeds: Sequence[tuple[str, int]], jobs: int) -> Iterator[Case]:
    if jobs == 1:
        yield from map(measure, traces_and_seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(measure, traces_and_seeds)

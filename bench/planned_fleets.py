"""Random fleets for timing the whole planning step: variants x 4 accelerators at batch 64."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np

from adapter.planning import fleet as fleets
from adapter.planning import plan as planning
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from optimizer.problem import SolverName

ACCELERATORS = (
    ("L40S", 32.0, 1.0),
    ("A100", 40.0, 1.6),
    ("H100", 90.0, 4.0),
    ("MI300X", 65.0, 3.1),
)
"""Name, cents per hour, and speed against the first."""

TIGHT = 0.7
"""Share of the devices of the cheapest plan that tight capacity has."""


def fleet(
    variants: int, max_batch: int = 64, *, steps: bool = False, routing: fleets.Routing = "random"
) -> fleets.Fleet:
    """A fleet without capacity; profiles are two lines over the batch, or step times."""
    source = np.random.default_rng(variants + max_batch)
    return fleets.Fleet(
        accelerators=tuple(
            fleets.Accelerator(name=name, device_type=name, unit_cost=cost)
            for name, cost, _ in ACCELERATORS
        ),
        service_classes=tuple(
            fleets.ServiceClass(
                name=f"class-{priority}",
                priority=priority,
                targets={
                    "m": fleets.Targets(ttft_ms=400.0 * priority, itl_ms=30.0 + 20 * priority)
                },
            )
            for priority in (1, 2, 3)
        ),
        variants=tuple(
            _variant(source, number, max_batch, steps=steps, routing=routing)
            for number in range(variants)
        ),
    )


def tight(fleet_of: fleets.Fleet, share: float = TIGHT) -> fleets.Fleet:
    """The same fleet with that share of the devices that its cheapest plan takes."""
    used = dict.fromkeys((name for name, _, _ in ACCELERATORS), 0)
    for decision in planning.plan(fleet_of).decisions.values():
        chosen = decision.candidate
        if chosen.accelerator:
            used[chosen.device_type] += chosen.demand
    capacity = {name: int(share * devices) + 1 for name, devices in used.items()}
    return replace(fleet_of, capacity=capacity)


def solved_by(fleet_of: fleets.Fleet, solver: SolverName) -> fleets.Fleet:
    """The same fleet, planned by that solver."""
    return replace(fleet_of, settings=replace(fleet_of.settings, solver=solver, time_limit_s=60.0))


def cpu_seconds(work: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Median, least and most CPU time of the process over the repeats, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times), min(times), max(times)


def _variant(
    source: np.random.Generator,
    number: int,
    max_batch: int,
    *,
    steps: bool,
    routing: fleets.Routing,
) -> fleets.Variant:
    size = source.uniform(0.5, 2.0)
    name = ACCELERATORS[int(source.integers(len(ACCELERATORS)))][0]
    return fleets.Variant(
        name=f"ns/v{number:05}",
        model="m",
        service_class=f"class-{int(source.integers(1, 4))}",
        profiles=tuple(
            profile(name, size / speed * source.uniform(0.8, 1.2), max_batch, steps=steps)
            for name, _, speed in ACCELERATORS
        ),
        load=fleets.Load(
            arrival_rate_rps=float(source.lognormal(1.0, 1.0)),
            input_tokens=float(source.integers(64, 1500)),
            output_tokens=float(source.integers(32, 400)),
        ),
        current=fleets.CurrentAllocation(accelerator=name, replicas=int(source.integers(1, 6))),
        routing=routing,
    )


def profile(name: str, slowness: float, max_batch: int, *, steps: bool) -> fleets.Profile:
    """Step times, or two lines over the batch, that many times as slow as the first accelerator's."""
    latency: LatencyParameters | StepTimes
    if steps:
        latency = StepTimes(
            base_ms=14.0 * slowness,
            per_request_ms=0.1 * slowness,
            per_prefill_token_ms=0.06 * slowness,
            per_context_token_ms=1e-4 * slowness,
        )
    else:
        latency = LatencyParameters(
            alpha_ms=14.0 * slowness,
            beta_ms=0.4 * slowness,
            gamma_ms=10.0 * slowness,
            delta_ms=0.005 * slowness,
        )
    limits = EngineLimits(max_num_seqs=max_batch, max_num_batched_tokens=4096, kv_tokens=200_000)
    return fleets.Profile(
        accelerator=name, latency=latency, limits=limits if steps else None, max_batch=max_batch
    )

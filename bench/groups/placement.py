"""Joint placement of groups: times to proof, and what rules cost that look at one variant after another.

The first table places 1,000 variants in 300 groups on four accelerators whose capacity is a share of what the
cheapest plan takes. The second one follows a day of demand (a sine with noise, every five minutes) of one
group on three accelerators; every rule gets as many replicas as carry the demand within its targets at each
step, so that only the choice differs: no start-up, no queue. CPU time of the process.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from optimizer.placement import solve
from optimizer.placement.problem import Item, Problem, Resource, Row, Solution
from optimizer.problem import SolverName

ACCELERATORS = (
    ("A100", 40.0, 1.0),
    ("H100", 90.0, 2.6),
    ("L40S", 22.0, 0.45),
    ("MI300", 70.0, 2.0),
)


def fleet(groups: int, variants: int, share: float) -> Problem:
    """Groups of three or four variants; capacity is that share of what the cheapest plan takes."""
    rng = np.random.default_rng(groups)
    sizes = np.full(groups, 3)
    sizes[: variants - 3 * groups] += 1
    items = []
    for number, size in enumerate(sizes.tolist()):
        rows = []
        for kind, (name, price, speed) in enumerate(ACCELERATORS[:size]):
            devices = int(rng.choice([1, 1, 2, 4]))
            rows.append(
                Row(
                    variant=f"g{number}-{name}",
                    accelerator=name,
                    unit_cost=price * devices,
                    worth=speed * devices**0.8 * rng.uniform(0.7, 1.3),
                    least=int(rng.choice([0, 0, 0, 1])),
                    most=2_000,
                    uses=((kind, float(devices)),),
                    running=int(rng.integers(0, 4)),
                )
            )
        items.append(
            Item(
                name=f"g{number:04}",
                rows=tuple(rows),
                demand=3.0 * rng.lognormal(0.7, 0.7),
                priority=int(rng.choice([1, 2, 3])),
                routing="round-robin" if rng.random() < 0.5 else "least-loaded",
                hysteresis=0.05,
            )
        )
    endless = tuple(Resource(f"capacity {name}", 1e9, "devices") for name, _, _ in ACCELERATORS)
    free = Problem(items=tuple(items), resources=endless, time_limit_s=60)
    used = np.zeros(len(endless))
    best = solve.solve(free)
    for item in items:
        used[list(item.resources)] += np.array(best.placed[item.name].counts) @ item.uses
    limits = (share * used).astype(int) + 1
    return replace(
        free,
        resources=tuple(
            resource._replace(limit=float(limit))
            for resource, limit in zip(endless, limits.tolist(), strict=True)
        ),
    )


def timed(problem: Problem, solver: SolverName) -> tuple[Solution, float]:
    """The plan and the CPU seconds."""
    start = time.process_time()
    solution = solve.solve(problem, solver)
    return solution, time.process_time() - start


RUNS = 5
"""Greedy plans of each fleet, of which the fastest counts: other programs take part of the processor."""


def fastest_greedy(problem: Problem) -> tuple[Solution, float]:
    """The plan and the least CPU seconds; items are new each time, as nothing of them is kept in `serve`."""
    runs = [
        timed(replace(problem, items=tuple(replace(item) for item in problem.items)), "greedy")
        for _ in range(RUNS)
    ]
    return min(runs, key=lambda run: run[1])


def times() -> None:
    """Print the first table; goals: greedy 0.15 s, proof 5 s."""
    print(f"{'capacity':>8}  {'greedy, s':>9}  {'exact, s':>8}  {'end':>8}  {'gap':>8}  served g/b")
    for share, scarce in ((1.1, None), (0.7, 1), (0.95, None), (0.7, None)):
        problem = fleet(300, 1_000, share)
        if scarce is not None:  # one type runs short, the others do not
            problem = replace(
                problem,
                resources=tuple(
                    resource if index == scarce else resource._replace(limit=resource.limit * 8)
                    for index, resource in enumerate(problem.resources)
                ),
            )
        quick, first = fastest_greedy(problem)
        best, second = timed(problem, "branch-and-bound")
        served = [sum(got.kind == "full" for got in plan.placed.values()) for plan in (quick, best)]
        name = f"{share:g}" + ("" if scarce is None else f" {ACCELERATORS[scarce][0]}")
        gap = "-" if best.gap is None else f"{best.gap:.1e}"
        print(
            f"{name:>8}  {first:>9.3f}  {second:>8.3f}  {best.termination:>8}  {gap:>8}"
            f"  {served[0]}/{served[1]}",
            flush=True,
        )


def apart(rows: tuple[Row, ...], demand: float) -> float:
    """Cost of variants that get an equal part each and are sized alone."""
    part = demand / len(rows)
    return sum(math.ceil(part / row.worth - 1e-9) * row.unit_cost for row in rows)


def cheapest_first(rows: tuple[Row, ...], demand: float) -> float:
    """Cost where the variant with the least cost per request is filled up, then the next."""
    cost, rest = 0.0, demand
    for row in sorted(rows, key=lambda row: row.unit_cost / row.worth):
        count = min(math.ceil(max(rest, 0.0) / row.worth - 1e-9), row.most)
        cost += count * row.unit_cost
        rest -= count * row.worth
    return cost


def together(rows: tuple[Row, ...], demand: float) -> float:
    """Cost of the group's plan."""
    item = Item(name="g", rows=rows, demand=demand)
    endless = Problem(items=(item,))
    return float(np.array(solve.solve(endless).placed["g"].counts) @ item.unit_costs)


def rules() -> None:
    """Print the second table."""
    rng = np.random.default_rng(21)
    minutes = np.arange(0, 24 * 60, 5)
    shape = (
        1.0
        + 0.7 * np.sin(minutes / (24 * 60) * 2 * np.pi)
        + 0.1 * rng.standard_normal(minutes.size)
    )
    demand = 15.0 * np.maximum(shape, 0.02)
    rows = tuple(
        Row(name, name, price, speed * 2.2, 0, 6) for name, price, speed in ACCELERATORS[:3]
    )
    named: dict[str, Callable[[tuple[Row, ...], float], float]] = {
        "each variant sized for an equal part": apart,
        "least cost per request first (WVA's cost-aware rule)": cheapest_first,
        "group": together,
    }
    costs = {
        name: sum(rule(rows, float(rate)) for rate in demand) * 5 / 60
        for name, rule in named.items()
    }
    costs["static integer program for the peak (Mélange)"] = (
        together(rows, float(demand.max())) * 24
    )
    for name, cost in costs.items():
        print(f"{name:<55} {cost:>10.0f} cents  {cost / costs['group']:>6.3f}x")


if __name__ == "__main__":
    times()
    print()
    rules()

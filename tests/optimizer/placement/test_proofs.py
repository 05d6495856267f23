"""A plan that is called optimal is: patterns that are left out, or not yet listed, matter to none better."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from optimizer.placement import exact, gaps, near, patterns, solve
from optimizer.placement.problem import Item, Problem, Resource, Routing, Row

GPUS = (("A100", 40.0, 1.0), ("H100", 90.0, 2.6), ("L40S", 22.0, 0.45), ("MI300", 70.0, 2.0))


def group(name: str, chance: random.Random) -> Item:
    """A group of two to four variants, some with least replicas, of which a few replicas carry its demand."""
    rows = []
    for kind in sorted(chance.sample(range(len(GPUS)), chance.randint(2, 4))):
        gpu, price, speed = GPUS[kind]
        devices = chance.choice([1, 1, 2])
        least = chance.choice([0, 0, 0, 1, 2])
        rows.append(
            Row(
                variant=f"{name}-{gpu}",
                accelerator=gpu,
                unit_cost=price * devices,
                worth=speed * devices**0.8 * chance.uniform(0.7, 1.3),
                least=least,
                most=least + chance.choice([3, 8, 40]),
                uses=((kind, float(devices)),),
                running=chance.randint(0, 3),
            )
        )
    routing: Routing = chance.choice(("round-robin", "least-loaded"))
    item = Item(name=name, rows=tuple(rows), demand=1.0, routing=routing, hysteresis=0.05)
    most = max(
        float(item.most[item.worths >= speed].sum() * speed)
        if routing == "round-robin"
        else float(item.most @ item.worths)
        for speed in item.worths
    )
    demand = min(3.0 * chance.lognormvariate(0.3, 0.7), 0.8 * most)
    return replace(item, demand=demand, priority=chance.choice([1, 2, 3]))


def system(seed: int) -> Problem:
    """Groups whose devices are a share of what the cheapest plan takes."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable system
    items = tuple(group(f"g{place}", chance) for place in range(chance.randint(3, 8)))
    endless = tuple(Resource(f"capacity {gpu}", 1e9, "devices") for gpu, _, _ in GPUS)
    free = Problem(items=items, resources=endless, time_limit_s=60)
    used = np.zeros(len(endless))
    placed = solve.solve(free).placed
    for item in items:
        used[list(item.resources)] += np.array(placed[item.name].counts) @ item.uses
    share = chance.choice([0.4, 0.6, 0.8, 0.95])
    limits = [float(int(share * each) + chance.randint(0, 1)) for each in used.tolist()]
    return replace(
        free,
        resources=tuple(
            resource._replace(limit=limit) for resource, limit in zip(endless, limits, strict=True)
        ),
    )


@pytest.mark.parametrize("seed", [3, 9, 20])
def test_what_is_proven_is_the_best(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns found as they are needed give the plan that the program of all patterns gives."""
    problem = system(seed)
    monkeypatch.setattr(patterns, "LARGEST_GRID", 2_000_000)
    monkeypatch.setattr(exact, "LISTED", 10**9)
    best = solve.solve(problem, "branch-and-bound")
    assert best.termination == "optimal"
    monkeypatch.setattr(patterns, "LARGEST_GRID", 30)
    monkeypatch.setattr(exact, "LISTED", 0)
    needed = solve.solve(problem, "branch-and-bound")
    expected = gaps.objective(problem, best.placed)
    objective = gaps.objective(problem, needed.placed)
    assert needed.termination == "optimal"
    assert objective.unserved == expected.unserved
    assert objective.cost == pytest.approx(expected.cost, rel=1e-4)


@pytest.mark.parametrize("seed", [3, 9, 20])
def test_without_a_proof_the_distance_to_a_bound_is_stated(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items with too many patterns to list leave a bound; the best plan there is lies within the gap."""
    problem = system(seed)
    best = solve.solve(problem, "branch-and-bound")
    assert best.termination == "optimal"
    monkeypatch.setattr(patterns, "LARGEST_GRID", 1)
    monkeypatch.setattr(exact, "LISTED", 0)
    monkeypatch.setattr(near, "LARGEST", 12)
    relaxed = solve.solve(problem, "branch-and-bound")
    assert relaxed.gap is not None
    assert relaxed.termination in {"feasible", "optimal"}
    reached = gaps.objective(problem, relaxed.placed)
    least = gaps.objective(problem, best.placed)
    assert least <= reached
    if reached.unserved == least.unserved:
        assert least.cost >= reached.cost - relaxed.gap * max(reached.cost, 1.0) - 1e-6

"""What a plan is worth, and how far it is from the bounds of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from optimizer.objective import Objective, Outcome, of_plan
from optimizer.placement.pricing import Pricing, Stage
from optimizer.placement.problem import Item, Placed, Problem

STEP = 1.0 - 1e-6
"""Distance from a bound below which a number of items is the best one."""


def price_of(items: Sequence[Item], placed: Mapping[str, Placed]) -> float:
    """Cost plus transitions of a plan."""
    counts = [np.array([placed[item.name].counts], dtype=np.int64) for item in items]
    return sum(float(item.prices(plan)[0]) for item, plan in zip(items, counts, strict=True))


def objective(problem: Problem, placed: Mapping[str, Placed]) -> Objective:
    """A plan's worth: items not served in full by priority, partial service, cost plus transitions."""
    outcomes = [
        Outcome(item.priority, got.served, any(got.counts))
        for item in problem.items
        for got in (placed[item.name],)
    ]
    return of_plan(outcomes, problem.policy, price_of(problem.items, placed))


def value_of(items: Sequence[Item], stage: Stage, placed: Mapping[str, Placed]) -> float:
    """What a stage counts of a plan: items served in full, negative, or the price of those."""
    if stage.priority is None:
        whole = {
            name: got if got.kind == "full" else got._replace(counts=(0,) * len(got.counts))
            for name, got in placed.items()
        }
        return price_of(items, whole)
    mine = [item for item in items if item.priority == stage.priority]
    return -float(sum(placed[item.name].kind == "full" for item in mine))


def gap_of(
    problem: Problem, whole: AbstractSet[int], pricing: Pricing, placed: Mapping[str, Placed]
) -> float | None:
    """The largest distance of a plan to the bound of a stage, each with what it reached in those before.

    None where there is no bound, and under a saturation policy: partial service has none.

    Args:
        problem: Its items.
        whole: Priorities that are served whole in any case.
        pricing: Bounds of the items.
        placed: The plan.

    """
    if problem.policy != "None":
        return None
    gap, floors = 0.0, dict[int, int]()
    for priority in (*sorted({item.priority for item in problem.items} - whole), None):
        stage = Stage(priority, dict(floors))
        value, bound = value_of(problem.items, stage, placed), pricing.bound(stage).value
        if not np.isfinite(bound):
            return None
        distance = value - bound
        if priority is None or distance >= STEP:
            gap = max(gap, distance / max(abs(value), 1.0))
        if priority is not None:
            floors[priority] = round(-value)
    return gap

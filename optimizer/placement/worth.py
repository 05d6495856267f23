"""What replicas of an item carry together, as its gateway spreads requests."""

from __future__ import annotations

import numpy as np

from optimizer.placement import routed
from optimizer.placement.problem import (
    ROUNDING,
    BoolArray,
    FloatArray,
    IntArray,
    Item,
    Placed,
)

ALMOST = 1.0 - 1e-6
"""Largest part of a plan that is not a whole one."""


def capacities(item: Item, counts: IntArray) -> FloatArray:
    """Largest demand that P plans carry, shape (P, J) to (P,)."""
    if item.routing == "alone":
        part: FloatArray = (counts / np.maximum(item.most, 1)).max(axis=1) * item.demand
        return part
    if item.routing == "weights":
        return routed.capacities("weights", *_by_variant(item, counts))
    return routed.capacities(item.routing, counts, item.worths, item.weights)


def carried(item: Item, counts: IntArray, demand: float) -> float:
    """What one plan carries of a demand; its capacity where that is more. Not of length classes."""
    if item.routing == "weights":
        plans, rates, weights = _by_variant(item, counts[None, :])
        return routed.carried("weights", plans[0], rates, weights, demand)
    return float(capacities(item, counts[None, :])[0])


def _by_variant(item: Item, counts: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """P plans by variant as what their rows carry, with a rate of 1 each, and the variants' weights."""
    variants = item.variants()
    columns = [counts[:, rows] @ item.worths[rows] for rows in variants]
    weights = np.array([item.weights[rows[0]] for rows in variants])
    return np.stack(columns, axis=1), np.ones(len(variants)), weights


def served(item: Item, counts: IntArray) -> FloatArray:
    """Part of the demand that P plans carry, 0 to 1."""
    if item.demand <= 0:
        return np.ones(counts.shape[0])
    if item.class_demands:
        total = np.array([class_share(item, plan) for plan in counts])
    elif item.routing == "weights":
        fixed = np.array(parts(item))
        total = np.ones(counts.shape[0])
        if fixed.any():
            total = routed.of_parts(_by_variant(item, counts)[0], fixed) / fixed.sum()
    else:
        total = capacities(item, counts) / item.demand
    full: FloatArray = np.where(total >= 1.0 - 10 * ROUNDING, 1.0, np.minimum(total, 1.0))
    return full


def parts(item: Item) -> list[float]:
    """What each variant is to carry under routing weights: its part, or what it can where that is less."""
    return [
        min(
            float(item.weights[rows[0]]) * item.demand,
            float((item.most[rows] * item.worths[rows]).max()),
        )
        for rows in item.variants()
    ]


def class_share(item: Item, counts: IntArray) -> float:
    """Largest part of every length class that one plan carries, above 1 where that is more than the demand.

    Classes go where they fit best.
    """
    from scipy.optimize import linprog  # noqa: PLC0415 - takes longer to load than most plans take

    rows, classes = len(item.rows), len(item.class_demands)
    # Variables: rate of class c on row j, then the part t that all classes reach.
    goal = np.zeros(rows * classes + 1)
    goal[-1] = -1.0
    speeds = np.array([row.by_class for row in item.rows])
    busy = np.zeros((rows, goal.size))
    carried = np.zeros((classes, goal.size))
    bounds: list[tuple[float, float | None]] = []
    for at in range(rows):
        for place in range(classes):
            column = at * classes + place
            if speeds[at, place] > 0:
                busy[at, column] = 1.0 / speeds[at, place]
            bounds.append((0.0, None if speeds[at, place] > 0 else 0.0))
            carried[place, column] = -1.0
    carried[:, -1] = item.class_demands
    solution = linprog(
        goal,
        A_ub=np.vstack([busy, carried]),
        b_ub=np.concatenate([counts.astype(np.float64), np.zeros(classes)]),
        bounds=[*bounds, (0.0, None)],
    )
    return float(solution.x[-1]) if solution.x is not None else 0.0


def shares(item: Item, counts: IntArray) -> FloatArray:
    """Parts of the requests that reach each row of one plan, shape (J,) to (J,)."""
    number = counts.astype(np.float64)
    if item.routing == "weights":
        return np.where(counts > 0, item.weights, 0.0)
    each: FloatArray = number * item.worths if item.routing == "least-loaded" else number
    if not each.any():
        each = number
    result: FloatArray = each / max(float(each.sum()), 1e-300)
    return result


def share_kept(item: Item, counts: IntArray) -> BoolArray:
    """Whether interruptible rows carry no more than their share in P plans."""
    if not item.limited_share:
        return np.ones(counts.shape[0], dtype=np.bool_)
    if item.routing == "weights":
        return np.ones(counts.shape[0], dtype=np.bool_)
    each = counts * item.worths if item.routing == "least-loaded" else counts.astype(np.float64)
    total = each.sum(axis=1)
    kept: BoolArray = each[:, item.interruptible].sum(
        axis=1
    ) <= item.interruptible_share * total + ROUNDING * np.maximum(total, 1.0)
    return kept


def placed(item: Item, counts: IntArray) -> Placed:
    """One plan with the part that it carries; without its least replicas an item is not served in full."""
    part = float(served(item, counts[None, :])[0])
    for rows in item.variants():
        if (
            item.routing != "alone"
            and not (
                (counts[rows] >= item.least[rows]) & ((counts[rows] > 0) | (item.least[rows] == 0))
            ).any()
        ):
            part = min(part, ALMOST)
    return Placed(tuple(int(count) for count in counts), part)

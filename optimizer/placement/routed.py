"""What replicas of several variants carry together, as the gateway in front of them spreads requests.

Rates and demands are in one unit of the caller's, such as requests per second. P plans of J variants are
arrays of shape (P, J).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from optimizer.placement.problem import FloatArray, IntArray

Routing = Literal["least-loaded", "round-robin", "weights"]


def capacities(
    routing: Routing, counts: IntArray | FloatArray, rates: FloatArray, weights: FloatArray
) -> FloatArray:
    """Largest demand that P plans carry, shape (P,).

    A gateway that knows the load gives each replica what it carries. One that gives all the same is bounded
    by the slowest that is used, and one with weights by the variant that has least for its part.

    Args:
        routing: How requests reach the replicas.
        counts: Replicas, shape (P, J).
        rates: What one replica of each variant carries, shape (J,).
        weights: Parts of the requests under routing weights, shape (J,); they need not sum up to 1.

    """
    if routing == "least-loaded":
        total: FloatArray = counts @ rates
        return total
    if routing == "round-robin":
        slowest = np.where(counts > 0, rates, np.inf).min(axis=1, initial=np.inf)
        even: FloatArray = counts.sum(axis=1) * np.where(np.isinf(slowest), 0.0, slowest)
        return even
    some = weights > 0
    each = counts[:, some] * rates[some] * (weights.sum() / weights[some])
    bound: FloatArray = each.min(axis=1, initial=np.inf)
    return np.where(np.isinf(bound), 0.0, bound)


def carried(
    routing: Routing,
    counts: IntArray | FloatArray,
    rates: FloatArray,
    weights: FloatArray,
    demand: float,
) -> float:
    """What one plan carries of a demand; its capacity where that is the demand or more.

    Under weights a variant that is short, or has no replicas, loses what it lacks of its part: the gateway
    does not hand it to the others, and these keep theirs. Arguments as of `capacities`; counts: (J,).
    """
    most = float(capacities(routing, counts[None, :], rates, weights)[0])
    whole = float(weights.sum())
    if routing != "weights" or most >= demand or whole <= 0:
        return most
    return float(of_parts(counts * rates, weights / whole * demand))


def of_parts(carries: FloatArray, parts: FloatArray) -> FloatArray:
    """What variants carry of fixed parts of a demand, each no more than its own; (..., J) to (...)."""
    total: FloatArray = np.minimum(carries, parts).sum(axis=-1)
    return total

"""What plans are compared by, whoever made them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from optimizer.problem import SaturationPolicy


class Objective(NamedTuple):
    """What plans are compared by, smaller is better: in the order of the stages.

    Attributes:
        unserved: variants or groups that are not served in full, by priority, the highest first.
        short: partial service under the saturation policy, in the order of its stages; negative.
        cost: cost plus transitions, cents per hour.

    """

    unserved: tuple[int, ...]
    short: tuple[float, ...]
    cost: float


class Outcome(NamedTuple):
    """What one variant or group gets.

    Attributes:
        priority: 1 is served first.
        served: part of what it asks for, 0 to 1; 1 is served in full.
        something: whether it has any replicas.

    """

    priority: int
    served: float
    something: bool


def of_plan(outcomes: Iterable[Outcome], policy: SaturationPolicy, cost: float) -> Objective:
    """The worth of a plan; `cost` is that of all its replicas, with transitions."""
    every = list(outcomes)
    priorities = sorted({outcome.priority for outcome in every})
    unserved = dict.fromkeys(priorities, 0)
    something = dict.fromkeys(priorities, 0)
    shares = dict.fromkeys(priorities, 0.0)
    for outcome in every:
        if outcome.served < 1.0:
            unserved[outcome.priority] += 1
            something[outcome.priority] += outcome.something
            shares[outcome.priority] += outcome.served
    short: list[float] = []
    if policy == "PriorityExhaustive":
        short = [-shares[priority] for priority in priorities]
    elif policy == "PriorityRoundRobin":
        for priority in priorities:
            short += [-something[priority], -shares[priority]]
    elif policy == "RoundRobin":
        short = [-sum(something.values()), -sum(shares.values())]
    return Objective(
        tuple(unserved.values()), tuple(round(part, 6) for part in short), round(cost, 6)
    )

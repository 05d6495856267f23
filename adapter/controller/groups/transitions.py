"""From the replicas of a group to those that were planned, without losing what serves.

Replicas of one variant go only when those that replace them are ready; more replicas are asked for at once.
What starts is in the plan already, so that nothing is asked for twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapter.planning.groups import Routing
from optimizer.placement import routed
from optimizer.placement.problem import FloatArray, IntArray

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One variant of a group in a transition.

    Attributes:
        key: Key of the variant.
        planned: Replicas that were planned.
        target: The desired replicas so far.
        ready: Replicas that serve now.
        rate_rps: Requests per second that one replica carries within the SLO targets; 0 where unknown.
        cost: Cost of one replica, cents per hour.
        weight: Part of the requests that the gateway sends here, under routing weights.
        available: Replicas that can be ready at most; None where nothing keeps any from coming.
        present: Replicas that serve and have not been taken away yet, though they may have been given up.

    """

    key: str
    planned: int
    target: int
    ready: int
    rate_rps: float
    cost: float
    weight: float = 1.0
    available: int | None = None
    present: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Replicas to ask for now, and why they are not those that were planned.

    Attributes:
        replicas: Replicas by variant key.
        reasons: Why a variant is not given what was planned, by key.

    """

    replicas: Mapping[str, int]
    reasons: Mapping[str, str]


def capacity(parts: Sequence[Part], replicas: Mapping[str, int], routing: Routing) -> float:
    """Requests per second that so many replicas carry within the SLO targets; see `routed.capacities`."""
    counts, rates, weights = _columns(parts, replicas)
    return float(routed.capacities(routing, counts[None, :], rates, weights)[0])


def carried(
    parts: Sequence[Part], replicas: Mapping[str, int], routing: Routing, demand_rps: float
) -> float:
    """Requests per second that so many replicas carry of a demand; more where they can carry all of it.

    Under weights one variant that is short, or has no replicas, loses its part: the others keep theirs.
    """
    counts, rates, weights = _columns(parts, replicas)
    return routed.carried(routing, counts, rates, weights, demand_rps)


def _columns(
    parts: Sequence[Part], replicas: Mapping[str, int]
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Replicas, rates and weights of the variants, shape (J,)."""
    return (
        np.array([replicas[part.key] for part in parts], dtype=np.int64),
        np.array([part.rate_rps for part in parts], dtype=np.float64),
        np.array([part.weight for part in parts], dtype=np.float64),
    )


def step(
    parts: Sequence[Part],
    *,
    demand_rps: float,
    routing: Routing,
) -> Step:
    """The next step from what is asked for to what was planned.

    Args:
        parts: The variants of one group.
        demand_rps: Requests per second that the group was planned for.
        routing: How requests reach the replicas.

    """
    planned = {part.key: part.planned for part in parts}
    # A plan that is short of devices or money is no reason to keep everything.
    needed = min(demand_rps, carried(parts, planned, routing, demand_rps))
    replicas = {part.key: max(part.planned, part.target) for part in parts}
    reasons: dict[str, str] = {}
    for part in sorted(parts, key=_dearest_first):
        if part.target <= part.planned:
            continue
        replicas[part.key] = _lowered(
            part, parts, replicas, routing, needed=needed, demand_rps=demand_rps
        )
        waiting = replicas[part.key] - part.planned
        if waiting > 0:
            reasons[part.key] = (
                f"{waiting} of {replicas[part.key]} replicas stay until those that replace them are ready"
            )
    return Step(replicas=replicas, reasons=reasons)


def unmoved(
    parts: Sequence[Part], left: float, *, demand_rps: float | None, routing: Routing
) -> Step:
    """What there is, while a move of load may be due to a chance in what replicas seem to carry.

    Where a demand is given, what the others carry it without goes all the same: nothing is to replace it.

    Args:
        parts: The variants of one group.
        left: Seconds until the move may begin.
        demand_rps: Requests per second that the group was planned for; None keeps all that there is.
        routing: How requests reach the replicas.

    """
    stays = [replace(part, planned=min(part.planned, part.target)) for part in parts]
    present = {part.key: part.target for part in parts}
    replicas = dict(present)
    # Without demand every last one would be too many.
    if demand_rps:
        needed = min(demand_rps, carried(parts, present, routing, demand_rps))
        for part in sorted(stays, key=_dearest_first) if needed > 0 else ():
            replicas[part.key] = _lowered(
                part, stays, replicas, routing, needed=needed, demand_rps=demand_rps
            )
    return Step(
        replicas=replicas,
        reasons={
            part.key: f"{replicas[part.key]} instead of {part.planned}: load moves between variants in"
            f" {left:.0f} s, if that is still cheaper then"
            for part in parts
            if part.planned != replicas[part.key]
        },
    )


def recalled(before: Step, parts: Sequence[Part], *, demand_rps: float, routing: Routing) -> Step:
    """The step with replicas that were given up, where load has come that what is ready does not carry.

    An autoscaler follows a moment later: what still serves costs no start-up, and bridges that of others.
    Arguments as of `step`.
    """
    planned = {part.key: part.planned for part in parts}
    needed = min(demand_rps, carried(parts, planned, routing, demand_rps)) * (1.0 - _EPSILON)
    replicas, reasons = dict(before.replicas), dict(before.reasons)

    def serving(numbers: Mapping[str, int]) -> float:
        ready = {part.key: min(part.ready, numbers[part.key]) for part in parts}
        return carried(parts, ready, routing, demand_rps)

    for part in sorted(parts, key=_dearest_first, reverse=True):
        given_up = range(replicas[part.key] + 1, part.present + 1)
        for number in given_up:
            now, more = serving(replicas), serving({**replicas, part.key: number})
            if now >= needed or more <= now * (1.0 + _EPSILON):
                break
            replicas[part.key] = number
            reasons[part.key] = (
                f"{number} replicas stay, though they were given up: what is ready carries less than comes"
            )
    return Step(replicas=replicas, reasons=reasons)


def carries(parts: Sequence[Part], *, demand_rps: float, routing: Routing) -> bool:
    """Whether the desired replicas so far carry a demand, once those that can come are ready."""
    present = {
        part.key: part.target if part.available is None else min(part.target, part.available)
        for part in parts
    }
    return capacity(parts, present, routing) >= demand_rps * (1.0 - _EPSILON)


def carries_at(
    worths: Iterable[Mapping[str, float]],
    parts: Sequence[Part],
    *,
    demand_rps: float,
    routing: Routing,
) -> bool:
    """Whether what was planned carries a demand by each of several estimates of what a replica carries.

    It never has to carry more than the desired replicas so far would. A plan that does not carry the demand
    by the estimate of now either is not made to save money: True, without a look at the other estimates.

    Args:
        worths: Requests per second that one replica carries, by variant key; another one as in its part.
        parts: The variants of one group.
        demand_rps: Requests per second.
        routing: How requests reach the replicas.

    """
    planned = {part.key: part.planned for part in parts}
    present = {part.key: part.target for part in parts}
    if capacity(parts, planned, routing) < demand_rps * (1.0 - _EPSILON):
        return True
    for rates in worths:
        then = [replace(part, rate_rps=rates.get(part.key, part.rate_rps)) for part in parts]
        needed = min(demand_rps, capacity(then, present, routing))
        if capacity(then, planned, routing) < needed * (1.0 - _EPSILON):
            return False
    return True


def _dearest_first(part: Part) -> tuple[float, str]:
    return -part.cost / max(part.rate_rps, _EPSILON), part.key


def _lowered(
    part: Part,
    parts: Sequence[Part],
    replicas: Mapping[str, int],
    routing: Routing,
    *,
    needed: float,
    demand_rps: float,
) -> int:
    """The least replicas of a part with which what is ready carries what is needed of the demand."""

    def ready(number: int) -> float:
        return carried(
            parts,
            {
                other.key: min(
                    other.ready, number if other.key == part.key else replicas[other.key]
                )
                for other in parts
            },
            routing,
            demand_rps,
        )

    now = ready(part.target)
    for number in range(part.planned, part.target):
        after = ready(number)
        # Without a slow replica, a gateway that gives all the same may carry more.
        if after >= needed * (1.0 - _EPSILON) or after > now * (1.0 + _EPSILON):
            return number
    return part.target


def limited(before: Step, parts: Sequence[Part], *, up: int | None, down: int | None) -> Step:
    """The step with at most so many replicas more and fewer per variant; None: any number."""
    replicas, reasons = dict(before.replicas), dict(before.reasons)
    for part in parts:
        planned = replicas[part.key]
        low = part.target if down is None else max(part.target - down, 0)
        high = part.target if up is None else part.target + up
        if up is not None and planned > high:
            replicas[part.key] = high
            reasons[part.key] = f"{high} instead of {planned}: {up} more at a time"
        elif down is not None and planned < low:
            replicas[part.key] = low
            reasons[part.key] = f"{low} instead of {planned}: {down} fewer at a time"
    return replace(before, replicas=replicas, reasons=reasons)

"""From the replicas of a group to those that were planned, without losing what serves.

Replicas of one variant go only when those that replace them are ready; more replicas are asked for at once. A
plan that moves replicas from one variant to another for a small saving is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

HYSTERESIS = 0.05
"""Share of a group's cost that a move from one variant to another must save."""

_EPSILON = 1e-9

Spreading = Literal["least-loaded", "round-robin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One variant of a group in a transition.

    Attributes:
        key: Key of the variant.
        planned: Replicas that were planned.
        target: Replicas that are asked for now.
        ready: Replicas that serve now.
        rate_rps: Requests per second that one replica carries within the SLO targets; 0 where unknown.
        cost: Cost of one replica, cents per hour.
        most: Largest number of replicas; None: any.
        least: Least number of replicas.

    """

    key: str
    planned: int
    target: int
    ready: int
    rate_rps: float
    cost: float
    most: int | None = None
    least: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Replicas to ask for now, and why they are not those that were planned.

    Attributes:
        replicas: Replicas by variant key.
        reasons: Why a variant is given more than was planned, by key.
        kept: Whether the present replicas are kept because a move would save too little.

    """

    replicas: Mapping[str, int]
    reasons: Mapping[str, str]
    kept: bool = False


def capacity(parts: Sequence[Part], replicas: Mapping[str, int], spreading: Spreading) -> float:
    """Requests per second that so many replicas carry within the SLO targets.

    A gateway that knows the load gives each replica what it carries; one that gives all the same fills the
    slowest first, which bounds them all.
    """
    used = [(part.rate_rps, replicas[part.key]) for part in parts if replicas[part.key] > 0]
    if not used:
        return 0.0
    if spreading == "round-robin":
        return min(rate for rate, _ in used) * sum(number for _, number in used)
    return sum(rate * number for rate, number in used)


def step(
    parts: Sequence[Part],
    *,
    demand_rps: float,
    spreading: Spreading,
    hysteresis: float = HYSTERESIS,
) -> Step:
    """The next step from what is asked for to what was planned.

    Args:
        parts: The variants of one group.
        demand_rps: Requests per second that the group was planned for.
        spreading: How requests reach the replicas.
        hysteresis: Share of the cost that a move between variants must save.

    """
    planned = {part.key: part.planned for part in parts}
    present = {part.key: part.target for part in parts}
    # A plan that is short of devices or money is no reason to keep everything.
    needed = min(demand_rps, capacity(parts, planned, spreading))
    if _moves(parts) and _within(parts) and hysteresis > 0:
        saved = _cost(parts, present) - _cost(parts, planned)
        serves = capacity(parts, present, spreading) >= needed * (1.0 - _EPSILON)
        if serves and saved <= hysteresis * _cost(parts, present) + _EPSILON:
            why = f"a move between variants would save less than {hysteresis:.0%} of the group's cost"
            reasons = {
                part.key: why for part in parts if present[part.key] != planned[part.key]
            }
            return Step(replicas=present, reasons=reasons, kept=True)
    replicas = {part.key: max(part.planned, part.target) for part in parts}
    reasons = {}
    for part in sorted(parts, key=_dearest_first):
        if part.target <= part.planned:
            continue
        replicas[part.key] = _lowered(part, parts, replicas, needed, spreading)
        waiting = replicas[part.key] - part.planned
        if waiting > 0:
            reasons[part.key] = (
                f"{waiting} of {replicas[part.key]} replicas stay until those that replace them are ready"
            )
    return Step(replicas=replicas, reasons=reasons)


def _moves(parts: Sequence[Part]) -> bool:
    """Whether the plan takes from one variant and gives to another."""
    return any(part.planned > part.target for part in parts) and any(
        part.planned < part.target for part in parts
    )


def _within(parts: Sequence[Part]) -> bool:
    return all(
        part.least <= part.target and (part.most is None or part.target <= part.most)
        for part in parts
    )


def _cost(parts: Sequence[Part], replicas: Mapping[str, int]) -> float:
    return sum(part.cost * replicas[part.key] for part in parts)


def _dearest_first(part: Part) -> tuple[float, str]:
    return -part.cost / max(part.rate_rps, _EPSILON), part.key


def _lowered(
    part: Part,
    parts: Sequence[Part],
    replicas: Mapping[str, int],
    needed: float,
    spreading: Spreading,
) -> int:
    """The least replicas of a part with which what is ready carries the demand."""

    def ready(number: int) -> float:
        return capacity(
            parts,
            {
                other.key: min(
                    other.ready, number if other.key == part.key else replicas[other.key]
                )
                for other in parts
            },
            spreading,
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
        wanted = replicas[part.key]
        low = part.target if down is None else max(part.target - down, 0)
        high = part.target if up is None else part.target + up
        if up is not None and wanted > high:
            replicas[part.key] = high
            reasons[part.key] = f"{high} instead of {wanted}: {up} more at a time"
        elif down is not None and wanted < low:
            replicas[part.key] = low
            reasons[part.key] = f"{low} instead of {wanted}: {down} fewer at a time"
    return replace(before, replicas=replicas, reasons=reasons)

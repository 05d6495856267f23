"""Curves of attainment over cost.

A rival's curve joins the points of its thresholds that no cheaper point of its own beats; between two of
them it is linear, as a threshold between theirs would give about that. The frontier is the best of all
rivals' curves at a cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emulator.replay.results import PolicyResult

OURS = "ours"
BOUNDS = frozenset({"static", "without-foresight", "clairvoyant"})
"""Policies that know the traffic, and so are no rivals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One policy: what it costs in cents, and the share of requests within the SLO."""

    policy: str
    cost_cents: float
    gpu_hours: float
    within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A point of ours beside the rivals at the same cost.

    Attributes:
        point: The point of ours.
        rival: Rival that keeps most at that cost; None where every rival costs more.
        rival_within: Share of requests that it keeps.

    """

    point: Point
    rival: str | None
    rival_within: float

    @property
    def ahead(self) -> float:
        """Share of requests by which ours is ahead; behind where negative, infinite without a rival."""
        return self.point.within - self.rival_within if self.rival else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The curves of a comparison.

    Attributes:
        ours: Points of ours by cost.
        rivals: Undominated points of each rival by cost, by the rival's name.
        best: Undominated points over all rivals, by cost.
        beside: Each point of ours beside the rivals.

    """

    ours: tuple[Point, ...]
    rivals: Mapping[str, tuple[Point, ...]]
    best: tuple[Point, ...]
    beside: tuple[Beside, ...]


def frontier(results: Iterable[PolicyResult]) -> Frontier:
    """Curves of the results: those of the family `ours` against all that is neither ours nor a bound."""
    ours: list[Point] = []
    families: dict[str, list[Point]] = {}
    for result in results:
        family = result.family or result.policy
        point = Point(
            policy=result.policy,
            cost_cents=result.cost_cents,
            gpu_hours=result.gpu_hours,
            within=result.within,
        )
        if family == OURS:
            ours.append(point)
        elif family not in BOUNDS and not family.startswith(OURS):
            families.setdefault(family, []).append(point)
    rivals = {name: undominated(points) for name, points in families.items()}
    ordered = tuple(sorted(ours, key=lambda item: (item.cost_cents, item.within)))
    return Frontier(
        ours=ordered,
        rivals=rivals,
        best=undominated(point for points in rivals.values() for point in points),
        beside=tuple(_beside(point, rivals) for point in ordered),
    )


def undominated(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points by cost without those that a point of at most their cost equals or beats."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda item: (item.cost_cents, -item.within)):
        if not kept or point.within > kept[-1].within:
            kept.append(point)
    return tuple(kept)


def within_at(curve: Sequence[Point], cost_cents: float) -> float:
    """Share of requests that a curve keeps at a cost; NaN below its cheapest point."""
    below = [point for point in curve if point.cost_cents <= cost_cents]
    if not below:
        return math.nan
    last = below[-1]
    if len(below) == len(curve):
        return last.within
    following = curve[len(below)]
    share = (cost_cents - last.cost_cents) / (following.cost_cents - last.cost_cents)
    return last.within + share * (following.within - last.within)


def _beside(point: Point, rivals: Mapping[str, Sequence[Point]]) -> Beside:
    within_by_rival = {name: within_at(curve, point.cost_cents) for name, curve in rivals.items()}
    known = {name: within for name, within in within_by_rival.items() if not math.isnan(within)}
    best = max(known, key=lambda name: known[name], default=None)
    return Beside(
        point=point, rival=best, rival_within=known[best] if best is not None else math.nan
    )


def best_of_each(results: Iterable[PolicyResult], goal: float) -> tuple[PolicyResult, ...]:
    """Of each curve the cheapest policy that keeps `goal`, or the one that keeps most; in order."""
    best: dict[str, PolicyResult] = {}
    for item in results:
        family = item.family or item.policy
        if family not in best or _rank(item, goal) > _rank(best[family], goal):
            best[family] = item
    return tuple(best.values())


def _rank(result: PolicyResult, goal: float) -> tuple[bool, float]:
    meets = result.within >= goal
    return meets, -result.cost_cents if meets else result.within

"""Brute force agrees on every shape of a group: several accelerators, transitions, classes, all policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.objective import Objective, Outcome, of_plan
from optimizer.placement import gaps, solve, worth
from optimizer.placement.problem import Item, Placed, Problem, Resource, Routing, Row
from optimizer.problem import SaturationPolicy

TYPES = ("A100", "H100", "L40S")
MONEY = len(TYPES)
POLICIES: tuple[SaturationPolicy, ...] = (
    "None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin",
)  # fmt: skip

variants = st.fixed_dictionaries(
    {
        "kinds": st.lists(st.integers(0, 2), min_size=1, max_size=2, unique=True),
        "costs": st.tuples(*[st.sampled_from([10.0, 37.5, 40.0, 90.0])] * 2),
        "speeds": st.tuples(*[st.sampled_from([1.0, 2.5, 3.3, 7.0])] * 2),
        "least": st.integers(0, 1),
        "most": st.integers(1, 3),
        "devices": st.integers(1, 2),
        "running": st.integers(0, 2),
        "spot": st.booleans(),
        "weight": st.sampled_from([0.0, 1.0, 2.5]),
    }
)
"""A variant that may run on one or two accelerators, and runs on the first one now."""


def rows_of(name: str, given_: dict[str, Any], *, classes: bool) -> list[Row]:
    """Its rows; moving away from the first accelerator has a price."""
    made = []
    for place, kind in enumerate(given_["kinds"]):
        cost, speed = given_["costs"][place], given_["speeds"][place]
        devices, running = float(given_["devices"]), int(given_["running"])
        moves = bool(place and running)
        made.append(
            Row(
                variant=name,
                accelerator=TYPES[kind],
                unit_cost=cost,
                worth=speed,
                least=given_["least"],
                most=given_["most"],
                uses=((kind, devices), (MONEY, cost)),
                running=0 if place else running,
                moved=0.1 * running * cost if moves else 0.0,
                moved_each=0.1 * cost if moves else 0.0,
                interruptible=bool(given_["spot"]),
                weight=given_["weight"],
                by_class=(speed * 2.0, speed * (0.5 + place)) if classes else (),
            )
        )
    return made


def item_of(
    name: str,
    parts: Sequence[dict[str, Any]],
    routing: Routing,
    *,
    demand: float,
    priority: int,
    share: float,
    classes: bool = False,
) -> Item:
    """A group of those variants."""
    rows = [
        row
        for place, part in enumerate(parts)
        for row in rows_of(f"{name}-{place}", part, classes=classes)
    ]
    return Item(
        name=name,
        rows=tuple(rows),
        demand=demand,
        priority=priority,
        routing=routing,
        interruptible_share=share,
        hysteresis=0.05,
        class_demands=(0.7 * demand, 0.3 * demand) if classes else (),
    )


Plan = tuple[float, bool, float, np.ndarray]
"""Part that is served (1 in full), whether anything runs, price, and use of all resources."""


def plans(problem: Problem, item: Item) -> Iterator[Plan]:
    """Everything that an item could get, nothing included."""
    yield 0.0, False, 0.0, np.zeros(len(problem.resources))
    counts = np.array(list(itertools.product(*(range(row.most + 1) for row in item.rows))))
    one, least = np.ones(len(counts), dtype=bool), np.ones(len(counts), dtype=bool)
    for rows in item.variants():
        one &= (counts[:, rows] > 0).sum(axis=1) <= 1
        least &= counts[:, rows].max(axis=1) >= max(item.rows[at].least for at in rows)
    counts, least = counts[one], least[one]
    kept, part = worth.share_kept(item, counts), worth.served(item, counts)
    full = least & (part >= 1.0)
    some = (counts.sum(axis=1) > 0) & (part > 0) & (problem.policy != "None")
    for at in np.flatnonzero(kept & (full | some)):
        used = np.zeros(len(problem.resources))
        used[list(item.resources)] += counts[at] @ item.uses
        part_of = 1.0 if full[at] else min(float(part[at]), worth.ALMOST)
        yield part_of, bool(counts[at].any()), float(item.prices(counts[at : at + 1])[0]), used


def brute_force(problem: Problem) -> Objective:
    """The best objective of all plans there are."""
    limits = np.array([resource.limit for resource in problem.resources])
    best: Objective | None = None
    for combined in itertools.product(*(list(plans(problem, item)) for item in problem.items)):
        if (sum(plan[3] for plan in combined) > limits + 1e-6).any():
            continue
        mine = zip(problem.items, combined, strict=True)
        outcome = of_plan(
            [Outcome(item.priority, plan[0], plan[1]) for item, plan in mine],
            problem.policy,
            sum(plan[2] for plan in combined),
        )
        outcome = outcome._replace(short=tuple(round(part, 5) for part in outcome.short))
        best = outcome if best is None or outcome < best else best
    assert best is not None
    return best


def check(problem: Problem) -> None:
    """The exact plan is proven and the best; neither solver exceeds a limit, and greedy is no better."""
    best, quick = solve.solve(problem), solve.solve(problem, "greedy")
    assert best.termination == "optimal"
    reached, expected = gaps.objective(problem, best.placed), brute_force(problem)
    assert reached.unserved == expected.unserved
    assert np.allclose(reached.short, expected.short, atol=1e-4)
    assert reached.cost == pytest.approx(expected.cost, rel=2e-5, abs=1e-3)
    for plan in (best, quick):
        assert (taken(problem, plan.placed) <= limits_of(problem) + 1e-6).all()
    assert reached <= gaps.objective(problem, quick.placed)


def limits_of(problem: Problem) -> np.ndarray:
    """What there is of every resource."""
    return np.array([resource.limit for resource in problem.resources])


def taken(problem: Problem, placed: Mapping[str, Placed]) -> np.ndarray:
    """What a plan takes of every resource."""
    used = np.zeros(len(problem.resources))
    for item in problem.items:
        used[list(item.resources)] += np.array(placed[item.name].counts) @ item.uses
    return used


limits = st.tuples(
    *[st.sampled_from([1.0, 3.0, 6.0, 1e6])] * 3, st.sampled_from([50.0, 120.0, 300.0, 1e6])
)


def resources_of(given_: tuple[float, ...]) -> tuple[Resource, ...]:
    """Devices of each type and one budget."""
    names = [*(f"capacity {kind}" for kind in TYPES), "budget all: cost"]
    return tuple(
        Resource(name, limit, "devices" if name.startswith("capacity") else "cents/h")
        for name, limit in zip(names, given_, strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(
    groups=st.lists(
        st.tuples(
            st.lists(variants, min_size=1, max_size=2),
            st.sampled_from(["least-loaded", "round-robin", "weights"]),
            st.sampled_from([0.0, 3.0, 8.0, 14.0]),
            st.integers(1, 2),
        ),
        min_size=1,
        max_size=2,
    ),
    there=limits,
    share=st.sampled_from([0.3, 0.5, 1.0]),
    policy=st.sampled_from(POLICIES),
)
def test_groups_of_variants_with_several_accelerators(
    groups: list[tuple[list[dict[str, Any]], Routing, float, int]],
    there: tuple[float, ...],
    share: float,
    policy: SaturationPolicy,
) -> None:
    """Accelerators to choose from, transitions, spot shares, money and every saturation policy."""
    items = [
        item_of(f"g{place}", parts, routing, demand=demand, priority=priority, share=share)
        for place, (parts, routing, demand, priority) in enumerate(groups)
    ]
    check(Problem(items=tuple(items), resources=resources_of(there), policy=policy))


@settings(max_examples=10, deadline=None)
@given(
    parts=st.lists(variants, min_size=1, max_size=2),
    demand=st.sampled_from([2.0, 5.0, 9.0]),
    there=limits,
    policy=st.sampled_from(POLICIES[:2]),
)
def test_groups_with_length_classes(
    parts: list[dict[str, Any]],
    demand: float,
    there: tuple[float, ...],
    policy: SaturationPolicy,
) -> None:
    """Each class goes where it fits best."""
    parts = [{**part, "kinds": part["kinds"][:1], "spot": False} for part in parts]
    item = item_of("g", parts, "least-loaded", demand=demand, priority=1, share=1.0, classes=True)
    check(Problem(items=(item,), resources=resources_of(there), policy=policy))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("least", [0, 1])
def test_replicas_that_the_gateway_sends_nothing_serve_no_part(
    policy: SaturationPolicy, least: int
) -> None:
    """No H100 is there for the variant that has all of the weight."""
    given_ = {"costs": (10.0,) * 2, "speeds": (3.3,) * 2, "most": 2, "devices": 1, "running": 0}
    parts = [
        {**given_, "kinds": [0], "weight": 0.0, "least": least, "spot": False},
        {**given_, "kinds": [1], "weight": 1.0, "least": 0, "spot": False},
    ]
    item = item_of("g", parts, "weights", demand=8.0, priority=1, share=1.0)
    check(Problem(items=(item,), resources=resources_of((6.0, 0.0, 6.0, 300.0)), policy=policy))


def test_a_goal_that_leaves_no_room_for_the_next_is_no_end() -> None:
    """After the largest parts, presolve of the least price found no solution, and the plan had no proof."""
    common = {"devices": 1, "least": 0, "spot": False}
    first = {"kinds": [1, 2], "costs": (37.5, 40.0), "speeds": (7.0, 1.0), "most": 3, "running": 2}
    second = {"kinds": [1, 2], "costs": (37.5, 10.0), "speeds": (1.0, 2.5), "most": 1, "running": 0}
    third = {"kinds": [1, 0], "costs": (10.0, 90.0), "speeds": (7.0, 2.5), "most": 2, "running": 2}
    parts = [common | first | {"devices": 2, "weight": 1.0}]
    others = [common | second | {"weight": 1.0}, common | third | {"weight": 0.0}]
    items = (
        item_of("g", parts, "least-loaded", demand=14.0, priority=1, share=0.5),
        item_of("h", others, "round-robin", demand=14.0, priority=1, share=0.5),
    )
    there = resources_of((6.0, 1.0, 6.0, 120.0))
    check(Problem(items=items, resources=there, policy="RoundRobin"))

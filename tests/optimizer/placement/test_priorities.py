"""A group whose priority is raised is served no less, by whichever solver, and by however many levels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from optimizer.placement import leftovers, solve, worth
from optimizer.placement.problem import Item, Problem, Routing, Row
from optimizer.problem import SaturationPolicy, SolverName
from tests.optimizer.placement import test_limits, test_placement, test_proofs


def raised(problem: Problem, chosen: Item, priority: int) -> Problem:
    """The problem with another priority of one group."""
    items = tuple(
        replace(item, priority=priority) if item is chosen else item for item in problem.items
    )
    return replace(problem, items=items)


def check(problem: Problem, solver: SolverName, noise: float) -> None:
    """Raise each group by one level, two, and so on: what it is served never falls."""
    for chosen in problem.items:
        before = 0.0
        for priority in range(max(item.priority for item in problem.items) + 1, 0, -1):
            plan = solve.solve(raised(problem, chosen, priority), solver)
            if plan.termination not in {"heuristic", "optimal"}:
                continue
            served = plan.placed[chosen.name].served
            assert served >= before - noise, (chosen.name, priority)
            before = max(before, served)


policies = st.sampled_from(["None", "PriorityExhaustive"])


@settings(max_examples=8, deadline=None)
@example(seed=16086, policy="PriorityExhaustive", delayed=False)
@example(seed=16143, policy="PriorityExhaustive", delayed=False)
@given(seed=st.integers(0, 100_000), policy=policies, delayed=st.booleans())
def test_greedy_under_budgets(seed: int, policy: SaturationPolicy, *, delayed: bool) -> None:
    """Devices, money and quotas are short in places; what is left over is shared or is not."""
    problem = test_limits.budgeted(seed)
    check(replace(problem, policy=policy, delayed_best_effort=delayed), "greedy", 2e-6)


@settings(max_examples=20, deadline=None)
@example(seed=8045, policy="PriorityExhaustive", delayed=False)
@given(seed=st.integers(0, 50_000), policy=policies, delayed=st.booleans())
def test_greedy_where_devices_are_short(
    seed: int, policy: SaturationPolicy, *, delayed: bool
) -> None:
    """Groups of two or three variants, some with least replicas."""
    problem = test_placement.system(2 * seed)
    check(replace(problem, policy=policy, delayed_best_effort=delayed), "greedy", 2e-6)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 50_000), policy=st.sampled_from(["RoundRobin", "PriorityRoundRobin"]))
def test_greedy_serves_in_full_what_it_did(seed: int, policy: SaturationPolicy) -> None:
    """Where leftovers are shared replica by replica, what was served in full still is."""
    problem = replace(test_proofs.system(seed), policy=policy)
    for chosen in problem.items:
        full = False
        for priority in range(4, 0, -1):
            plan = solve.solve(raised(problem, chosen, priority), "greedy")
            assert full <= (plan.placed[chosen.name].kind == "full"), (chosen.name, priority)
            full = plan.placed[chosen.name].kind == "full"


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 50_000), policy=policies)
def test_exact(seed: int, policy: SaturationPolicy) -> None:
    """Of all plans the best one has the most of the raised group, within the tolerance of the programs."""
    check(replace(test_placement.system(2 * seed), policy=policy), "branch-and-bound", 2e-4)


rows = st.builds(
    lambda cost, speed, most, devices, spot: (cost, speed, most, devices, spot),
    st.sampled_from([10.0, 37.5, 50.0, 60.0]),
    st.sampled_from([1.0, 2.5, 5.0, 6.1]),
    st.integers(1, 4),
    st.integers(1, 2),
    st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(
    parts=st.lists(rows, min_size=1, max_size=3),
    routing=st.sampled_from(["least-loaded", "round-robin", "weights"]),
    demand=st.sampled_from([3.0, 11.0, 22.2]),
    share=st.sampled_from([0.3, 1.0]),
    room=st.lists(st.integers(0, 6).map(float), min_size=3, max_size=3),
    money=st.sampled_from([40.0, 100.0, 1e6]),
    accelerators=st.booleans(),
)
@example(
    parts=[(60.0, 6.1, 1, 1, False), (50.0, 5.0, 4, 1, False)],
    routing="least-loaded",
    demand=11.0,
    share=1.0,
    room=[1.0, 4.0, 0.0],
    money=100.0,
    accelerators=False,
)
def test_leftovers_carry_the_most_there_is(  # noqa: PLR0917 - hypothesis passes them by name
    parts: list[tuple[float, float, int, int, bool]],
    routing: Routing,
    demand: float,
    share: float,
    room: list[float],
    money: float,
    *,
    accelerators: bool,
) -> None:
    """No counts that fit carry more, and no replica can go; `accelerators`: the rows are of one variant."""
    made = tuple(
        Row(
            variant="v" if accelerators else f"v{kind}",
            accelerator=f"a{kind}",
            unit_cost=cost,
            worth=speed,
            least=0,
            most=most,
            uses=((kind, float(devices)), (3, cost)),
            interruptible=spot,
        )
        for kind, (cost, speed, most, devices, spot) in enumerate(parts)
    )
    item = Item(name="g", rows=made, demand=demand, routing=routing, interruptible_share=share)
    limits = np.array([([*room, money])[index] for index in item.resources])
    leftover = leftovers.most(item, limits)
    assert leftover is not None
    every = np.array(list(itertools.product(*(range(row.most + 1) for row in made))))
    every = every[(every @ item.uses <= limits).all(axis=1) & worth.share_kept(item, every)]
    if accelerators:
        every = every[(every > 0).sum(axis=1) <= 1]
    assert leftover.tolist() in every.tolist()
    carried = float(worth.served(item, leftover[None, :])[0])
    assert carried == pytest.approx(float(worth.served(item, every).max()), abs=1e-8)
    fewer = every[(every <= leftover).all(axis=1) & (every.sum(axis=1) == leftover.sum() - 1)]
    if carried < 1.0 - 1e-6 and len(fewer):
        assert float(worth.served(item, fewer).max()) < carried

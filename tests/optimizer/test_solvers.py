"""Laws that every plan obeys, brute force on small problems, and what a problem must not hold."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import branch_and_bound, errors, greedy, solvers
from optimizer.explain import explain
from optimizer.objective import Objective
from optimizer.problem import (
    POLICIES,
    Allocation,
    Candidate,
    Current,
    Problem,
    SaturationPolicy,
    Solution,
    VariantCandidates,
    allocate,
    best,
    ranked,
    value,
    values,
)

settings.register_profile("optimizer", deadline=None)
settings.load_profile("optimizer")

TYPES = ("A", "B")


def candidate(name: str, replicas: int, devices: int, cost: float) -> Candidate:
    return Candidate(
        accelerator=name, replicas=replicas, max_batch=8, cost=cost, itl_ms=1, ttft_ms=1,
        max_rate_rpm=1, device_type=name[:1], devices=devices, reason="sized", binding="itl",
    )  # fmt: skip


@st.composite
def problems(
    draw: st.DrawFn, most: int = 5, policies: tuple[SaturationPolicy, ...] = POLICIES
) -> Problem:
    variants = []
    for number in range(draw(st.integers(1, most))):
        names = draw(
            st.lists(st.sampled_from(["A1", "A2", "B1"]), min_size=1, max_size=3, unique=True)
        )
        candidates = tuple(
            candidate(
                name,
                draw(st.integers(1, 4)),
                draw(st.integers(1, 3)),
                float(draw(st.integers(0, 12)) * 10),
            )
            for name in names
        )
        if draw(st.integers(0, 9)) == 0:
            candidates = (candidate("", 0, 0, 0.0),)
        now = draw(st.sampled_from(["", "A1", "B1"]))
        variants.append(
            VariantCandidates(
                name=f"v{number}",
                candidates=candidates,
                priority=draw(st.integers(1, 3)),
                current=Current(
                    accelerator=now, replicas=2 if now else 0, cost=40.0 if now else 0.0
                ),
            )
        )
    return Problem(
        variants=tuple(variants),
        capacity={kind: draw(st.integers(0, 14)) for kind in TYPES},
        policy=draw(st.sampled_from(policies)),
        delayed_best_effort=draw(st.booleans()),
    )


def used(solution: Solution) -> dict[str, int]:
    devices = dict.fromkeys([*TYPES, ""], 0)
    for got in solution.allocations.values():
        if got.candidate is not None:
            devices[got.candidate.device_type] += got.devices
    return devices


@given(problems(), st.randoms())
def test_plans_obey_the_laws(problem: Problem, order: random.Random) -> None:
    """Capacity holds, nobody gets more than asked for, everyone has an answer, order does not matter."""
    for solver in ("greedy", "branch-and-bound"):
        solution = solvers.solve(problem, solver)
        assert list(solution.allocations) == [variant.name for variant in problem.variants]
        assert problem.capacity is not None
        assert all(used(solution)[kind] <= problem.capacity[kind] for kind in TYPES)
        for variant in problem.variants:
            got = solution.allocations[variant.name]
            if got.candidate is None:
                assert (got.replicas, got.cost) == (0, 0)
                continue
            assert got.candidate in variant.candidates
            assert got.replicas <= got.candidate.replicas
            assert got.replicas > 0 or got.candidate.replicas == 0
            if problem.policy == "None":
                assert got.served == "full"
            assert got.cost == pytest.approx(
                got.candidate.cost * got.replicas / max(got.candidate.replicas, 1)
            )
        shuffled = list(problem.variants)
        order.shuffle(shuffled)
        again = solvers.solve(replace(problem, variants=tuple(shuffled)), solver)
        if solver == "greedy":
            assert dict(again.allocations) == dict(solution.allocations)
        else:
            assert worth(problem, again) == worth(problem, solution)
        assert solvers.solve(problem, solver) == solution


@given(problems())
def test_values_of_all_candidates_are_those_of_each(problem: Problem) -> None:
    """Also of the one that runs nothing, and of a variant that runs nothing; the best is the first of all."""
    factor = problem.transition_factor
    for variant in problem.variants:
        for current in (variant.current, Current()):
            candidates = (*variant.candidates, candidate("", 0, 0, 0.0))
            one = replace(variant, candidates=candidates, current=current)
            assert values(one, factor) == [
                value(item.accelerator, item.replicas, item.cost, current, factor)
                for item in candidates
            ]
            assert best(one, factor) == ranked(one, factor)[0]


def worth(problem: Problem, solution: Solution) -> Objective:
    return branch_and_bound.objective(problem, solution.allocations)


@given(problems())
def test_branch_and_bound_bounds_greedy(problem: Problem) -> None:
    """The exact plan is proven, and never worse than greedy's."""
    best = branch_and_bound.solve(problem)
    assert best.termination == "optimal"
    assert best.gap is not None
    assert worth(problem, best) <= worth(problem, greedy.solve(problem))


def plans(problem: Problem) -> Iterator[dict[str, Allocation]]:
    """Every plan that there is."""
    nothing = Allocation(candidate=None, replicas=0, cost=0.0, value=0.0)
    options = []
    for variant in problem.variants:
        mine = [nothing]
        for item in variant.candidates:
            least = item.replicas if problem.policy == "None" else min(item.replicas, 1)
            mine += [
                allocate(variant, item, replicas, problem.transition_factor)
                for replicas in range(least, item.replicas + 1)
            ]
        options.append(mine)
    for choice in itertools.product(*options):
        allocations = dict(zip((variant.name for variant in problem.variants), choice, strict=True))
        counted = used(
            Solution(solver="", termination="optimal", gap=None, allocations=allocations)
        )
        if all(counted[kind] <= (problem.capacity or {})[kind] for kind in TYPES):
            yield allocations


@given(problems(most=3))
def test_brute_force_agrees(problem: Problem) -> None:
    """On small problems the best of all plans, listed one by one, is branch-and-bound's."""
    best = min(branch_and_bound.objective(problem, allocations) for allocations in plans(problem))
    mine = worth(problem, branch_and_bound.solve(problem))
    assert mine.unserved == best.unserved
    assert mine.short == pytest.approx(best.short, abs=1e-5)
    assert mine.cost == pytest.approx(best.cost, abs=1e-3)


@given(problems(policies=("None",)), st.sampled_from(TYPES), st.integers(1, 6))
def test_more_capacity_never_serves_less(problem: Problem, kind: str, more: int) -> None:
    """By priority: what is served of the highest class never falls, and with it equal, of the next."""
    assert problem.capacity is not None
    larger = replace(problem, capacity={**problem.capacity, kind: problem.capacity[kind] + more})
    before, after = (
        worth(item, branch_and_bound.solve(item)).unserved for item in (problem, larger)
    )
    assert after <= before


@given(problems(policies=("None",)))
def test_priority_comes_first(problem: Problem) -> None:
    """A lower class never takes devices that would have served more of a higher one."""
    solution = branch_and_bound.solve(problem)
    for priority in sorted({variant.priority for variant in problem.variants}):
        above = tuple(variant for variant in problem.variants if variant.priority <= priority)
        alone = branch_and_bound.solve(replace(problem, variants=above))
        names = {variant.name for variant in above}
        counted = {name: got for name, got in solution.allocations.items() if name in names}
        missed = sum(1 for got in counted.values() if got.candidate is None)
        assert missed == sum(1 for got in alone.allocations.values() if got.candidate is None)


def test_a_higher_priority_takes_the_last_device() -> None:
    """Greedy too: with one device for two, the higher priority gets it, whatever the values."""
    low = VariantCandidates(name="a", candidates=(candidate("A1", 1, 1, 10.0),), priority=2)
    high = VariantCandidates(name="b", candidates=(candidate("A1", 1, 1, 99.0),), priority=1)
    for solver in (greedy.solve, branch_and_bound.solve):
        solution = solver(Problem(variants=(low, high), capacity={"A": 1}))
        assert solution.allocations["b"].served == "full"
        assert solution.allocations["a"].served == "none"


def share(policy: SaturationPolicy, capacity: int) -> dict[str, int]:
    variants = tuple(
        VariantCandidates(name=name, candidates=(candidate("A1", 4, 1, 40.0),), priority=priority)
        for name, priority in (("a", 1), ("b", 2), ("c", 2))
    )
    solution = greedy.solve(
        Problem(
            variants=variants, capacity={"A": capacity}, policy=policy, delayed_best_effort=True
        )
    )
    return {name: got.replicas for name, got in solution.allocations.items()}


def test_policies_share_what_is_left() -> None:
    """Three ask for four; one is served, and the leftovers go out as the policy says."""
    assert share("None", 7) == {"a": 4, "b": 0, "c": 0}
    assert share("PriorityExhaustive", 7) == {"a": 4, "b": 3, "c": 0}
    assert share("PriorityRoundRobin", 7) == {"a": 4, "b": 2, "c": 1}
    assert share("RoundRobin", 3) == {"a": 1, "b": 1, "c": 1}
    assert share("PriorityRoundRobin", 3) == {"a": 3, "b": 0, "c": 0}
    assert share("RoundRobin", 99) == {"a": 4, "b": 4, "c": 4}


def test_greedy_alone_can_be_far_from_the_best() -> None:
    """One large request crowds out three small ones; branch-and-bound serves the three."""
    large = VariantCandidates(name="l", candidates=(candidate("A1", 3, 1, 90.0),))
    small = tuple(
        VariantCandidates(name=f"s{n}", candidates=(candidate("A1", 1, 1, 10.0),)) for n in range(3)
    )
    problem = Problem(variants=(large, *small), capacity={"A": 3})
    assert sum(got.served == "full" for got in greedy.solve(problem).allocations.values()) == 1
    best = branch_and_bound.solve(problem)
    assert sum(got.served == "full" for got in best.allocations.values()) == 3
    assert best.total_cost == 30


def test_a_time_limit_falls_back_to_greedy_and_says_so() -> None:
    """With no time to prove anything the plan is greedy's, and is called a fallback."""
    variants = tuple(
        VariantCandidates(
            name=f"v{number:03}",
            candidates=(
                candidate("A1", number % 5 + 1, number % 3 + 1, 10.0 + number * 37 % 101),
                candidate("B1", number % 4 + 1, number % 2 + 1, 12.0 + number * 53 % 97),
            ),
            priority=number % 3 + 1,
        )
        for number in range(300)
    )
    problem = Problem(variants=variants, capacity={"A": 300, "B": 200}, time_limit_s=1e-9)
    solution = branch_and_bound.solve(problem)
    assert solution.termination in {"fallback", "feasible"}
    assert worth(problem, solution) <= worth(problem, greedy.solve(problem))
    assert branch_and_bound.solve(replace(problem, time_limit_s=60)).termination == "optimal"


def test_reasons_name_the_runner_up_and_who_holds_what_is_short() -> None:
    """Every variant's reasons: what binds, what was next, and for the unserved who is in the way."""
    first = VariantCandidates(
        name="first",
        priority=1,
        candidates=(candidate("A1", 2, 2, 40.0), candidate("B1", 1, 1, 70.0)),
    )
    last = VariantCandidates(name="last", priority=2, candidates=(candidate("A1", 1, 2, 20.0),))
    problem = Problem(variants=(first, last), capacity={"A": 5, "B": 0})
    reasons = explain(problem, greedy.solve(problem))
    assert reasons["first"].binding == "itl"
    assert str(reasons["first"].runner_up) == "1 x B1 at 70 cents/h"
    assert reasons["first"].shortages == ()
    (shortage,) = reasons["last"].shortages
    assert (shortage.demanded, shortage.free, shortage.capacity) == (2, 1, 5)
    assert shortage.holders == (("first", 4),)
    assert str(shortage) == "A short: A1 needs 2, 1 of 5 free, most held by first (4)"


GOOD = VariantCandidates(name="v", candidates=(candidate("A1", 1, 1, 10.0),))


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Problem(variants=(GOOD,), capacity={"A": -1}), "capacity A: must be >= 0, not -1"),
        (Problem(variants=(GOOD, GOOD)), "variant v: the name is taken"),
        (
            Problem(variants=(replace(GOOD, priority=0),)),
            "variant v: priority: must be from 1 to 100",
        ),
        (Problem(variants=(replace(GOOD, candidates=()),)), "variant v: has no candidates"),
        (
            Problem(variants=(replace(GOOD, candidates=(candidate("A1", 1, 1, -1.0),)),)),
            "variant v, candidate A1: cost: must be >= 0, not -1",
        ),
        (
            Problem(variants=(replace(GOOD, candidates=(candidate("A1", -2, 1, 1.0),)),)),
            "variant v, candidate A1: replicas: must be >= 0, not -2",
        ),
        (
            Problem(variants=(replace(GOOD, current=Current(cost=math.nan)),)),
            "variant v: current.cost: must be >= 0, not nan",
        ),
        (Problem(variants=(), transition_factor=-1), "transition_factor: must be a number >= 0"),
        (Problem(variants=(), time_limit_s=0), "time_limit_s: must be > 0, not 0"),
        (Problem(variants=(), policy="Fair"), "policy: must be one of None, Priority"),  # type: ignore[arg-type]
    ],
)
def test_problems_without_meaning_are_refused(problem: Problem, said: str) -> None:
    """The error names the object and the field, and travels between processes."""
    with pytest.raises(errors.InvalidProblemError) as caught:
        solvers.solve(problem)
    assert str(caught.value).startswith(said)
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert (str(again), again.variant) == (str(caught.value), caught.value.variant)


def test_nothing_to_plan_is_a_plan() -> None:
    """No variants, no capacity: an empty, optimal plan from every solver."""
    for solver in solvers.SOLVERS:
        solution = solvers.solve(Problem(variants=(), capacity={}), solver)
        assert (dict(solution.allocations), solution.total_cost) == ({}, 0)

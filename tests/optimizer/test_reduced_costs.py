"""Programs without the columns of no better plan, against the same programs with all of them."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy.optimize import LinearConstraint

from optimizer import branch_and_bound, enumeration, integer_program, reduced_costs
from optimizer.problem import (
    POLICIES,
    Candidate,
    Current,
    Problem,
    SaturationPolicy,
    VariantCandidates,
)


def candidate(chance: random.Random, kind: str) -> Candidate:
    """Some replicas of an accelerator; many cost the same, so that many plans tie."""
    replicas, devices = chance.randint(1, 4), chance.choice((1, 1, 2))
    return Candidate(
        accelerator=f"{kind}{devices}",
        replicas=replicas,
        max_batch=8,
        cost=replicas * devices * {"A": 30.0, "B": 40.0, "C": 90.0}[kind],
        itl_ms=1.0,
        ttft_ms=1.0,
        max_rate_rpm=1.0,
        device_type=kind,
        devices=devices,
    )


def scarce(seed: int, size: int) -> Problem:
    """Devices for a part of the variants, more or less of them by the seed."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    variants = []
    for number in range(size):
        candidates = tuple(candidate(chance, kind) for kind in "ABC" if chance.random() < 0.8)
        if not candidates:
            continue
        now = chance.choice(candidates)
        variants.append(
            VariantCandidates(
                name=f"v{number:04}",
                candidates=candidates,
                priority=chance.randint(1, 3),
                current=Current(accelerator=now.accelerator, replicas=1, cost=now.cost),
            )
        )
    share = chance.uniform(0.3, 1.3)
    return Problem(
        variants=tuple(variants),
        capacity={kind: int(share * size) for kind in "ABC"},
        policy=POLICIES[seed % len(POLICIES)],
        time_limit_s=600.0,
    )


def knapsack() -> reduced_costs.Program:
    """The most valuable of 60 things, in which presolve finds nothing to reduce."""
    chance = np.random.default_rng(0)
    sizes = chance.integers(20, 100, (5, 60)).astype(float)
    fits = LinearConstraint(sizes, -np.inf, sizes.sum(axis=1) // 2)
    goal = -chance.uniform(20.0, 100.0, 60)
    return reduced_costs.program(goal, [fits], np.ones(60), 0.0, np.ones(60, dtype=np.bool_))


@pytest.mark.parametrize("steps", [(1, 4, 16, np.inf), (1_000, np.inf)])
def test_columns_left_out_are_in_no_better_plan(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[float, ...]
) -> None:
    monkeypatch.setattr(enumeration, "_PLANS", 0)
    monkeypatch.setattr(reduced_costs, "_WIDER", steps)
    for seed in range(8):
        problem = scarce(seed, 30)
        monkeypatch.setattr(branch_and_bound, "LISTED", 4_000)
        every = branch_and_bound.solve(problem)
        monkeypatch.setattr(branch_and_bound, "LISTED", 0)
        some = branch_and_bound.solve(problem)
        worths = [branch_and_bound.objective(problem, item.allocations) for item in (every, some)]
        assert worths[0] == worths[1], seed
        assert (some.termination, every.termination) == ("optimal", "optimal"), seed
        assert some.gap is not None
        assert some.gap <= problem.gap


def test_of_many_columns_a_part_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    minimized = integer_program.minimized

    def counted(*program: Any) -> Any:
        sizes.append(program[0].size)
        return minimized(*program)

    monkeypatch.setattr(integer_program, "minimized", counted)
    problem = scarce(4, 2_500)
    columns = sum(len(variant.candidates) for variant in problem.variants)
    assert columns > branch_and_bound.LISTED
    assert branch_and_bound.solve(problem).termination == "optimal"
    assert sizes
    assert max(sizes) < 0.75 * columns


def test_a_plan_at_the_bound_is_not_searched_for() -> None:
    once = LinearConstraint(np.array([[1.0, 1.0]]), 1.0, 1.0)
    goal, every = np.array([2.0, 3.0]), np.ones(2, dtype=np.bool_)
    given = reduced_costs.program(goal, [once], np.ones(2), 0.0, every)
    options = {"time_limit": 10.0, "mip_rel_gap": 0.0}
    answer = reduced_costs.minimized(given, np.array([0.0, 1.0]), options)
    assert answer is not None
    assert answer.x.tolist() == [1.0, 0.0]
    assert (answer.status, round(answer.mip_dual_bound, 6)) == (0, 2.0)


def test_a_search_that_its_time_ends_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(x=None, status=1, mip_dual_bound=-np.inf)
    searches = []

    def ended_by_time(*program: Any) -> Any:
        searches.append(program[0].size)
        return late

    monkeypatch.setattr(reduced_costs, "_WIDER", (0, 1, 2, np.inf))
    monkeypatch.setattr(integer_program, "minimized", ended_by_time)
    given, start = knapsack(), np.zeros(60)
    answer = reduced_costs.minimized(given, start, {"time_limit": 10.0, "mip_rel_gap": 0.0})
    assert answer is not None
    assert (answer.x is start, answer.status, len(searches)) == (True, 1, 1)
    assert answer.mip_dual_bound < 0.0


def test_every_plan_that_is_as_good_has_possible_columns_only() -> None:
    """Of all plans of ten columns, one by one; some columns are not possible."""
    ruled_out = 0
    plans = np.array(list(itertools.product((0.0, 1.0), repeat=10)))
    for seed in range(30):
        chance = np.random.default_rng(seed)
        sizes = chance.integers(1, 9, (2, 10)).astype(float)
        goal = -chance.integers(1, 5, 10).astype(float)
        free = np.floor(sizes.sum(axis=1) * chance.uniform(0.2, 0.8))
        fits = LinearConstraint(sizes, -np.inf, free)
        every = np.ones(10, dtype=np.bool_)
        for step in (0.0, 1.0):
            given = reduced_costs.program(goal, [fits], np.ones(10), step, every)
            options = {"time_limit": 10.0, "mip_rel_gap": 0.0}
            answer = reduced_costs.minimized(given, np.zeros(10), options)
            assert answer is not None
            good = plans[(plans @ sizes.T <= free).all(axis=1) & (plans @ goal <= goal @ answer.x)]
            assert goal @ answer.x == (good @ goal).min()
            assert answer.possible[good.any(axis=0)].all()
            ruled_out += int((~answer.possible).sum())
    assert ruled_out > 30


def programs(monkeypatch: pytest.MonkeyPatch, problem: Problem) -> list[int]:
    """Columns of the programs that are searched for its plan, one after another."""
    sizes = []
    minimized = integer_program.minimized

    def counted(*program: Any) -> Any:
        sizes.append(program[0].size)
        return minimized(*program)

    monkeypatch.setattr(integer_program, "minimized", counted)
    assert branch_and_bound.solve(problem).termination == "optimal"
    return sizes


def asks(name: str, kinds: str, replicas: int, priority: int) -> VariantCandidates:
    """A variant that runs so many replicas of one device, of any of these kinds."""
    some = candidate(random.Random(0), "A")  # noqa: S311 - no secret
    return VariantCandidates(
        name=name,
        candidates=tuple(
            some._replace(accelerator=kind, device_type=kind, replicas=replicas, devices=1)
            for kind in kinds
        ),
        priority=priority,
    )


def twins(policy: SaturationPolicy) -> Problem:
    """Of each of three priorities 40 variants that ask for two devices, and 40 for nine."""
    variants = tuple(
        asks(f"v{priority}-{replicas}-{number:02}", "A", replicas, priority)
        for priority in (1, 2, 3)
        for replicas in (2, 9)
        for number in range(40)
    )
    return Problem(variants=variants, capacity={"A": 50}, policy=policy)


def test_a_stage_has_no_columns_that_none_has_counted_so_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert programs(monkeypatch, twins("None")) == [80, 160, 240, 240]


def test_what_one_stage_rules_out_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """25 of two devices each take all that there are, so nobody's first replica is in a plan as good."""
    monkeypatch.setattr(branch_and_bound, "LISTED", 0)
    sizes = programs(monkeypatch, twins("PriorityExhaustive"))
    assert max(sizes, default=0) <= 40


def test_what_a_plan_that_is_cut_short_leaves_free_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time of the second stage ends: nobody of its priority is in the plan of the first."""
    answers: list[Any] = []
    minimized = integer_program.minimized

    def once(*program: Any) -> Any:
        answers.append(SimpleNamespace(x=None, status=1) if answers else minimized(*program))
        return answers[-1]

    monkeypatch.setattr(integer_program, "minimized", once)
    monkeypatch.setattr(enumeration, "best", lambda *_: None)
    # Greedy serves the large one first.
    first = [asks("large", "A", 3, 1), *(asks(f"small-{number}", "A", 1, 1) for number in range(3))]
    second = [asks("other", "AB", 1, 2), asks("last", "AB", 1, 2)]
    solution = branch_and_bound.solve(
        Problem(variants=(*first, *second), capacity={"A": 3, "B": 1})
    )
    served = [name for name, got in solution.allocations.items() if got.served == "full"]
    assert len(answers) == 2
    assert sorted(served)[1:] == ["small-0", "small-1", "small-2"]
    assert served[-1] in ("other", "last")
    assert (solution.termination, solution.gap) == ("feasible", None)


def test_nothing_comes_before_the_interior_point(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    linprog = optimize.linprog

    def noted(*program: Any, **options: Any) -> Any:
        given.update(options["options"])
        return linprog(*program, **options)

    monkeypatch.setattr(optimize, "linprog", noted)
    options = {"time_limit": 10.0, "mip_rel_gap": 0.0}
    answer = reduced_costs.minimized(knapsack(), np.zeros(60), options)
    assert answer is not None
    assert answer.status == 0
    # It has no time limit where presolve has used it up.
    assert given == {"time_limit": 5.0, "presolve": False}

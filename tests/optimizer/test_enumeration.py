"""A few variants' plans, all tried, against the integer program of the same problem."""

from __future__ import annotations

import random

import pytest

from optimizer import branch_and_bound, enumeration
from optimizer.problem import POLICIES, Candidate, Current, Problem, VariantCandidates


def candidate(chance: random.Random, kind: str, place: int) -> Candidate:
    """Some replicas of an accelerator, at a cost that other candidates may have too."""
    replicas = chance.randint(1, 4)
    return Candidate(
        accelerator=f"{kind}{place}",
        replicas=replicas,
        max_batch=8,
        cost=replicas * 10.0 * chance.randint(1, 9),
        itl_ms=1.0,
        ttft_ms=1.0,
        max_rate_rpm=1.0,
        device_type=kind,
        devices=chance.randint(1, 2),
    )


def scarce(seed: int) -> Problem:
    """A small problem in which devices are likely to run short."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    variants = []
    for number in range(chance.randint(2, 4)):
        candidates = tuple(
            candidate(chance, chance.choice("AB"), place) for place in range(chance.randint(1, 3))
        )
        current = Current(accelerator=candidates[0].accelerator, replicas=1, cost=20.0)
        variants.append(
            VariantCandidates(
                name=f"v{number}",
                candidates=candidates,
                current=chance.choice([Current(), current]),
                priority=chance.randint(1, 3),
            )
        )
    capacity = {kind: chance.randint(0, 5) for kind in "AB"}
    return Problem(
        variants=tuple(variants), capacity=capacity, policy=POLICIES[seed % len(POLICIES)]
    )


def test_all_plans_tried_are_worth_what_the_integer_program_proves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are optimal, at the same objective; no scarce device is given twice."""
    problems = [scarce(seed) for seed in range(60)]
    tried = [branch_and_bound.solve(problem) for problem in problems]
    monkeypatch.setattr(enumeration, "best", lambda *_: None)
    for problem, solution in zip(problems, tried, strict=True):
        proven = branch_and_bound.solve(problem)
        assert (solution.termination, solution.gap) == ("optimal", 0.0)
        worth = branch_and_bound.objective(problem, solution.allocations)
        other = branch_and_bound.objective(problem, proven.allocations)
        assert worth.unserved == other.unserved
        assert worth.short == pytest.approx(other.short, abs=2e-6)
        assert worth.cost == pytest.approx(other.cost, rel=1e-5)
        for kind, count in (problem.capacity or {}).items():
            assert count >= sum(
                item.devices
                for item in solution.allocations.values()
                if item.candidate is not None and item.candidate.device_type == kind
            )

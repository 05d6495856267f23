"""The solvers by name, behind a check of what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from optimizer import branch_and_bound, greedy, unlimited
from optimizer.errors import InvalidProblemError
from optimizer.problem import POLICIES, Problem, Solution, SolverName, VariantCandidates

Solver = Callable[[Problem], Solution]


SOLVERS: dict[SolverName, Solver] = {
    "unlimited": unlimited.solve,
    "greedy": greedy.solve,
    "branch-and-bound": branch_and_bound.solve,
}


def solve(problem: Problem, solver: SolverName = "auto") -> Solution:
    """An allocation for every variant; auto is unlimited without a capacity, else branch-and-bound.

    Raises:
        InvalidProblemError: the problem has no meaning; names the object and the field.

    """
    for error in errors_of(problem):
        raise error
    return solve_sound(problem, solver)


def solve_sound(problem: Problem, solver: SolverName = "auto") -> Solution:
    """The same for a problem that `errors_of` has nothing against."""
    if solver == "auto":
        solver = "unlimited" if problem.capacity is None else "branch-and-bound"
    return SOLVERS[solver](problem)


def errors_of(problem: Problem) -> Iterator[InvalidProblemError]:
    """Everything that is wrong with a problem; errors of a variant go away with the variant."""
    for kind, count in (problem.capacity or {}).items():
        if count < 0:
            yield InvalidProblemError(f"capacity {kind}", f"must be >= 0, not {count}")
    if problem.policy not in POLICIES:
        yield InvalidProblemError("policy", f"must be one of {', '.join(POLICIES)}")
    for name in ("transition_factor", "gap"):
        number = getattr(problem, name)
        if not (math.isfinite(number) and number >= 0):
            yield InvalidProblemError(name, f"must be a number >= 0, not {number:g}")
    if not problem.time_limit_s > 0:
        yield InvalidProblemError("time_limit_s", f"must be > 0, not {problem.time_limit_s:g}")
    known: set[str] = set()
    for variant in problem.variants:
        if variant.name in known:
            yield InvalidProblemError(
                f"variant {variant.name}", "the name is taken", variant=variant.name
            )
        known.add(variant.name)
        if not _is_sound(variant):
            yield from _errors_of(variant)


def _is_sound(variant: VariantCandidates) -> bool:
    """Whether `_errors_of` would yield nothing; asked of everyone, so without any text."""
    if not (1 <= variant.priority <= 100 and variant.candidates):
        return False
    if not 0 <= variant.current.cost < math.inf:
        return False
    for candidate in variant.candidates:
        good = 0 <= candidate.cost < math.inf and candidate.replicas >= 0
        if not (good and candidate.devices >= 0):
            return False
    return True


def _errors_of(variant: VariantCandidates) -> Iterator[InvalidProblemError]:
    subject = f"variant {variant.name}"
    if not 1 <= variant.priority <= 100:
        yield InvalidProblemError(
            subject,
            f"priority: must be from 1 to 100, not {variant.priority}",
            variant=variant.name,
        )
    if not variant.candidates:
        yield InvalidProblemError(subject, "has no candidates", variant=variant.name)
    if not (math.isfinite(variant.current.cost) and variant.current.cost >= 0):
        yield InvalidProblemError(
            subject,
            f"current.cost: must be >= 0, not {variant.current.cost:g}",
            variant=variant.name,
        )
    for candidate in variant.candidates:
        where = f"{subject}, candidate {candidate.accelerator or 'nothing'}"
        if not (math.isfinite(candidate.cost) and candidate.cost >= 0):
            yield InvalidProblemError(
                where, f"cost: must be >= 0, not {candidate.cost:g}", variant=variant.name
            )
        for name in ("replicas", "devices"):
            number = getattr(candidate, name)
            if number < 0:
                yield InvalidProblemError(
                    where, f"{name}: must be >= 0, not {number}", variant=variant.name
                )

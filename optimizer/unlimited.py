"""Choose for every variant alone, as if there were accelerators without end."""

from __future__ import annotations

from optimizer.problem import Problem, Solution, allocate, ranked


def solve(problem: Problem) -> Solution:
    """The best-valued candidate of each variant: optimal where capacity has no end."""
    factor = problem.transition_factor
    allocations = {}
    for variant in problem.variants:
        _, best = ranked(variant, factor)[0]
        allocations[variant.name] = allocate(variant, best, best.replicas, factor)
    return Solution(solver="unlimited", termination="optimal", gap=0.0, allocations=allocations)

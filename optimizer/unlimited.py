"""Choose for every variant alone, as if there were accelerators without end."""

from __future__ import annotations

from optimizer.problem import NOTHING, Problem, Solution, allocate_all, best


def solve(problem: Problem) -> Solution:
    """The best-valued candidate of each variant: optimal where capacity has no end."""
    factor = problem.transition_factor
    allocations = {}
    for variant in problem.variants:
        chosen = best(variant, factor)
        allocations[variant.name] = NOTHING if chosen is None else allocate_all(*chosen)
    return Solution(solver="unlimited", termination="optimal", gap=0.0, allocations=allocations)

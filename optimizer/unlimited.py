"""Choose for every variant alone, as if there were accelerators without end."""

from __future__ import annotations

from collections.abc import Iterable

from optimizer import problem

TRANSITION_FACTOR = 0.1
"""Default penalty for switching accelerators, as a share of the sum of both costs."""


def value(
    candidate: problem.Candidate,
    current: problem.Current,
    *,
    transition_factor: float = TRANSITION_FACTOR,
) -> float:
    """Cost change in cents per hour, plus the penalty where running replicas would have to move."""
    change = candidate.cost - current.cost
    moves = (
        candidate.accelerator != ""
        and current.accelerator not in {"", candidate.accelerator}
        and current.replicas > 0
    )
    return change + (transition_factor * (candidate.cost + current.cost) if moves else 0.0)


def ranked(
    variant: problem.Variant, *, transition_factor: float = TRANSITION_FACTOR
) -> list[problem.Candidate]:
    """Candidates of one variant, best value first; ties go to the first accelerator by name."""

    def rank(candidate: problem.Candidate) -> tuple[float, str]:
        worth = value(candidate, variant.current, transition_factor=transition_factor)
        return worth, candidate.accelerator

    return sorted(variant.candidates, key=rank)


def solve(
    variants: Iterable[problem.Variant], *, transition_factor: float = TRANSITION_FACTOR
) -> dict[str, problem.Candidate]:
    """The best-valued candidate of each variant, by variant name."""
    return {
        variant.name: ranked(variant, transition_factor=transition_factor)[0]
        for variant in variants
    }

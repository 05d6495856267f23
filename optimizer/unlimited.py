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


def solve(
    variants: Iterable[problem.Variant], *, transition_factor: float = TRANSITION_FACTOR
) -> dict[str, problem.Candidate]:
    """The best-valued candidate of each variant, by variant name; ties go to the first name."""
    return {
        variant.name: min(
            variant.candidates,
            key=lambda candidate, current=variant.current: (
                value(candidate, current, transition_factor=transition_factor),
                candidate.accelerator,
            ),
        )
        for variant in variants
    }

"""Why every variant got what it got: what binds, what was next, what was short and who holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optimizer.problem import Allocation, Candidate, Problem, Solution, VariantCandidates, ranked

HOLDERS = 3
"""Holders of a short device type that are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerUp:
    """The next-best candidate; its value is cost change plus transition penalty."""

    accelerator: str
    replicas: int
    cost: float
    value: float

    def __str__(self) -> str:
        """As in tables and logs."""
        return f"{self.replicas} x {self.accelerator or 'nothing'} at {self.cost:g} cents/h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """A better candidate that did not fit.

    Attributes:
        accelerator: accelerator of the candidate.
        device_type: device type that was short.
        wanted: devices that the candidate holds.
        free: devices that nobody holds in the plan.
        capacity: devices that there are.
        holders: variants that hold most of it, with devices, at most `HOLDERS`.

    """

    accelerator: str
    device_type: str
    wanted: int
    free: int
    capacity: int
    holders: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """As in tables and logs."""
        text = (
            f"{self.device_type} short: {self.accelerator} wants {self.wanted},"
            f" {self.free} of {self.capacity} free"
        )
        held = ", ".join(f"{name} ({devices})" for name, devices in self.holders)
        if held:
            return f"{text}, most held by {held}"
        return f"{text}, the rest is its own" if self.free < self.capacity else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One variant's reasons.

    Attributes:
        binding: what bounds the number of replicas: ttft, itl, stability, minimum or maximum; empty if
            nothing was chosen.
        sized: the same as a clause with its number.
        runner_up: the best candidate of those not chosen.
        shortages: better candidates that did not fit, best first.

    """

    binding: str
    sized: str
    runner_up: RunnerUp | None
    shortages: tuple[Shortage, ...]


def explain(problem: Problem, solution: Solution) -> dict[str, Explanation]:
    """Reasons by variant name."""
    used: dict[str, dict[str, int]] = {}
    for name, got in solution.allocations.items():
        if got.candidate is not None and got.devices:
            used.setdefault(got.candidate.device_type, {})[name] = got.devices
    return {
        variant.name: _explained(problem, variant, solution.allocations[variant.name], used)
        for variant in problem.variants
    }


def _explained(
    problem: Problem,
    variant: VariantCandidates,
    got: Allocation,
    used: Mapping[str, Mapping[str, int]],
) -> Explanation:
    order = ranked(variant, problem.transition_factor)
    others = [item for item in order if item[1] is not got.candidate]
    runner_up = None
    if others:
        worth, best = others[0]
        runner_up = RunnerUp(
            accelerator=best.accelerator, replicas=best.replicas, cost=best.cost, value=worth
        )
    shortages: tuple[Shortage, ...] = ()
    if problem.capacity is not None:
        # Of the candidates up to the chosen one, those that did not get their devices.
        missed = []
        for _, candidate in order:
            if candidate is got.candidate and got.served == "full":
                break
            missed.append(candidate)
        shortages = tuple(
            _shortage(variant, candidate, problem.capacity, used)
            for candidate in missed
            if candidate.devices
        )
    return Explanation(
        binding=got.candidate.binding if got.candidate else "",
        sized=got.candidate.reason if got.candidate else "",
        runner_up=runner_up,
        shortages=shortages,
    )


def _shortage(
    variant: VariantCandidates,
    candidate: Candidate,
    capacity: Mapping[str, int],
    used: Mapping[str, Mapping[str, int]],
) -> Shortage:
    holders = used.get(candidate.device_type, {})
    most = sorted(
        ((name, devices) for name, devices in holders.items() if name != variant.name),
        key=lambda item: (-item[1], item[0]),
    )
    there = capacity.get(candidate.device_type, 0)
    return Shortage(
        accelerator=candidate.accelerator,
        device_type=candidate.device_type,
        wanted=candidate.demand,
        free=there - sum(holders.values()),
        capacity=there,
        holders=tuple(most[:HOLDERS]),
    )

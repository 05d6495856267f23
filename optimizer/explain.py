"""Why every variant got what it got: what binds, what was next, what was short and who holds it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optimizer.problem import (
    Allocation,
    Candidate,
    Problem,
    Solution,
    VariantCandidates,
    best,
    ranked,
    with_wider,
)

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
        demanded: Devices that the candidate holds.
        free: devices that nobody holds in the plan.
        capacity: devices that there are.
        holders: variants that hold most of it, with devices, at most `HOLDERS`.

    """

    accelerator: str
    device_type: str
    demanded: int
    free: int
    capacity: int
    holders: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        """As in tables and logs."""
        text = (
            f"{self.device_type} short: {self.accelerator} needs {self.demanded},"
            f" {self.free} of {self.capacity} free"
        )
        held = ", ".join(f"{name} ({devices})" for name, devices in self.holders)
        if held:
            return f"{text}, most held by {held}"
        return f"{text}, it holds the rest" if self.free < self.capacity else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One variant's reasons.

    Attributes:
        binding: what bounds the number of replicas, as `Candidate.binding`; empty if
            nothing was chosen.
        sized: the same as a clause with its number.
        runner_up: the best candidate of those not chosen.
        shortages: better candidates that did not fit, best first.

    """

    binding: str
    sized: str
    runner_up: RunnerUp | None
    shortages: tuple[Shortage, ...]


class _Held:
    """Who holds devices of one type: the total, and the largest holders, one more than are named."""

    __slots__ = ("largest", "total")

    def __init__(self, holders: list[tuple[str, int]]) -> None:
        self.total = sum(devices for _, devices in holders)
        self.largest = heapq.nsmallest(HOLDERS + 1, holders, key=lambda item: (-item[1], item[0]))


_NOBODY = _Held([])


class Explainer:
    """The reasons of one solution, made for the variants that are asked for."""

    def __init__(self, problem: Problem, solution: Solution) -> None:
        """Keep both; nothing is counted before the first is asked for."""
        self._problem = problem
        self._solution = solution

    def explain(self, variant: VariantCandidates, reason: str | None = None) -> Explanation:
        """Reasons of one variant.

        What bounds the chosen candidate is the clause `reason`; without it, the candidate's own.
        """
        problem, got = self._problem, self._solution.allocations[variant.name]
        chosen = got.candidate
        shortages: tuple[Shortage, ...] = ()
        if problem.capacity is None:
            runner_up = best(variant, problem.transition_factor, without=chosen)
        else:
            order = ranked(variant, problem.transition_factor)
            runner_up = next((item for item in order if item[1] is not chosen), None)
            shortages = _shortages(order, problem, variant, got, self._held)
        if reason is None:
            reason = chosen.reason if chosen else ""
        return Explanation(
            binding=chosen.binding if chosen else "",
            sized=reason,
            runner_up=None if runner_up is None else _runner_up(*runner_up),
            shortages=shortages,
        )

    @cached_property
    def _held(self) -> Mapping[str, _Held]:
        """Holders by device type."""
        used: dict[str, list[tuple[str, int]]] = {}
        for name, got in self._solution.allocations.items():
            if got.candidate is not None and got.devices:
                for kind in with_wider(got.candidate.device_type, self._problem.within):
                    used.setdefault(kind, []).append((name, got.devices))
        return {kind: _Held(holders) for kind, holders in used.items()}


def explain(problem: Problem, solution: Solution) -> dict[str, Explanation]:
    """Reasons of all variants by name; what bounds the chosen candidate is its own clause."""
    explainer = Explainer(problem, solution)
    return {variant.name: explainer.explain(variant) for variant in problem.variants}


def _runner_up(value: float, candidate: Candidate) -> RunnerUp:
    return RunnerUp(
        accelerator=candidate.accelerator,
        replicas=candidate.replicas,
        cost=candidate.cost,
        value=value,
    )


def _shortages(
    order: Sequence[tuple[float, Candidate]],
    problem: Problem,
    variant: VariantCandidates,
    got: Allocation,
    held: Mapping[str, _Held],
) -> tuple[Shortage, ...]:
    """Of the candidates up to the chosen one, those that did not get their devices."""
    shortages = []
    for _, candidate in order:
        if candidate is got.candidate and got.served == "full":
            break
        if candidate.devices:
            shortages.append(_shortage(variant, candidate, problem, held))
    return tuple(shortages)


def _shortage(
    variant: VariantCandidates,
    candidate: Candidate,
    problem: Problem,
    held: Mapping[str, _Held],
) -> Shortage:
    capacity = problem.capacity or {}
    # Of the types that count its devices the one with the fewest left.
    device_type = min(
        with_wider(candidate.device_type, problem.within),
        key=lambda kind: capacity.get(kind, 0) - held.get(kind, _NOBODY).total,
    )
    holders = held.get(device_type, _NOBODY)
    others = [item for item in holders.largest if item[0] != variant.name]
    there = capacity.get(device_type, 0)
    return Shortage(
        accelerator=candidate.accelerator,
        device_type=device_type,
        demanded=candidate.demand,
        free=there - holders.total,
        capacity=there,
        holders=tuple(others[:HOLDERS]),
    )

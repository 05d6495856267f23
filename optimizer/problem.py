"""What the optimizer chooses from and what it answers, as numbers without queues.

Costs are in cents per hour, latencies in milliseconds, rates in requests per minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

TRANSITION_FACTOR = 0.1
"""Default penalty for switching accelerators, as a share of the sum of both costs."""

SolverName = Literal["auto", "unlimited", "greedy", "branch-and-bound"]
SaturationPolicy = Literal["None", "PriorityExhaustive", "PriorityRoundRobin", "RoundRobin"]
Served = Literal["full", "partial", "none"]
Termination = Literal["optimal", "feasible", "heuristic", "fallback"]

POLICIES: tuple[SaturationPolicy, ...] = (
    "None",
    "PriorityExhaustive",
    "PriorityRoundRobin",
    "RoundRobin",
)


class Candidate(NamedTuple):  # made by the thousand: a tuple takes a third of the time
    """One way to serve a variant.

    Attributes:
        accelerator: its name; empty for the candidate that runs nothing.
        replicas: how many replicas it takes.
        max_batch: requests in service per replica.
        cost: cost of all its replicas, cents per hour.
        itl_ms: predicted inter-token latency.
        ttft_ms: predicted time to first token.
        max_rate_rpm: what one replica carries within the targets.
        reason: what bounds the number of replicas, one clause.
        device_type: what capacity is counted in.
        devices: devices of `device_type` that one replica holds.
        binding: what bounds the number of replicas: ttft, itl, tps, kv, stability, minimum or
            maximum.
        for_arrivals: replicas that the arrivals take by themselves, where a queue asks for more; 0 where
            that is not known.

    """

    accelerator: str
    replicas: int
    max_batch: int
    cost: float
    itl_ms: float
    ttft_ms: float
    max_rate_rpm: float
    reason: str = ""
    device_type: str = ""
    devices: int = 0
    binding: str = ""
    for_arrivals: int = 0

    @property
    def demand(self) -> int:
        """Devices that all its replicas hold."""
        return self.replicas * self.devices


def candidates_of(*columns: Iterable[Any]) -> list[Candidate]:
    """Candidates by columns of all their fields, in the order of these, without a call for each."""
    assert len(columns) == len(Candidate._fields)  # noqa: S101 - a mistake of the caller
    return list(map(partial(tuple.__new__, Candidate), zip(*columns, strict=False)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """What the variant runs on now; `cost` is 0 where nothing runs."""

    accelerator: str = ""
    replicas: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantCandidates:
    """One variant with its candidates, at least one; priority 1 is served first."""

    name: str
    candidates: tuple[Candidate, ...]
    current: Current = Current()
    priority: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Everything a solver needs.

    Attributes:
        variants: variants with unique names.
        capacity: devices by type, a type that is not named has none; None means without end.
        within: all wider types of a type, whose devices are among those of each and count there too.
        policy: saturation policy, which shares devices when not everyone can be served.
        delayed_best_effort: greedy hands out leftovers after all priorities, not after each.
        transition_factor: penalty for switching accelerators, as a share of the sum of both costs.
        time_limit_s: time limit of branch-and-bound over all its stages, seconds.
        gap: relative distance to the bound at which a stage counts as optimal.

    """

    variants: tuple[VariantCandidates, ...]
    capacity: Mapping[str, int] | None = None
    within: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    policy: SaturationPolicy = "None"
    delayed_best_effort: bool = False
    transition_factor: float = TRANSITION_FACTOR
    time_limit_s: float = 10.0
    gap: float = 1e-6


def with_wider(device_type: str, within: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """A device type and all wider ones that count its devices too."""
    return (device_type, *within.get(device_type, ()))


class Allocation(NamedTuple):
    """What one variant gets.

    Attributes:
        candidate: what it was chosen from; None when it gets nothing.
        replicas: replicas given; fewer than the candidate's when partial.
        cost: cost of these replicas, cents per hour.
        value: cost change plus transition penalty.

    """

    candidate: Candidate | None
    replicas: int
    cost: float
    value: float

    @property
    def served(self) -> Served:
        """Whether the variant gets what its load needs."""
        if self.candidate is None:
            return "none"
        return "full" if self.replicas == self.candidate.replicas else "partial"

    @property
    def devices(self) -> int:
        """Devices that the replicas hold."""
        return 0 if self.candidate is None else self.replicas * self.candidate.devices


NOTHING = Allocation(candidate=None, replicas=0, cost=0.0, value=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """An allocation for every variant.

    Attributes:
        solver: name of the solver.
        termination: optimal (proven), feasible (within `gap`), heuristic (no proof sought), or fallback
            (branch-and-bound hit its limit and greedy's plan stands, at least in part).
        gap: relative distance of the last stage's objective to its bound; None where none is known.
        allocations: allocation of each variant by name, in the order of the problem.

    """

    solver: str
    termination: Termination
    gap: float | None
    allocations: Mapping[str, Allocation] = field(default_factory=dict)

    @property
    def total_cost(self) -> float:
        """Cents per hour."""
        return sum(item.cost for item in self.allocations.values())


def penalty(accelerator: str, cost: float, current: Current, factor: float) -> float:
    """Transition penalty: for starting on an accelerator that the variant does not run on."""
    if accelerator in {"", current.accelerator}:
        return 0.0
    return factor * (cost + current.cost)


def value(accelerator: str, replicas: int, cost: float, current: Current, factor: float) -> float:
    """Cost change plus transition penalty; 0 where nothing changes."""
    if accelerator == current.accelerator:
        return 0.0 if replicas == current.replicas else cost - current.cost
    return cost - current.cost + penalty(accelerator, cost, current, factor)


def allocate(
    variant: VariantCandidates, candidate: Candidate, replicas: int, factor: float
) -> Allocation:
    """That many replicas of a candidate."""
    cost = candidate.cost
    if replicas != candidate.replicas:
        cost = cost / candidate.replicas * replicas
    return Allocation(
        candidate=candidate,
        replicas=replicas,
        cost=cost,
        value=value(candidate.accelerator, replicas, cost, variant.current, factor),
    )


def allocate_all(worth: float, candidate: Candidate) -> Allocation:
    """All replicas of a candidate, which is worth that much by `values`."""
    return Allocation(candidate, candidate.replicas, candidate.cost, worth)


def ranked(variant: VariantCandidates, factor: float) -> list[tuple[float, Candidate]]:
    """Candidates with their values, best first; ties go to the first accelerator by name."""
    candidates = variant.candidates
    ranks = [
        (worth, candidate.accelerator, index)
        for index, (worth, candidate) in enumerate(
            zip(values(variant, factor), candidates, strict=True)
        )
    ]
    ranks.sort()
    return [(worth, candidates[index]) for worth, _, index in ranks]


def best(
    variant: VariantCandidates, factor: float, without: Candidate | None = None
) -> tuple[float, Candidate] | None:
    """The first of `ranked`, found without ranking them; None where there is none.

    The very object `without` is left out.
    """
    first, worth = None, 0.0
    for its, candidate in zip(values(variant, factor), variant.candidates, strict=True):
        if candidate is without:
            continue
        if (
            first is None
            or its < worth
            or (its == worth and candidate.accelerator < first.accelerator)
        ):
            first, worth = candidate, its
    return None if first is None else (worth, first)


def values(variant: VariantCandidates, factor: float) -> list[float]:
    """`value` of every candidate with all its replicas, without a call for each: there are thousands."""
    now = variant.current
    accelerator, replicas, cost = now.accelerator, now.replicas, now.cost
    return [
        (0.0 if item.replicas == replicas else item.cost - cost)
        if item.accelerator == accelerator
        else item.cost - cost + (factor * (item.cost + cost) if item.accelerator else 0.0)
        for item in variant.candidates
    ]

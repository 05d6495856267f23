"""Serve variants one after another within the capacity: by priority, then by regret.

Regret is what a variant loses if its best remaining candidate is taken from it: the distance to the next
one, without bound for the last. A variant whose candidate does not fit moves on to its next and takes its new
place in line. What is left when all had their turn is shared under the saturation policy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from optimizer.problem import (
    NOTHING,
    Allocation,
    Candidate,
    Problem,
    SaturationPolicy,
    Solution,
    VariantCandidates,
    allocate,
    allocate_all,
    ranked,
    with_wider,
)


@dataclass(slots=True)
class _Entry:
    variant: VariantCandidates
    choices: list[tuple[float, Candidate]]
    next_choice: int = 0
    turn: int = 0

    @property
    def order(self) -> tuple[int, float, float, int, str]:
        """Priority, then regret, then value, larger first; who was moved goes before equals; then by name."""
        worth = self.choices[self.next_choice][0]
        following = self.next_choice + 1
        regret = self.choices[following][0] - worth if following < len(self.choices) else math.inf
        # Rounded: sums of costs that are equal on paper tie, and the name decides.
        return (
            self.variant.priority,
            -round(regret, 6) if regret < math.inf else -math.inf,
            -round(worth, 6),
            -self.turn,
            self.variant.name,
        )


class _Run:
    """One solution in the making."""

    def __init__(self, problem: Problem) -> None:
        self._factor = problem.transition_factor
        self._free: dict[str, float] = dict(problem.capacity or {})
        self._within = problem.within
        self._endless = problem.capacity is None
        self.allocations: dict[str, Allocation] = {
            variant.name: NOTHING for variant in problem.variants
        }

    def _fits(self, candidate: Candidate) -> int:
        """Replicas of the candidate that the free devices hold."""
        if self._endless or candidate.devices == 0:
            return candidate.replicas
        kind = candidate.device_type
        free = self._free.get(kind, 0)
        for wider in self._within.get(kind, ()):
            free = min(free, self._free.get(wider, 0))
        return int(free // candidate.devices)

    def _hold(self, candidate: Candidate, replicas: int) -> None:
        if not self._endless and candidate.devices:
            for kind in with_wider(candidate.device_type, self._within):
                self._free[kind] -= replicas * candidate.devices

    def _take(self, entry: _Entry, candidate: Candidate, replicas: int) -> None:
        self._hold(candidate, replicas)
        self.allocations[entry.variant.name] = allocate(
            entry.variant, candidate, replicas, self._factor
        )

    def serve(self, entries: Sequence[_Entry]) -> list[_Entry]:
        """Allocate whole candidates; returns who got none, in the order they gave up."""
        unserved: list[_Entry] = []
        line = [(entry.order, entry) for entry in entries]
        heapq.heapify(line)
        turn = 0
        while line:
            _, entry = heapq.heappop(line)
            worth, candidate = entry.choices[entry.next_choice]
            if self._fits(candidate) >= candidate.replicas:
                self._hold(candidate, candidate.replicas)
                self.allocations[entry.variant.name] = allocate_all(worth, candidate)
                continue
            entry.next_choice += 1
            if entry.next_choice == len(entry.choices):
                unserved.append(entry)
                continue
            turn += 1
            entry.turn = turn
            heapq.heappush(line, (entry.order, entry))
        return unserved

    def exhaust(self, entries: Sequence[_Entry]) -> None:
        """One variant after another gets as many replicas as fit."""
        for entry in entries:
            for _, candidate in entry.choices:
                replicas = min(self._fits(candidate), candidate.replicas)
                if replicas > 0:
                    self._take(entry, candidate, replicas)
                    break

    def share(self, entries: Sequence[_Entry]) -> None:
        """One replica for each variant, again and again, but no more than it asked for."""
        chosen: dict[str, tuple[Candidate, int]] = {}
        active = list(entries)
        while active:
            still: list[_Entry] = []
            for entry in active:
                name = entry.variant.name
                if name not in chosen:
                    first = next(
                        (c for _, c in entry.choices if c.replicas and self._fits(c) > 0), None
                    )
                    if first is None:
                        continue
                    chosen[name] = (first, 0)
                candidate, replicas = chosen[name]
                if replicas < candidate.replicas and self._fits(candidate) > 0:
                    self._hold(candidate, 1)
                    chosen[name] = (candidate, replicas + 1)
                    still.append(entry)
            active = still
        for entry in entries:
            if entry.variant.name in chosen:
                candidate, replicas = chosen[entry.variant.name]
                self.allocations[entry.variant.name] = allocate(
                    entry.variant, candidate, replicas, self._factor
                )


def solve(problem: Problem) -> Solution:
    """A good plan fast; the same input gives the same plan, whatever the order of the variants."""
    run = _Run(problem)
    entries = [
        _Entry(variant=variant, choices=ranked(variant, problem.transition_factor))
        for variant in sorted(problem.variants, key=lambda item: (item.priority, item.name))
        if variant.candidates
    ]
    groups = [list(group) for _, group in groupby(entries, key=_priority)]
    if problem.delayed_best_effort:
        unserved = run.serve(entries)
        _best_effort(run, unserved, problem.policy)
    else:
        for group in groups:
            _best_effort(run, run.serve(group), problem.policy)
    return Solution(solver="greedy", termination="heuristic", gap=None, allocations=run.allocations)


def _best_effort(run: _Run, unserved: Sequence[_Entry], policy: SaturationPolicy) -> None:
    shared: dict[SaturationPolicy, Callable[[Sequence[_Entry]], None]] = {
        "PriorityExhaustive": run.exhaust,
        "RoundRobin": run.share,
    }
    if policy == "PriorityRoundRobin":
        for _, group in groupby(sorted(unserved, key=_priority), key=_priority):
            run.share(list(group))
    elif policy in shared:
        shared[policy](unserved)


def _priority(entry: _Entry) -> int:
    return entry.variant.priority

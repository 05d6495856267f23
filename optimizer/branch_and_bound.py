"""The best plan there is, with its proof: integer programs solved by HiGHS, one objective after another.

    1. for each priority, highest first: serve as many variants as possible in full
    2. under a saturation policy: partial service of the others
         PriorityExhaustive   for each priority: the largest sum of shares of what was asked for
         PriorityRoundRobin   for each priority: as many variants as possible get something, then shares
         RoundRobin           the same over all priorities at once
    3. the least cost plus transition penalties

Each stage keeps what the stages before it reached; `columns` has their variables.

Before that, candidates that another of the same device type dominates are dropped, types that cannot run
short lose their constraint, and variants that share no scarce type are solved apart. Where a few variants
have few plans, all of them are tried instead: HiGHS takes longer to load than that. A stage looks at the
columns that it or an earlier one counts: others only take devices from these. Where that leaves many, those
that are in no better plan are left out, and what no plan of a stage's best has stays out (`reduced_costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from optimizer import enumeration, greedy, integer_program, reduced_costs
from optimizer.columns import Columns, of_columns, price
from optimizer.components import components, demands
from optimizer.objective import Objective, Outcome, of_plan
from optimizer.problem import (
    NOTHING,
    Allocation,
    Problem,
    Solution,
    Termination,
    allocate,
    penalty,
    with_wider,
)

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

LISTED = 1_000
"""Columns of a program that is given to HiGHS as it is; of more, those in no better plan are left out."""

_INTEGRAL = 1e-6
_FINISHED = 0


def objective(problem: Problem, allocations: Mapping[str, Allocation]) -> Objective:
    """A plan's worth: variants not served in full by priority, partial service, cost plus penalties."""
    outcomes, cost = [], 0.0
    for variant in problem.variants:
        got = allocations[variant.name]
        served = 0.0
        if got.candidate is not None:
            cost += got.cost + penalty(
                got.candidate.accelerator, got.cost, variant.current, problem.transition_factor
            )
            served = got.replicas / got.candidate.replicas if got.served == "partial" else 1.0
        outcomes.append(Outcome(variant.priority, served, served > 0))
    return of_plan(outcomes, problem.policy, cost)


def solve(problem: Problem) -> Solution:
    """The optimal plan, or the best that the time limit allows, never worse than greedy's."""
    if problem.capacity is None:
        problem = replace(problem, capacity=demands(problem.variants, problem.within))
    bound = greedy.solve(problem)
    capacity = dict(problem.capacity or {})
    parts, scarce = components(problem, capacity)
    allocations: dict[str, Allocation] = {variant.name: NOTHING for variant in problem.variants}
    gap: float | None = 0.0
    finished = answered = True
    total = sum(len(part) for part in parts)
    for part in parts:
        share = problem.time_limit_s * len(part) / total
        program = _Program(
            replace(problem, variants=tuple(part), time_limit_s=share),
            {kind: capacity.get(kind, 0) for kind in scarce},
            bound.allocations,
        )
        result = program.solve()
        if result is None:
            # Nobody outside the part holds devices that are scarce in it, so greedy's plan fits there.
            answered = finished = False
            gap = None
            allocations.update({item.name: bound.allocations[item.name] for item in part})
            continue
        allocations.update(result.allocations)
        finished = finished and result.finished
        gap = None if gap is None or result.gap is None else max(gap, result.gap)
    termination: Termination = "optimal" if finished else "feasible" if answered else "fallback"
    if not finished:
        allocations = _with_the_rest(problem, allocations)
    if objective(problem, bound.allocations) < objective(problem, allocations):
        # Within the gap, or cut off by the limit: greedy's plan is the better one.
        allocations = dict(bound.allocations)
        termination, gap = (termination, gap) if finished else ("fallback", None)
    return Solution(
        solver="branch-and-bound", termination=termination, gap=gap, allocations=allocations
    )


def _with_the_rest(
    problem: Problem, allocations: Mapping[str, Allocation]
) -> dict[str, Allocation]:
    """The same plan, in which variants without replicas get what is left of the devices, as greedy shares it.

    A stage that its time limit ends leaves out the variants that only later stages would have served.
    """
    free = dict(problem.capacity or {})
    for got in allocations.values():
        if got.candidate is not None and got.devices:
            for kind in with_wider(got.candidate.device_type, problem.within):
                free[kind] -= got.devices
    rest = tuple(item for item in problem.variants if allocations[item.name].candidate is None)
    shared = greedy.solve(replace(problem, variants=rest, capacity=free))
    return {**allocations, **shared.allocations}


def _all_served(problem: Problem, known: Mapping[str, Allocation]) -> set[int]:
    """Highest priorities of which a plan serves everyone in full."""
    short = [
        variant.priority for variant in problem.variants if known[variant.name].served != "full"
    ]
    first = min(short, default=None)
    return {
        variant.priority
        for variant in problem.variants
        if first is None or variant.priority < first
    }


def _cheapest(problem: Problem, capacity: Mapping[str, int]) -> dict[str, Allocation] | None:
    """Everyone's cheapest candidate, if all of them fit: nothing can be better."""
    factor, free_capacity = problem.transition_factor, dict(capacity)
    allocations: dict[str, Allocation] = {}
    for variant in problem.variants:
        best = min(variant.candidates, key=lambda c: (price(c, variant, factor), c.accelerator))
        for kind in with_wider(best.device_type, problem.within) if best.devices else ():
            if kind in free_capacity:
                free_capacity[kind] -= best.demand
        allocations[variant.name] = allocate(variant, best, best.replicas, factor)
    return allocations if all(count >= 0 for count in free_capacity.values()) else None


@dataclass(frozen=True, slots=True)
class _Solved:
    allocations: dict[str, Allocation]
    gap: float | None
    finished: bool


class _Program:
    """The integer program of one component.

    `known` is a plan that keeps the capacity. Of the highest priorities of which it serves everyone no plan
    serves more: a constraint stands for their stages.
    """

    def __init__(
        self, problem: Problem, capacity: Mapping[str, int], known: Mapping[str, Allocation]
    ) -> None:
        self._problem = problem
        self._capacity = capacity
        self._columns = Columns(problem, capacity, _all_served(problem, known))
        self._known = self._columns.of_plan(known)

    def solve(self) -> _Solved | None:
        """The best plan of the component; None when the time limit leaves none."""
        if not len(self._columns):
            names = [variant.name for variant in self._problem.variants]
            return _Solved(dict.fromkeys(names, NOTHING), 0.0, finished=True)
        cheapest = _cheapest(self._problem, self._capacity)
        if cheapest is not None:
            return _Solved(cheapest, 0.0, finished=True)
        stages = self._columns.stages()
        values = enumeration.best(self._columns, [goal for goal, _ in stages])
        if values is not None:
            return _Solved(self._columns.allocations(values), 0.0, finished=True)
        return self._staged(stages)

    def _staged(self, stages: Sequence[tuple[FloatArray, float]]) -> _Solved | None:
        # Takes longer to load than most plans take, here and below: only where many plans run short.
        from scipy.optimize import LinearConstraint  # noqa: PLC0415

        constraints = self._columns.constraints()
        limit = self._problem.time_limit_s / (len(stages) + 1)
        best: FloatArray | None = None
        gap: float | None = 0.0
        finished = True
        counted, possible = self._columns.must_columns(), self._columns.most > 0
        for index, (goal, step) in enumerate(stages):
            last = index == len(stages) - 1
            # What no stage has counted so far only takes devices from what they do.
            counted |= (goal != 0) | last
            options = {
                "time_limit": 2 * limit if last else limit,
                "mip_rel_gap": self._gap(goal, step),
            }
            open_ = counted & possible
            start = np.where(open_, self._known if best is None else best, 0.0)
            if not goal[open_].any():
                best = start
                continue
            if open_.sum() > LISTED:
                program = reduced_costs.program(goal, constraints, self._columns.most, step, open_)
                result = reduced_costs.minimized(program, start, options)
            else:
                result = self._listed(goal, constraints, open_, options)
            if result is None or result.x is None:
                gap, finished = None, False
                break
            best = np.round(result.x)
            possible &= result.possible
            reached = float(goal @ best)
            finished = finished and result.status == _FINISHED
            # Of whole numbers, less than one step from the bound is the bound.
            distance = abs(reached - result.mip_dual_bound)
            if gap is not None and distance >= step:
                gap = max(gap, distance / max(abs(reached), 1.0))
            if not last:
                slack = 0.5 * step if step else _INTEGRAL * max(abs(reached), 1.0)
                constraints.append(LinearConstraint(goal[None, :], -np.inf, reached + slack))
        if best is None:
            return None
        return _Solved(self._columns.allocations(best), gap, finished=finished)

    def _listed(
        self,
        goal: FloatArray,
        constraints: Sequence[LinearConstraint],
        open_: BoolArray,
        options: Mapping[str, Any],
    ) -> reduced_costs.Answer | None:
        """The answer of HiGHS for all columns that are open."""
        from scipy.optimize import Bounds  # noqa: PLC0415 - see `_staged`

        some = np.flatnonzero(open_)
        answer = integer_program.minimized(
            goal[some],
            of_columns(constraints, some),
            Bounds(0.0, self._columns.most[some]),
            np.ones(some.size),
            options,
        )
        if answer.x is None:
            return None
        values = np.zeros(goal.size)
        values[some] = answer.x
        every = np.ones(goal.size, dtype=np.bool_)
        return reduced_costs.Answer(values, answer.status, answer.mip_dual_bound, every)

    def _gap(self, goal: FloatArray, step: float) -> float:
        """Relative gap that proves a stage: of whole numbers the next one is `step` away."""
        if not step:
            return self._problem.gap
        return min(0.9 * step / max(float(np.abs(goal).sum()), 1.0), 1.0)

"""The best plan there is, with its proof: integer programs solved by HiGHS, one objective after another.

    1. for each priority, highest first: serve as many variants as possible in full
    2. under a saturation policy: partial service of the others
         PriorityExhaustive   for each priority: the largest sum of shares of what was asked for
         PriorityRoundRobin   for each priority: as many variants as possible get something, then shares
         RoundRobin           the same over all priorities at once
    3. the least cost plus transition penalties

Each stage keeps what the stages before it reached. Variables are x(v, c), whether variant v is served in
full by candidate c, and for partial service z(v, c), whether v runs some replicas of c, and y(v, c), how
many. Sums over c of x + z are at most 1 for each v; devices of each type are at most its capacity.

Before that, candidates that another of the same device type dominates are dropped, types that cannot run
short lose their constraint, and variants that share no scarce type are solved apart. Where a few variants
have few plans, all of them are tried instead: HiGHS takes longer to load than that. Where there are many
columns, those that are in no better plan are left out (`reduced_costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimizer import enumeration, greedy, integer_program, reduced_costs
from optimizer.components import components, demands
from optimizer.objective import Objective, Outcome, of_plan
from optimizer.problem import (
    NOTHING,
    Allocation,
    Candidate,
    Problem,
    Solution,
    Termination,
    VariantCandidates,
    allocate,
    penalty,
    with_wider,
)

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

FloatArray = NDArray[np.float64]

LISTED = 4_000
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
    if objective(problem, bound.allocations) < objective(problem, allocations):
        # Within the gap, or cut off by the limit: greedy's plan is the better one.
        allocations = dict(bound.allocations)
        termination, gap = (termination, gap) if finished else ("fallback", None)
    return Solution(
        solver="branch-and-bound", termination=termination, gap=gap, allocations=allocations
    )


def _price(candidate: Candidate, variant: VariantCandidates, factor: float) -> float:
    """What a whole candidate adds to the last stage's objective."""
    return candidate.cost + penalty(candidate.accelerator, candidate.cost, variant.current, factor)


def _undominated(variant: VariantCandidates, factor: float) -> list[Candidate]:
    """Candidates without those that another of the same type beats in devices and in cost."""
    priced = sorted(
        variant.candidates,
        key=lambda c: (c.device_type, c.demand, _price(c, variant, factor), c.accelerator),
    )
    kept: list[Candidate] = []
    cheapest: dict[str, float] = {}
    for candidate in priced:
        price = _price(candidate, variant, factor)
        if price < cheapest.get(candidate.device_type, np.inf):
            cheapest[candidate.device_type] = price
            kept.append(candidate)
    return kept


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
        best = min(variant.candidates, key=lambda c: (_price(c, variant, factor), c.accelerator))
        for kind in with_wider(best.device_type, problem.within) if best.devices else ():
            if kind in free_capacity:
                free_capacity[kind] -= best.demand
        allocations[variant.name] = allocate(variant, best, best.replicas, factor)
    return allocations if all(count >= 0 for count in free_capacity.values()) else None


def _in_full(
    variants: Sequence[VariantCandidates],
    known: Mapping[str, Allocation],
    full: Sequence[tuple[int, Candidate]],
) -> list[int]:
    """Columns of a plan's full service; what dominates a dropped candidate stands for it."""
    columns: dict[int, int] = {}
    for column, (index, candidate) in enumerate(full):
        got = known[variants[index].name]
        if index in columns or got.candidate is None or got.served != "full":
            continue
        chosen = got.candidate
        if candidate.device_type == chosen.device_type and candidate.demand <= chosen.demand:
            columns[index] = column
    return list(columns.values())


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
        self._factor = problem.transition_factor
        self._served = _all_served(problem, known)
        # Columns: x for every pair, then z and y for every pair that can serve in part.
        self._full: list[tuple[int, Candidate]] = []
        self._part: list[tuple[int, Candidate]] = []
        for index, variant in enumerate(problem.variants):
            for candidate in _undominated(variant, self._factor):
                if self._room(candidate) >= candidate.replicas:
                    self._full.append((index, candidate))
            if problem.policy != "None" and variant.priority not in self._served:
                # For less than all replicas a candidate that is dominated in full may be the only one to fit.
                self._part += [
                    (index, candidate)
                    for candidate in variant.candidates
                    if candidate.replicas > 1 and self._room(candidate) >= 1
                ]
        self._columns = len(self._full) + 2 * len(self._part)
        self._known = np.zeros(self._columns)
        self._known[_in_full(problem.variants, known, self._full)] = 1.0

    def _room(self, candidate: Candidate) -> float:
        if candidate.devices == 0:
            return np.inf
        types = with_wider(candidate.device_type, self._problem.within)
        free = (self._capacity[kind] for kind in types if kind in self._capacity)
        return min((count // candidate.devices for count in free), default=np.inf)

    def solve(self) -> _Solved | None:
        """The best plan of the component; None when the time limit leaves none."""
        if not self._columns:
            names = [variant.name for variant in self._problem.variants]
            return _Solved(dict.fromkeys(names, NOTHING), 0.0, finished=True)
        cheapest = _cheapest(self._problem, self._capacity)
        if cheapest is not None:
            return _Solved(cheapest, 0.0, finished=True)
        stages = self._stages()
        known = self._enumerated([goal for goal, _ in stages])
        if known is not None:
            return _Solved(self._allocations(known), 0.0, finished=True)
        # Takes longer to load than most plans take, here and below: only where many plans run short.
        from scipy.optimize import Bounds, LinearConstraint  # noqa: PLC0415

        constraints, bounds = self._constraints(), Bounds(0.0, self._most())
        limit = self._problem.time_limit_s / (len(stages) + 1)
        best: FloatArray | None = None
        gap: float | None = 0.0
        finished = True
        for index, (goal, step) in enumerate(stages):
            last = index == len(stages) - 1
            options = {
                "time_limit": 2 * limit if last else limit,
                "mip_rel_gap": self._gap(goal, step),
            }
            if self._columns > LISTED:
                start = self._known if best is None else best
                program = reduced_costs.program(goal, constraints, self._most(), step)
                result = reduced_costs.minimized(program, start, options)
            else:
                result = integer_program.minimized(
                    goal, constraints, bounds, np.ones(self._columns), options
                )
            if result is None or result.x is None:
                gap, finished = None, False
                break
            best = np.round(result.x)
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
        return _Solved(self._allocations(best), gap, finished=finished)

    def _enumerated(self, goals: list[FloatArray]) -> FloatArray | None:
        """Columns of the best plan, of all that there are; None where they are too many."""
        must = [variant.priority in self._served for variant in self._problem.variants]
        columns = enumeration.Columns(self._full, self._part, self._most())
        return enumeration.best(must, columns, self._capacity, goals, self._problem.within)

    def _gap(self, goal: FloatArray, step: float) -> float:
        """Relative gap that proves a stage: of whole numbers the next one is `step` away."""
        if not step:
            return self._problem.gap
        return min(0.9 * step / max(float(np.abs(goal).sum()), 1.0), 1.0)

    def _constraints(self) -> list[LinearConstraint]:
        from scipy import optimize, sparse  # noqa: PLC0415 - see `solve`

        full, part = len(self._full), len(self._part)
        pairs = [*self._full, *self._part]
        owners = np.array([index for index, _ in pairs], dtype=np.intp)
        once = sparse.csr_array(
            (np.ones(len(pairs)), (owners, np.arange(len(pairs)))),
            shape=(len(self._problem.variants), self._columns),
        )
        # Of priorities that can all be served each variant is, in full: its columns of x sum up to 1.
        must = np.array([variant.priority in self._served for variant in self._problem.variants])
        constraints = [optimize.LinearConstraint(once, np.where(must, 1.0, -np.inf), 1.0)]
        row_of = {kind: row for row, kind in enumerate(self._capacity)}
        rows, columns, counts = [], [], []
        taking = [(column, item, item.demand) for column, (_, item) in enumerate(self._full)]
        taking += [(at, item, item.devices) for at, (_, item) in enumerate(self._part, full + part)]
        for column, candidate, count in taking:
            for kind in with_wider(candidate.device_type, self._problem.within) if count else ():
                if kind in row_of:
                    rows.append(row_of[kind])
                    columns.append(column)
                    counts.append(float(count))
        if rows:
            used = sparse.csr_array((counts, (rows, columns)), shape=(len(row_of), self._columns))
            free = np.array([float(self._capacity[kind]) for kind in row_of])
            constraints.append(optimize.LinearConstraint(used, -np.inf, free))
        if part:
            # z <= y <= (replicas - 1) z: some replicas, but not all.
            some = np.arange(part)
            most = np.array([candidate.replicas - 1.0 for _, candidate in self._part])
            y, z = full + part + some, full + some
            signs = np.concatenate([np.ones(part), -np.ones(part)])
            least = sparse.csr_array(
                (signs, (np.tile(some, 2), np.concatenate([z, y]))), shape=(part, self._columns)
            )
            limit = sparse.csr_array(
                (
                    np.concatenate([np.ones(part), -most]),
                    (np.tile(some, 2), np.concatenate([y, z])),
                ),
                shape=(part, self._columns),
            )
            links = [optimize.LinearConstraint(item, -np.inf, 0.0) for item in (least, limit)]
            constraints += links
        return constraints

    def _most(self) -> FloatArray:
        most = [1.0] * (len(self._full) + len(self._part))
        most += [
            min(candidate.replicas - 1.0, float(self._room(candidate)))
            for _, candidate in self._part
        ]
        return np.array(most)

    def _stages(self) -> list[tuple[FloatArray, float]]:
        """Goals to minimize, each with the step between its possible values (0: no such step)."""
        variants = self._problem.variants
        priorities = sorted({variant.priority for variant in variants})
        full, part = len(self._full), len(self._part)
        served = {priority: np.zeros(self._columns) for priority in priorities}
        started = {priority: np.zeros(self._columns) for priority in priorities}
        shares = {priority: np.zeros(self._columns) for priority in priorities}
        for column, (index, _) in enumerate(self._full):
            served[variants[index].priority][column] = -1.0
        for offset, (index, candidate) in enumerate(self._part):
            priority = variants[index].priority
            started[priority][full + offset] = -1.0
            shares[priority][full + part + offset] = -1.0 / candidate.replicas
        stages = [
            (served[priority], 1.0) for priority in priorities if priority not in self._served
        ]
        if self._problem.policy == "PriorityExhaustive":
            stages += [(shares[priority], 0.0) for priority in priorities]
        elif self._problem.policy == "PriorityRoundRobin":
            for priority in priorities:
                stages += [(started[priority], 1.0), (shares[priority], 0.0)]
        elif self._problem.policy == "RoundRobin":
            everyone = [np.sum(list(goals.values()), axis=0) for goals in (started, shares)]
            stages += [(everyone[0], 1.0), (everyone[1], 0.0)]
        stages = [stage for stage in stages if stage[0].any()]
        return [*stages, (self._prices(), 0.0)]

    def _prices(self) -> FloatArray:
        """Cost plus transition penalty of every column."""
        variants = self._problem.variants
        full, part = len(self._full), len(self._part)
        prices = np.zeros(self._columns)
        for column, (index, candidate) in enumerate(self._full):
            prices[column] = _price(candidate, variants[index], self._factor)
        for offset, (index, candidate) in enumerate(self._part):
            # The penalty grows with the cost of the replicas, and has a part for what was left.
            current = variants[index].current
            each = candidate.cost / candidate.replicas
            moved = penalty(candidate.accelerator, 0.0, current, self._factor)
            prices[full + offset] = moved
            prices[full + part + offset] = (
                each + penalty(candidate.accelerator, each, current, self._factor) - moved
            )
        return prices

    def _allocations(self, chosen: FloatArray) -> dict[str, Allocation]:
        variants = self._problem.variants
        full, part = len(self._full), len(self._part)
        allocations = {variant.name: NOTHING for variant in variants}
        for column in np.flatnonzero(chosen[:full] > 0.5):
            index, candidate = self._full[column]
            allocations[variants[index].name] = allocate(
                variants[index], candidate, candidate.replicas, self._factor
            )
        for offset in np.flatnonzero(chosen[full + part :] > 0.5):
            index, candidate = self._part[offset]
            allocations[variants[index].name] = allocate(
                variants[index], candidate, int(chosen[full + part + offset]), self._factor
            )
        return allocations

"""The columns of a problem's integer program, with what they are worth and what bounds them.

x(v, c) says whether variant v is served in full by candidate c. For partial service z(v, c) says whether v
runs a first replica of c, and w(v, c) how many more, fewer than all. Sums over c of x + z are at most 1 for
each v; devices of each type are at most its capacity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from optimizer.problem import (
    NOTHING,
    Allocation,
    Candidate,
    Problem,
    VariantCandidates,
    allocate,
    penalty,
    with_wider,
)

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def price(candidate: Candidate, variant: VariantCandidates, factor: float) -> float:
    """What a whole candidate adds to the last stage's objective."""
    return candidate.cost + penalty(candidate.accelerator, candidate.cost, variant.current, factor)


class Columns:
    """Columns x of every pair of a variant and a candidate, then z and w of those that can serve in part.

    Attributes:
        full: variant and candidate, which serves it in full.
        part: variant and candidate, which serves it in part.
        must: whether each variant is served in full, whatever the plan.
        most: largest value of each column.
        devices: devices that a unit of each column takes, shape (types, columns).
        free: devices of these types.

    Args:
        problem: its variants.
        capacity: devices by type, of types that run short.
        served: priorities of which every plan serves everyone in full.

    """

    def __init__(self, problem: Problem, capacity: Mapping[str, int], served: set[int]) -> None:
        self._variants = problem.variants
        self._policy = problem.policy
        self._factor = problem.transition_factor
        self._served = served
        self.full: list[tuple[int, Candidate]] = []
        self.part: list[tuple[int, Candidate]] = []
        most: list[float] = []
        for index, variant in enumerate(problem.variants):
            for candidate in _undominated(variant, self._factor):
                if _room(candidate, problem, capacity) >= candidate.replicas:
                    self.full.append((index, candidate))
            if problem.policy == "None" or variant.priority in served:
                continue
            # For less than all replicas a candidate that is dominated in full may be the only one to fit.
            for candidate in variant.candidates:
                fitting = min(candidate.replicas - 1.0, _room(candidate, problem, capacity))
                if fitting >= 1:
                    self.part.append((index, candidate))
                    most.append(fitting - 1.0)
        self.must = [variant.priority in served for variant in problem.variants]
        self.most = np.array([1.0] * (len(self.full) + len(self.part)) + most)
        self.free = np.array([float(count) for count in capacity.values()])
        self.devices = np.zeros((self.free.size, self.most.size))
        rows = {kind: row for row, kind in enumerate(capacity)}
        taking = [(item, item.demand) for _, item in self.full]
        taking += 2 * [(item, item.devices) for _, item in self.part]
        for column, (candidate, count) in enumerate(taking):
            for kind in with_wider(candidate.device_type, problem.within):
                if kind in rows:
                    self.devices[rows[kind], column] = count

    def __len__(self) -> int:
        """How many there are."""
        return self.most.size

    def of_plan(self, known: Mapping[str, Allocation]) -> FloatArray:
        """Values of a plan's full service; what dominates a dropped candidate stands for it."""
        columns: dict[int, int] = {}
        for column, (index, candidate) in enumerate(self.full):
            got = known[self._variants[index].name]
            if index in columns or got.candidate is None or got.served != "full":
                continue
            chosen = got.candidate
            if candidate.device_type == chosen.device_type and candidate.demand <= chosen.demand:
                columns[index] = column
        values = np.zeros(len(self))
        values[list(columns.values())] = 1.0
        return values

    def constraints(self) -> list[LinearConstraint]:
        """What bounds the sums of columns."""
        # Takes longer to load than most plans take.
        from scipy import optimize, sparse  # noqa: PLC0415

        part, pairs = len(self.part), [*self.full, *self.part]
        owners = np.array([index for index, _ in pairs], dtype=np.intp)
        once = sparse.csr_array(
            (np.ones(len(pairs)), (owners, np.arange(len(pairs)))),
            shape=(len(self._variants), len(self)),
        )
        # Of priorities that can all be served each variant is, in full: its columns of x sum up to 1.
        constraints = [
            optimize.LinearConstraint(once, np.where(self.must, 1.0, -np.inf), 1.0),
            optimize.LinearConstraint(sparse.csr_array(self.devices), -np.inf, self.free),
        ]
        # w <= (replicas - 2) z: more replicas beside a first one, but not all. Of two there is no more.
        more = np.array([candidate.replicas - 2.0 for _, candidate in self.part])
        some = np.flatnonzero(more > 0)
        if some.size:
            rows, z = np.tile(np.arange(some.size), 2), len(self.full) + some
            limit = sparse.csr_array(
                (
                    np.concatenate([np.ones(some.size), -more[some]]),
                    (rows, np.concatenate([z + part, z])),
                ),
                shape=(some.size, len(self)),
            )
            constraints.append(optimize.LinearConstraint(limit, -np.inf, 0.0))
        return constraints

    def stages(self) -> list[tuple[FloatArray, float]]:
        """Goals to minimize, each with the step between its possible values (0: no such step)."""
        priorities = sorted({variant.priority for variant in self._variants})
        full, part = len(self.full), len(self.part)
        served = {priority: np.zeros(len(self)) for priority in priorities}
        started = {priority: np.zeros(len(self)) for priority in priorities}
        shares = {priority: np.zeros(len(self)) for priority in priorities}
        for column, (index, _) in enumerate(self.full):
            served[self._variants[index].priority][column] = -1.0
        for z, (index, candidate) in enumerate(self.part, full):
            priority = self._variants[index].priority
            started[priority][z] = -1.0
            shares[priority][[z, z + part]] = -1.0 / candidate.replicas
        stages = [
            (served[priority], 1.0) for priority in priorities if priority not in self._served
        ]
        if self._policy == "PriorityExhaustive":
            stages += [(shares[priority], 0.0) for priority in priorities]
        elif self._policy == "PriorityRoundRobin":
            for priority in priorities:
                stages += [(started[priority], 1.0), (shares[priority], 0.0)]
        elif self._policy == "RoundRobin":
            everyone = [np.sum(list(goals.values()), axis=0) for goals in (started, shares)]
            stages += [(everyone[0], 1.0), (everyone[1], 0.0)]
        stages = [stage for stage in stages if stage[0].any()]
        return [*stages, (self._prices(), 0.0)]

    def must_columns(self) -> BoolArray:
        """Columns of variants that are served in any case."""
        must = [self.must[index] for index, _ in self.full]
        return np.array(must + [False] * (2 * len(self.part)))

    def allocations(self, chosen: FloatArray) -> dict[str, Allocation]:
        """What values of the columns give everyone."""
        variants, full, part = self._variants, len(self.full), len(self.part)
        allocations = {variant.name: NOTHING for variant in variants}
        for column in np.flatnonzero(chosen[:full] > 0.5):
            index, candidate = self.full[column]
            allocations[variants[index].name] = allocate(
                variants[index], candidate, candidate.replicas, self._factor
            )
        for offset in np.flatnonzero(chosen[full : full + part] > 0.5):
            index, candidate = self.part[offset]
            replicas = 1 + int(chosen[full + part + offset])
            allocations[variants[index].name] = allocate(
                variants[index], candidate, replicas, self._factor
            )
        return allocations

    def _prices(self) -> FloatArray:
        """Cost plus transition penalty of every column."""
        part = len(self.part)
        prices = np.zeros(len(self))
        for column, (index, candidate) in enumerate(self.full):
            prices[column] = price(candidate, self._variants[index], self._factor)
        for z, (index, candidate) in enumerate(self.part, len(self.full)):
            # The penalty grows with the cost of the replicas, and has a part for what was left.
            current = self._variants[index].current
            each = candidate.cost / candidate.replicas
            prices[z] = each + penalty(candidate.accelerator, each, current, self._factor)
            moved = penalty(candidate.accelerator, 0.0, current, self._factor)
            prices[z + part] = prices[z] - moved
        return prices


def _undominated(variant: VariantCandidates, factor: float) -> list[Candidate]:
    """Candidates without those that another of the same type beats in devices and in cost."""
    priced = sorted(
        (
            candidate.device_type,
            candidate.demand,
            price(candidate, variant, factor),
            candidate.accelerator,
            place,
        )
        for place, candidate in enumerate(variant.candidates)
    )
    kept: list[Candidate] = []
    cheapest: dict[str, float] = {}
    for device_type, _, worth, _, place in priced:
        if worth < cheapest.get(device_type, np.inf):
            cheapest[device_type] = worth
            kept.append(variant.candidates[place])
    return kept


def _room(candidate: Candidate, problem: Problem, capacity: Mapping[str, int]) -> float:
    """Replicas that all devices hold."""
    if candidate.devices == 0:
        return np.inf
    types = with_wider(candidate.device_type, problem.within)
    free = (capacity[kind] for kind in types if kind in capacity)
    return min((count // candidate.devices for count in free), default=np.inf)


def of_columns(
    constraints: Sequence[LinearConstraint], columns: NDArray[np.intp]
) -> list[LinearConstraint]:
    """The constraints of some columns, where all others are 0; those that bound none of them are left out."""
    from scipy import optimize, sparse  # noqa: PLC0415 - see `Columns.constraints`

    some = []
    for item in constraints:
        table = sparse.csr_array(item.A)[:, columns]
        rows = np.flatnonzero(np.diff(table.indptr))
        low, high = (np.broadcast_to(bound, table.shape[0])[rows] for bound in (item.lb, item.ub))
        some.append(optimize.LinearConstraint(table[rows], low, high))
    return some

"""Which patterns can be part of a plan better than a known one, by the duals of the linear relaxation.

Column generation finds prices of the resources (Dantzig and Wolfe 1960, Operations Research 8). At any such
prices the sum of every item's least loaded price, less what the resources are worth, bounds all plans. A
pattern whose loaded price is above its item's least by more than the known plan is above the bound is in no
better plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from optimizer.placement.near import loaded, relaxed
from optimizer.placement.patterns import Patterns
from optimizer.placement.problem import FloatArray, IntArray, Item, Resource
from optimizer.placement.table import Table

_ROUNDS = 80
_TIES = 1e-4
LARGEST_LIST = 60_000
"""Patterns of one component that are given to the integer program at most."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A goal: the most items of one priority, or the least price.

    Attributes:
        priority: priority of which most are to be served in full; None: the least price.
        floors: items that must be served in full, by priority.

    """

    priority: int | None
    floors: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound of a stage, with what it was found by.

    Attributes:
        value: the bound.
        duals: price of each scarce resource, shape (K,).
        offsets: what serving each item is worth besides, shape (N,).
        least: least loaded price of each item, with its offset; 0 where it may get nothing. Shape (N,).
        relaxed: places of large items whose least price is a bound itself.

    """

    value: float
    duals: FloatArray
    offsets: FloatArray
    least: FloatArray
    relaxed: frozenset[int] = frozenset()


class _Linear(NamedTuple):
    """An answer of the linear relaxation: its value, and the duals of its resources and floors."""

    value: float
    duals: FloatArray
    floors: FloatArray


class Pricing:
    """Bounds of one component, and the patterns that can matter.

    Args:
        items: Items, each with patterns in `known`, or one that `near.can_list`.
        scarce: Indices of the scarce resources.
        resources: All resources.
        known: All patterns of the small items.
        whole: Priorities that are served whole in any case.

    Attributes:
        table: patterns that are known so far.
        few: patterns by item that the last relaxation of a number of items was made of.

    """

    def __init__(
        self,
        items: Sequence[Item],
        scarce: Sequence[int],
        resources: Sequence[Resource],
        known: Mapping[str, Patterns],
        whole: set[int],
    ) -> None:
        self._items = items
        self._limits = np.array([resources[index].limit for index in scarce])
        self._may_rest = np.array([item.priority not in whole for item in items])
        self._priorities = np.array([item.priority for item in items])
        self.table = Table(items, scarce, known)
        self.few: Mapping[str, Patterns] = {}
        self._bounds: dict[tuple[int | None, tuple[tuple[int, int], ...]], Bound] = {}

    def _factors(self, stage: Stage) -> FloatArray:
        """What prices count in a stage by item; those of large items a little in all, to have few ties."""
        if stage.priority is None:
            return np.ones(len(self._items))
        factors = np.zeros(len(self._items))
        for at in self.table.large:
            item = self._items[at]
            tops = np.minimum(item.most, np.ceil(item.demand / np.maximum(item.worths, 1e-9)))
            factors[at] = _TIES / max(4.0 * float((tops + item.least) @ item.unit_costs), 1.0)
        return factors

    def bound(self, stage: Stage) -> Bound:
        """The best bound that column generation gives; one that was found before is not sought again.

        Large items whose least price cannot be found are relaxed, so that there is a bound in any case.
        """
        key = (stage.priority, tuple(sorted(stage.floors.items())))
        if key not in self._bounds:
            self._bounds[key] = self._sought(stage)
        return self._bounds[key]

    def _sought(self, stage: Stage) -> Bound:
        table, factors = self.table, self._factors(stage)
        best: Bound | None = None
        columns = table.start()
        relaxed_ones: set[int] = set()
        for _ in range(_ROUNDS):
            answer = self._relaxation(stage, factors, columns)
            if answer is None:
                break
            inexact = []
            if table.large:
                inexact = [
                    at
                    for at in table.large
                    if at in relaxed_ones or not table.grow(at, answer.duals, float(factors[at]))
                ]
                if stage.priority is None:
                    # Too many patterns at one price are too many at the next: each try takes its time.
                    relaxed_ones.update(inexact)
                for at in inexact:
                    table.cover(at, answer.duals, float(factors[at]))
                columns = table.rebuilt(columns)
            numbers = table.loaded(factors, answer.duals)
            candidate = self._bound(stage, factors, answer, numbers, inexact)
            if best is None or candidate.value > best.value:
                best = candidate
            more = np.unique(np.concatenate([columns, table.first(numbers)]))
            reached = answer.value - 1e-9 * max(abs(answer.value), 1.0)
            if candidate.value >= reached or more.size == columns.size:
                break
            columns = more
        if stage.priority is not None:
            self.few = table.of_columns(columns)
        nothing = np.zeros(len(self._items))
        return best or Bound(-np.inf, np.zeros(len(self._limits)), nothing, nothing - np.inf)

    def _goal(self, stage: Stage) -> FloatArray:
        return np.where(self._priorities == stage.priority, -1.0, 0.0)

    def _bound(
        self,
        stage: Stage,
        factors: FloatArray,
        answer: _Linear,
        numbers: FloatArray,
        inexact: Sequence[int],
    ) -> Bound:
        """The bound at some duals; large items whose least price is not known are relaxed."""
        table, offsets = self.table, self._goal(stage)
        for (priority, _), dual in zip(stage.floors.items(), answer.floors, strict=True):
            offsets -= np.where(self._priorities == priority, dual, 0.0)
        least = table.least(numbers)
        for at in inexact:
            item = self._items[at]
            prices = loaded(item, table.own(item, answer.duals), float(factors[at]))
            least[at] = min(least[at], relaxed(item, prices))
        least = least + offsets
        least = np.where(self._may_rest | ~table.some, np.minimum(least, 0.0), least)
        floors = np.array([-float(floor) for floor in stage.floors.values()])
        value = float(least.sum() - answer.duals @ self._limits - answer.floors @ floors)
        if stage.priority is not None:
            value -= _TIES * len(table.large)
        return Bound(value, answer.duals, offsets, least, frozenset(inexact))

    def _relaxation(self, stage: Stage, factors: FloatArray, columns: IntArray) -> _Linear | None:
        """The linear program of some patterns; what breaks a limit costs so much that it has an answer."""
        from scipy import optimize, sparse  # noqa: PLC0415 - takes longer to load than most plans take

        table, number = self.table, len(self._items)
        size, owners = columns.size, table.owner[columns]
        rest = np.flatnonzero(self._may_rest | ~table.some)
        limited = len(self._limits) + len(stage.floors)
        once = sparse.csr_array(
            (
                np.ones(size + rest.size),
                (np.concatenate([owners, rest]), np.arange(size + rest.size)),
            ),
            shape=(number, size + rest.size + limited),
        )
        served = np.array(
            [np.where(self._priorities[owners] == priority, -1.0, 0.0) for priority in stage.floors]
        ).reshape(len(stage.floors), size)
        rows = sparse.hstack(
            [
                sparse.csr_array(np.vstack([table.usage[columns].T, served])),
                sparse.csr_array((limited, rest.size)),
                -sparse.eye_array(limited),
            ]
        )
        high = 10.0
        if stage.priority is None:
            high = float(table.prices.max(initial=0.0)) * 10.0 + 1.0
        solution = optimize.linprog(
            np.concatenate(
                [
                    factors[owners] * table.prices[columns] + self._goal(stage)[owners],
                    np.zeros(rest.size),
                    np.full(limited, high),
                ]
            ),
            A_ub=rows,
            b_ub=np.concatenate([self._limits, [-float(floor) for floor in stage.floors.values()]]),
            A_eq=once,
            b_eq=np.ones(number),
            method="highs",
        )
        if solution.x is None:
            return None
        marginals = np.maximum(-solution.ineqlin.marginals, 0.0)
        kinds = len(self._limits)
        return _Linear(float(solution.fun), marginals[:kinds], marginals[kinds:])

    def within(
        self, stage: Stage, bound: Bound, distance: float
    ) -> tuple[dict[str, Patterns], bool] | None:
        """Patterns by item that are in plans up to the distance above the bound; None where too many.

        Not all of them, and False, where a large item has too many.
        """
        table, factors, complete = self.table, self._factors(stage), True
        for at in table.large:
            item, factor = self._items[at], float(factors[at])
            few = table.lists[item.name]
            lowest = np.inf
            if len(few.prices):
                own = few.usage @ table.own(item, bound.duals)
                lowest = float((factor * few.prices + own).min())
            room = distance
            if at not in bound.relaxed:
                # The least price is that of a known pattern, which may be above what nothing costs.
                room -= max(lowest + bound.offsets[at] - bound.least[at], 0.0)
            if room >= 0 and not table.grow(at, bound.duals, factor, room):
                complete = False
        if table.large:
            table.build()
        numbers = table.loaded(factors, bound.duals)
        keep = numbers + bound.offsets[table.owner] - bound.least[table.owner] <= distance
        if stage.priority is not None:
            keep = table.modest(keep)
        if int(keep.sum()) > LARGEST_LIST:
            return None
        return table.part(keep), complete

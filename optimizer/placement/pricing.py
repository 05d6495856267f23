"""Which patterns can be part of a plan better than a known one, by the duals of the linear relaxation.

Column generation finds prices of the resources (Dantzig and Wolfe 1960, Operations Research 8). At any such
prices the sum of every item's least loaded price, less what the resources are worth, bounds all plans. A
pattern whose loaded price is above its item's least by more than the known plan is above the bound is in no
better plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.placement.near import cover, loaded, near, relaxed
from optimizer.placement.patterns import Patterns, priced
from optimizer.placement.problem import FloatArray, IntArray, Item, Resource

_ROUNDS = 80
_TIES = 1e-4
_MANY, _FEW = 3_000, 20
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

    """

    value: float
    duals: FloatArray
    offsets: FloatArray
    least: FloatArray


class Pricing:
    """Patterns of the items of one component as arrays; those of large items are found as they are needed.

    Args:
        items: Items, each with patterns in `known`, or one that `near.can_list`.
        scarce: Indices of the scarce resources.
        resources: All resources.
        known: All patterns of the small items.
        whole: Priorities that are served whole in any case.

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
        self._places = {index: column for column, index in enumerate(scarce)}
        self._limits = np.array([resources[index].limit for index in scarce])
        self.lists = dict(known)
        self._large = [at for at, item in enumerate(items) if item.name not in known]
        self._may_rest = np.array([item.priority not in whole for item in items])
        self._priorities = np.array([item.priority for item in items])
        for at in self._large:
            self._grow(at, np.zeros(len(scarce)), 1.0, 0.0)
            item = items[at]
            if item.name not in self.lists:
                self.lists[item.name] = priced(item, np.zeros((0, len(item.rows)), dtype=np.int64))
        self._build()

    def _factors(self, stage: Stage) -> FloatArray:
        """What prices count in a stage by item; those of large items a little in all, to have few ties."""
        if stage.priority is None:
            return np.ones(len(self._items))
        factors = np.zeros(len(self._items))
        for at in self._large:
            item = self._items[at]
            tops = np.minimum(item.most, np.ceil(item.demand / np.maximum(item.worths, 1e-9)))
            factors[at] = _TIES / max(4.0 * float((tops + item.least) @ item.unit_costs), 1.0)
        return factors

    def _own(self, item: Item, duals: FloatArray) -> FloatArray:
        return np.array(
            [
                duals[self._places[index]] if index in self._places else 0.0
                for index in item.resources
            ]
        )

    def _grow(self, at: int, duals: FloatArray, factor: float, above: float) -> bool:
        """Add the patterns of a large item that are near its least price; False where they are too many."""
        item = self._items[at]
        counts = near(item, loaded(item, self._own(item, duals), factor), above)
        if counts is None or counts.shape[0] > _MANY:
            if counts is None or above > 0:
                return False
            own = loaded(item, self._own(item, duals), factor)
            counts = counts[np.argsort(own.total(item, counts), kind="stable")[:_FEW]]
        before = self.lists.get(item.name)
        if before is not None:
            counts = np.concatenate([before.counts, counts])
        self.lists[item.name] = priced(item, np.unique(counts, axis=0))
        return True

    def _add(self, stage: Stage, at: int, duals: FloatArray, factor: float) -> bool:
        """Add patterns of a large item that are good at some duals: the best for the price, else nearly."""
        if stage.priority is None:
            return self._grow(at, duals, factor, 0.0)
        item = self._items[at]
        before = self.lists[item.name].counts
        counts = cover(item, loaded(item, self._own(item, duals), factor))
        self.lists[item.name] = priced(item, np.unique(np.concatenate([before, counts]), axis=0))
        return True

    def _build(self) -> None:
        sizes = [len(self.lists[item.name].prices) for item in self._items]
        self._sizes = sizes
        self._some = np.array([size > 0 for size in sizes])
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._starts = starts
        self._owner = np.repeat(np.arange(len(sizes)), sizes)
        self._prices = np.concatenate([self.lists[item.name].prices for item in self._items])
        self._usage = np.zeros((self._prices.size, len(self._limits)))
        for at, item in enumerate(self._items):
            for column, index in enumerate(item.resources):
                if index in self._places:
                    self._usage[starts[at] : starts[at + 1], self._places[index]] = self.lists[
                        item.name
                    ].usage[:, column]

    def _least(self, numbers: FloatArray) -> FloatArray:
        """Least number of each item; infinite where it has no pattern."""
        least = np.full(len(self._items), np.inf)
        if numbers.size:
            least[self._some] = np.minimum.reduceat(numbers, self._starts[:-1][self._some])
        return least

    def _first(self, numbers: FloatArray) -> IntArray:
        """Index of the least number of each item that has patterns."""
        hits = np.flatnonzero(numbers <= self._least(numbers)[self._owner])
        _, places = np.unique(self._owner[hits], return_index=True)
        found: IntArray = hits[places].astype(np.int64)
        return found

    def bound(self, stage: Stage) -> Bound:
        """The best bound that column generation gives."""
        from scipy import optimize, sparse  # noqa: PLC0415 - takes longer to load than most plans take

        kinds, number = len(self._limits), len(self._items)
        factors = self._factors(stage)
        goal = np.where(self._priorities == stage.priority, -1.0, 0.0)
        floors = list(stage.floors.items())
        columns = np.unique(
            np.concatenate(
                [self._first(self._prices)]
                + [self._first(self._usage[:, kind] + 1e-9 * self._prices) for kind in range(kinds)]
            )
        )
        # What breaks a constraint costs a lot: the program always has an answer.
        high = 10.0
        if stage.priority is None:
            high = float(self._prices.max(initial=0.0)) * 10.0 + 1.0
        best: Bound | None = None
        for _ in range(_ROUNDS):
            size = columns.size
            owners = self._owner[columns]
            rest = np.flatnonzero(self._may_rest | ~self._some)
            once = sparse.csr_array(
                (
                    np.ones(size + rest.size),
                    (np.concatenate([owners, rest]), np.arange(size + rest.size)),
                ),
                shape=(number, size + rest.size + kinds + len(floors)),
            )
            served = np.zeros((len(floors), size))
            for row, (priority, _) in enumerate(floors):
                served[row] = np.where(self._priorities[owners] == priority, -1.0, 0.0)
            rows = sparse.hstack(
                [
                    sparse.csr_array(np.vstack([self._usage[columns].T, served])),
                    sparse.csr_array((kinds + len(floors), rest.size)),
                    -sparse.eye_array(kinds + len(floors)),
                ]
            )
            limits = np.concatenate([self._limits, [-float(least) for _, least in floors]])
            costs = np.concatenate(
                [
                    factors[owners] * self._prices[columns] + goal[owners],
                    np.zeros(rest.size),
                    np.full(kinds + len(floors), high),
                ]
            )
            found = optimize.linprog(
                costs, A_ub=rows, b_ub=limits, A_eq=once, b_eq=np.ones(number), method="highs"
            )
            if found.x is None:
                break
            marginals = np.maximum(-found.ineqlin.marginals, 0.0)
            duals = marginals[:kinds]
            offsets = goal.copy()
            for row, (priority, _) in enumerate(floors):
                offsets -= np.where(self._priorities == priority, marginals[kinds + row], 0.0)
            if self._large:
                grown = [self._add(stage, at, duals, float(factors[at])) for at in self._large]
                if not all(grown):
                    break
                columns = self._rebuilt(columns)
            numbers = factors[self._owner] * self._prices + self._usage @ duals
            least = self._least(numbers)
            if stage.priority is not None:
                for at in self._large:
                    item = self._items[at]
                    prices = loaded(item, self._own(item, duals), float(factors[at]))
                    least[at] = min(least[at], relaxed(item, prices))
            least = least + offsets
            least = np.where(self._may_rest | ~self._some, np.minimum(least, 0.0), least)
            value = float(least.sum() - marginals @ limits)
            if stage.priority is not None:
                value -= _TIES * len(self._large)
            if best is None or value > best.value:
                best = Bound(value, duals, offsets, least)
            if value >= found.fun - 1e-9 * max(abs(found.fun), 1.0):
                break
            more = np.unique(np.concatenate([columns, self._first(numbers)]))
            if more.size == columns.size:
                break
            columns = more
        return best or Bound(-np.inf, np.zeros(kinds), goal, np.full(number, -np.inf))

    def _rebuilt(self, columns: IntArray) -> IntArray:
        """Build the arrays again; the columns under their new indices."""
        owners = self._owner[columns]
        before = [
            (int(owner), float(self._prices[column]), self._usage[column].copy())
            for owner, column in zip(owners.tolist(), columns.tolist(), strict=True)
            if owner in set(self._large)
        ]
        small = columns[~np.isin(owners, self._large)]
        places = small - self._starts[self._owner[small]]
        small_owners = self._owner[small]
        self._build()
        moved = [self._starts[small_owners] + places]
        for owner, price, usage in before:
            rows = np.arange(self._starts[owner], self._starts[owner + 1])
            same = (self._prices[rows] == price) & (self._usage[rows] == usage).all(axis=1)
            moved.append(rows[same][:1])
        return np.unique(np.concatenate(moved).astype(np.int64))

    def within(
        self, stage: Stage, bound: Bound, distance: float
    ) -> tuple[dict[str, Patterns], bool] | None:
        """Patterns by item that are in plans up to the distance above the bound; None where too many.

        Not all of them, and False, where a large item has too many.
        """
        factors, complete = self._factors(stage), True
        for at in self._large:
            item, factor = self._items[at], float(factors[at])
            few = self.lists[item.name]
            lowest = np.inf
            if len(few.prices):
                own = few.usage @ self._own(item, bound.duals)
                lowest = float((factor * few.prices + own).min())
            room = distance - max(lowest + bound.offsets[at] - bound.least[at], 0.0)
            if stage.priority is not None or (
                room >= 0 and not self._grow(at, bound.duals, factor, room)
            ):
                complete = False
        if self._large:
            self._build()
        numbers = factors[self._owner] * self._prices + self._usage @ bound.duals
        keep = numbers + bound.offsets[self._owner] - bound.least[self._owner] <= distance
        if int(keep.sum()) > LARGEST_LIST:
            return None
        kept = {}
        for at, item in enumerate(self._items):
            rows = np.flatnonzero(keep[self._starts[at] : self._starts[at + 1]])
            whole = self.lists[item.name]
            kept[item.name] = Patterns(whole.counts[rows], whole.prices[rows], whole.usage[rows])
        return kept, complete

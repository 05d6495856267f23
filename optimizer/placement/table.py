"""Patterns of the items of one component as arrays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.placement import near
from optimizer.placement.patterns import Patterns, priced
from optimizer.placement.problem import BoolArray, FloatArray, IntArray, Item

_MANY, _FEW = 3_000, 20


class Table:
    """Patterns of N items on K scarce resources; those of large items are found as they are needed.

    Attributes:
        lists: patterns by item.
        large: places of the items whose patterns are found as they are needed.
        owner: place of the item of each pattern, shape (P,).
        prices: price of each pattern, shape (P,).
        usage: what each pattern takes, shape (P, K).
        some: whether each item has patterns, shape (N,).

    """

    def __init__(
        self, items: Sequence[Item], scarce: Sequence[int], known: Mapping[str, Patterns]
    ) -> None:
        self._items = items
        self._places = {index: column for column, index in enumerate(scarce)}
        self.lists = dict(known)
        self.large = [at for at, item in enumerate(items) if item.name not in known]
        for at in self.large:
            item = items[at]
            self.lists[item.name] = priced(item, np.zeros((0, len(item.rows)), dtype=np.int64))
            self.grow(at, np.zeros(len(scarce)), 1.0)
        self.build()

    def own(self, item: Item, duals: FloatArray) -> FloatArray:
        """Duals of an item's resources; 0 for those that do not run short."""
        return np.array(
            [
                duals[self._places[index]] if index in self._places else 0.0
                for index in item.resources
            ]
        )

    def grow(self, at: int, duals: FloatArray, factor: float, above: float = 0.0) -> bool:
        """Add the patterns of a large item that are near its least price; False where they are too many."""
        item = self._items[at]
        prices = near.loaded(item, self.own(item, duals), factor)
        counts = near.near(item, prices, above)
        if counts is None or (counts.shape[0] > _MANY and above > 0):
            return False
        if counts.shape[0] > _MANY:
            counts = counts[np.argsort(prices.total(item, counts), kind="stable")[:_FEW]]
        self._add(item, counts)
        return True

    def cover(self, at: int, duals: FloatArray, factor: float) -> bool:
        """Add one pattern of a large item that is nearly the best."""
        item = self._items[at]
        self._add(item, near.cover(item, near.loaded(item, self.own(item, duals), factor)))
        return True

    def _add(self, item: Item, counts: IntArray) -> None:
        before = self.lists[item.name].counts
        self.lists[item.name] = priced(item, np.unique(np.concatenate([before, counts]), axis=0))

    def build(self) -> None:
        """Make the arrays of the lists."""
        sizes = [len(self.lists[item.name].prices) for item in self._items]
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._starts = starts
        self.some: BoolArray = np.array(sizes) > 0
        self.owner: IntArray = np.repeat(np.arange(len(sizes)), sizes)
        self.prices: FloatArray = np.concatenate(
            [self.lists[item.name].prices for item in self._items]
        )
        self.usage: FloatArray = np.zeros((self.prices.size, len(self._places)))
        for at, item in enumerate(self._items):
            used = self.lists[item.name].usage
            for column, index in enumerate(item.resources):
                if index in self._places:
                    place = self._places[index]
                    self.usage[starts[at] : starts[at + 1], place] = used[:, column]

    def loaded(self, factors: FloatArray, duals: FloatArray) -> FloatArray:
        """Price of each pattern times the factor of its item, with what it takes at the duals; shape (P,)."""
        numbers: FloatArray = factors[self.owner] * self.prices + self.usage @ duals
        return numbers

    def least(self, numbers: FloatArray) -> FloatArray:
        """Least number of each item; infinite where it has no pattern."""
        least = np.full(len(self._items), np.inf)
        if numbers.size:
            least[self.some] = np.minimum.reduceat(numbers, self._starts[:-1][self.some])
        return least

    def first(self, numbers: FloatArray) -> IntArray:
        """Index of the pattern with the least number of each item that has some."""
        hits = np.flatnonzero(numbers <= self.least(numbers)[self.owner])
        _, places = np.unique(self.owner[hits], return_index=True)
        indices: IntArray = hits[places].astype(np.int64)
        return indices

    def start(self) -> IntArray:
        """The cheapest pattern of each item, and those that take least of each resource."""
        firsts = [self.first(self.prices)]
        firsts += [
            self.first(self.usage[:, kind] + 1e-9 * self.prices)
            for kind in range(len(self._places))
        ]
        return np.unique(np.concatenate(firsts))

    def rebuilt(self, columns: IntArray) -> IntArray:
        """Build the arrays again; the columns under their new indices."""
        owners, large = self.owner[columns], set(self.large)
        before = [
            (int(owner), float(self.prices[column]), self.usage[column].copy())
            for owner, column in zip(owners.tolist(), columns.tolist(), strict=True)
            if owner in large
        ]
        small = columns[~np.isin(owners, self.large)]
        small_owners = self.owner[small]
        places = small - self._starts[small_owners]
        self.build()
        moved = [self._starts[small_owners] + places]
        for owner, price, usage in before:
            rows = np.arange(self._starts[owner], self._starts[owner + 1])
            same = (self.prices[rows] == price) & (self.usage[rows] == usage).all(axis=1)
            moved.append(rows[same][:1])
        return np.unique(np.concatenate(moved).astype(np.int64))

    def modest(self, keep: BoolArray) -> BoolArray:
        """Those of some patterns that take less of something than any other one of their item, shape (P,).

        Of patterns that take the same it is the cheapest. Where only the number of items counts, others are
        in no better plan.
        """
        modest = keep.copy()
        for first, end in itertools.pairwise(self._starts.tolist()):
            places = first + np.flatnonzero(keep[first:end])
            if 1 < places.size <= _MANY:
                usage = self.usage[places]
                within = np.ones((places.size, places.size), dtype=np.bool_)
                for column in usage.T:
                    within &= column[:, None] <= column
                # Patterns are in order of price: of two that take the same the first is the cheaper one.
                better = within & (~within.T | np.triu(within, 1))
                modest[places] = ~better.any(axis=0)
        return modest

    def of_columns(self, columns: IntArray) -> dict[str, Patterns]:
        """The patterns with these indices by item."""
        keep = np.zeros(self.prices.size, dtype=np.bool_)
        keep[columns] = True
        return self.part(keep)

    def part(self, keep: BoolArray) -> dict[str, Patterns]:
        """Some of the patterns by item."""
        kept = {}
        for at, item in enumerate(self._items):
            rows = np.flatnonzero(keep[self._starts[at] : self._starts[at + 1]])
            whole = self.lists[item.name]
            kept[item.name] = Patterns(whole.counts[rows], whole.prices[rows], whole.usage[rows])
        return kept

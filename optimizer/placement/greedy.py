"""Items one after another, each the cheapest pattern that still fits; then leftovers under the policy.

Of one priority, those that take the smallest part of what is left go first: more of them are served.
"""

from __future__ import annotations

import operator
from collections.abc import Container, Mapping, Sequence
from itertools import groupby

import numpy as np

from optimizer.placement import leftovers, near, worth
from optimizer.placement.gaps import price_of
from optimizer.placement.patterns import Patterns
from optimizer.placement.problem import (
    FloatArray,
    IntArray,
    Item,
    Placed,
    Problem,
    nothing,
)

_ROOM = 1e-9


def _first_within(usage: FloatArray, room: list[float]) -> int | None:
    """Index of the first pattern that takes no more than there is; None where none does."""
    if not len(usage):
        return None
    # Nearly always the cheapest pattern fits.
    if all(map(operator.le, usage[0].tolist(), room)):
        return 0
    fits = usage[:, 0] <= room[0]
    for column, limit in enumerate(room[1:], 1):
        fits &= usage[:, column] <= limit
    first = int(fits.argmax())
    return first if fits[first] else None


def _most_modest(usage: FloatArray, room: list[float]) -> int | None:
    """Index of the pattern whose largest part of what there is is least; None where none fits."""
    if not len(usage) or not len(room):
        return _first_within(usage, room)
    # Column by column: rows of two or three numbers take numpy long.
    parts = usage[:, 0] / max(room[0], 1e-9)
    for column, limit in enumerate(room[1:], 1):
        np.maximum(parts, usage[:, column] / max(limit, 1e-9), out=parts)
    place = int(parts.argmin())
    return place if all(map(operator.le, usage[place].tolist(), room)) else None


class Run:
    """One solution in the making.

    Args:
        problem: What is to be placed.
        known: Patterns by item.
        partly: Items of which only the cheapest patterns are known.
        line: Names in the order in which items take the pattern that leaves most to the others; where it is
            empty they take their cheapest, those with the smallest part of what is left first.

    Attributes:
        placed: what each item has so far, by name.
        line: names in the order in which they were served.
        trail: what each step came to, in the order of the steps, larger is better.

    """

    def __init__(
        self,
        problem: Problem,
        known: Mapping[str, Patterns],
        partly: Container[str] = (),
        *,
        line: Sequence[str] = (),
    ) -> None:
        self._known, self._partly = known, partly
        self._given = {name: place for place, name in enumerate(line)}
        self.line: list[str] = []
        self.trail: list[float] = []
        self._free = [float(resource.limit) for resource in problem.resources]
        self.placed: dict[str, Placed] = {item.name: nothing(item) for item in problem.items}

    def _room(self, item: Item) -> list[float]:
        free = [self._free[index] for index in item.resources]
        return [left + _ROOM * max(abs(left), 1.0) for left in free]

    def _take(self, item: Item, counts: IntArray) -> None:
        for index, used in zip(item.resources, (counts @ item.uses).tolist(), strict=True):
            self._free[index] -= used

    def serve(self, items: Sequence[Item]) -> list[Item]:
        """Serve items in full; those that could not be."""
        unserved: list[Item] = []
        free = self._free.copy()
        for item in sorted(items, key=lambda item: self._order(item, free)):
            counts = self._fitting(item)
            self.line.append(item.name)
            self.trail.append(float(counts is not None))
            if counts is None:
                unserved.append(item)
                continue
            self._take(item, counts)
            self.placed[item.name] = Placed(tuple(counts.tolist()), 1.0)
        return unserved

    def _fitting(self, item: Item) -> IntArray | None:
        """Counts that carry the whole demand within what is left; None where none are found."""
        known, room = self._known[item.name], self._room(item)
        choose = _most_modest if self._given else _first_within
        place = choose(known.usage, room)
        if place is not None:
            chosen: IntArray = known.counts[place]
            return chosen
        if item.name in self._partly and near.can_list(item) and item.demand > 0:
            # Of its patterns only the cheapest ones are known.
            prices = near.loaded(item, np.zeros(len(item.resources)))
            return next(iter(near.cover(item, prices, np.array(room))), None)
        return None

    def _order(self, item: Item, free: Sequence[float]) -> tuple[int, float, str]:
        """Priority, then the largest part of any resource that the cheapest pattern takes, then the name."""
        if self._given:
            return item.priority, self._given[item.name], item.name
        usage = self._known[item.name].usage
        if not usage.shape[0] or not usage.shape[1]:
            return item.priority, 0.0, item.name
        pairs = zip(usage[0].tolist(), item.resources, strict=True)
        part = max([used / max(free[index], 1e-9) for used, index in pairs])
        return item.priority, round(part, 9), item.name

    def exhaust(self, items: Sequence[Item]) -> None:
        """One item after another gets as much of its demand as fits."""
        for item in items:
            room = np.array(self._room(item))
            best = leftovers.most(item, room)
            counts = self._filled(item, room) if best is None else best
            if counts.any():
                self._take(item, counts)
                self.placed[item.name] = worth.placed(item, counts)
            self.trail.append(round(self.placed[item.name].served, 6))

    def _filled(self, item: Item, room: FloatArray) -> IntArray:
        """Replica by replica, as long as one fits and helps."""
        counts = np.zeros(len(item.rows), dtype=np.int64)
        while (better := self._next(item, counts, room - counts @ item.uses)) is not None:
            counts = better
        return counts

    def share(self, items: Sequence[Item]) -> None:
        """One replica for each item, again and again."""
        active = [(item, np.zeros(len(item.rows), dtype=np.int64)) for item in items]
        while active:
            still = []
            for item, counts in active:
                better = self._next(item, counts, np.array(self._room(item)))
                if better is not None:
                    self._take(item, better - counts)
                    self.placed[item.name] = worth.placed(item, better)
                    still.append((item, better))
            active = still
        got = [self.placed[item.name] for item in items]
        self.trail.append(sum(any(placed.counts) for placed in got))
        self.trail.append(round(sum(placed.served for placed in got), 6))

    @staticmethod
    def _next(item: Item, counts: IntArray, room: FloatArray) -> IntArray | None:
        """One replica more, of the row that carries most for its price; None where none fits or helps."""
        now = float(worth.served(item, counts[None, :])[0])
        best: tuple[float, int] | None = None
        taken = {row.variant: at for at, row in enumerate(item.rows) if counts[at]}
        for at, row in enumerate(item.rows):
            most = row.most - 1 if item.routing == "alone" else row.most
            if counts[at] >= most or taken.get(row.variant, at) != at:
                continue
            if (item.uses[at] > room).any():
                continue
            more = counts.copy()
            more[at] += 1
            gain = float(worth.served(item, more[None, :])[0]) - now
            if gain <= 0 or not worth.share_kept(item, more[None, :])[0]:
                continue
            rank = (-gain / max(row.unit_cost, 1e-9), at)
            best = rank if best is None or rank < best else best
        if best is None:
            return None
        more = counts.copy()
        more[best[1]] += 1
        return more


def solve(
    problem: Problem, known: Mapping[str, Patterns], partly: Container[str] = ()
) -> dict[str, Placed]:
    """A good plan fast, from the patterns of each item; the order of the items does not matter.

    Where somebody is not served in full, because others took what it needs though they could do without, a
    second plan of modest patterns is made, in the same order. The plan that is better at the first step in
    which they differ counts. So nobody gets less at a higher priority: the steps before its own are the
    same in both plans, whatever its priority, and leave it no less. The number of items that are served
    would not do, as it depends on how many others the raised one takes the room of.
    """
    plain = _run(problem, Run(problem, known, partly))
    if all(placed.served >= 1.0 for placed in plain.placed.values()):
        return plain.placed
    modest = _run(problem, Run(problem, known, partly, line=plain.line))
    if plain.trail != modest.trail:
        return max(plain, modest, key=operator.attrgetter("trail")).placed
    return min(plain.placed, modest.placed, key=lambda placed: price_of(problem.items, placed))


def _run(problem: Problem, run: Run) -> Run:
    items = sorted(problem.items, key=lambda item: (item.priority, item.name))
    if problem.delayed_best_effort:
        _best_effort(run, run.serve(items), problem)
    else:
        for _, group in groupby(items, key=lambda item: item.priority):
            _best_effort(run, run.serve(list(group)), problem)
    return run


def _best_effort(run: Run, unserved: Sequence[Item], problem: Problem) -> None:
    unserved = sorted(unserved, key=lambda item: (item.priority, item.name))
    if problem.policy == "PriorityExhaustive":
        run.exhaust(unserved)
    elif problem.policy == "RoundRobin":
        run.share(unserved)
    elif problem.policy == "PriorityRoundRobin":
        for _, group in groupby(unserved, key=lambda item: item.priority):
            run.share(list(group))

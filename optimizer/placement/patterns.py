"""Patterns: the least replicas by which an item carries its demand, of which every best plan is made.

A pattern that could give up a replica and still carry the demand costs more and takes more of everything than
the one without it, so it is left out. All counts of all rows but one are tried, and that one row gets as few
as are enough. Where that would be too many patterns the answer is None, and the item stays a program of its
own.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from optimizer.placement import worth
from optimizer.placement.problem import ROUNDING, BoolArray, FloatArray, IntArray, Item

LARGEST_GRID = 4_000
"""Counts that are tried for one item at most."""

LARGEST_CHOICES = 64
"""Choices of one row for each variant of an item that are tried at most."""


class Patterns(NamedTuple):
    """Patterns of one item, cheapest first.

    Attributes:
        counts: replicas, shape (P, J).
        prices: cost plus transitions, shape (P,).
        usage: what they take of the item's resources, shape (P, K).

    """

    counts: IntArray
    prices: FloatArray
    usage: FloatArray


def patterns(item: Item) -> Patterns | None:
    """All patterns of an item; None where they are too many. Without any, the item cannot be served."""
    if item.class_demands and item.demand > 0:
        return None
    variants = item.variants()
    if item.routing == "alone":
        counts = np.diag(item.most)
    else:
        choices = math.prod(len(rows) for rows in variants)
        if choices > LARGEST_CHOICES:
            return None
        parts = []
        for chosen in itertools.product(*variants):
            part = _chosen(item, list(chosen), choices)
            if part is None:
                return None
            parts.append(part)
        counts = np.concatenate(parts)
        if len(parts) > 1:
            counts = np.unique(counts, axis=0)
    return priced(item, counts)


def priced(item: Item, counts: IntArray) -> Patterns:
    """Plans with their prices, cheapest first; ties go to what comes first by its counts."""
    prices = item.prices(counts)
    order = _order(prices.round(9), counts)
    counts = counts[order]
    return Patterns(counts, prices[order], counts.astype(np.float64) @ item.uses)


def _order(prices: FloatArray, counts: IntArray) -> IntArray:
    """Order by price, then by larger counts of the last row, of the one before it, and so on.

    Few prices are equal: only among those the counts are looked at.
    """
    order: IntArray = prices.argsort()
    sorted_ = prices[order]
    same = sorted_[1:] == sorted_[:-1]
    if same.any():
        tied = np.zeros(len(order), dtype=np.bool_)
        tied[1:] = same
        tied[:-1] |= same
        some = order[tied]
        order[tied] = some[np.lexsort((*(-counts[some].T), prices[some]))]
    return order


def _chosen(item: Item, rows: list[int], choices: int) -> IntArray | None:
    """Patterns that use these rows only, one of each variant; as rows of all of the item's columns."""
    least, most = item.least[rows], item.most[rows]
    if item.demand <= 0:
        return _spread(item, rows, least[None, :])
    if item.routing == "weights":
        worths = item.worths[rows]
        need = np.ceil(np.array(worth.parts(item)) / _positive(worths) - ROUNDING)
        need = np.where(worths > 0, need, least)  # more that carry nothing are of no use
        plan = _spread(item, rows, np.clip(need, least, most).astype(np.int64)[None, :])
        return plan[_enough(item, plan)]  # of two accelerators one may carry less than the part
    tops = _tops(item, rows)
    last = int(np.argmax(tops - least))
    others = [place for place in range(len(rows)) if place != last]
    # Counted before they are written out: a rate may ask for more replicas than memory holds.
    tried = math.prod(int(tops[place] - least[place]) + 1 for place in others)
    if tried * choices > LARGEST_GRID:
        return None
    axes = [(place, np.arange(least[place], tops[place] + 1)) for place in others]
    if not item.limited_share:
        if item.routing == "round-robin":
            return _spread(item, rows, _least_by_number(item, rows))
        return _spread(item, rows, _least_by_speed(item, rows, axes, last))
    counts = np.zeros((tried, len(rows)), dtype=np.int64)
    index = np.arange(len(counts))
    counts[:, [place for place, _ in axes]] = _decoded(axes, index).T
    add = _fill_by_speed if item.routing == "least-loaded" else _fill_by_number
    full = _spread(item, rows, add(item, rows, counts, last))
    full = full[_enough(item, full)]
    return full[~_reducible(item, full, rows)]


Axes = list[tuple[int, IntArray]]
"""Rows whose counts are tried, each with these counts: all combinations of them, the last one fastest."""


def _decoded(axes: Axes, index: IntArray) -> IntArray:
    """Counts of the combinations with these indices, shape (I,) to (A, I)."""
    counts = np.empty((len(axes), len(index)), dtype=np.int64)
    for at in range(len(axes) - 1, -1, -1):
        numbers = axes[at][1]
        index, place = np.divmod(index, len(numbers))
        counts[at] = numbers[place]
    return counts


def _with_last(axes: Axes, last: int, index: IntArray, numbers: IntArray) -> IntArray:
    """Counts of all rows: those of the combinations, and of the last row; shape (I,) to (J, I)."""
    decoded = _decoded(axes, index)
    return np.concatenate([decoded[:last], numbers[None, :], decoded[last:]])


def _least_by_speed(item: Item, rows: list[int], axes: Axes, last: int) -> IntArray:
    """The least counts whose speeds add up to the demand, shape (P, J)."""
    worths, least = item.worths[rows], item.least[rows]
    carried = np.zeros(1)
    for place, numbers in axes:
        carried = np.add.outer(carried, numbers * worths[place]).ravel()
    enough = item.demand * (1.0 - ROUNDING)
    missing = np.ceil((enough - carried) / max(worths[last], 1e-300))
    top = _within(item, rows[last], missing)
    over = carried + top * worths[last] - enough
    index = np.nonzero((over >= 0) & ((top <= least[last]) | (over < worths[last])))[0]
    counts, over = _with_last(axes, last, index, top[index]), over[index]
    # What is left over is less than any replica that could go.
    spare = np.zeros(len(index), dtype=np.bool_)
    for number, low, worth_ in zip(counts, least.tolist(), worths.tolist(), strict=True):
        spare |= (number > low) & (over >= worth_)
    return counts[:, ~spare].T


def _least_by_number(item: Item, rows: list[int]) -> IntArray:
    """The least counts of which each replica carries an equal part, shape (P, J).

    What the slowest used row is worth says how many replicas there must be: all ways to make up that number
    of rows that are no slower, with one of the slowest at least.
    """
    worths, least = item.worths[rows].tolist(), item.least[rows].tolist()
    most = [item.rows[row].most for row in rows]
    enough = item.demand * (1.0 - 10 * ROUNDING)
    parts = []
    for pace in sorted({worth_ for worth_ in worths if worth_ > 0}):
        used = [place for place, worth_ in enumerate(worths) if worth_ >= pace]
        if any(number for place, number in enumerate(least) if place not in used):
            break  # A slower row that must be used binds at every faster pace too.
        number = max(math.ceil(item.demand / pace - ROUNDING), 1)
        if number * pace < enough:
            number += 1
        number = max(number, sum(least))
        free = number - sum(least)
        ways = sums(free, tuple(min(most[place] - least[place], free) for place in used))
        columns = [column + least[place] for place, column in zip(used, ways, strict=True)]
        slowest = [at for at, place in enumerate(used) if worths[place] == pace]
        slow = sum(columns[at] for at in slowest)
        keep = slow > 0
        fast = [at for at, place in enumerate(used) if (number - 1) * worths[place] >= enough]
        if fast and not any(least[used[at]] for at in slowest):
            # Without the only replica of the slowest row the others are worth more.
            keep &= (slow > 1) | (sum(columns[at] for at in fast) < number - 1)
        counts = np.zeros((int(np.count_nonzero(keep)), len(rows)), dtype=np.int64)
        for at, place in enumerate(used):
            counts[:, place] = columns[at][keep]
        parts.append(counts)
    return np.concatenate(parts) if parts else np.zeros((0, len(rows)), dtype=np.int64)


@functools.lru_cache(maxsize=128)
def sums(total: int, highest: tuple[int, ...]) -> IntArray:
    """All ways to make up a number of terms from 0 to the highest of each, shape (J, P); read-only."""
    last = highest.index(max(highest))
    others = [most + 1 for place, most in enumerate(highest) if place != last]
    tried = np.indices(others).reshape(len(others), math.prod(others))
    rest = total - tried.sum(axis=0)
    keep = (rest >= 0) & (rest <= highest[last])
    made: IntArray = np.insert(tried[:, keep], last, rest[keep], axis=0)
    made.setflags(write=False)
    return made


def _tops(item: Item, rows: list[int]) -> IntArray:
    """Replicas of each row beyond which more are of no use."""
    if not item.limited_share:
        return _useful(item, rows)
    worths, least = item.worths[rows], item.least[rows]
    if item.routing == "round-robin":
        slowest = worths[worths > 0].min(initial=np.inf)
        useful = np.full(len(rows), math.ceil(item.demand / slowest - ROUNDING))
    else:
        useful = np.ceil(item.demand / _positive(worths) - ROUNDING)
    # Others make up for the least of interruptible ones.
    share = max(item.interruptible_share, 1e-9)
    held = least[item.interruptible[rows]]
    forced = held.sum()
    if item.routing == "least-loaded":
        forced = (held * worths[item.interruptible[rows]]).sum() / _positive(worths)
    useful = np.maximum(useful, np.ceil(forced / share))
    return np.clip(np.where(worths > 0, useful, least), least, item.most[rows]).astype(np.int64)


def _useful(item: Item, rows: list[int]) -> IntArray:
    """The same where no share of interruptible rows is bounded."""
    used = [item.rows[row] for row in rows]
    slowest = min((row.worth for row in used if row.worth > 0), default=math.inf)
    tops = []
    for row in used:
        top = row.least
        if row.worth > 0:
            pace = slowest if item.routing == "round-robin" else row.worth
            top = min(max(math.ceil(item.demand / pace - ROUNDING), row.least), row.most)
        tops.append(min(top, row.most))
    return np.array(tops, dtype=np.int64)


def _fill_by_speed(item: Item, rows: list[int], counts: IntArray, last: int) -> IntArray:
    """As many of the last row as carry what the others leave, each by its speed."""
    worths = item.worths[rows]
    carried = counts @ worths
    missing = item.demand * (1.0 - ROUNDING) - carried
    if item.limited_share and not item.interruptible[rows[last]]:
        held = counts @ np.where(item.interruptible[rows], worths, 0.0)
        share = max(item.interruptible_share, 1e-9)
        missing = np.maximum(missing, held / share * (1.0 - ROUNDING) - carried)
    counts[:, last] = _within(item, rows[last], np.ceil(missing / max(worths[last], 1e-300)))
    return counts


def _fill_by_number(item: Item, rows: list[int], counts: IntArray, last: int) -> IntArray:
    """As many of the last row as make each one's equal part small enough: none of it, and some of it."""
    worths = item.worths[rows]
    number = counts.sum(axis=1)
    held = np.zeros(len(counts))
    if item.limited_share and not item.interruptible[rows[last]]:
        share = max(item.interruptible_share, 1e-9)
        held = np.ceil((counts[:, item.interruptible[rows]].sum(axis=1)) / share - ROUNDING)
    slowest = np.where(counts > 0, worths, np.inf).min(axis=1)
    some = counts.copy()
    pace = np.minimum(slowest, worths[last])
    number_needed = np.ceil(item.demand / _positive(pace) - ROUNDING)
    some[:, last] = _within(
        item, rows[last], np.maximum(np.maximum(number_needed, held) - number, 1)
    )
    if item.least[rows[last]] > 0:
        return some
    return np.concatenate([counts, some])


def _within(item: Item, row: int, number: FloatArray) -> IntArray:
    return np.clip(number, item.least[row], item.most[row]).astype(np.int64)


def _positive(numbers: FloatArray) -> FloatArray:
    return np.maximum(numbers, 1e-300)


def _spread(item: Item, rows: list[int], counts: IntArray) -> IntArray:
    if len(rows) == len(item.rows):  # one row of each variant
        return counts
    full = np.zeros((counts.shape[0], len(item.rows)), dtype=np.int64)
    full[:, rows] = counts
    return full


def _enough(item: Item, counts: IntArray) -> BoolArray:
    full: BoolArray = (worth.served(item, counts) >= 1.0) & worth.share_kept(item, counts)
    return full


def _reducible(item: Item, counts: IntArray, rows: list[int]) -> BoolArray:
    """Which plans would still be enough with one replica less."""
    reducible = np.zeros(counts.shape[0], dtype=np.bool_)
    for row in rows:
        fewer = counts.copy()
        fewer[:, row] -= 1
        reducible |= (counts[:, row] > item.least[row]) & _enough(item, fewer)
    return reducible

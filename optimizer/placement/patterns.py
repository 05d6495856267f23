"""Patterns: the least replicas by which an item carries its demand, of which every best plan is made.

A pattern that could give up a replica and still carry the demand costs more and takes more of everything than
the one without it, so it is left out. All counts of all rows but one are tried, and that one row gets as few
as are enough. Where that would be too many patterns the answer is None, and the item stays a program of its
own.
"""

from __future__ import annotations

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
    order = np.lexsort((*(-counts.T), np.round(prices, 9)))
    counts = counts[order]
    return Patterns(counts, prices[order], counts @ item.uses)


def _chosen(item: Item, rows: list[int], choices: int) -> IntArray | None:
    """Patterns that use these rows only, one of each variant; as rows of all of the item's columns."""
    least, most = item.least[rows], item.most[rows]
    if item.demand <= 0:
        return _spread(item, rows, least[None, :])
    if item.routing == "weights":
        need = np.ceil(item.demand * item.weights[rows] / _positive(item.worths[rows]) - ROUNDING)
        return _spread(item, rows, np.clip(need, least, most).astype(np.int64)[None, :])
    tops = _tops(item, rows)
    last = int(np.argmax(tops - least))
    others = [place for place in range(len(rows)) if place != last]
    size = math.prod(int(tops[place] - least[place]) + 1 for place in others)
    if size * choices > LARGEST_GRID:
        return None
    counts = np.zeros((size, len(rows)), dtype=np.int64)
    each = size
    for place in others:
        numbers = np.arange(least[place], tops[place] + 1)
        each //= len(numbers)
        counts[:, place] = np.tile(np.repeat(numbers, each), size // (each * len(numbers)))
    fill = _fill_by_speed if item.routing == "least-loaded" else _fill_by_number
    counts = fill(item, rows, counts, last)
    if item.routing == "least-loaded" and not item.limited_share:
        # The same as below, in one step: what is left over is less than any replica that could go.
        over = counts @ item.worths[rows] - item.demand * (1.0 - ROUNDING)
        spare = (counts > least) & (over[:, None] >= item.worths[rows])
        return _spread(item, rows, counts[(over >= 0) & ~spare.any(axis=1)])
    full = _spread(item, rows, counts)
    full = full[_enough(item, full)]
    return full[~_reducible(item, full, rows)]


def _tops(item: Item, rows: list[int]) -> IntArray:
    """Replicas of each row beyond which more are of no use."""
    worths, least = item.worths[rows], item.least[rows]
    if item.routing == "round-robin":
        slowest = worths[worths > 0].min(initial=np.inf)
        useful = np.full(len(rows), math.ceil(item.demand / slowest - ROUNDING))
    else:
        useful = np.ceil(item.demand / _positive(worths) - ROUNDING)
    if item.limited_share:
        # Others make up for the least of interruptible ones.
        share = max(item.interruptible_share, 1e-9)
        held = least[item.interruptible[rows]]
        forced = held.sum()
        if item.routing == "least-loaded":
            forced = (held * worths[item.interruptible[rows]]).sum() / _positive(worths)
        useful = np.maximum(useful, np.ceil(forced / share))
    return np.clip(np.where(worths > 0, useful, least), least, item.most[rows]).astype(np.int64)


def _fill_by_speed(item: Item, rows: list[int], counts: IntArray, last: int) -> IntArray:
    """As many of the last row as carry what the others leave, each by its speed."""
    worths = item.worths[rows]
    carried = counts @ worths
    wanted = item.demand * (1.0 - ROUNDING) - carried
    if item.limited_share and not item.interruptible[rows[last]]:
        held = counts @ np.where(item.interruptible[rows], worths, 0.0)
        share = max(item.interruptible_share, 1e-9)
        wanted = np.maximum(wanted, held / share * (1.0 - ROUNDING) - carried)
    counts[:, last] = _within(item, rows[last], np.ceil(wanted / max(worths[last], 1e-300)))
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
    wanted = np.ceil(item.demand / _positive(pace) - ROUNDING)
    some[:, last] = _within(item, rows[last], np.maximum(np.maximum(wanted, held) - number, 1))
    if item.least[rows[last]] > 0:
        return some
    return np.concatenate([counts, some])


def _within(item: Item, row: int, wanted: FloatArray) -> IntArray:
    return np.clip(wanted, item.least[row], item.most[row]).astype(np.int64)


def _positive(numbers: FloatArray) -> FloatArray:
    return np.maximum(numbers, 1e-300)


def _spread(item: Item, rows: list[int], counts: IntArray) -> IntArray:
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

"""The largest part of an item's demand that what is left of the resources carries.

It is the largest one of all, so more room never means less: a greedy filling, replica by replica, may be led
by a cheap replica past two others that carry more.
"""

from __future__ import annotations

import math

import numpy as np

from optimizer.placement import worth
from optimizer.placement.patterns import LARGEST_GRID
from optimizer.placement.problem import ROUNDING, FloatArray, IntArray, Item


def most(item: Item, room: FloatArray) -> IntArray | None:
    """Replicas by row that carry most, of which none can go; least replicas need not be kept.

    All counts of all rows but one are tried; that one gets none, or as many as fit. None where that would be
    too many, whatever the room; for length classes; and for an item that is not a group.

    Args:
        item: The item.
        room: What there is of the item's resources, shape (K,).

    """
    if item.routing == "alone" or item.class_demands:
        return None
    fitting = _fitting(item.uses, room[None, :])
    if item.demand <= 0 or not (fitting >= 1.0).any():
        return np.zeros(len(fitting), dtype=np.int64)
    tops = _useful(item)
    # More of an interruptible row may be more than its share, so its numbers are tried.
    shared = item.limited_share and item.routing != "weights"
    able = np.flatnonzero(~item.interruptible) if shared else np.arange(len(tops))
    if not len(able):
        return np.zeros(len(tops), dtype=np.int64)
    last = int(able[tops[able].argmax()])
    if (
        math.prod(top + 1 for place, top in enumerate(tops.tolist()) if place != last)
        > LARGEST_GRID
    ):
        return None
    tops = np.minimum(tops, fitting).astype(np.int64)
    axes = [
        range(top + 1) if place != last else range(1) for place, top in enumerate(tops.tolist())
    ]
    counts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(tops))
    counts = counts[(counts @ item.uses <= room).all(axis=1)]
    filled = counts.copy()
    left = np.maximum(room - counts @ item.uses, 0.0)
    filled[:, last] = np.minimum(_fitting(item.uses[last][None, :], left), tops[last])
    counts = np.concatenate([counts, filled])
    for rows in item.variants():
        if len(rows) > 1:  # one accelerator at a time
            counts = counts[(counts[:, rows] > 0).sum(axis=1) <= 1]
    counts = counts[worth.share_kept(item, counts)]
    order = np.lexsort((item.prices(counts), -worth.served(item, counts)))
    return _trimmed(item, counts[order[0]])


def _trimmed(item: Item, counts: IntArray) -> IntArray:
    """The same without replicas that add nothing, the dearest first."""
    enough = float(worth.served(item, counts[None, :])[0]) * (1.0 - ROUNDING)
    for row in np.argsort(-item.unit_costs, kind="stable").tolist():
        fewer = np.repeat(counts[None, :], counts[row] + 1, axis=0)
        fewer[:, row] = np.arange(counts[row] + 1)
        fewer = fewer[worth.share_kept(item, fewer)]
        counts = fewer[worth.served(item, fewer) >= enough][0]
    return counts


def _useful(item: Item) -> IntArray:
    """Replicas of each row beyond which more carry no more, shape (J,)."""
    worths = item.worths
    pace = worths
    if item.routing == "round-robin":
        pace = np.full(len(worths), worths[worths > 0].min(initial=np.inf))
    number = np.ceil(item.demand / np.where(worths > 0, pace, np.inf) - ROUNDING)
    return np.minimum(np.maximum(number, worths > 0), item.most).astype(np.int64)


def _fitting(uses: FloatArray, room: FloatArray) -> FloatArray:
    """Replicas that fit, each of which takes so much; infinite where it takes nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        number = np.where(uses > 0, room / uses, np.inf)
    fitting: FloatArray = np.floor(np.maximum(number, 0.0)).min(axis=1, initial=np.inf)
    return fitting

"""Patterns of one item up to a price, found without trying all counts.

Rows are added one after another, those that carry least for their price first. What is still to be carried
costs at least the best price per worth of the rows to come, so that a beginning whose bound is above the
limit is given up. This is branch and bound by breadth, on arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optimizer.placement import worth
from optimizer.placement.problem import ROUNDING, TIE, BoolArray, FloatArray, IntArray, Item

LARGEST = 200_000
"""Beginnings that are followed at once at most."""


class Loaded(NamedTuple):
    """Prices of the rows of an item.

    Attributes:
        each: price of one replica of each row, with what its resources are worth; shape (J,).
        started: price of starting one more than what runs, shape (J,).
        moved: price of moving to the row, shape (J,).

    """

    each: FloatArray
    started: FloatArray
    moved: FloatArray

    def of(self, item: Item, row: int, counts: FloatArray) -> FloatArray:
        """Price of that many replicas of one row."""
        price: FloatArray = counts * self.each[row]
        if self.started[row]:
            price = price + self.started[row] * np.maximum(counts - item.rows[row].running, 0)
        if self.moved[row]:
            price = price + self.moved[row] * (counts > 0)
        return price

    def total(self, item: Item, counts: IntArray) -> FloatArray:
        """Prices of P plans, shape (P, J) to (P,)."""
        total = np.zeros(counts.shape[0])
        for row in range(len(item.rows)):
            total += self.of(item, row, counts[:, row].astype(np.float64))
        return total


def loaded(item: Item, duals: FloatArray, factor: float = 1.0) -> Loaded:
    """Prices times a factor, plus what the item's resources are worth at their duals, shape (K,)."""
    moved_each = np.array([row.moved_each for row in item.rows])
    started = np.zeros(len(item.rows))
    if item.routing != "alone":
        started = item.unit_costs * max(item.hysteresis, TIE)
    return Loaded(
        each=factor * (item.unit_costs + moved_each) + item.uses @ duals,
        started=factor * started,
        moved=factor * np.array([row.moved for row in item.rows]),
    )


def can_list(item: Item) -> bool:
    """Whether `near` knows the item: one row for each variant, each replica worth the same."""
    return (
        not item.class_demands
        and item.routing in ("least-loaded", "round-robin")
        and len({row.variant for row in item.rows}) == len(item.rows)
    )


def near(item: Item, prices: Loaded, above: float) -> IntArray | None:
    """Patterns whose price is at most `above` more than the least; None where they are too many."""
    if item.demand <= 0:
        return item.least[None, :]
    speeds = _speeds(item)
    counts = _least(item, prices, speeds)
    if counts is None or not counts.shape[0]:
        return counts
    limit = float(prices.total(item, counts).min())
    limit += 1e-9 * max(abs(limit), 1.0)
    if above > 0:
        listed = _listed(item, prices, speeds, limit + above)
        if listed is None:
            return None
        counts = listed
    total = prices.total(item, counts)
    near_best: IntArray = counts[total <= limit + above]
    return near_best


def _least(item: Item, prices: Loaded, speeds: Sequence[float]) -> IntArray | None:
    """Patterns of which one has the least price; None where they are too many."""
    if item.routing == "round-robin" and not item.limited_share and not prices.moved.any():
        plans = [plan for speed in speeds if (plan := _even(item, prices, speed)) is not None]
        return np.array(plans, dtype=np.int64).reshape(len(plans), len(item.rows))
    top = min(_cover(item, prices, speed) for speed in speeds)
    low = min(_relaxed(item, prices, speed) for speed in speeds)
    counts = np.zeros((0, len(item.rows)), dtype=np.int64)
    for part in (1 / 64, 1 / 8, 1.0):
        # By limits that rise from the relaxation's: a low one leaves little to do.
        limit = low + part * (top - low) if math.isfinite(top) else top
        listed = _listed(item, prices, speeds, limit)
        if listed is None:
            return None
        counts = listed
        if counts.shape[0] or not math.isfinite(top):
            break
    return counts


def _even(item: Item, prices: Loaded, speed: float) -> list[int] | None:
    """The cheapest plan in which each replica carries what one of the speed does; None where there is none.

    All replicas are worth the same, so the cheapest ones are the best: those that run, then those to start.
    """
    counts = item.least.tolist()
    worths, most = item.worths.tolist(), item.most.tolist()
    if any(count and worth_ < speed for count, worth_ in zip(counts, worths, strict=True)):
        return None
    missing = math.ceil(item.demand / speed - ROUNDING) - sum(counts)
    kinds = []
    for at, row in enumerate(item.rows):
        if worths[at] >= speed:
            each, started = float(prices.each[at]), float(prices.started[at])
            there = min(max(row.running - counts[at], 0), most[at] - counts[at])
            kinds += [(each, at, there), (each + started, at, most[at] - counts[at] - there)]
    for _, at, number in sorted(kinds):
        if missing <= 0:
            break
        counts[at] += min(number, missing)
        missing -= min(number, missing)
    return counts if missing <= 0 else None


def _listed(item: Item, prices: Loaded, speeds: Sequence[float], limit: float) -> IntArray | None:
    parts: list[IntArray] = []
    for speed in speeds:
        part = _within(item, prices, speed, limit)
        if part is None:
            return None
        parts.append(part)
    near_best: IntArray = parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts), axis=0)
    return near_best


def _relaxed(item: Item, prices: Loaded, speed: float) -> float:
    """A price that no plan of one speed is below: least replicas, and parts of the best one for the rest."""
    worths = _worths(item, speed)
    some = worths > 0
    if not some.any():
        return math.inf
    rest = max(item.demand - float(item.least @ worths), 0.0)
    return float(item.least @ prices.each) + rest * float((prices.each[some] / worths[some]).min())


def _worths(item: Item, speed: float) -> FloatArray:
    """What a replica of each row is worth, where the slowest used one has the speed; 0: each its own."""
    if not speed:
        return item.worths
    return np.where(item.worths >= speed, speed, 0.0)


def relaxed(item: Item, prices: Loaded) -> float:
    """A price that no plan is below; infinite where there is none."""
    return min(_relaxed(item, prices, speed) for speed in _speeds(item))


def cover(item: Item, prices: Loaded, room: FloatArray | None = None) -> IntArray:
    """The cheaper of the plans that take the best row first, at each speed; shape (1, J) or (0, J).

    Args:
        item: The item.
        prices: Prices of its rows.
        room: What there is of the item's resources, shape (K,); None for no end of them.

    """
    best, chosen = math.inf, np.zeros((0, len(item.rows)), dtype=np.int64)
    for speed in _speeds(item):
        counts = _covered(item, prices, speed, room)
        if counts is not None and (price := float(prices.total(item, counts)[0])) < best:
            best, chosen = price, counts
    return chosen


def _speeds(item: Item) -> list[float]:
    if item.routing != "round-robin":
        return [0.0]
    return sorted({float(speed) for speed in item.worths if speed > 0})


def _cover(item: Item, prices: Loaded, speed: float) -> float:
    """Price of one plan that carries the demand; infinite where the greedy one does not."""
    counts = _covered(item, prices, speed)
    return math.inf if counts is None else float(prices.total(item, counts)[0]) * (1.0 + 1e-9)


def _covered(
    item: Item, prices: Loaded, speed: float, room: FloatArray | None = None
) -> IntArray | None:
    worths = _worths(item, speed)
    if speed and (item.least[worths <= 0] > 0).any():
        return None
    counts = item.least.copy()
    rest = item.demand - float(counts @ worths)
    if item.limited_share:
        return None
    ratio = np.where(worths > 0, prices.each / np.maximum(worths, 1e-300), np.inf)
    for row in np.argsort(ratio, kind="stable").tolist():
        if rest <= 0 or worths[row] <= 0:
            break
        more = min(math.ceil(rest / worths[row] - ROUNDING), int(item.most[row] - counts[row]))
        if room is not None:
            more = min(more, _fitting(item.uses[row], room - counts @ item.uses))
        counts[row] += more
        rest -= more * float(worths[row])
    if rest > ROUNDING * item.demand:
        return None
    if room is not None and (counts @ item.uses > room).any():
        return None
    return counts[None, :]


def _fitting(uses: FloatArray, room: FloatArray) -> int:
    """Replicas that fit, each of which takes so much."""
    some = uses > 0
    if not some.any():
        return int(np.iinfo(np.int64).max)
    return max(int((room[some] / uses[some]).min()), 0)


def _within(item: Item, prices: Loaded, speed: float, limit: float) -> IntArray | None:
    """Plans of one speed that carry the demand at a price up to the limit."""
    worths = _worths(item, speed)
    empty = np.zeros((0, len(item.rows)), dtype=np.int64)
    if speed and (item.least[worths <= 0] > 0).any():
        return empty
    ratio = np.where(worths > 0, prices.each / np.maximum(worths, 1e-300), np.inf)
    order = np.argsort(-ratio, kind="stable").tolist()
    counts = np.zeros((1, len(item.rows)), dtype=np.int64)
    price, rest = np.zeros(1), np.full(1, item.demand)
    least_price = [
        float(prices.of(item, row, item.least[row : row + 1].astype(np.float64))[0])
        for row in order
    ]
    for place, row in enumerate(order):
        last = place == len(order) - 1
        low, high = int(item.least[row]), int(item.most[row])
        base = low if worths[row] <= 0 else None
        if base is not None:
            numbers, owners = np.full(len(price), base), np.arange(len(price))
        elif last:
            numbers = np.clip(np.ceil(rest / worths[row] - ROUNDING), low, high).astype(np.int64)
            numbers = np.maximum(numbers, _dilution(item, counts, worths, row))
            numbers, owners = np.minimum(numbers, high), np.arange(len(price))
        else:
            useful = np.ceil(np.maximum(rest, 0.0) / worths[row] - ROUNDING)
            if item.limited_share:
                useful = np.maximum(useful, np.ceil(item.demand / worths[row]))
            later = order[place + 1 :]
            best = float(ratio[later].min())
            # More of this row instead of the best to come is dearer by the slope for each replica.
            slope = prices.each[row] - (best * worths[row] if math.isfinite(best) else 0.0)
            bound = price + (best * np.maximum(rest, 0.0) if math.isfinite(best) else 0.0)
            slack = limit - bound
            if slope > 1e-12 and math.isfinite(limit):
                useful = np.minimum(useful, np.floor(np.maximum(slack, 0.0) / slope + ROUNDING))
            tops = np.clip(np.maximum(useful, low), low, high).astype(np.int64)
            sizes = tops - low + 1
            if int(sizes.sum()) > LARGEST:
                return None
            owners = np.repeat(np.arange(len(price)), sizes)
            starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
            numbers = np.arange(int(sizes.sum())) - starts + low
        counts = counts[owners]
        counts[:, row] = numbers
        price = price[owners] + prices.of(item, row, numbers.astype(np.float64))
        rest = rest[owners] - numbers * worths[row]
        later = order[place + 1 :]
        keep = _promising(
            price,
            rest,
            float(ratio[later].min()) if later else math.inf,
            sum(least_price[place + 1 :]),
            limit,
            last=not later,
        )
        counts, price, rest = counts[keep], price[keep], rest[keep]
    enough = (worth.served(item, counts) >= 1.0) & worth.share_kept(item, counts)
    return counts[enough]


def _promising(
    price: FloatArray, rest: FloatArray, best: float, least: float, limit: float, *, last: bool
) -> BoolArray:
    """Which beginnings can still end within the limit."""
    slack = limit + 1e-9 * max(abs(limit), 1.0) if math.isfinite(limit) else limit
    if last:
        within: BoolArray = price <= slack
        return within
    lowest = np.full(len(price), least)
    if math.isfinite(best):
        lowest = np.maximum(lowest, best * np.maximum(rest, 0.0))
    else:
        within = rest <= ROUNDING * np.maximum(np.abs(rest), 1.0)
        within &= price + lowest <= slack
        return within
    promising: BoolArray = price + lowest <= slack
    return promising


def _dilution(item: Item, counts: IntArray, worths: FloatArray, row: int) -> IntArray:
    """Replicas of one row that make the part of interruptible ones small enough."""
    if not item.limited_share or item.interruptible[row]:
        return np.zeros(counts.shape[0], dtype=np.int64)
    share = max(item.interruptible_share, 1e-9)
    each = worths if item.routing == "least-loaded" else np.ones(len(worths))
    held = counts @ np.where(item.interruptible, each, 0.0)
    others = counts @ np.where(item.interruptible, 0.0, each)
    needed: IntArray = np.ceil(
        (held * (1.0 - share) / share - others) / each[row] - ROUNDING
    ).astype(np.int64)
    return needed

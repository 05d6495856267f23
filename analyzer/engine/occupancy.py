"""Numbers of requests that hold a slot in the batch, and how many others wait for one.

A birth-death chain, w(n) = w(n - 1) (base / n + slope), which is a negative binomial distribution: requests
that slow each other down in proportion to their number have it, and those that come in clusters nearly. Its
states may stand for more than one request each, so the number of slots is no whole one: the last is taken in
part.

Up-crossings: of the arrivals, which are Poisson, each finds the last slot taken with the chance w of that
state, and then load / (1 - load) others come on average before a slot is free again (Wald), whatever varies.
Who is held back leaves no earlier, so no fewer wait than would run beyond the last slot.

Many rows are worked on state by state, few of them as a table: calls then cost more than numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analyzer.replicas import FloatArray

FULL = 0.9995
"""Largest load that counts as stable."""

_FEW = 256
"""Rows up to which a table is faster."""

_TOGETHER = 16
"""States that are summed together, after which weights are scaled to a sum of 1: products of many could leave
the range of floats. So few, for 4096 rows, one thread of the linear algebra library multiplies."""

LARGEST = 1e280
"""Largest weight whose sums, with squares of numbers, stay in the range of floats."""

SMALLEST = 1e-280
"""Keeps weights normal floats, with which processors are fast."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Occupancy:
    """Steady state of the chain, each of shape (M,), in slots of the chain.

    Attributes:
        mean: mean of the numbers, and `variance` likewise.
        waits: share of arrivals that find no slot.

    """

    mean: FloatArray
    variance: FloatArray
    waits: FloatArray


def occupancy(
    base: FloatArray,
    slope: FloatArray,
    slots: FloatArray,
    load: FloatArray,
    queue: FloatArray,
) -> Occupancy:
    """Steady state.

    Args:
        base: shape (M,), > -slope at a rate > 0.
        slope: shape (M,), >= 0.
        slots: shape (M,), >= 1.
        load: shape (M,), that of all slots.
        queue: shape (M,), weight of full slots with and without others that wait, over the latter's.

    """
    last = np.ceil(slots) - 1.0
    partly = slots - last
    ratio = base / slots + slope
    # The ratio of the last slot, which is parts of two states: no jump where slots are whole numbers.
    end = np.maximum(ratio, load)
    below = np.maximum(base / np.maximum(last, 1.0) + slope, SMALLEST)
    chain = _Chain(base, slope, last, partly, end * below ** (partly - 1.0))
    full, total, first, second = _table(chain) if slots.size <= _FEW else _by_state(chain)
    tail = full * np.maximum(queue, 1.0 / (1.0 - np.minimum(ratio, FULL)))
    total = total + tail
    mean = (first + slots * tail) / total
    square = (second + slots * slots * tail) / total
    return Occupancy(mean=mean, variance=np.maximum(square - mean * mean, 0.0), waits=tail / total)


class _Chain(NamedTuple):
    """Arrays of shape (M,): parts of the ratio, the last whole state, the part of the next, and its ratio."""

    base: FloatArray
    slope: FloatArray
    last: FloatArray
    partly: FloatArray
    final: FloatArray


_Sums = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


def _table(chain: _Chain) -> _Sums:
    """Weight of full batches; sums of weights below, of weights times numbers, and times squares."""
    base, slope, last, partly, final = chain
    counts = np.arange(last.max() + 1.0)
    states = counts[1:]
    ratio = np.ones((base.size, counts.size))
    np.divide(base[:, None], states, out=ratio[:, 1:])
    ratio[:, 1:] += slope[:, None]
    ratio *= counts <= last[:, None]
    weights = products(ratio)
    rows = np.arange(base.size)
    ends = last.astype(np.intp)
    full = weights[rows, ends] * final
    weights[rows, ends] *= partly
    return full, weights.sum(axis=1), weights @ counts, weights @ (counts * counts)


def products(ratio: FloatArray) -> FloatArray:
    """Products along each row, (M, N), divided by a number of its own where they overflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        weights = np.cumprod(ratio, axis=1)
        beyond = np.flatnonzero(~(weights.max(axis=1) < LARGEST))
        if beyond.size:
            logs = np.cumsum(np.log(ratio[beyond]), axis=1)
            weights[beyond] = np.exp(logs - logs.max(axis=1)[:, None])
    return np.asarray(weights)


def _by_state(chain: _Chain) -> _Sums:
    """The same state by state, over the rows that have so many slots; some states at a time are summed."""
    order = np.argsort(chain.last, kind="stable")
    base, slope, last, partly, final = (values[order] for values in chain)
    most = int(last.max())
    begins = np.searchsorted(last, np.arange(most + 2)).tolist()
    full, before = np.zeros_like(base), np.ones_like(base)
    sums = np.zeros((3, base.size))
    weights, ratio = np.zeros((_TOGETHER, base.size)), np.empty_like(base)
    powers = np.ones((3, _TOGETHER))
    for first in range(0, most + 1, _TOGETHER):
        start, after = begins[first], min(first + _TOGETHER, most + 1)
        for n in range(first, after):
            begin, end = begins[n], begins[n + 1]
            here = weights[n - first, begin:]
            if n:
                its = np.multiply(base[begin:], 1.0 / n, out=ratio[begin:])
                its += slope[begin:]
                np.multiply(its, before[begin:], out=here)
                here += SMALLEST
            else:
                here[:] = 1.0
            before = weights[n - first]
            if end > begin:
                full[begin:end] = before[begin:end] * final[begin:end]
                # No row that ends here has a further state.
                before[begin:end] *= partly[begin:end]
                weights[n - first + 1 :, begin:end] = 0.0
        powers[1] = np.arange(float(first), float(first + _TOGETHER))
        powers[2] = powers[1] * powers[1]
        some = after - first
        sums[:, start:] += powers[:, :some] @ weights[:some, start:]
        shrink = 1.0 / sums[0, begins[after] :]
        before[begins[after] :] *= shrink
        sums[:, begins[after] :] *= shrink
    back = np.empty_like(order)
    back[order] = np.arange(order.size)
    total, numbers, squares = sums[:, back]
    return full[back], total, numbers, squares

"""Numbers of requests that hold a slot in the batch, and how long others wait for one.

A birth-death chain: n requests last T(n) = base + slope n + root sqrt(n), so w(n) = w(n - 1) rate T(n) / n;
beyond the last slot the queue is geometric. What makes the numbers vary more than Poisson arrivals do is
taken in by Hayward's approximation: crowding z turns N slots into N / z, each of which stands for z
requests. N / z is no whole number: the last slot is taken in part.

Many rows are worked on state by state, few of them as a table: calls then cost more than numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analyzer.replicas import FloatArray

FULL = 0.9995
"""Largest load that counts as stable."""

_FEW = 256
"""Rows up to which a table is faster."""

_RESCALED = 32
"""States after which weights are scaled to a sum of 1: products of more could leave the range of floats."""

LARGEST = 1e280
"""Largest weight whose sums, with squares of numbers, stay in the range of floats."""

_SMALLEST = 1e-280
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
    root: FloatArray,
    slots: FloatArray,
    load: FloatArray,
    beyond: FloatArray,
) -> Occupancy:
    """Steady state; `base`, `slope` and `root` are rate times those of T, `load` is that of all slots.

    Args:
        base: shape (M,), > 0 at a rate > 0.
        slope: shape (M,).
        root: shape (M,).
        slots: shape (M,), >= 1.
        load: shape (M,); beyond `FULL` it counts as that.

    """
    last = np.ceil(slots) - 1.0
    ratio = base / slots + slope + root / np.sqrt(slots)
    end = np.maximum(ratio, load)
    chain = _Chain(base, slope, root, last, slots - last, end ** (slots - last))
    full, total, first, second = _table(chain) if slots.size <= _FEW else _by_state(chain)
    # Who is held back leaves no earlier: at least as many wait as would run beyond the last slot.
    tail = full * np.maximum(beyond, 1.0 / (1.0 - np.minimum(ratio, FULL)))
    total = total + tail
    mean = (first + slots * tail) / total
    square = (second + slots * slots * tail) / total
    return Occupancy(mean=mean, variance=np.maximum(square - mean * mean, 0.0), waits=tail / total)


class _Chain(NamedTuple):
    """Arrays of shape (M,): T, the last whole state, the part of the next, and its ratio of weights."""

    base: FloatArray
    slope: FloatArray
    root: FloatArray
    last: FloatArray
    partly: FloatArray
    final: FloatArray


_Sums = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


def _table(chain: _Chain) -> _Sums:
    """Weight of full batches; sums of weights below, of weights times numbers, and times squares."""
    base, slope, root, last, partly, final = chain
    counts = np.arange(last.max() + 1.0)
    states = counts[1:]
    ratio = np.ones((base.size, counts.size))
    np.divide(base[:, None], states, out=ratio[:, 1:])
    ratio[:, 1:] += slope[:, None]
    if root.any():
        ratio[:, 1:] += root[:, None] / np.sqrt(states)
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
    """The same state by state, over the rows that have so many slots."""
    order = np.argsort(chain.last, kind="stable")
    base, slope, root, last, partly, final = (values[order] for values in chain)
    most = int(last.max())
    begins = np.searchsorted(last, np.arange(most + 2))
    rooted = bool(root.any())
    weight = np.ones_like(base)
    full, total, first, second = (np.zeros_like(base) for _ in range(4))
    for n in range(most + 1):
        begin, end = begins[n], begins[n + 1]
        if n:
            ratio = base[begin:] / n
            ratio += slope[begin:]
            if rooted:
                ratio += root[begin:] / math.sqrt(n)
            ratio *= weight[begin:]
            ratio += _SMALLEST
            weight[begin:] = ratio
        if end > begin:
            full[begin:end] = weight[begin:end] * final[begin:end]
            weight[begin:end] *= partly[begin:end]
        part = weight[begin:].copy()
        total[begin:] += part
        part *= n
        first[begin:] += part
        part *= n
        second[begin:] += part
        if n % _RESCALED == _RESCALED - 1:
            shrink = 1.0 / total[end:]
            for values in (weight, total, first, second):
                values[end:] *= shrink
    back = np.empty_like(order)
    back[order] = np.arange(order.size)
    return full[back], total[back], first[back], second[back]

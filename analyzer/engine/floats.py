"""The formulas of this package on floats: one replica without arrays.

A call of numpy takes ten times as long as a number, and one replica at one rate takes hundreds of them. The
modules of formulas are loaded once more, with `np` standing for functions of floats: there is one text of
every formula, and what it gives for one replica is what it gives for rows of many, up to float noise.

Where floats raise what arrays carry on with as infinity or NaN (ArithmeticError, ValueError), arrays answer.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import ModuleType
from typing import Any, cast

import numpy as np

from analyzer.engine import first_token, nodes, occupancy
from analyzer.replicas import FloatArray

_COUNTS = np.arange(2.0**13)
_SQUARES = _COUNTS * _COUNTS
_INVERSE = 1.0 / _COUNTS[1:]
_SMALL_LOG = 600.0
_ROOT_HALF = math.sqrt(0.5)


class Floats:
    """The functions of numpy that formulas call, for floats."""

    pi = math.pi
    maximum = max
    minimum = min
    asarray = float
    any = bool
    abs = abs
    exp = math.exp
    expm1 = math.expm1
    log = math.log
    log1p = math.log1p
    sqrt = math.sqrt
    cbrt = math.cbrt
    logical_not = operator.not_

    @staticmethod
    def ones_like(value: float) -> float:  # noqa: ARG004 - as numpy has it
        """One."""
        return 1.0

    @staticmethod
    def zeros_like(value: float) -> float:  # noqa: ARG004 - as numpy has it
        """Nothing."""
        return 0.0

    @staticmethod
    def floor(value: float) -> float:
        """Whole numbers stay floats."""
        return float(math.floor(value))

    @staticmethod
    def clip(value: float, least: float, most: float) -> float:
        """Nearest number within the bounds."""
        return least if value < least else min(value, most)

    @staticmethod
    def where(condition: object, one: Any, other: Any) -> Any:
        """One of the two."""
        return one if condition else other


@dataclass(frozen=True, slots=True)
class Formulas:
    """Modules of formulas on floats.

    Attributes:
        columns: `Engines`, whose `_fill` takes floats by name.
        state: `at_rate`.
        percentiles: `means` and `latency`.
        search: `excess`.
        kept_free: `held`, `most_kept`, `reserve` and `drained`.

    """

    columns: Any
    state: Any
    percentiles: Any
    search: Any
    kept_free: Any


@functools.cache
def formulas() -> Formulas:
    """The modules, loaded at the first call."""
    lengths = _on_floats(
        "nodes",
        NODES=tuple(nodes.NODES.ravel().tolist()),
        BIN_TOKENS=tuple(nodes.BIN_TOKENS.ravel().tolist()),
        BIN_ENDS=tuple(nodes.BIN_ENDS.ravel().tolist()),
        differences=_differences,
        at_nodes=_at_nodes,
        mixed=_weighted,
    )
    below = lengths.below
    fill = _on_floats("crowding", below=below)
    state = _on_floats("state", occupancy=_occupancy, below=below, beside=fill.beside)

    def below_each(at: float, spread: float) -> tuple[float, float, float, float]:
        twice = at + 2.0 * spread
        return below(at), below(at + spread), below(twice), below(twice + spread)

    vars(state).update(below_each=below_each)
    first = _on_floats(
        "first_token",
        weighted=_weighted,
        normal=_normal,
        log_gamma=math.lgamma,
        POINTS=tuple(first_token.POINTS.ravel().tolist()),
        POINT_WEIGHTS=tuple(first_token.POINT_WEIGHTS.tolist()),
    )
    tokens = _on_floats(
        "token_times",
        weighted=_weighted,
        at_nodes=_at_nodes,
        largest=_largest,
        normal=_normal,
        mixed=_weighted,
        NODE_WEIGHTS=tuple(nodes.NODE_WEIGHTS.tolist()),
        SHORT_DECODES=tuple(nodes.SHORT_DECODES.ravel().tolist()),
    )
    return Formulas(
        columns=_on_floats(
            "columns",
            answers=lengths.answers,
            crowding=fill.crowding,
            fuller=fill.fuller,
            uneven_departures=fill.uneven_departures,
        ),
        state=state,
        percentiles=_on_floats(
            "percentiles",
            FirstToken=first.FirstToken,
            TokenTimes=tokens.TokenTimes,
            token_times=tokens,
        ),
        search=_on_floats("search"),
        kept_free=_on_floats("kept_free", score=NormalDist().inv_cdf),
    )


def _on_floats(name: str, **instead: object) -> ModuleType:
    """A copy of a module of this package with other names in it; `sys.modules` keeps the original."""
    spec = importlib.util.find_spec(f"analyzer.engine.{name}")
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it is beside us
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    unknown = instead.keys() - vars(module).keys()
    assert not unknown, f"{name} has no {unknown}"  # noqa: S101 - a name that nothing would read
    vars(module).update(np=Floats, **instead)
    return module


def _weighted(
    function: Callable[[Any], float], weights: Sequence[float], nodes: Sequence[Any]
) -> float:
    total = 0.0
    for weight, node in zip(weights, nodes, strict=True):
        if weight:
            total += weight * function(node)
    return total


def _differences(bins: Sequence[float], own: Sequence[float]) -> tuple[float, ...]:
    before = (0.0, *own)
    return tuple(
        max(share - (end - start), 0.0)
        for share, start, end in zip(bins, before, own, strict=False)
    )


def _at_nodes(function: Callable[[float], Any], nodes: Sequence[float]) -> tuple[Any, ...]:
    return tuple(map(function, nodes))


def _largest(function: Callable[[Any], float], nodes: Sequence[Any]) -> float:
    return max(map(function, nodes))


def _normal(score: float) -> float:
    return 0.5 * math.erfc(-score * _ROOT_HALF)


def _occupancy(
    base: float, slope: float, slots: float, load: float, queue: float
) -> occupancy.Occupancy:
    """Steady state as `occupancy.occupancy` has it."""
    last = math.ceil(slots) - 1
    partly = slots - last
    ratio = base / slots + slope
    end = max(ratio, load)
    counts, squares, inverse = _numbers(last)
    weights = _weights(base, slope, counts, inverse)
    below = max(base / max(last, 1.0) + slope, occupancy.SMALLEST)
    full = float(weights[last]) * end * below ** (partly - 1.0)
    weights[last] *= partly
    tail = full * max(queue, 1.0 / (1.0 - min(ratio, occupancy.FULL)))
    total = float(weights.sum()) + tail
    mean = (float(weights @ counts) + slots * tail) / total
    square = (float(weights @ squares) + slots * slots * tail) / total
    # Of floats, as everything here.
    made: Any = occupancy.Occupancy
    return cast(
        "occupancy.Occupancy",
        made(mean=mean, variance=max(square - mean * mean, 0.0), waits=tail / total),
    )


def _numbers(last: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """0 to `last`, their squares, and the inverse of those from 1 on."""
    if last < _COUNTS.size:
        return _COUNTS[: last + 1], _SQUARES[: last + 1], _INVERSE[:last]
    counts = np.arange(last + 1.0)
    return counts, counts * counts, 1.0 / counts[1:]


def _weights(base: float, slope: float, counts: FloatArray, inverse: FloatArray) -> FloatArray:
    """Weights of the numbers; the first is 1 where none is too large."""
    ratio = np.empty(counts.size)
    ratio[0] = 1.0
    states = ratio[1:]
    np.multiply(inverse, base, out=states)
    states += slope
    # All of them have the sum (1 - slope) ** (-base / slope), whose logarithm is less than this.
    if base < _SMALL_LOG * (1.0 - slope):
        weights: FloatArray = np.multiply.accumulate(ratio)
        return weights
    with np.errstate(over="ignore"):
        weights = np.multiply.accumulate(ratio)
    if weights.max() < occupancy.LARGEST:
        return weights
    return np.asarray(occupancy.products(ratio[None, :])[0])

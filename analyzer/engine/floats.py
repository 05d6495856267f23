"""The formulas of this package on floats: one replica without arrays.

A call of numpy takes ten times as long as a number, and one replica at one rate takes hundreds of them. The
modules of formulas are loaded once more, with `np` standing for functions of floats: there is one text of
every formula, and what it gives for one replica is what it gives for rows of many, up to float noise.

Where floats raise what arrays carry on with as infinity or NaN (ArithmeticError, ValueError), arrays answer.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import ModuleType
from typing import Any, cast

import numpy as np

from analyzer.compiling.terms import Functions, Notes, Term, normal
from analyzer.engine import columns, first_token, nodes, occupancy
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
        kept_free: `held`, `most_kept` and `drained`.

    """

    columns: Any
    state: Any
    percentiles: Any
    search: Any
    kept_free: Any


@functools.cache
def formulas() -> Formulas:
    """The modules, loaded at the first call."""
    below = _on_floats("nodes").below
    state = _on_floats("state", occupancy=_occupancy, below=below, **_moments(below))
    first, tokens = _latencies(_on_floats, _normal, math.lgamma)
    return Formulas(
        columns=_columns_module(_on_floats, Floats),
        state=state,
        percentiles=_percentiles(_on_floats, first, tokens),
        search=_on_floats("search"),
        kept_free=_on_floats("kept_free", score=NormalDist().inv_cdf),
    )


Test = Callable[[float, bool, bool], tuple[bool, float, float, float]]
"""Test of a rate, requests per second: whether it is stable, who waits for a slot, misses of TTFT and ITL.

Of means the latency over the target, of percentiles the misses over those allowed; 0 where not asked for.
"""


@functools.cache
def compiled_test(*, tails: bool, short: bool) -> Callable[[Any, Any], Test]:
    """Function of columns on floats and of targets (`search.Targets`), by the formulas without their calls.

    Args:
        tails: Whether targets are percentiles.
        short: Whether shares of short answers are known.

    """
    notes = Notes()
    load = functools.partial(_module, functions=Functions(notes))
    below = load("nodes").below
    state = load(
        "state",
        occupancy=functools.partial(_noted_occupancy, notes),
        below=below,
        **_moments(below),
    )
    first, tokens = _latencies(load, normal(notes), notes.log_gamma)
    percentiles = _percentiles(load, first, tokens)
    engine: Any = _Noted(notes, load("columns").Engines.decode_ms, short=short)
    ttft_ms, itl_ms, percentile = (
        notes.named(f"targets.{name}", once=True) for name in ("ttft_ms", "itl_ms", "percentile")
    )
    at = state.at_rate(engine, notes.named("rate", once=False))
    if tails:
        prompts = percentiles.FirstToken.of(engine, at.prompts)
        ttft = percentiles.ttft_exceeds(prompts, at, ttft_ms) / (1.0 - percentile)
        itl = percentiles.TokenTimes.of(engine, at).exceeds(itl_ms) / (1.0 - percentile)
    else:
        mean_ttft, mean_itl = percentiles.means(engine, at)
        ttft, itl = mean_ttft / ttft_ms, mean_itl / itl_ms
    return notes.compiled([at.stable, at.slot_waits], {"late": [ttft], "slow": [itl]})


@functools.cache
def columns_of(*, short: bool) -> Callable[[dict[str, float], tuple[float, ...]], Any]:
    """Function of parameters by name and shares of bins: `columns.Engines` of floats.

    Args:
        short: Whether the bins have shares.

    """
    notes = Notes()
    load = functools.partial(_module, functions=Functions(notes))
    made = _columns_module(load, Functions(notes)).Engines
    noted = made.__new__(made)
    given = {name: notes.named(f"engine[{name!r}]", once=True) for name in columns.COLUMNS}
    bins = [notes.named(f"targets[{at}]", once=True) for at in range(len(nodes.BIN_ENDS))]
    noted._fill(given, tuple(bins if short else ()))  # noqa: SLF001 - terms instead of columns
    known: dict[str, Any] = vars(noted)
    single: dict[str, Term] = {}
    rows: dict[str, tuple[Term, ...]] = {}
    for kind, names in ((Term, single), (tuple, rows)):
        for name in [name for name, value in known.items() if isinstance(value, kind)]:
            names[name] = known.pop(name)
    every = [*single.values(), *itertools.chain.from_iterable(rows.values())]
    fill, engines = notes.compiled(every, {}), formulas().columns.Engines

    def filled(given: dict[str, float], bins: tuple[float, ...]) -> Any:
        values = fill(given, bins)(0.0)
        engine = engines.__new__(engines)
        vars(engine).update(known)
        vars(engine).update(zip(single, values, strict=False))
        rest = iter(values[len(single) :])
        for name, terms in rows.items():
            setattr(engine, name, tuple(itertools.islice(rest, len(terms))))
        return engine

    return filled


def _columns_module(load: Callable[..., ModuleType], functions: Any) -> ModuleType:
    """Module of the columns."""
    lengths = load(
        "nodes",
        NODES=tuple(nodes.NODES.ravel().tolist()),
        BIN_TOKENS=tuple(nodes.BIN_TOKENS.ravel().tolist()),
        BIN_ENDS=tuple(nodes.BIN_ENDS.ravel().tolist()),
        differences=functools.partial(_differences, functions.maximum),
        at_nodes=_at_nodes,
        mixed=_weighted,
    )
    fill = load("crowding", below=lengths.below)
    return load(
        "columns",
        answers=lengths.answers,
        crowding=fill.crowding,
        fuller=fill.fuller,
        kv_tail=fill.kv_tail,
        preempted_soon=fill.preempted_soon,
        several_servers=fill.several_servers,
        uneven_departures=fill.uneven_departures,
        visits=fill.visits,
    )


class _Noted:
    """Columns of an engine as terms."""

    def __init__(self, notes: Notes, decode_ms: Callable[..., Term], *, short: bool) -> None:
        def each(name: str, count: int) -> tuple[Term, ...]:
            return tuple(notes.named(f"engine.{name}[{at}]", once=True) for at in range(count))

        self._notes = notes
        self.decode_nodes = each("decode_nodes", len(nodes.NODES))
        self.short = each("short", len(nodes.SHORT_DECODES) if short else 0)
        self.decode_ms = functools.partial(decode_ms, self)

    def __getattr__(self, name: str) -> Term:
        return self._notes.named(f"engine.{name}", once=True)


def _noted_occupancy(notes: Notes, *arguments: Term) -> occupancy.Occupancy:
    values = notes.call("steady", _steady, *arguments)
    names = ("mean", "variance", "waits")
    fields: Any = {name: values.part(place) for place, name in enumerate(names)}
    return occupancy.Occupancy(**fields)


def _moments(below: Callable[[Any], Any]) -> dict[str, Callable[[Any, Any], Any]]:
    def below_each(at: Any, spread: Any) -> tuple[Any, ...]:
        return below(at), below(at + spread), below(at + 2.0 * spread)

    def below_thrice(at: Any, spread: Any) -> Any:
        return below(at + 2.0 * spread + spread)

    return {"below_each": below_each, "below_thrice": below_thrice}


def _latencies(
    load: Callable[..., ModuleType], normal_: Callable[..., Any], log_gamma: Callable[..., Any]
) -> tuple[ModuleType, ModuleType]:
    """Modules of the TTFT and of the ITL."""
    first = load(
        "first_token",
        weighted=_weighted,
        normal=normal_,
        log_gamma=log_gamma,
        POINTS=tuple(first_token.POINTS.ravel().tolist()),
        POINT_WEIGHTS=tuple(first_token.POINT_WEIGHTS.tolist()),
    )
    sums = load("nodes", normal=normal_)
    tokens = load(
        "token_times",
        weighted=_weighted,
        at_nodes=_at_nodes,
        largest=_largest,
        at_a_limit=sums.at_a_limit,
        gamma_beyond=sums.gamma_beyond,
        sum_beyond=sums.sum_beyond,
        places_ms=first.places_ms,
        waited_variance=first.waited_variance,
        mixed=_weighted,
        NODE_WEIGHTS=tuple(nodes.NODE_WEIGHTS.tolist()),
        SHORT_DECODES=tuple(nodes.SHORT_DECODES.ravel().tolist()),
    )
    return first, tokens


def _percentiles(
    load: Callable[..., ModuleType], first: ModuleType, tokens: ModuleType
) -> ModuleType:
    return load(
        "percentiles",
        FirstToken=first.FirstToken,
        TokenTimes=tokens.TokenTimes,
        token_times=tokens,
    )


def _on_floats(name: str, **instead: object) -> ModuleType:
    """A module with the functions of floats."""
    return _module(name, functions=Floats, **instead)


def _module(name: str, *, functions: object, **instead: object) -> ModuleType:
    """A copy of a module of this package with other names in it; `sys.modules` keeps the original."""
    # Its records look for the original while they are made.
    spec = importlib.import_module(f"analyzer.engine.{name}").__spec__
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it is beside us
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    unknown = instead.keys() - vars(module).keys()
    assert not unknown, f"{name} has no {unknown}"  # noqa: S101 - a name that nothing would read
    vars(module).update(np=functions, **instead)
    return module


def _weighted(function: Callable[[Any], Any], weights: Sequence[Any], nodes: Sequence[Any]) -> Any:
    total: Any = 0.0
    for weight, node in zip(weights, nodes, strict=True):
        # A weight that is not known yet has no truth.
        if isinstance(weight, Term) or weight:
            total += weight * function(node)
    return total


def _differences(
    maximum: Callable[[Any, Any], Any], bins: Sequence[Any], own: Sequence[Any]
) -> tuple[Any, ...]:
    before = (0.0, *own)
    return tuple(
        maximum(share - (end - start), 0.0)
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
    mean, variance, waits = _steady(base, slope, slots, load, queue)
    # Of floats, as everything here.
    made: Any = occupancy.Occupancy
    return cast("occupancy.Occupancy", made(mean=mean, variance=variance, waits=waits))


def _steady(
    base: float, slope: float, slots: float, load: float, queue: float
) -> tuple[float, float, float]:
    """Fields of that."""
    last = math.ceil(slots) - 1
    partly = slots - last
    ratio = base / slots + slope
    counts, squares, inverse = _numbers(last)
    weights = _weights(base, slope, inverse)
    below = max(base / max(last, 1.0) + slope, occupancy.SMALLEST)
    whole = float(weights[last])
    full = whole * max(ratio, load) * below ** (partly - 1.0)
    weights[last] = whole * partly
    tail = full * max(queue, 1.0 / (1.0 - min(ratio, occupancy.FULL)))
    total = float(np.add.reduce(weights)) + tail
    mean = (float(weights @ counts) + slots * tail) / total
    square = (float(weights @ squares) + slots * slots * tail) / total
    return mean, max(square - mean * mean, 0.0), tail / total


def _numbers(last: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """0 to `last`, their squares, and the inverse of those from 1 on."""
    if last < _COUNTS.size:
        return _COUNTS[: last + 1], _SQUARES[: last + 1], _INVERSE[:last]
    counts = np.arange(last + 1.0)
    return counts, counts * counts, 1.0 / counts[1:]


def _weights(base: float, slope: float, inverse: FloatArray) -> FloatArray:
    """Weights of the numbers; the first is 1 where none is too large."""
    ratio = np.empty(inverse.size + 1)
    ratio[0] = 1.0
    states = ratio[1:]
    np.multiply(inverse, base, states)
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

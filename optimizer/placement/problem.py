"""What is placed on shared resources: groups of variants with one demand, and variants on their own.

An item has rows: one variant on one accelerator, with the price and the worth of a replica. A plan gives
every row a number of replicas; of the rows of one variant at most one has any. Costs in cents per hour,
demands and worths in one unit of the caller's, such as requests per second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from optimizer.problem import SaturationPolicy, Served, Termination

if TYPE_CHECKING:
    from optimizer.placement.patterns import Patterns

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Routing = Literal["least-loaded", "round-robin", "weights", "alone"]
"""What replicas are worth together; `alone`: a variant whose rows each stand for one number of replicas."""

ROUNDING = 1e-9
"""Relative shortfall of capacity that is float noise."""

TIE = 1e-6
"""Share of the cost of started replicas that decides between plans of equal cost: what runs stays."""


_Answer = TypeVar("_Answer")


class _Once(Generic[_Answer]):
    """An attribute that is computed once; `functools.cached_property` takes a lock until Python 3.12.

    A fleet has thousands of them, and the lock takes longer than most of the arrays.
    """

    def __init__(self, compute: Callable[[Item], _Answer]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, item: Item, _owner: type[Item]) -> _Answer:
        answer = item.__dict__[self._name] = self._compute(item)
        return answer


class Resource(NamedTuple):
    """Something that runs short.

    Attributes:
        name: name in reasons, such as `capacity H100` or `budget team-a: cost`.
        limit: what there is of it.
        unit: `devices` or `cents/h`.

    """

    name: str
    limit: float
    unit: str


class Row(NamedTuple):
    """One variant of an item on one accelerator.

    Attributes:
        unit_cost: cost of one replica.
        worth: what one replica carries of the demand within its targets.
        least: replicas that it has at least, where the variant uses this row.
        most: replicas at most.
        uses: what one replica takes of each resource, as (index of the resource, amount).
        running: replicas that run on it now.
        moved: price for moving the variant to this accelerator, whatever the replicas.
        moved_each: the same for each replica.
        interruptible: True where the devices may be taken away at any time.
        weight: part of the requests under routing weights; parts of an item need not sum up to 1.
        by_class: what one replica carries of each length class, where the item has some.

    """

    variant: str
    accelerator: str
    unit_cost: float
    worth: float
    least: int
    most: int
    uses: tuple[tuple[int, float], ...] = ()
    running: int = 0
    moved: float = 0.0
    moved_each: float = 0.0
    interruptible: bool = False
    weight: float = 1.0
    by_class: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Item:
    """Variants that carry one demand together.

    Attributes:
        rows: one or more; those of one variant follow each other.
        demand: what is to be carried; never more than the rows can (see `optimizer.placement.reach`).
        priority: 1 is served first.
        routing: what replicas are worth together.
        interruptible_share: largest part that interruptible rows carry.
        hysteresis: share of the cost of started replicas that counts as their price.
        class_demands: the demand by length class; empty where there are none.

    """

    name: str
    rows: tuple[Row, ...]
    demand: float
    priority: int = 100
    routing: Routing = "least-loaded"
    interruptible_share: float = 1.0
    hysteresis: float = 0.0
    class_demands: tuple[float, ...] = ()

    @_Once
    def worths(self) -> FloatArray:
        """Worth of one replica of each row, shape (J,)."""
        return np.array([row.worth for row in self.rows], dtype=np.float64)

    @_Once
    def unit_costs(self) -> FloatArray:
        """Cost of one replica of each row, shape (J,)."""
        return np.array([row.unit_cost for row in self.rows], dtype=np.float64)

    @_Once
    def least(self) -> IntArray:
        """Least replicas of each row, shape (J,)."""
        return np.array([row.least for row in self.rows], dtype=np.int64)

    @_Once
    def most(self) -> IntArray:
        """Most replicas of each row, shape (J,)."""
        return np.array([row.most for row in self.rows], dtype=np.int64)

    @_Once
    def running(self) -> FloatArray:
        """Replicas that run on each row now, shape (J,)."""
        return np.array([row.running for row in self.rows], dtype=np.float64)

    @_Once
    def interruptible(self) -> BoolArray:
        """Which rows are interruptible, shape (J,)."""
        return np.array([row.interruptible for row in self.rows], dtype=np.bool_)

    @_Once
    def weights(self) -> FloatArray:
        """Parts of the requests by row under routing weights, shape (J,)."""
        by_variant = {row.variant: max(row.weight, 0.0) for row in self.rows}
        total = sum(by_variant.values()) or 1.0
        return np.array([by_variant[row.variant] / total for row in self.rows], dtype=np.float64)

    @_Once
    def limited_share(self) -> bool:
        """Whether the share of interruptible rows is bounded, and matters."""
        return self.demand > 0 and self.interruptible_share < 1 and bool(self.interruptible.any())

    @_Once
    def resources(self) -> tuple[int, ...]:
        """Indices of the resources that its rows take something of."""
        return tuple(sorted({index for row in self.rows for index, amount in row.uses if amount}))

    @_Once
    def uses(self) -> FloatArray:
        """What one replica of each row takes of `resources`, shape (J, K)."""
        place = {index: column for column, index in enumerate(self.resources)}
        table = np.zeros((len(self.rows), len(place)))
        for at, row in enumerate(self.rows):
            for index, amount in row.uses:
                if amount:
                    table[at, place[index]] += amount
        return table

    def prices(self, counts: IntArray) -> FloatArray:
        """Cost plus transitions of P plans, shape (P, J) to (P,)."""
        numbers = counts.astype(np.float64)
        total: FloatArray = numbers @ self.unit_costs
        if self.routing != "alone":
            started = np.maximum(numbers - self.running, 0.0) @ self.unit_costs
            total += max(self.hysteresis, TIE) * started
        for at, row in enumerate(self.rows):
            if row.moved or row.moved_each:
                count = counts[:, at]
                total = total + row.moved_each * count + row.moved * (count > 0)
        return total

    def variants(self) -> list[list[int]]:
        """Indices of the rows of each variant."""
        groups: dict[str, list[int]] = {}
        for at, row in enumerate(self.rows):
            groups.setdefault(row.variant, []).append(at)
        return list(groups.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Items on shared resources; other fields as in `optimizer.problem.Problem`."""

    items: tuple[Item, ...]
    resources: tuple[Resource, ...] = ()
    policy: SaturationPolicy = "None"
    delayed_best_effort: bool = False
    time_limit_s: float = 10.0
    gap: float = 1e-6


class Placed(NamedTuple):
    """What one item gets.

    Attributes:
        counts: replicas by row.
        served: part of the demand that they carry, 0 to 1.

    """

    counts: tuple[int, ...]
    served: float

    @property
    def kind(self) -> Served:
        """Full, partial or none."""
        if self.served >= 1.0:
            return "full"
        return "partial" if any(self.counts) else "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Replicas of every item; other fields as in `optimizer.problem.Solution`.

    Attributes:
        known: patterns of the items that have few enough, by name.

    """

    solver: str
    termination: Termination
    gap: float | None
    placed: Mapping[str, Placed] = field(default_factory=dict)
    known: Mapping[str, Patterns] = field(default_factory=dict)


def nothing(item: Item) -> Placed:
    """No replicas at all."""
    return Placed((0,) * len(item.rows), 0.0)

"""The integer program of items that share resources: columns, constraints and goals.

A pattern of an item is a binary column. Where an item has too many patterns, and where it is to be served in
part, it is written out instead: a *block* has a binary column for itself, an integer column for each row, and
one for the part of the demand that is carried. Under round robin there is a block for each speed that the
slowest used replica may have; within it every replica is worth that speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import integer_program
from optimizer.placement import worth
from optimizer.placement.patterns import Patterns
from optimizer.placement.problem import ROUNDING, TIE, FloatArray, IntArray, Item

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

Terms = list[tuple[int, float]]


@dataclass(slots=True)
class Block:
    """Columns of one item that is written out.

    Attributes:
        on: binary column: whether this block is the item's plan.
        rows: columns of the replicas by row of the item.
        part: column of the part of the demand; None where all of it is carried.

    """

    item: int
    on: int
    rows: dict[int, int]
    part: int | None = None


@dataclass(slots=True)
class Columns:
    """Where the columns of the program are.

    Attributes:
        patterns: item and pattern by column.
        blocks: blocks that carry the whole demand, then those that carry a part.

    """

    patterns: dict[int, tuple[int, int]] = field(default_factory=dict)
    full: list[Block] = field(default_factory=list)
    partial: list[Block] = field(default_factory=list)


class Program:
    """Columns and constraints, added one after another."""

    def __init__(self, resources: int) -> None:
        self._highest: list[float] = []
        self._whole: list[bool] = []
        self.prices: list[float] = []
        self._rows: list[int] = []
        self._columns: list[int] = []
        self._numbers: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self.used: list[Terms] = [[] for _ in range(resources)]
        self.columns = Columns()

    @property
    def size(self) -> int:
        """Number of columns."""
        return len(self._highest)

    def column(self, highest: float, price: float = 0.0, *, whole: bool = True) -> int:
        """Add a column from 0 to `highest`; its index."""
        self._highest.append(highest)
        self._whole.append(whole)
        self.prices.append(price)
        return len(self._highest) - 1

    def constrain(self, terms: Iterable[tuple[int, float]], low: float, high: float) -> None:
        """Bound a sum of columns."""
        row = len(self._low)
        for column, number in terms:
            self._rows.append(row)
            self._columns.append(column)
            self._numbers.append(number)
        self._low.append(low)
        self._high.append(high)

    def goal(self, terms: Iterable[tuple[int, float]]) -> FloatArray:
        """A sum of columns as a vector."""
        vector = np.zeros(self.size)
        for column, number in terms:
            vector[column] += number
        return vector

    def constraints(self) -> list[LinearConstraint]:
        """All constraints so far."""
        from scipy import optimize, sparse  # noqa: PLC0415 - takes longer to load than most plans take

        table = sparse.csr_array(
            (self._numbers, (self._rows, self._columns)), shape=(len(self._low), self.size)
        )
        return [optimize.LinearConstraint(table, np.array(self._low), np.array(self._high))]

    def solve(
        self,
        goal: FloatArray,
        constraints: Sequence[LinearConstraint],
        *,
        limit_s: float,
        gap: float,
        nodes: int | None = None,
    ) -> Any:
        """The answer of HiGHS within a time limit and a number of nodes."""
        from scipy import optimize  # noqa: PLC0415 - see `constraints`

        return integer_program.minimized(
            goal,
            constraints,
            optimize.Bounds(0.0, np.array(self._highest)),
            np.array(self._whole, dtype=np.float64),
            {
                "time_limit": limit_s,
                "mip_rel_gap": gap,
                **({} if nodes is None else {"node_limit": nodes}),
            },
        )

    def add_patterns(self, place: int, item: Item, patterns: Patterns, rows: IntArray) -> Terms:
        """A column for each of some patterns; the terms whose sum says that the item has one."""
        terms: Terms = []
        for row in rows.tolist():
            column = self.column(1.0, float(patterns.prices[row]))
            self.columns.patterns[column] = (place, row)
            terms.append((column, 1.0))
            for index, amount in zip(item.resources, patterns.usage[row].tolist(), strict=True):
                if amount:
                    self.used[index].append((column, amount))
        return terms

    def add_blocks(self, place: int, item: Item, *, partial: bool) -> Terms:
        """Blocks of an item, for the whole demand or a part; the terms whose sum says that one is used."""
        speeds: list[float | None] = [None]
        if item.routing == "round-robin":
            speeds = [*sorted({float(speed) for speed in item.worths if speed > 0})]
        blocks = [self._block(place, item, speed, partial=partial) for speed in speeds]
        return [(block.on, 1.0) for block in blocks if block is not None]

    def _block(self, place: int, item: Item, speed: float | None, *, partial: bool) -> Block | None:
        worths = item.worths if speed is None else np.where(item.worths >= speed, speed, 0.0)
        usable = [
            at
            for at in range(len(item.rows))
            if (worths[at] > 0 or (speed is None and not partial)) and item.most[at] > 0
        ]
        if partial and item.routing == "weights":
            # Replicas that the gateway sends nothing serve no part.
            fed = zip(item.variants(), worth.parts(item), strict=True)
            sent = {at for rows, part in fed if part > 0 for at in rows}
            usable = [at for at in usable if at in sent or not sent]
        forced = [at for at in range(len(item.rows)) if item.least[at] > 0]
        if not usable or (not partial and not set(forced) <= set(usable)):
            return None
        block = Block(item=place, on=self.column(1.0), rows={})
        for rows in item.variants():
            self._replicas(item, block, [at for at in rows if at in usable], partial=partial)
        (self.columns.partial if partial else self.columns.full).append(block)
        if partial:
            block.part = self.column(1.0, whole=False)
            self.constrain([(block.part, 1.0), (block.on, -1.0)], -np.inf, 0.0)
            some = [(column, 1.0) for column in block.rows.values()]
            self.constrain([*some, (block.on, -1.0)], 0.0, np.inf)
        self._carried(item, block, worths)
        if item.limited_share and item.routing in ("least-loaded", "round-robin"):
            share = item.interruptible_share
            each = [
                (column, (item.interruptible[at] - share) * worths[at])
                for at, column in block.rows.items()
            ]
            self.constrain(each, -np.inf, ROUNDING * max(item.demand, 1.0))
        return block

    def _replicas(self, item: Item, block: Block, rows: list[int], *, partial: bool) -> None:
        """Columns of the replicas of one variant, on at most one of its rows."""
        choose = len(rows) > 1 or any(item.rows[at].moved for at in rows)
        chosen: Terms = []
        for at in rows:
            row = item.rows[at]
            most = float(row.most - 1 if partial and item.routing == "alone" else row.most)
            count = self.column(most, row.unit_cost + row.moved_each)
            block.rows[at] = count
            on = block.on
            if choose:
                on = self.column(1.0, row.moved)
                chosen.append((on, 1.0))
            self.constrain([(count, 1.0), (on, -most)], -np.inf, 0.0)
            if not partial and row.least:
                self.constrain([(count, 1.0), (on, -float(row.least))], 0.0, np.inf)
            for index, amount in row.uses:
                if amount:
                    self.used[index].append((count, amount))
            if row.unit_cost and item.routing != "alone":
                price = max(item.hysteresis, TIE) * row.unit_cost
                started = self.column(np.inf, price, whole=False)
                self.constrain([(started, 1.0), (count, -1.0)], -float(row.running), np.inf)
        if chosen:
            must = not partial and all(item.least[at] > 0 for at in rows)
            chosen.append((block.on, -1.0))
            self.constrain(chosen, 0.0 if must else -np.inf, 0.0)

    def _carried(self, item: Item, block: Block, worths: FloatArray) -> None:
        """The replicas carry the demand, or the part of it that is claimed."""
        demand = item.demand * (1.0 - ROUNDING)
        claim, amount = (block.on, -demand) if block.part is None else (block.part, -item.demand)
        if item.class_demands:
            self._carried_by_class(item, block, claim)
        elif item.routing == "weights":
            terms: Terms = []
            shares = worth.parts(item)
            for rows, part in zip(item.variants(), shares, strict=True):
                carried = self.column(part, whole=False)
                each = [
                    (block.rows[at], -float(item.worths[at])) for at in rows if at in block.rows
                ]
                self.constrain([(carried, 1.0), *each], -np.inf, 0.0)
                terms.append((carried, 1.0))
            total = sum(shares) * (1.0 - ROUNDING if block.part is None else 1.0)
            self.constrain([*terms, (claim, -total)], 0.0, np.inf)
        elif item.routing == "alone":
            each = [(count, 1.0 / float(item.most[at])) for at, count in block.rows.items()]
            self.constrain([*each, (claim, -1.0)], 0.0, np.inf)
        else:
            each = [(count, float(worths[at])) for at, count in block.rows.items()]
            self.constrain([*each, (claim, amount)], 0.0, np.inf)

    def _carried_by_class(self, item: Item, block: Block, claim: int) -> None:
        """Each replica's time goes to classes; each class is carried by all rows together."""
        by_class: list[Terms] = [[] for _ in item.class_demands]
        for at, count in block.rows.items():
            busy: Terms = [(count, -1.0)]
            for place, speed in enumerate(item.rows[at].by_class):
                if speed > 0:
                    rate = self.column(np.inf, whole=False)
                    busy.append((rate, 1.0 / speed))
                    by_class[place].append((rate, 1.0))
            self.constrain(busy, -np.inf, 0.0)
        for terms, demand in zip(by_class, item.class_demands, strict=True):
            self.constrain([*terms, (claim, -demand * (1.0 - ROUNDING))], 0.0, np.inf)

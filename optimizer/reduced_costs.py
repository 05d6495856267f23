"""Integer programs of many columns, without those that are in no better plan than a known one.

The duals of the linear relaxation bound every plan, and a column whose reduced cost is above the distance of
the known plan to that bound is 0 in each better one (reduced cost fixing: Crowder, Johnson and Padberg 1983,
Operations Research 31). Likewise a row whose slack costs more than that has none. Columns that are in no plan
as good stay 0 in whatever is minimized next, while this goal is kept. HiGHS alone takes time with the square
of the columns: for what is left of them it takes little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimizer import integer_program

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_WIDER = (1_000, 4_000, 16_000, np.inf)
"""Columns that a search has at most beside those of the relaxation's own plan, least reduced costs first."""

_NODES = 300
"""Nodes of a search that leaves out columns which a better plan may have."""

_FINISHED, _LIMIT_REACHED = 0, 1
_ACCURACY = 1e-9
_WHOLE = 1.0 - 1e-6


class Answer(NamedTuple):
    """The best plan found, with the names of `scipy.optimize.milp`.

    Attributes:
        x: values of the columns.
        status: 0 where it is proven within the gap, 1 where the time limit came first.
        mip_dual_bound: no plan is below.
        possible: columns that a plan may have that is no worse than this one.

    """

    x: FloatArray
    status: int
    mip_dual_bound: float
    possible: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A goal to minimize over whole numbers from 0 to `most`; `low` <= `table` @ x <= `high`.

    Attributes:
        step: distance between values of the goal; 0 where there is none.
        whole: rows whose sums are whole numbers.
        open: columns that are not 0 whatever the plan; some best plan has no others.

    """

    goal: FloatArray
    most: FloatArray
    step: float
    table: csr_array
    low: FloatArray
    high: FloatArray
    whole: BoolArray
    open: BoolArray


class _Relaxation(NamedTuple):
    """The linear relaxation: its bound and plan, and what each unit of a column or a row's slack adds."""

    bound: float
    plan: FloatArray
    columns: FloatArray
    slacks: FloatArray


def program(
    goal: FloatArray,
    constraints: Sequence[LinearConstraint],
    most: FloatArray,
    step: float,
    open_: BoolArray,
) -> Program:
    """A program of constraints that have an upper bound and no lower one but that."""
    from scipy import sparse  # noqa: PLC0415 - takes longer to load than most plans take

    tables = [sparse.csr_array(item.A) for item in constraints]
    low, high = (
        np.concatenate(
            [
                np.broadcast_to(getattr(item, side), table.shape[0])
                for item, table in zip(constraints, tables, strict=True)
            ]
        )
        for side in ("lb", "ub")
    )
    table = sparse.csr_array(sparse.vstack(tables))
    whole = abs(table - table.rint()).sum(axis=1) == 0
    return Program(
        goal=goal,
        most=most,
        step=step,
        table=table,
        low=low,
        high=np.where(whole, np.floor(high), high),
        whole=whole,
        open=open_,
    )


def minimized(given: Program, start: FloatArray, options: Mapping[str, Any]) -> Answer | None:
    """The best plan, never worse than `start`; None where the relaxation is not solved in time.

    Args:
        given: What is minimized.
        start: A plan that keeps the constraints.
        options: Time limit (s), half of which the relaxation may take and each search, and relative gap, as
            of `integer_program.minimized`. The first search that its time ends is the last.

    """
    # For the relaxation as for each search: few searches come to it, nodes bound all but the last.
    limit = options["time_limit"] / 2
    relaxation = _relaxation(given, limit)
    if relaxation is None:
        return None
    own = relaxation.plan > _ACCURACY
    ranks = np.where(own, -np.inf, relaxation.columns)
    order = np.argsort(np.where(given.open, ranks, np.inf), kind="stable")[: given.open.sum()]
    goal, best, bound = given.goal, start, relaxation.bound
    near = 0.0 if given.step else options["mip_rel_gap"] * abs(bound)
    status = _LIMIT_REACHED
    for more in _WIDER:
        room = _room(given, best, bound)
        if room <= near:
            status = _FINISHED
            break
        size = int(min(own.sum() + more, order.size))
        kept = (best > 0) | (given.open & (relaxation.columns <= room))
        kept[order[size:]] = best[order[size:]] > 0
        # Columns that are left out add this and more.
        distance = float(relaxation.columns[order[size:]].min(initial=np.inf))
        limits = {**options, "time_limit": limit}
        if distance <= room:
            limits["node_limit"] = _NODES
        # A row that the known plan leaves slack keeps it, so that this plan stays one.
        full = given.table @ best > given.high - 0.5
        part = _part(given, kept, full & (relaxation.slacks > room), limits)
        if part.x is not None and float(goal @ part.x) < float(goal @ best):
            best = part.x
        if part.status == _FINISHED and distance > _room(given, best, bound):
            bound = max(bound, min(float(part.mip_dual_bound), float(goal @ best)))
            status = _FINISHED
            break
        if part.status == _LIMIT_REACHED:
            # A wider one takes longer yet; nodes that end a search have another status.
            break
    as_good = _room(given, best, relaxation.bound) + given.step
    return Answer(best, status, bound, (best > 0) | (relaxation.columns <= as_good))


def _room(given: Program, plan: FloatArray, bound: float) -> float:
    """How far above the bound a plan can be that is better than this one."""
    value = float(given.goal @ plan)
    return value - bound - _WHOLE * given.step + _ACCURACY * max(abs(value), 1.0)


def _relaxation(given: Program, limit_s: float) -> _Relaxation | None:
    """The relaxation by an interior point: simplex takes time with the square of the variants."""
    from scipy.optimize import linprog  # noqa: PLC0415 - see `program`

    some = np.flatnonzero(given.open)
    table = given.table[:, some]
    bounding = np.diff(table.indptr) > 0
    equal = (given.low == given.high) & bounding
    below = ~equal & bounding
    solution = linprog(
        given.goal[some],
        A_ub=table[below],
        b_ub=given.high[below],
        A_eq=table[equal],
        b_eq=given.high[equal],
        bounds=np.column_stack([np.zeros(some.size), given.most[some]]),
        method="highs-ipm",
        # Where presolve uses up the time limit, the interior point has none; alone it takes hardly longer.
        options={"time_limit": limit_s, "presolve": False},
    )
    if solution.x is None or solution.status != _FINISHED:
        return None
    duals = np.zeros(given.high.size)
    duals[equal] = solution.eqlin.marginals
    # Any duals of this sign bound all plans, however accurate the solver is.
    duals[below] = np.minimum(solution.ineqlin.marginals, 0.0)
    columns = given.goal - duals @ given.table
    plan = np.zeros(given.goal.size)
    plan[some] = solution.x
    return _Relaxation(
        bound=float(duals @ given.high + np.minimum(columns[some], 0.0) @ given.most[some]),
        plan=plan,
        columns=columns,
        slacks=np.where(given.whole & below, -duals, 0.0),
    )


def _part(given: Program, kept: BoolArray, tight: BoolArray, options: Mapping[str, Any]) -> Any:
    """The answer of HiGHS with the kept columns, where tight rows have no slack."""
    from scipy.optimize import Bounds, LinearConstraint  # noqa: PLC0415 - see `program`

    some = np.flatnonzero(kept)
    answer = integer_program.minimized(
        given.goal[some],
        [
            LinearConstraint(
                given.table[:, some], np.where(tight, given.high, given.low), given.high
            )
        ],
        Bounds(0.0, given.most[some]),
        np.ones(some.size),
        options,
    )
    if answer.x is not None:
        plan = np.zeros(given.goal.size)
        plan[some] = np.round(answer.x)
        answer.x = plan
    return answer

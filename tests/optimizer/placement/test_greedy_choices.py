"""What greedy chooses by, against a slow and straightforward reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.placement import gaps, greedy
from optimizer.placement.problem import Item, Placed, Problem, Row
from optimizer.problem import SaturationPolicy

NUMBERS = st.integers(0, 6).map(float) | st.floats(0, 6)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Any, list[float]]:
    """What patterns take of one to three resources, and what there is of these."""
    columns = draw(st.integers(1, 3))
    rows = draw(st.lists(st.lists(NUMBERS, min_size=columns, max_size=columns), max_size=6))
    room = draw(st.lists(NUMBERS, min_size=columns, max_size=columns))
    return np.array(rows, dtype=np.float64).reshape(len(rows), columns), room


@given(tables())
def test_choice_of_a_pattern(table: tuple[Any, list[float]]) -> None:
    """The first one that fits, and the one whose largest part of what there is is least."""
    usage, room = table
    fitting = [row for row, used in enumerate(usage.tolist()) if np.all(np.array(used) <= room)]
    assert greedy._first_within(usage, room) == next(iter(fitting), None)
    parts = [
        max(one / max(limit, 1e-9) for one, limit in zip(used, room, strict=True))
        for used in usage.tolist()
    ]
    modest = min(range(len(parts)), key=lambda row: (parts[row], row), default=None)
    assert greedy._most_modest(usage, room) == (modest if modest in fitting else None)


def test_choice_where_nothing_is_taken_or_known() -> None:
    """Without resources the first pattern; without patterns none."""
    for choose in (greedy._first_within, greedy._most_modest):
        assert choose(np.zeros((2, 0)), []) == 0
        assert choose(np.zeros((0, 2)), [1.0, 1.0]) is None


def _item(number: int, priority: int) -> Item:
    rows = (Row(f"v{number}", "A", 1.0 + number, 1.0, 0, 5), Row(f"w{number}", "B", 2.0, 1.0, 0, 5))
    return Item(name=f"i{number}", rows=rows, demand=2.0, priority=priority)


PLACED = st.builds(
    Placed,
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@given(
    st.lists(st.tuples(st.integers(1, 2), PLACED, PLACED), min_size=1, max_size=4),
    st.sampled_from(["None", "PriorityExhaustive", "RoundRobin", "PriorityRoundRobin"]),
)
def test_better_plan_is_the_one_of_the_smaller_objective(
    drawn: list[tuple[int, Placed, Placed]], policy: SaturationPolicy
) -> None:
    """Prices that are not computed would not have decided; of equal plans it is the first."""
    items = tuple(_item(number, priority) for number, (priority, _, _) in enumerate(drawn))
    problem = Problem(items=items, policy=policy)
    one = {item.name: placed for item, (_, placed, _) in zip(items, drawn, strict=True)}
    other = {item.name: placed for item, (_, _, placed) in zip(items, drawn, strict=True)}
    expected = min(one, other, key=lambda placed: gaps.objective(problem, placed))
    assert gaps.better(problem, one, other) is expected
    assert gaps.better(problem, one, dict(one)) is one

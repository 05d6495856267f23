"""What greedy chooses by, against a slow and straightforward reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer.placement import greedy

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

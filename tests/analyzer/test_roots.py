"""Roots within brackets, against a solver of another origin and by their own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize

from analyzer.roots import find_roots

Array = NDArray[np.float64]


def solve(function: object, low: list[float], high: list[float], **tolerances: float) -> Array:
    given = {"relative": 1e-14, "absolute": 1e-300} | tolerances
    return find_roots(function, np.array(low), np.array(high), **given)  # type: ignore[arg-type]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_each_row_has_its_own_root(roots: list[float]) -> None:
    """Rows that are done leave the others to go on."""
    wanted = np.array(roots)
    solutions = solve(
        lambda x, rows: np.log(x / wanted[rows]), [1e-9] * len(roots), [1e9] * len(roots)
    )
    assert solutions == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.exp(x) - 2.0,
        lambda x: x**9,
        lambda x: np.arctan(x - 0.3) * 1e-12,
        lambda x: np.where(x < 0.7, -1.0, 1.0),
        lambda x: x - 0.25,
    ],
    ids=["smooth", "flat", "tiny", "jump", "line"],
)
def test_bisection_finds_the_same(function: object) -> None:
    """Smooth, flat, tiny and jumping functions."""
    (root,) = solve(lambda x, _: function(x), [-1.0], [2.0])  # type: ignore[operator]
    wanted = optimize.bisect(function, -1.0, 2.0, xtol=1e-14)
    assert root == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_a_root_at_an_end_is_found() -> None:
    """A value of zero is a root, wherever it is."""
    assert solve(lambda x, _: x - 1.0, [1.0, 0.0], [2.0, 1.0]).tolist() == [1.0, 1.0]


def test_without_a_change_of_sign_there_is_no_root() -> None:
    """The other rows are solved."""
    solutions = solve(lambda x, rows: x - np.array([5.0, 0.5])[rows], [0.0, 0.0], [1.0, 1.0])
    assert np.isnan(solutions[0])
    assert solutions[1] == pytest.approx(0.5)


def test_a_small_value_is_a_root_where_asked_for() -> None:
    """The residual ends the search early."""
    calls: list[float] = []

    def function(x: Array, _: object) -> Array:
        calls.extend(x)
        return x**3 - 2.0

    (root,) = solve(function, [0.0], [2.0], residual=0.1)
    assert abs(root**3 - 2.0) <= 0.1
    early = len(calls)
    calls.clear()
    solve(function, [0.0], [2.0])
    assert early < len(calls) < 30


def test_nothing_to_find() -> None:
    """No rows, no roots."""
    assert solve(lambda x, _: x, [], []).size == 0

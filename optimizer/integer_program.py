"""Integer programs by HiGHS, with a second try where its presolve leads it astray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.optimize import Bounds, LinearConstraint

FloatArray = NDArray[np.float64]

_LIMIT_REACHED = 1


def minimized(
    goal: FloatArray,
    constraints: Sequence[LinearConstraint],
    bounds: Bounds,
    integrality: FloatArray,
    options: Mapping[str, Any],
) -> Any:
    """The answer of `scipy.optimize.milp`; its `x` is None where there is none.

    A program that keeps what an earlier one reached leaves next to no room, and HiGHS may then end with an
    error, or find no solution where there is one. Without presolve it takes longer, and does not.

    Args:
        goal: What is minimized, one number for each column.
        constraints: Of sums of columns.
        bounds: Of single columns.
        integrality: 1 for each column that takes whole numbers only, else 0.
        options: Those of `milp`: time limit (s) of each try, relative gap, nodes.

    """
    # Takes longer to load than most plans take.
    from scipy.optimize import milp  # noqa: PLC0415

    def answer(given: Mapping[str, Any]) -> Any:
        return milp(
            goal,
            constraints=constraints,
            bounds=bounds,
            integrality=integrality,
            options=dict(given),
        )

    first = answer(options)
    if first.x is not None or first.status == _LIMIT_REACHED:
        return first
    return answer({**options, "presolve": False})

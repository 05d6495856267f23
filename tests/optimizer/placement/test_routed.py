"""What replicas carry behind a gateway, checked against sending requests to them one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.placement import routed, worth
from optimizer.placement.problem import Item, Row

Plan = list[tuple[int, float, float]]
"""Replicas, what one of them carries, and the weight of each variant."""

PLANS = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.one_of(st.just(0.0), st.floats(0.1, 9.0)),
        st.one_of(st.just(0.0), st.floats(0.1, 3.0)),
    ),
    min_size=1,
    max_size=4,
)


def columns(plan: Plan) -> tuple[Any, Any, Any]:
    """Counts, rates and weights."""
    return (
        np.array([count for count, _, _ in plan]),
        np.array([rate for _, rate, _ in plan]),
        np.array([weight for _, _, weight in plan]),
    )


def overloaded(routing: routed.Routing, plan: Plan, demand: float) -> bool:
    """Whether some replica, or a variant without one, gets more than it carries of a demand."""
    if routing == "least-loaded":
        return demand > sum(count * rate for count, rate, _ in plan) * (1 + 1e-9)
    if routing == "round-robin":
        pods = [rate for count, rate, _ in plan for _ in range(count)]
        return not pods or any(demand / len(pods) > rate * (1 + 1e-9) for rate in pods)
    whole = sum(weight for _, _, weight in plan)
    return any(
        weight / whole * demand > count * rate * (1 + 1e-9)
        for count, rate, weight in plan
        if weight
    )


@pytest.mark.parametrize("routing", ["least-loaded", "round-robin", "weights"])
@given(plan=PLANS)
def test_the_capacity_is_the_largest_demand_that_overloads_nobody(
    routing: routed.Routing, plan: Plan
) -> None:
    """A little less overloads no replica, a little more does; nothing can be sent to weights of 0."""
    counts, rates, weights = columns(plan)
    most = float(routed.capacities(routing, counts[None, :], rates, weights)[0])
    if routing == "weights" and not weights.any():
        assert most == 0.0
        return
    assert most == 0.0 or not overloaded(routing, plan, most * 0.999)
    assert overloaded(routing, plan, most * 1.001 + 1e-6)


@given(plan=PLANS, demand=st.floats(0.0, 60.0))
def test_under_weights_each_variant_keeps_its_part_alone(plan: Plan, demand: float) -> None:
    """What the short ones lack is lost; the others get no more than theirs."""
    counts, rates, weights = columns(plan)
    got = routed.carried("weights", counts, rates, weights, demand)
    whole = weights.sum()
    if not whole:
        assert got == 0.0
        return
    expected = sum(
        min(count * rate, weight / whole * demand) for count, rate, weight in plan if weight
    )
    if got < demand:
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert expected == pytest.approx(demand, rel=1e-9, abs=1e-12)


@given(plan=PLANS, demand=st.floats(0.1, 60.0))
def test_a_plan_and_a_transition_agree_on_what_weights_leave(plan: Plan, demand: float) -> None:
    """A variant that may run on two accelerators counts once, by what both rows carry."""
    rows = tuple(
        Row(f"v{at}", accelerator, 1.0, rate, 0, 8, weight=weight)
        for at, (_, rate, weight) in enumerate(plan)
        for accelerator in ("A", "B")
    )
    item = Item(name="g", rows=rows, demand=demand, routing="weights")
    counts, rates, weights = columns(plan)
    placed = np.repeat(counts, 2) * (np.arange(2 * len(plan)) % 2)
    assert worth.carried(item, placed, demand) == pytest.approx(
        routed.carried("weights", counts, rates, weights, demand), rel=1e-9, abs=1e-12
    )

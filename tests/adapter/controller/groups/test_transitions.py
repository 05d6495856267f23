"""Replicas of one variant go only when those that replace them are ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from adapter.controller.groups.transitions import (
    Part,
    capacity,
    carried,
    carries,
    limited,
    recalled,
    step,
)
from adapter.planning.groups import ROUTINGS, Routing


def part(key: str, planned: int, target: int, ready: int | None = None, **more: Any) -> Part:
    given = {"rate_rps": 1.0, "cost": 10.0, **more}
    return Part(
        key=key, planned=planned, target=target, ready=target if ready is None else ready, **given
    )


def test_what_serves_stays_until_others_are_ready() -> None:
    """Two replicas move to the other variant: first both are asked for, and the old ones go one by one."""
    rate = {"demand_rps": 2.0, "routing": "least-loaded"}
    first = step([part("old", 0, 2), part("new", 2, 0)], **rate)  # type: ignore[arg-type]
    assert first.replicas == {"old": 2, "new": 2}
    assert "stay until those that replace them are ready" in first.reasons["old"]
    half = step([part("old", 0, 2), part("new", 2, 2, ready=1)], **rate)  # type: ignore[arg-type]
    assert half.replicas == {"old": 1, "new": 2}
    done = step([part("old", 0, 1), part("new", 2, 2)], **rate)  # type: ignore[arg-type]
    assert (done.replicas, done.reasons) == ({"old": 0, "new": 2}, {})


def test_less_demand_needs_no_others() -> None:
    """What is ready carries the demand with fewer replicas: they go at once, the dearest first."""
    parts = [part("cheap", 2, 3), part("dear", 0, 1, cost=90.0)]
    assert step(parts, demand_rps=2.0, routing="least-loaded").replicas == {"cheap": 2, "dear": 0}


def test_a_plan_that_is_short_keeps_nothing() -> None:
    """Where a budget cuts, what it takes away goes though the demand is larger."""
    transition = step([part("a", 1, 3), part("b", 0, 1)], demand_rps=9.0, routing="least-loaded")
    assert transition.replicas == {"a": 1, "b": 0}


def test_even_spread_is_bound_by_the_slowest() -> None:
    """One slow replica makes two fast ones carry no more than it does; without it they carry more."""
    parts = [part("fast", 2, 2, rate_rps=10.0), part("slow", 0, 1, rate_rps=1.0)]
    assert capacity(parts, {"fast": 2, "slow": 1}, "round-robin") == 3.0
    assert step(parts, demand_rps=20.0, routing="round-robin").replicas == {"fast": 2, "slow": 0}


def test_weights_give_each_variant_its_part() -> None:
    """A variant with a weight and without replicas carries nothing of its part: neither does the group."""
    parts = [part("a", 1, 1, weight=3.0), part("b", 1, 1, weight=1.0)]
    assert capacity(parts, {"a": 3, "b": 1}, "weights") == 4.0
    assert capacity(parts, {"a": 3, "b": 0}, "weights") == 0.0


def test_a_variant_at_zero_does_not_let_the_others_of_a_weighted_group_go() -> None:
    """One of three cannot come; what replaces the second one's replicas starts: it keeps serving its part."""
    gone = part("gone", 0, 0)
    old, new = part("old", 1, 2, cost=20.0), part("new", 2, 1, ready=1)
    rate: dict[str, Any] = {"demand_rps": 6.0, "routing": "weights"}
    assert carried([gone, old, new], {"gone": 0, "old": 2, "new": 1}, "weights", 6.0) == 3.0
    assert step([gone, old, new], **rate).replicas == {"gone": 0, "old": 2, "new": 2}
    started = replace(new, target=2, ready=2)
    assert step([gone, old, started], **rate).replicas == {"gone": 0, "old": 1, "new": 2}


def test_a_demand_that_a_weighted_group_carries_is_known_by_its_weights() -> None:
    """Three quarters go to one variant: of 8 requests per second it gets 6, and the other one its 1 of 2."""
    parts = [part("a", 6, 6, weight=3.0), part("b", 1, 1, weight=1.0)]
    assert carried(parts, {"a": 9, "b": 1}, "weights", 8.0) == 7.0
    assert carried(parts, {"a": 9, "b": 3}, "weights", 8.0) == 12.0
    assert carried(parts, {"a": 9, "b": 1}, "least-loaded", 8.0) == 10.0


def test_steps_are_limited() -> None:
    """No more replicas up or down at a time than the settings allow."""
    parts = [part("up", 9, 1), part("down", 1, 9)]
    transition = limited(step(parts, demand_rps=0.0, routing="least-loaded"), parts, up=2, down=3)
    assert transition.replicas == {"up": 3, "down": 6}
    assert transition.reasons["up"] == "3 instead of 9: 2 more at a time"


PARTS = st.lists(
    st.builds(
        Part,
        key=st.sampled_from("abcd"),
        planned=st.integers(0, 6),
        target=st.integers(0, 6),
        ready=st.integers(0, 6),
        rate_rps=st.floats(0.1, 10.0),
        cost=st.floats(0.0, 100.0),
        weight=st.floats(0.1, 5.0),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda item: item.key,
)


@given(parts=PARTS, demand=st.floats(0.0, 60.0), routing=st.sampled_from(ROUTINGS))
def test_no_step_loses_what_serves(parts: list[Part], demand: float, routing: Routing) -> None:
    """Whatever is planned: what stays ready carries the demand, or the plan, or no less than it did."""
    transition = step(parts, demand_rps=demand, routing=routing)

    def ready(replicas: dict[str, int]) -> float:
        return carried(parts, replicas, routing, demand)

    before = ready({item.key: min(item.ready, item.target) for item in parts})
    after = ready({item.key: min(item.ready, transition.replicas[item.key]) for item in parts})
    planned = ready({item.key: item.planned for item in parts})
    lost = any(
        transition.replicas[item.key] < item.target and item.ready > transition.replicas[item.key]
        for item in parts
    )
    assert not lost or after >= min(demand, planned, before) * (1 - 1e-6)
    for item in parts:
        assert min(item.planned, item.target) <= transition.replicas[item.key]
        assert transition.replicas[item.key] <= max(item.planned, item.target)
        assert transition.replicas[item.key] >= item.planned


def test_present_replicas_that_carry_are_known() -> None:
    """Whether a move is only for its cost."""
    parts = [part("a", 0, 2), part("b", 1, 0)]
    assert carries(parts, demand_rps=2.0, routing="least-loaded")
    assert not carries(parts, demand_rps=2.1, routing="least-loaded")


def test_replicas_that_do_not_come_carry_nothing() -> None:
    """Two are asked for and none finds a node: what replaces them is no mere move between variants."""
    gone = part("gone", 0, 2, ready=0, available=0)
    assert not carries([gone, part("b", 2, 0)], demand_rps=1.0, routing="least-loaded")


def test_given_up_replicas_that_still_serve_bridge_the_start_of_others() -> None:
    """A moment after ten were given up the load doubled: six fast ones come, and eight of the ten stay."""
    fast = part("fast", 12, 12, ready=6, rate_rps=3.0)
    slow = part("slow", 0, 0, ready=10, present=10)
    rate: dict[str, Any] = {"demand_rps": 26.0, "routing": "least-loaded"}
    before = step([fast, slow], **rate)
    assert before.replicas == {"fast": 12, "slow": 0}
    after = recalled(before, [fast, slow], **rate)
    assert after.replicas == {"fast": 12, "slow": 8}
    assert "they were given up" in after.reasons["slow"]
    # The autoscaler has taken them away, or what is ready carries the load: nothing is started for them.
    assert recalled(before, [fast, replace(slow, present=0)], **rate) == before
    assert recalled(before, [replace(fast, ready=12), slow], **rate) == before


def test_a_slow_replica_that_would_bind_the_others_is_not_recalled() -> None:
    """Where every pod is offered the same, one more may carry less."""
    parts = [part("fast", 3, 3, ready=2, rate_rps=9.0), part("slow", 0, 0, ready=1, present=1)]
    before = step(parts, demand_rps=26.0, routing="round-robin")
    assert recalled(before, parts, demand_rps=26.0, routing="round-robin") == before

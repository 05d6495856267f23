"""Scaling policies, stabilization and bounds of the HPA, worked out from the controller's rules."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator import hpa
from emulator.hpa_rules import DEFAULT_DOWN, DEFAULT_UP, HPAScalingPolicy, Pace, ScalingRules
from tests.emulator.hpa_syncs import every, follow


def pods(value: int, period_seconds: float) -> HPAScalingPolicy:
    return HPAScalingPolicy(type="Pods", value=value, period_seconds=period_seconds)


def percent(value: int, period_seconds: float) -> HPAScalingPolicy:
    return HPAScalingPolicy(type="Percent", value=value, period_seconds=period_seconds)


def rules(
    *policies: HPAScalingPolicy, select: Literal["Max", "Min", "Disabled"] = "Max"
) -> ScalingRules:
    return ScalingRules(policies=policies or None, select_policy=select)


@pytest.mark.parametrize(
    ("seconds", "seen"),
    [
        pytest.param(5, [5, 5, 5, 10, 10, 10, 20], id="each-5-s"),
        pytest.param(15, [5, 10, 20, 40, 50, 50, 50], id="each-15-s"),
        pytest.param(60, [5, 10, 20, 40, 50, 50, 50], id="each-60-s"),
    ],
)
def test_default_policies_up(seconds: float, seen: list[int]) -> None:
    """By default 4 pods or 100 % may be added in 15 s, the larger; those of the period count."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=50)
    assert follow(scaler, 1, every(seconds, 50, 7)) == seen


def test_default_policy_down() -> None:
    """By default nothing but the window and the minimum holds back a scale-down."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=2, max_replicas=50, stabilization_down_seconds=0
    )
    assert follow(scaler, 50, [(0, 1)]) == [2]


def test_without_behavior_each_sync_may_double() -> None:
    """Without `behavior` every sync may go to twice the replicas or 4, and no event is counted."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=50, without_behavior=True)
    assert follow(scaler, 1, every(1, 50, 6)) == [4, 8, 16, 32, 50, 50]


def test_without_behavior_the_limit_has_its_reason() -> None:
    """Without `behavior` too the condition tells the rate from the maximum."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=10, without_behavior=True)
    reasons = [
        scaler.step(now_seconds=at, items=["50"], spec_replicas=at, ready_replicas=at).reason
        for at in (1, 5)
    ]
    assert reasons == ["ScaleUpLimit", "TooManyReplicas"]


@pytest.mark.parametrize(
    ("without_behavior", "seen"), [(True, [5, 5, 5, 1]), (False, [5, 5, 1, 1])]
)
def test_the_end_of_the_window_down(without_behavior: bool, seen: list[int]) -> None:  # noqa: FBT001
    """A recommendation exactly as old as the window counts only without `behavior`."""
    scaler = hpa.HorizontalPodAutoscaler(
        stabilization_down_seconds=30, without_behavior=without_behavior
    )
    assert follow(scaler, 5, [(0, 5), (15, 1), (30, 1), (45, 1)]) == seen


def test_without_behavior_and_window_down_is_at_once() -> None:
    """Without `behavior` and with a window of 0 only the newest recommendation counts."""
    scaler = hpa.HorizontalPodAutoscaler(stabilization_down_seconds=0, without_behavior=True)
    assert follow(scaler, 5, [(0, 2), (15, 1)]) == [2, 1]


@pytest.mark.parametrize(
    ("scale_up", "before", "after"),
    [
        pytest.param(rules(pods(2, 60)), 10, 12, id="pods"),
        pytest.param(rules(percent(50, 60)), 10, 15, id="percent"),
        pytest.param(rules(percent(10, 60)), 3, 4, id="percent-rounds-up"),
        pytest.param(rules(percent(10, 60)), 100, 111, id="percent-is-a-binary-fraction"),
        pytest.param(rules(pods(4, 60), percent(10, 60)), 20, 24, id="max"),
        pytest.param(rules(pods(4, 60), percent(10, 60), select="Min"), 20, 22, id="min"),
        pytest.param(rules(pods(4, 60), select="Disabled"), 20, 20, id="disabled"),
        pytest.param(rules(select="Disabled"), 20, 20, id="disabled-with-default-policies"),
        pytest.param(rules(select="Min"), 3, 6, id="min-of-default-policies"),
    ],
)
def test_policies_up(scale_up: ScalingRules, before: int, after: int) -> None:
    """A wish for 500 ends at the scaleUp limit, and the condition says so."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=1000, scale_up=scale_up)
    decision = scaler.step(
        now_seconds=0, items=["500"], spec_replicas=before, ready_replicas=before
    )
    assert (decision.replicas, decision.reason) == (after, "ScaleUpLimit")


@pytest.mark.parametrize(
    ("scale_down", "before", "after"),
    [
        pytest.param(rules(pods(2, 60)), 10, 8, id="pods"),
        pytest.param(rules(percent(50, 60)), 10, 5, id="percent"),
        pytest.param(rules(percent(10, 60)), 5, 4, id="percent-rounds-down"),
        pytest.param(rules(percent(80, 60)), 20, 3, id="percent-is-a-binary-fraction"),
        pytest.param(rules(pods(4, 60), percent(50, 60)), 20, 10, id="max"),
        pytest.param(rules(pods(4, 60), percent(50, 60), select="Min"), 20, 16, id="min"),
        pytest.param(rules(pods(4, 60), select="Disabled"), 20, 20, id="disabled"),
        pytest.param(rules(select="Disabled"), 20, 20, id="disabled-with-default-policies"),
    ],
)
def test_policies_down(scale_down: ScalingRules, before: int, after: int) -> None:
    """A wish for 1 ends at the scaleDown limit, and the condition says so."""
    scaler = hpa.HorizontalPodAutoscaler(
        max_replicas=1000, stabilization_down_seconds=0, scale_down=scale_down
    )
    decision = scaler.step(now_seconds=0, items=["1"], spec_replicas=before, ready_replicas=before)
    assert (decision.replicas, decision.reason) == (after, "ScaleDownLimit")


def test_disabled_holds_one_direction_only() -> None:
    """A selectPolicy of Disabled on scaleDown leaves scaleUp as it is."""
    scaler = hpa.HorizontalPodAutoscaler(
        stabilization_down_seconds=0, scale_down=rules(select="Disabled")
    )
    assert follow(scaler, 4, [(0, 1), (15, 6), (30, 1)]) == [4, 6, 6]


def test_bounds_hold_disabled_directions_too() -> None:
    """Outside the bounds the HPA corrects the count, whatever its policies say."""
    disabled = rules(select="Disabled")
    for before, after in ((1, 3), (9, 6)):
        scaler = hpa.HorizontalPodAutoscaler(
            min_replicas=3, max_replicas=6, scale_up=disabled, scale_down=disabled
        )
        assert follow(scaler, before, [(0, 1)]) == [after]


@pytest.mark.parametrize(
    ("scale_up", "syncs", "seen"),
    [
        pytest.param(
            rules(pods(2, 60)),
            [(0, 99), (15, 99), (59, 99), (60, 99), (75, 99)],
            [12, 12, 12, 14, 14],
            id="one-period",
        ),
        pytest.param(
            rules(pods(2, 60)),
            [(0, 11), (30, 99), (60, 99), (90, 99)],
            [11, 12, 13, 14],
            id="half-used",
        ),
        pytest.param(
            rules(pods(4, 15), pods(6, 60), select="Min"),
            every(15, 99, 6),
            [14, 16, 16, 16, 20, 22],
            id="overlapping-min",
        ),
        pytest.param(
            rules(pods(1, 15), percent(50, 60)),
            every(15, 99, 5),
            [15, 16, 17, 18, 23],
            id="overlapping-max",
        ),
    ],
)
def test_periods_up(
    scale_up: ScalingRules, syncs: list[tuple[float, float]], seen: list[int]
) -> None:
    """A period counts what was added within it, and percent is of the replicas at its start."""
    scaler = hpa.HorizontalPodAutoscaler(
        max_replicas=100, tolerance_up=0, tolerance_down=0, scale_up=scale_up
    )
    assert follow(scaler, 10, syncs) == seen


@pytest.mark.parametrize(
    ("scale_down", "seen"),
    [
        pytest.param(rules(pods(2, 60)), [18, 18, 18, 18, 16], id="one-period"),
        pytest.param(rules(percent(10, 30)), [18, 18, 16, 16, 14], id="percent-of-the-start"),
        pytest.param(
            rules(pods(3, 15), pods(5, 60), select="Min"), [17, 15, 15, 15, 12], id="overlapping"
        ),
    ],
)
def test_periods_down(scale_down: ScalingRules, seen: list[int]) -> None:
    """A period counts what was removed within it."""
    scaler = hpa.HorizontalPodAutoscaler(
        max_replicas=100, stabilization_down_seconds=0, scale_down=scale_down
    )
    assert follow(scaler, 20, every(15, 1, 5)) == seen


def test_what_was_added_may_be_removed_again() -> None:
    """Down from 8, of which 4 came within the period: its start was 4, and 2 fewer are 2."""
    scaler = hpa.HorizontalPodAutoscaler(
        stabilization_down_seconds=0, scale_down=rules(pods(2, 60))
    )
    assert follow(scaler, 4, [(0, 8), (15, 1)]) == [8, 2]


def test_what_was_removed_may_be_added_again() -> None:
    """Up from 10 after 10 of 20 went within the period: 50 % more than 20 are 30."""
    scaler = hpa.HorizontalPodAutoscaler(
        max_replicas=100, stabilization_down_seconds=0, scale_up=rules(percent(50, 60))
    )
    assert follow(scaler, 20, [(0, 10), (15, 99)]) == [10, 30]


def test_the_current_count_is_never_too_much_for_a_policy() -> None:
    """Where policies allow less than there is, the count stays: down again by no more than wished."""
    pace = Pace(up=rules(pods(1, 60)), down=rules(pods(1, 60)))
    pace.record(0, 10, 20)
    assert pace.up_limit(30, 20) == 20
    pace.record(40, 20, 5)
    assert pace.down_limit(50, 5) == 5


def test_an_outdated_event_counts_until_the_next_one_takes_its_place() -> None:
    """As the controller: an event past its own periods still counts in longer ones of the other."""

    def left(second: float) -> int:
        scaler = hpa.HorizontalPodAutoscaler(
            max_replicas=100, stabilization_down_seconds=0, tolerance_up=0,
            scale_down=rules(pods(1, 120)),
        )  # fmt: skip
        return follow(scaler, 10, [(0, 14), (second, 16), (40, 1)])[-1]

    assert left(15) == 9  # both of the events count: the period began with 10
    assert left(20) == 13  # the first was outdated and overwritten: it began with 14


def test_counts_set_by_hand_are_no_events() -> None:
    """What others add within the period moves the start of the period, not its budget."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=100, scale_up=rules(pods(4, 60)))
    assert follow(scaler, 10, [(0, 99)]) == [14]
    assert follow(scaler, 30, [(15, 99)]) == [30]
    assert follow(scaler, 30, [(60, 99)]) == [34]


def test_recommendations_are_remembered_before_the_limits() -> None:
    """The window holds what the metric said, so a wish for 100 keeps the 5 that it got."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=200, stabilization_down_seconds=30)
    assert follow(scaler, 1, [(0, 100), (15, 1), (30, 1)]) == [5, 5, 1]


def test_stabilization_comes_before_the_limits() -> None:
    """Up waits for its window of 60 s, and then takes the step that the policies allow."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=50, stabilization_up_seconds=60)
    assert follow(scaler, 2, every(15, 10, 6)) == [2, 2, 2, 2, 6, 10]


@pytest.mark.parametrize(
    ("before", "value", "after", "reason"),
    [
        pytest.param(18, "100", 20, "TooManyReplicas", id="maximum"),
        pytest.param(3, "100", 7, "ScaleUpLimit", id="rate"),
        pytest.param(5, "0", 2, "TooFewReplicas", id="minimum"),
        pytest.param(5, "6", 6, "DesiredWithinRange", id="neither"),
        pytest.param(10, "100", 20, "TooManyReplicas", id="both-at-once"),
    ],
)
def test_the_tighter_limit_names_the_reason(
    before: int, value: str, after: int, reason: str
) -> None:
    """Of rate and bound the tighter holds, and with a tie it is the bound."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=2, max_replicas=20, stabilization_down_seconds=0
    )
    decision = scaler.step(
        now_seconds=0, items=[value], spec_replicas=before, ready_replicas=before
    )
    assert (decision.replicas, decision.reason) == (after, reason)


def test_a_percent_policy_alone_never_wakes() -> None:
    """100 % of no replicas are none."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=0, stabilization_down_seconds=0, scale_up=rules(percent(100, 15))
    )
    assert follow(scaler, 2, [(0, 0), (15, 5)]) == [0, 0]


policies = st.builds(
    HPAScalingPolicy,
    type=st.sampled_from(["Pods", "Percent"]),
    value=st.sampled_from([1, 2, 3, 7, 10, 33, 50, 100, 150]),
    period_seconds=st.sampled_from([5.0, 15.0, 30.0, 60.0]),
)
behaviors = st.none() | st.builds(
    ScalingRules,
    policies=st.none() | st.lists(policies, min_size=1, max_size=3).map(tuple),
    select_policy=st.sampled_from(["Max", "Min", "Disabled"]),
)


def _allowed(
    trace: list[tuple[float, int]],
    now: float,
    chosen: ScalingRules | None,
    default: tuple[HPAScalingPolicy, ...],
    sign: int,
) -> float:
    """The limit from the replicas as they were when each period began."""
    chosen = chosen or ScalingRules()
    if chosen.select_policy == "Disabled":
        return trace[-1][1]
    limits = []
    for policy in chosen.policies or default:
        start = [count for at, count in trace if at <= now - policy.period_seconds or at < 0][-1]
        change = policy.value if policy.type == "Pods" else start * policy.value / 100
        # A percentage may be off by one replica, in binary fractions.
        limits.append(start + sign * (math.ceil(change) + (policy.type == "Percent")))
    far = max(limits) if (chosen.select_policy == "Max") == (sign > 0) else min(limits)
    return max(trace[-1][1], far) if sign > 0 else min(trace[-1][1], far)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scale_up=behaviors,
    scale_down=behaviors,
    windows=st.tuples(st.sampled_from([0.0, 15.0, 60.0]), st.sampled_from([0.0, 15.0, 60.0])),
    # The least, and what lies above it: where it begins, and the most.
    bounds=st.tuples(st.integers(1, 20), st.integers(0, 100), st.integers(0, 100)),
    syncs=st.lists(
        st.tuples(st.sampled_from([1.0, 5.0, 7.5, 15.0, 40.0]), st.none() | st.integers(0, 300)),
        max_size=30,
    ),
)
def test_no_period_sees_more_than_its_policies_allow(
    scale_up: ScalingRules | None,
    scale_down: ScalingRules | None,
    windows: tuple[float, float],
    bounds: tuple[int, int, int],
    syncs: list[tuple[float, int | None]],
) -> None:
    """The count stays within its bounds, and no period's change is beyond what the policies allow."""
    low, replicas, high = bounds[0], bounds[0] + bounds[1], sum(bounds)
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=low,
        max_replicas=high,
        stabilization_up_seconds=windows[0],
        stabilization_down_seconds=windows[1],
        scale_up=scale_up,
        scale_down=scale_down,
    )
    trace, now = [(-1.0, replicas)], 0.0
    for seconds, value in syncs:
        now += seconds
        after = scaler.step(
            now_seconds=now,
            items=None if value is None else [str(value)],
            spec_replicas=replicas,
            ready_replicas=replicas,
        ).replicas
        assert low <= after <= high
        if after > replicas:
            assert after <= _allowed(trace, now, scale_up, DEFAULT_UP, 1)
        if after < replicas:
            assert after >= _allowed(trace, now, scale_down, DEFAULT_DOWN, -1)
        if value is None:
            assert after == replicas
        trace.append((now, after))
        replicas = after

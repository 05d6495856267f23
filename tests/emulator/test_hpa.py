"""The HPA's algorithm, case by case as recorded from the real controller or worked out from its rules."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from emulator import hpa
from emulator.hpa_rules import DEFAULT_DOWN, DEFAULT_UP, Pace, ScalingPolicy, ScalingRules


def pods(value: int, period_seconds: float) -> ScalingPolicy:
    return ScalingPolicy(type="Pods", value=value, period_seconds=period_seconds)


def percent(value: int, period_seconds: float) -> ScalingPolicy:
    return ScalingPolicy(type="Percent", value=value, period_seconds=period_seconds)


def rules(
    *policies: ScalingPolicy, select: Literal["Max", "Min", "Disabled"] = "Max"
) -> ScalingRules:
    return ScalingRules(policies=policies or None, select_policy=select)


def follow(
    scaler: hpa.HorizontalPodAutoscaler,
    replicas: int,
    syncs: Sequence[tuple[float, float]],
) -> list[int]:
    """Replicas after each sync, (seconds, value), of a workload that obeys at once."""
    seen = []
    for now, value in syncs:
        replicas = scaler.step(
            now_seconds=now, items=[str(value)], spec_replicas=replicas, ready_replicas=replicas
        ).replicas
        seen.append(replicas)
    return seen


def every(seconds: float, value: float, count: int) -> list[tuple[float, float]]:
    return [(seconds * index, value) for index in range(count)]


@pytest.mark.parametrize(
    ("items", "target", "before", "after"),
    [
        pytest.param(["3"], "1", 1, 3, id="3"),
        pytest.param(["3500m"], "1", 1, 4, id="3500m"),
        pytest.param(["3.14159265358979"], "1", 1, 4, id="long-fraction"),
        pytest.param(["2.5"], "1", 1, 3, id="2.5"),
        pytest.param(["0"], "1", 3, 1, id="0-is-the-minimum"),
        pytest.param(["7"], "1", 2, 7, id="7"),
        pytest.param(["22"], "1", 1, 20, id="22-is-the-maximum"),
        pytest.param(["1", "2", "3"], "1", 1, 6, id="items-are-summed"),
        pytest.param(["10"], "1", 10, 10, id="10-at-10"),
        pytest.param(["10500m"], "1", 10, 10, id="10500m-at-10"),
        pytest.param(["11"], "1", 10, 10, id="11-at-10-upper-end"),
        pytest.param(["9"], "1", 10, 10, id="9-at-10-lower-end"),
        pytest.param(["9500m"], "1", 10, 10, id="9500m-at-10"),
        pytest.param(["11001m"], "1", 10, 12, id="11001m-at-10"),
        pytest.param(["8999m"], "1", 10, 9, id="8999m-at-10"),
        pytest.param(["1e3"], "100", 1, 10, id="1e3-target-100"),
        pytest.param(["2"], "500m", 1, 4, id="2-target-500m"),
        pytest.param(["4 "], "1", 1, 4, id="blank-after-it"),
        pytest.param(["-5"], "1", 2, 20, id="negative-is-the-maximum"),
    ],
)
def test_average_value(items: list[str], target: str, before: int, after: int) -> None:
    """AverageValue with bounds 1..20 ends where the real controller did."""
    proposed = hpa.desired_replicas(
        items=items, target=target, spec_replicas=before, ready_replicas=before, max_replicas=20
    )
    assert min(max(proposed, 1), 20) == after
    scaler = hpa.HorizontalPodAutoscaler(
        max_replicas=20, target=target, stabilization_down_seconds=0
    )
    for sync in range(10):
        before = scaler.step(
            now_seconds=15.0 * sync, items=items, spec_replicas=before, ready_replicas=before
        ).replicas
    assert before == after


def test_tolerance_zero_is_exact() -> None:
    """With tolerance 0 a change of one replica in twenty is followed."""
    for before, wanted in ((10, 11), (20, 19), (30, 31), (10, 10)):
        found = hpa.desired_replicas(
            items=[str(wanted)], target="1", spec_replicas=before, ready_replicas=before,
            max_replicas=50, tolerance_up=0, tolerance_down=0,
        )  # fmt: skip
        assert found == wanted


def test_value_targets_compound() -> None:
    """A Value target multiplies at each sync: 20 against 10 doubles until the maximum."""
    replicas = 4
    seen = []
    for _ in range(3):
        replicas = min(
            hpa.desired_replicas(
                items=["20"], target="10", target_type="Value", spec_replicas=replicas,
                ready_replicas=replicas, max_replicas=20,
            ),
            20,
        )  # fmt: skip
        seen.append(replicas)
    assert seen == [8, 16, 20]


@pytest.mark.parametrize("items", [None, [], ["NaN"], ["+Inf"]])
def test_without_a_value_replicas_stay(items: list[str] | None) -> None:
    """No items, no answer or no quantity: nothing changes, and the condition says so."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=20)
    decision = scaler.step(now_seconds=0, items=items, spec_replicas=5, ready_replicas=5)
    assert (decision.replicas, decision.reason) == (5, "FailedGetExternalMetric")


def test_scaling_down_waits_for_its_window() -> None:
    """Up at once; down only when every recommendation of the window is lower."""
    scaler = hpa.HorizontalPodAutoscaler(stabilization_down_seconds=30)

    def step(now: float, value: str, current: int) -> int:
        return scaler.step(
            now_seconds=now, items=[value], spec_replicas=current, ready_replicas=current
        ).replicas

    assert step(0, "4", 1) == 4
    assert step(15, "1", 4) == 4
    assert step(29, "1", 4) == 4
    assert step(31, "1", 4) == 1


def test_zero_replicas_stay_zero() -> None:
    """A target at 0 that the HPA did not scale there itself is left alone."""
    scaler = hpa.HorizontalPodAutoscaler(min_replicas=0)
    decision = scaler.step(now_seconds=0, items=["3"], spec_replicas=0, ready_replicas=0)
    assert (decision.replicas, decision.reason) == (0, "ScalingDisabled")


@pytest.mark.parametrize(("before", "after"), [(12, 8), (1, 2)])
def test_a_count_outside_the_bounds_is_bounded_without_the_metric(before: int, after: int) -> None:
    """As the controller: outside minReplicas..maxReplicas the metric is not even read."""
    scaler = hpa.HorizontalPodAutoscaler(min_replicas=2, max_replicas=8)
    decision = scaler.step(now_seconds=0, items=None, spec_replicas=before, ready_replicas=before)
    assert decision.replicas == after


def test_a_count_that_overflows_becomes_the_maximum() -> None:
    """A proposal beyond 32 bits is read as the maximum."""
    proposed = hpa.desired_replicas(
        items=["9E"], target="1", spec_replicas=1, ready_replicas=1, max_replicas=7
    )
    assert proposed == 7


@pytest.mark.parametrize("wanted", [11, 19])
def test_tolerance_zero_in_a_sync(wanted: int) -> None:
    """With tolerance 0 a sync follows what the default of 10 % would ignore."""
    before = {11: 10, 19: 20}[wanted]
    for tolerance, after in ((0, wanted), (hpa.TOLERANCE, before)):
        scaler = hpa.HorizontalPodAutoscaler(
            max_replicas=20,
            stabilization_down_seconds=0,
            tolerance_up=tolerance,
            tolerance_down=tolerance,
        )
        assert follow(scaler, before, [(0, wanted)]) == [after]


def test_a_value_target_in_syncs() -> None:
    """A Value target of 10 against 20 goes 4, 8, 16, and then the maximum of 20."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=20, target="10", target_type="Value")
    assert follow(scaler, 4, every(15, 20, 4)) == [8, 16, 20, 20]


@pytest.mark.parametrize(
    ("items", "proposed"),
    [
        pytest.param(["20"], 8, id="ready-replicas-are-multiplied"),
        pytest.param(["11"], 10, id="within-the-tolerance-spec-replicas-stay"),
        pytest.param(["-20"], 0, id="negative-is-nothing"),
    ],
)
def test_a_value_target_counts_ready_replicas(items: list[str], proposed: int) -> None:
    """Value multiplies the ready replicas, 4 of 10, and keeps those of the spec."""
    found = hpa.desired_replicas(
        items=items, target="10", target_type="Value", spec_replicas=10, ready_replicas=4
    )
    assert found == proposed


def test_a_value_target_rounds_as_binary_fractions_do() -> None:
    """0.07 times 100 is just over 7 for the controller, so it asks for 8."""
    found = hpa.desired_replicas(
        items=["7"], target="100", target_type="Value", spec_replicas=100, ready_replicas=100
    )
    assert found == 8


@pytest.mark.parametrize(
    ("items", "status", "proposed"),
    [
        pytest.param(["8.4"], 8, 8, id="within-of-status"),
        pytest.param(["10"], 8, 10, id="outside-of-status"),
        pytest.param(["10"], 0, 10, id="none-exist-yet"),
        pytest.param(["0"], 0, 0, id="none-exist-and-no-load"),
    ],
)
def test_average_value_counts_replicas_that_exist(
    items: list[str], status: int, proposed: int
) -> None:
    """AverageValue divides by status.replicas, and proposes these within the tolerance."""
    found = hpa.desired_replicas(
        items=items, target="1", spec_replicas=10, ready_replicas=0, status_replicas=status
    )
    assert found == proposed
    scaler = hpa.HorizontalPodAutoscaler(min_replicas=0, stabilization_down_seconds=0)
    decision = scaler.step(
        now_seconds=0, items=items, spec_replicas=10, ready_replicas=0, status_replicas=status
    )
    assert decision.replicas == proposed


def test_a_sum_that_is_negative_on_its_way_is_the_maximum() -> None:
    """AverageValue takes a negative partial sum for an overflow, whatever follows."""
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=4)
    decision = scaler.step(now_seconds=0, items=["-1", "3"], spec_replicas=2, ready_replicas=2)
    assert (decision.replicas, decision.reason) == (4, "TooManyReplicas")


@pytest.mark.parametrize(
    ("items", "status", "pending", "proposed"),
    [
        pytest.param(["10", "20", "30"], 3, 0, 6, id="mean"),
        pytest.param(["11", "11", "11"], 3, 0, 3, id="tolerance"),
        pytest.param(["30", "30"], 3, 0, 6, id="missing-is-idle-on-the-way-up"),
        pytest.param(["0", "0"], 4, 0, 2, id="missing-is-at-the-target-on-the-way-down"),
        pytest.param(["30", "30"], 3, 1, 6, id="pending-is-idle-on-the-way-up"),
        pytest.param(["2", "2"], 3, 1, 1, id="pending-is-ignored-on-the-way-down"),
        pytest.param(["30"], 10, 0, 3, id="no-turn-of-direction"),
        pytest.param(["2"], 2, 0, 2, id="no-more-on-the-way-down"),
        pytest.param(["10"], 3, 0, 3, id="missing-at-the-target"),
    ],
)
def test_pods_metrics(items: list[str], status: int, pending: int, proposed: int) -> None:
    """A Pods metric is the mean of the pods with a value; the others count against a change."""
    found = hpa.desired_replicas(
        items=items, target="10", source="Pods", spec_replicas=3 if status == 10 else status,
        ready_replicas=status, status_replicas=status, pending_replicas=pending,
    )  # fmt: skip
    assert found == proposed


@pytest.mark.parametrize(("items", "status"), [(None, 2), (["3"], 0)])
def test_pods_metrics_without_pods(items: list[str] | None, status: int) -> None:
    """Without values or without pods a Pods metric fails with its own reason."""
    scaler = hpa.HorizontalPodAutoscaler(metrics=[hpa.Metric(source="Pods")])
    decision = scaler.step(
        now_seconds=0, items=items, spec_replicas=2, ready_replicas=2, status_replicas=status
    )
    assert (decision.replicas, decision.reason) == (2, "FailedGetPodsMetric")


def test_a_value_target_without_pods_fails() -> None:
    """Outside the tolerance Value needs pods to multiply."""
    scaler = hpa.HorizontalPodAutoscaler(target_type="Value")
    decision = scaler.step(
        now_seconds=0, items=["3"], spec_replicas=2, ready_replicas=0, status_replicas=0
    )
    assert (decision.replicas, decision.reason) == (2, "FailedGetExternalMetric")


@pytest.mark.parametrize(
    ("readings", "before", "after", "reason"),
    [
        pytest.param([["2"], ["5"]], 3, 5, "DesiredWithinRange", id="larger-wins-up"),
        pytest.param([["1"], ["2"]], 3, 2, "DesiredWithinRange", id="larger-wins-down"),
        pytest.param([["1"], ["5"]], 3, 5, "DesiredWithinRange", id="up-beats-down"),
        pytest.param([["6"], None], 3, 6, "DesiredWithinRange", id="up-with-a-failure"),
        pytest.param([None, ["6"]], 3, 6, "DesiredWithinRange", id="up-with-the-first-failing"),
        pytest.param([["1"], None], 3, 3, "FailedGetExternalMetric", id="no-down-with-a-failure"),
        pytest.param([["3"], None], 3, 3, "DesiredWithinRange", id="unchanged-with-a-failure"),
        pytest.param([None, []], 3, 3, "FailedGetExternalMetric", id="all-fail"),
    ],
)
def test_several_metrics(
    readings: list[list[str] | None], before: int, after: int, reason: str
) -> None:
    """The larger proposal wins; with a failing metric only up is allowed."""
    scaler = hpa.HorizontalPodAutoscaler(
        metrics=[hpa.Metric(), hpa.Metric()], stabilization_down_seconds=0
    )
    decision = scaler.step(
        now_seconds=0, items_by_metric=readings, spec_replicas=before, ready_replicas=before
    )
    assert (decision.replicas, decision.reason) == (after, reason)


def test_the_first_failing_metric_names_the_reason() -> None:
    """Of several failures the HPA shows the first."""
    metrics = [hpa.Metric(), hpa.Metric(source="Pods"), hpa.Metric()]
    scaler = hpa.HorizontalPodAutoscaler(metrics=metrics)
    decision = scaler.step(
        now_seconds=0, items_by_metric=[["1"], None, None], spec_replicas=3, ready_replicas=3
    )
    assert decision.reason == "FailedGetPodsMetric"


def test_metrics_have_their_own_targets() -> None:
    """Each metric is held against its own target: 50 / 10 = 5 beats 3 / 1."""
    scaler = hpa.HorizontalPodAutoscaler(metrics=[hpa.Metric(), hpa.Metric(target="10")])
    decision = scaler.step(
        now_seconds=0, items_by_metric=[["3"], ["50"]], spec_replicas=1, ready_replicas=1
    )
    assert decision.replicas == 5


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


@pytest.mark.parametrize("target_type", ["AverageValue", "Value"])
def test_to_zero_and_back(target_type: Literal["AverageValue", "Value"]) -> None:
    """With minReplicas 0 the HPA wakes what it has put to sleep: 2 -> 0 -> 1 -> 3 -> 0."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=0, stabilization_down_seconds=0, target_type=target_type
    )
    values = [(0, 0.0), (15, 0.0), (30, 0.001), (45, 3.0), (60, 0.0)]
    assert follow(scaler, 2, values) == [0, 0, 1, 3, 0]


def test_a_percent_policy_alone_never_wakes() -> None:
    """100 % of no replicas are none."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=0, stabilization_down_seconds=0, scale_up=rules(percent(100, 15))
    )
    assert follow(scaler, 2, [(0, 0), (15, 5)]) == [0, 0]


def test_pods_metrics_alone_never_wake() -> None:
    """What sleeps has no pods to measure, so with Pods metrics alone it stays at 0."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=0, stabilization_down_seconds=0, metrics=[hpa.Metric(source="Pods")]
    )
    seen = [
        scaler.step(now_seconds=at, items=[value], spec_replicas=now, ready_replicas=now)
        for at, value, now in ((0, "0", 1), (15, "5", 0))
    ]
    assert [(one.replicas, one.reason) for one in seen] == [
        (0, "DesiredWithinRange"),
        (0, "ScalingDisabled"),
    ]


def test_what_the_api_server_would_not_admit() -> None:
    """Policies, rules, metrics and settings are refused with the field at fault."""
    wrong: list[tuple[str, Any, dict[str, Any]]] = [
        ("type", ScalingPolicy, {"type": "Nodes", "value": 1, "period_seconds": 1}),
        ("value", ScalingPolicy, {"type": "Pods", "value": 0, "period_seconds": 1}),
        ("period_seconds", ScalingPolicy, {"type": "Pods", "value": 1, "period_seconds": 0}),
        ("period_seconds", ScalingPolicy, {"type": "Pods", "value": 1, "period_seconds": 1801}),
        ("policies", ScalingRules, {"policies": ()}),
        ("select_policy", ScalingRules, {"select_policy": "Average"}),
        ("target", hpa.Metric, {"target": "0"}),
        ("target", hpa.Metric, {"target": "ten"}),
        ("target_type", hpa.Metric, {"target_type": "Utilization"}),
        ("target_type", hpa.Metric, {"target_type": "Value", "source": "Pods"}),
        ("source", hpa.Metric, {"source": "Object"}),
        ("metrics", hpa.HorizontalPodAutoscaler, {"metrics": []}),
        ("metrics", hpa.HorizontalPodAutoscaler, {"metrics": [hpa.Metric()], "target": "2"}),
        (
            "without_behavior",
            hpa.HorizontalPodAutoscaler,
            {"without_behavior": True, "stabilization_up_seconds": 5},
        ),
    ]
    for field, kind, settings in wrong:
        with pytest.raises(ValueError, match=rf"\b{field}: "):
            kind(**settings)


def test_each_metric_needs_its_values() -> None:
    """As many readings as metrics, and one way of giving them."""
    scaler = hpa.HorizontalPodAutoscaler(metrics=[hpa.Metric(), hpa.Metric()])
    with pytest.raises(ValueError, match="items_by_metric: must be 2"):
        scaler.step(now_seconds=0, items=["1"], spec_replicas=1, ready_replicas=1)


policies = st.builds(
    ScalingPolicy,
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
    default: tuple[ScalingPolicy, ...],
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


@pytest_asyncio.fixture
async def answer() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Address of a server, and what it will answer: body, status, content_type."""
    says: dict[str, Any] = {}

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(**says)

    app = web.Application()
    app.router.add_get("/metric", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metric", says
    finally:
        await runner.cleanup()


async def after_reading(address: str, before: int) -> hpa.Decision:
    """One sync of an HPA with bounds 1..20 on what is read there."""
    items: list[str] | None
    async with aiohttp.ClientSession() as session:
        try:
            items = await hpa.read_metric(session, address, None)
        except hpa.MetricUnavailable:
            items = None
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=20, stabilization_down_seconds=0)
    return scaler.step(now_seconds=0, items=items, spec_replicas=before, ready_replicas=before)


ITEM: dict[str, Any] = {
    "metricName": "m",
    "metricLabels": {},
    "timestamp": "2026-11-23T23:44:24Z",
    "value": "4",
}


def listing(**changes: Any) -> str:
    return json.dumps({"items": [ITEM | changes]})


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name not in names}


@pytest.mark.parametrize(
    ("item", "before", "after"),
    [
        pytest.param(ITEM, 1, 4, id="as-documented"),
        pytest.param(ITEM | {"value": 4}, 1, 4, id="json-number"),
        pytest.param(ITEM | {"value": 3.5}, 1, 4, id="json-fraction"),
        pytest.param(ITEM | {"value": "4 "}, 1, 4, id="blank-after-it"),
        pytest.param(ITEM | {"metricLabels": None}, 1, 4, id="labels-null"),
        pytest.param(without("metricName"), 1, 4, id="metricName-absent"),
        pytest.param(ITEM | {"more": [1]}, 1, 4, id="unknown-field"),
        pytest.param(ITEM | {"window": 60}, 1, 4, id="window"),
        pytest.param(ITEM | {"timestamp": "2026-11-22T23:44:24Z"}, 1, 4, id="a-day-old"),
        pytest.param(ITEM | {"timestamp": None}, 1, 4, id="timestamp-null"),
        pytest.param(without("timestamp"), 1, 4, id="timestamp-absent"),
        pytest.param(ITEM | {"timestamp": "2026-11-23T23:44:24.5Z"}, 1, 4, id="fractional"),
        pytest.param(ITEM | {"timestamp": "2026-11-23T23:44:24+00:00"}, 1, 4, id="offset"),
        pytest.param(without("value"), 2, 1, id="value-absent-is-0"),
    ],
)
async def test_answers_that_are_taken(
    answer: tuple[str, dict[str, Any]], item: dict[str, Any], before: int, after: int
) -> None:
    """Neither labels, names, unknown fields nor the age of a value matter; kind may be absent."""
    address, says = answer
    says.update(body=json.dumps({"items": [item]}).encode(), content_type="application/json")
    assert (await after_reading(address, before)).replicas == after


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        pytest.param(200, "application/json", '{"items": []}', id="no-items"),
        pytest.param(200, "application/json", '{"items": null}', id="items-null"),
        *(
            pytest.param(status, "application/json", '{"message": "no"}', id=f"status-{status}")
            for status in (403, 404, 500, 503)
        ),
        pytest.param(500, "text/plain", "no", id="status-500-text"),
        pytest.param(200, "text/plain", listing(), id="content-type"),
        pytest.param(200, "application/json", listing(value="NaN"), id="NaN"),
        pytest.param(200, "application/json", listing(value="+Inf"), id="infinite"),
        pytest.param(200, "application/json", listing(timestamp=1), id="timestamp-number"),
    ],
)
async def test_answers_that_leave_the_replicas(
    answer: tuple[str, dict[str, Any]], status: int, content_type: str, body: str
) -> None:
    """Without a value nothing changes, up or down, and the condition says so."""
    address, says = answer
    says.update(status=status, content_type=content_type, body=body.encode())
    decision = await after_reading(address, 2)
    assert (decision.replicas, decision.reason) == (2, "FailedGetExternalMetric")

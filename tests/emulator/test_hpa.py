"""Replicas that the HPA's metrics propose, case by case as recorded from the real controller."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from emulator import hpa
from emulator.hpa_rules import HPAScalingPolicy, ScalingRules
from tests.emulator.hpa_syncs import every, follow


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
        replicas = hpa.desired_replicas(
            items=[str(wanted)], target="1", spec_replicas=before, ready_replicas=before,
            max_replicas=50, tolerance_up=0, tolerance_down=0,
        )  # fmt: skip
        assert replicas == wanted


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
    replicas = hpa.desired_replicas(
        items=items, target="10", target_type="Value", spec_replicas=10, ready_replicas=4
    )
    assert replicas == proposed


def test_a_value_target_rounds_as_binary_fractions_do() -> None:
    """0.07 times 100 is just over 7 for the controller, so it asks for 8."""
    replicas = hpa.desired_replicas(
        items=["7"], target="100", target_type="Value", spec_replicas=100, ready_replicas=100
    )
    assert replicas == 8


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
    replicas = hpa.desired_replicas(
        items=items, target="1", spec_replicas=10, ready_replicas=0, status_replicas=status
    )
    assert replicas == proposed
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
    replicas = hpa.desired_replicas(
        items=items, target="10", source="Pods", spec_replicas=3 if status == 10 else status,
        ready_replicas=status, status_replicas=status, pending_replicas=pending,
    )  # fmt: skip
    assert replicas == proposed


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


@pytest.mark.parametrize("target_type", ["AverageValue", "Value"])
def test_to_zero_and_back(target_type: Literal["AverageValue", "Value"]) -> None:
    """With minReplicas 0 the HPA wakes what it has put to sleep: 2 -> 0 -> 1 -> 3 -> 0."""
    scaler = hpa.HorizontalPodAutoscaler(
        min_replicas=0, stabilization_down_seconds=0, target_type=target_type
    )
    values = [(0, 0.0), (15, 0.0), (30, 0.001), (45, 3.0), (60, 0.0)]
    assert follow(scaler, 2, values) == [0, 0, 1, 3, 0]


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
        ("type", HPAScalingPolicy, {"type": "Nodes", "value": 1, "period_seconds": 1}),
        ("value", HPAScalingPolicy, {"type": "Pods", "value": 0, "period_seconds": 1}),
        ("period_seconds", HPAScalingPolicy, {"type": "Pods", "value": 1, "period_seconds": 0}),
        ("period_seconds", HPAScalingPolicy, {"type": "Pods", "value": 1, "period_seconds": 1801}),
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

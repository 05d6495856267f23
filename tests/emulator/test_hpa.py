"""The HPA's arithmetic, case by case as recorded from the real controller."""

from __future__ import annotations

import pytest

from emulator import hpa


@pytest.mark.parametrize(
    ("items", "target", "before", "after"),
    [
        (["3"], "1", 1, 3),
        (["3500m"], "1", 1, 4),
        (["3.14159265358979"], "1", 1, 4),
        (["2.5"], "1", 1, 3),
        (["0"], "1", 3, 1),
        (["7"], "1", 2, 7),
        (["22"], "1", 1, 20),
        (["1", "2", "3"], "1", 1, 6),
        (["10"], "1", 10, 10),
        (["10500m"], "1", 10, 10),
        (["11"], "1", 10, 10),
        (["9"], "1", 10, 10),
        (["9500m"], "1", 10, 10),
        (["11001m"], "1", 10, 12),
        (["8999m"], "1", 10, 9),
        (["1e3"], "100", 1, 10),
        (["2"], "500m", 1, 4),
        (["-5"], "1", 2, 20),
    ],
)
def test_average_value(items: list[str], target: str, before: int, after: int) -> None:
    """AverageValue with bounds 1..20 ends where the real controller did."""
    proposed = hpa.desired_replicas(
        items=items, target=target, spec_replicas=before, ready_replicas=before, max_replicas=20
    )
    assert min(max(proposed, 1), 20) == after


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

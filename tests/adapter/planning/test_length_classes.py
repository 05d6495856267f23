"""`variant-adapter plan` with length classes of a group, and budgets of every namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapter.commands.test_plan_groups import changed, planned


def test_length_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A group whose gateway routes by length is sized for each class, and carries all of it."""
    classes = [
        {"name": "short", "share": 0.5, "input_tokens": 64, "output_tokens": 60},
        {"name": "long", "share": 0.5, "input_tokens": 500, "output_tokens": 400},
    ]
    answer = planned(tmp_path, capsys, changed(length_classes=classes))
    group = answer["groups"]["chat"]
    assert group["served"] == "full"
    assert group["capacity_rpm"] >= group["demand_rpm"] * (1 - 1e-6)


def test_latencies_and_capacity_are_those_of_the_length_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Means that the group states beside its classes do not count, and whole replicas leave some free."""
    classes = [
        {"name": "short", "share": 0.8, "input_tokens": 64, "output_tokens": 64},
        {"name": "long", "share": 0.2, "input_tokens": 1024, "output_tokens": 256},
    ]
    answers = [
        planned(tmp_path, capsys, changed(length_classes=classes, output_tokens=tokens))
        for tokens in (102, 178)
    ]
    assert answers[0]["plan"] == answers[1]["plan"]
    group = answers[0]["groups"]["chat"]
    assert group["capacity_rpm"] > group["demand_rpm"] * (1 + 1e-3)
    (serving,) = [item for item in answers[0]["plan"].values() if item["replicas"]]
    assert serving["replicas"] * serving["max_rate_rpm"] == pytest.approx(group["capacity_rpm"])
    clause = f"its mix of length classes bounds a replica to {serving['max_rate_rpm']:.2f} req/min"
    assert clause in serving["reason"]


def test_a_default_budget_is_of_the_namespaces_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Members of a group count in its namespace; none is without one."""
    document = changed(namespace="team-a")
    document["budgets"] = [{"scope": "namespace", "namespace": "default", "gpus": 90}]
    (budget,) = planned(tmp_path, capsys, document)["budgets"]
    assert budget["name"] == "budget namespace default (team-a): devices"

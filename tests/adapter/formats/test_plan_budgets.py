"""`budgets` of plan files: found under the names that plans show, and named where they count nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from tests.adapter.commands.test_plan_groups import changed, planned


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        ({"scope": "cluster", "cost": 1000}, "installation"),
        ({"scope": "class", "class": "Premium", "cost": 1000}, "class Premium"),
        ({"scope": "namespace", "subject": "team", "cost": 1000}, "namespace team"),
        ({"name": "all", "cost": 1000}, "all"),
    ],
)
def test_what_if_finds_a_budget_by_the_name_that_plans_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: dict[str, Any], name: str
) -> None:
    """Most budgets have no name of their own."""
    document = changed(namespace="team")
    document["budgets"] = [budget, {"scope": "cluster", "name": "other", "gpus": -1}]
    answer = planned(tmp_path, capsys, document, "--what-if", f"budget.{name}.cost=180")
    assert [item["name"] for item in answer["after"]["budgets"]] == [f"budget {name}: cost"]
    assert answer["after"]["budgets"][0]["limit"] == 180
    path = str(tmp_path / "fleet.yaml")
    assert cli.main(["plan", "-f", path, "--what-if", "budget.none.cost=1"]) == 2
    assert f"no budget 'none'; there are {name}, other" in capsys.readouterr().err


def test_a_budget_of_a_namespace_without_variants_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelled namespace bounds nothing; one that bounds nothing on purpose needs no word."""
    document = changed(namespace="team")
    document["budgets"] = [
        {"scope": "namespace", "namespace": "taem", "cost": 1},
        {"scope": "namespace", "namespace": "team", "cost": 1000},
        {"scope": "namespace", "namespace": "default", "cost": 1000},
        {"scope": "namespace", "namespace": "spare", "cost": -1},
    ]
    planned(tmp_path, capsys, document)
    assert cli.main(["plan", "-f", str(tmp_path / "fleet.yaml")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert len(lines) == 1
    assert "budget namespace taem: namespace: nothing is in 'taem'; there are team" in lines[0]

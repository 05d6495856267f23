"""`limiters` of the workload-variant-autoscaler in plan files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter import cli
from tests.adapter.commands.test_plan_groups import FLEET, changed, planned


@pytest.mark.parametrize("beside", [[], [{"name": "all", "cost": 9999}]])
def test_limiters_stand_for_budgets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: list[dict[str, Any]]
) -> None:
    """The key of the workload-variant-autoscaler, by itself and beside budgets; what-if finds them too."""
    document = changed(namespace="team")
    document["limiters"] = [{"name": "h", "type": "quota", "quotas": {"H100": 0}}]
    if beside:
        document["budgets"] = beside
    assert planned(tmp_path, capsys, document)["total_cost"] == 400
    path = tmp_path / "fleet.yaml"
    assert cli.main(["plan", "-f", str(path), "--what-if", "budget.h.quotas.H100=-1"]) == 2
    assert "no budget 'h.quotas'; there are " in capsys.readouterr().err
    assert cli.main(["plan", "-f", str(path), "--what-if", "budget.h.quotas={}"]) == 0
    assert " 270 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limiters", "reason"),
    [
        ({"H100": 4}, "limiters: must be a list of budgets"),
        ({}, "limiters: must be a list of budgets"),
        ([{"type": "gpu-inventory"}], "by capacity in a plan file; leave this entry out"),
    ],
)
def test_limiters_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limiters: object, reason: str
) -> None:
    """Each is refused with what to do."""
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({**FLEET, "limiters": limiters}))
    assert cli.main(["plan", "-f", str(path)]) == 1
    assert reason in capsys.readouterr().err

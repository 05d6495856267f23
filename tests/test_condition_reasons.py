"""Every reason of a condition that is not success is in the documentation, and so is every condition."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "adapter/controller/actuator.py",
    "adapter/controller/groups/status.py",
    "adapter/controller/state.py",
    "adapter/controller/status.py",
    "adapter/collector/observation.py",
    "adapter/resources/inputs.py",
    "adapter/resources/stored_status.py",
)
CONDITIONS = {
    "ConfigurationValid",
    "GatewaysReadable",
    "MetricsAvailable",
    "OptimizationReady",
    "ProfileAccurate",
    "TargetResolved",
    "WithinBudget",
}
SUCCESSES = {
    "BudgetSuffices",
    "ConfigurationUsed",
    "GatewaysRead",
    "MetricsFound",
    "OptimizationSucceeded",
    "PredictionsRight",
    "TargetFound",
}
"""Reasons that nobody has to look up."""

KINDS = {"ConfigMap", "VariantAutoscaling"}
_NAME = re.compile(r"(?:[A-Z]+[a-z]+){2,}[A-Z]*s?")


def names() -> set[str]:
    """Texts in the code that are written as types and reasons of conditions are."""
    return {
        node.value
        for source in SOURCES
        for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _NAME.fullmatch(node.value)
    }


def lacking(page: str, expected: set[str]) -> list[str]:
    """Those of the names that a page does not have."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return sorted(name for name in expected if f"`{name}`" not in text and f"`{name}=" not in text)


@pytest.mark.parametrize("page", ["cluster.md", "troubleshooting.md"])
def test_every_reason_has_its_row(page: str) -> None:
    """What `kubectl describe va` shows can be looked up on both pages."""
    reasons = names() - SUCCESSES - CONDITIONS - KINDS
    assert lacking(page, reasons) == []


def test_every_condition_has_its_row() -> None:
    """The table of conditions is complete."""
    assert names() >= CONDITIONS
    rows = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    assert {name for name in CONDITIONS if f"\n| `{name}`" not in rows} == set()


def test_successes_are_reasons_of_the_code() -> None:
    """A reason that is gone, or that was renamed, does not stay in the list."""
    assert names() >= SUCCESSES

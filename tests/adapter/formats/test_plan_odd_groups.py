"""Groups of plan files: entries that are none, names given twice, variants of other namespaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from tests.adapter.formats.test_plan_numbers import FLEET, answered, with_group

MEMBER: dict[str, Any] = {"accelerator": "A100", "min_replicas": 0}


@pytest.mark.parametrize("section", ["groups", "variants"])
@pytest.mark.parametrize("entry", [None, 5, "g", []])
def test_an_entry_that_is_none_is_left_out_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, entry: Any
) -> None:
    """By its place, with the reason; all others are planned."""
    there = FLEET.get(section, [])
    answer = answered(tmp_path, {**FLEET, section: [*there, entry]}, capsys)
    assert set(answer["plan"]) == {"a", "s"}
    (place,) = answer["set_aside"]
    assert place == f"{section}[{len(there)}]"
    assert "must be" in answer["set_aside"][place]


@pytest.mark.parametrize(("rate", "status"), [(600, 0), (1e12, 1)])
def test_the_exit_status_tells_that_nothing_was_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float, status: int
) -> None:
    """It is 1 where all variants were set aside, in a comparison by the plan after the changes."""
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(with_group(rate_rpm=rate)), encoding="utf-8")
    for flags in ([], ["--json"], ["--what-if", "class.P.priority=2"]):
        assert cli.main(["plan", "-f", str(path), *flags]) == status
        said = capsys.readouterr().err
        assert ("no variant could be planned" in said) == bool(status)
    none = {**FLEET, "groups": [], "variants": []}
    path.write_text(json.dumps(none), encoding="utf-8")
    assert cli.main(["plan", "-f", str(path)]) == 0


def test_length_classes_have_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of one name are an error of that group, which names it."""
    classes = [{"name": "short", "share": 0.5, "output_tokens": tokens} for tokens in (50, 400)]
    other = {**FLEET["groups"][0], "name": "h", "variants": [{"name": "o", **MEMBER}]}
    document = with_group(length_classes=classes)
    document["groups"].append(other)
    answer = answered(tmp_path, document, capsys)
    assert set(answer["plan"]) == {"o"}
    assert "length_classes: name: 'short' is given twice" in answer["set_aside"]["g"]


@pytest.mark.parametrize("namespace", ["", "team-a"])
@pytest.mark.parametrize("subject", ["team-b", "default"])
def test_a_variant_counts_in_budgets_of_its_own_namespace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], namespace: str, subject: str
) -> None:
    """Whatever namespace its group has, which is that of variants without one."""
    members = [
        {"name": name, **MEMBER, "max_replicas": 2} for name in ("team-a/a", "team-b/b", "c")
    ]
    document = with_group(namespace=namespace, variants=members, rate_rpm=60_000)
    document["settings"] = {"saturation_policy": "PriorityExhaustive"}

    def replicas() -> tuple[int, ...]:
        plan = answered(tmp_path, document, capsys)["plan"]
        return tuple(plan[member["name"]]["replicas"] for member in members)

    assert replicas() == (2, 2, 2)
    document["budgets"] = [{"scope": "namespace", "namespace": subject, "gpus": 1}]
    first, own, other = replicas()
    assert own == 1
    # Without a namespace each of the others has a budget of its own; else they share one.
    together = 4 if subject == "team-b" else 1 if namespace else 2
    assert first + other == together

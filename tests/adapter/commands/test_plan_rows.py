"""`variant-adapter plan`: what is wrong with one row costs those that need it, and nobody else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter import cli

LOAD: dict[str, Any] = {"model": "m", "class": "Premium", "rate_rpm": 900, "output_tokens": 178}
FLEET: dict[str, Any] = {
    "accelerators": [{"name": "A100", "cost": 40}, {"name": "H100", "cost": 90}],
    "classes": [
        {
            "name": "Premium",
            "priority": 1,
            "models": [{"model": "m", "itl_ms": 24, "ttft_ms": 500}],
        }
    ],
    "profiles": [
        {"model": "m", "accelerator": "A100", "alpha": 13.2, "beta": 0.3, "max_batch": 12},
        {"model": "m", "accelerator": "H100", "alpha": 7.8, "beta": 0.16, "max_batch": 24},
    ],
    "groups": [
        {
            **LOAD,
            "name": "chat",
            "variants": [
                {"name": "a", "accelerator": "A100", "min_replicas": 0},
                {"name": "h", "accelerator": "H100", "min_replicas": 0},
            ],
        }
    ],
    "variants": [{**LOAD, "name": "alone", "rate_rpm": 120}],
}


def fleet() -> dict[str, Any]:
    return copy.deepcopy(FLEET)


def planned(
    folder: Path, capsys: pytest.CaptureFixture[str], document: dict[str, Any], *flags: str
) -> tuple[dict[str, Any], str]:
    """The answer as JSON, and what was said on stderr."""
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    status = cli.main(["plan", "--json", "-f", str(path), *flags])
    text = capsys.readouterr()
    answer = json.loads(text.out)
    assert status == (0 if answer.get("after", answer)["plan"] else 1)
    return answer, text.err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class": "Gold"}, "class: 'Gold' is none of classes: Premium"),
        ({"rate_rpm": "many"}, "rate_rpm: must be a number"),
        ({"rate_rpm": 1, "interruptible_share": 2}, "interruptible_share: must be <= 1"),
    ],
)
def test_a_variant_of_its_own_outlives_a_group_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str
) -> None:
    """The group is set aside as `group NAME`; the variant is planned, or has its own reason."""
    document = fleet()
    document["variants"][0]["name"] = "chat"
    document["groups"][0].update(changes)
    answer, _ = planned(tmp_path, capsys, document)
    assert answer["plan"]["chat"]["served"] == "full"
    assert answer["set_aside"]["group chat"].startswith(reason)
    assert answer["groups"]["chat"]["reason"].startswith(reason)
    assert "chat" not in answer["set_aside"]
    document["variants"][0]["class"] = "Silver"
    answer, _ = planned(tmp_path, capsys, document)
    assert answer["set_aside"]["group chat"].startswith(reason)
    assert "Silver" in answer["set_aside"]["chat"]


@pytest.mark.parametrize(
    ("member", "key", "reason"),
    [
        ({"name": "l", "accelerator": "L40S"}, "l", "accelerator: 'L40S' has no profile of model"),
        (
            {"name": "l", "min_replica": 0},
            "l",
            "min_replica: is not known; did you mean min_replicas",
        ),
        ({"name": "l", "min_replicas": 5, "max_replicas": 2}, "l", "max_replicas: 2 is less"),
        ({"name": "alone"}, "alone (groups[0].variants[2])", "name: is taken"),
        ({"name": "a"}, "a (groups[0].variants[2])", "name: is taken"),
        ({"accelerator": "A100"}, "groups[0].variants[2]", "name: is missing"),
        (None, "groups[0].variants[2]", "must be a mapping of fields, not null"),
    ],
)
def test_a_bad_member_of_a_group_is_set_aside_alone(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    member: dict[str, Any] | None,
    key: str,
    reason: str,
) -> None:
    """The others carry the group's demand; the bad one has its reason under its name."""
    document = fleet()
    good, _ = planned(tmp_path, capsys, document)
    document["groups"][0]["variants"].append(member)
    answer, _ = planned(tmp_path, capsys, document)
    assert answer["plan"] == good["plan"]
    assert answer["groups"] == good["groups"]
    assert list(answer["set_aside"]) == [key]
    assert answer["set_aside"][key].startswith(reason)


BAD_ROWS: list[tuple[str, dict[str, Any] | None, str]] = [
    ("profiles", {"model": "o", "accelerator": "A100", "alpha": "-"}, "2.alpha: must be a number"),
    (
        "profiles",
        {"model": "o", "accelerator": "A100", "alpha": 1},
        "2: o on A100: beta is missing",
    ),
    ("profiles", {**FLEET["profiles"][0], "alpha": 1}, "2: m on A100 is there twice"),
    ("accelerators", {"name": "T4", "cost": None}, "2.cost: must be a number, not null"),
    ("accelerators", {"name": "T4", "cost": float("nan")}, "2.cost: must be a finite number"),
    ("accelerators", {"name": "A100", "cost": 5}, "2: A100 is there twice; remove one (the first"),
    ("classes", {"name": "Gold", "priority": 500}, "1.priority: must be <= 100, not 500"),
    ("classes", None, "1: must be a mapping of fields, not null"),
    ("classes", {"name": "Premium", "priority": 2}, "1: Premium is there twice"),
]


@pytest.mark.parametrize(("section", "row", "said"), BAD_ROWS)
def test_a_bad_row_costs_only_those_that_need_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    section: str,
    row: dict[str, Any] | None,
    said: str,
) -> None:
    """The row is named on standard error; who does without it is planned as before."""
    document = fleet()
    good, quiet = planned(tmp_path, capsys, document)
    assert not quiet
    document[section].append(row)
    document["variants"].append({**LOAD, "name": "other", "model": "o"})
    answer, error = planned(tmp_path, capsys, document)
    assert error.startswith("not used: ")
    assert f": {section}.{said}" in error
    assert answer["plan"] == good["plan"]
    assert "model: 'o' has no profile" in answer["set_aside"]["other"]


def test_bad_targets_of_one_model_leave_the_class_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of a class is a row of its own."""
    document = fleet()
    good, _ = planned(tmp_path, capsys, document)
    document["classes"][0]["models"].append({"model": "o", "ttft_ms": "fast"})
    answer, error = planned(tmp_path, capsys, document)
    assert "classes.0.models.1.ttft_ms: must be a number, not 'fast'" in error
    assert answer["plan"] == good["plan"]


def test_a_variant_that_needs_the_bad_row_is_set_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The member on the accelerator of a bad profile; the others carry its part."""
    document = fleet()
    document["profiles"][0]["aplha"] = 1
    answer, error = planned(tmp_path, capsys, document)
    assert "profiles.0.aplha: is not known; did you mean alpha?" in error
    assert set(answer["plan"]) == {"h", "alone"}
    assert list(answer["set_aside"]) == ["a"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "variant.alone.rate_rps=1",
            "rate_rps: is not known; give rate_rpm, in requests per minute",
        ),
        ("variant.alone.rate=1", "rate: is not known; give rate_rpm, in requests per minute"),
        ("variant.alone.clas=1", "clas: is not known; did you mean class?"),
        (
            'variant.alone.current={"replica": 1}',
            "current.replica: is not known; did you mean repl",
        ),
        (
            "group.chat.zzz=1",
            "zzz: is not known; known are name, model, class, rate_rpm",
        ),
        ('group.chat.length_classes=[{"shar": 1}]', "length_classes.0.shar: is not known; did you"),
        ("accelerator.A100.price=1", "accelerators.0.price: is not known; known are name, device"),
    ],
)
def test_an_unknown_field_comes_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    """Those that are named alike, else all of that part of the document."""
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(fleet()))
    assert cli.main(["plan", "-f", str(path), "--what-if", change]) == 2
    assert said in capsys.readouterr().err

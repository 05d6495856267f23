"""`variant-adapter plan` with groups and budgets: least cost together, ceilings kept, and errors by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapter import cli

FLEET: dict[str, Any] = {
    "accelerators": [{"name": "A100", "cost": 40}, {"name": "H100", "cost": 90}],
    "classes": [
        {
            "name": "Premium",
            "priority": 1,
            "models": [{"model": "m", "itl_ms": 24, "ttft_ms": 500}],
        },
        {"name": "Bulk", "priority": 9, "models": [{"model": "m", "itl_ms": 24, "ttft_ms": 500}]},
    ],
    "profiles": [
        {"model": "m", "accelerator": "A100", "alpha": 13.2, "beta": 0.3, "gamma": 5, "delta": 0.05,
         "max_batch": 12},
        {"model": "m", "accelerator": "H100", "alpha": 7.8, "beta": 0.16, "gamma": 2, "delta": 0.02,
         "max_batch": 24},
    ],
    "groups": [
        {
            "name": "chat",
            "model": "m",
            "class": "Premium",
            "rate_rpm": 1800,
            "input_tokens": 128,
            "output_tokens": 178,
            "routing": "least-loaded",
            "variants": [
                {"name": "a", "accelerator": "A100", "min_replicas": 0, "max_replicas": 20},
                {"name": "h", "accelerator": "H100", "min_replicas": 0, "max_replicas": 20},
            ],
        }
    ],
}  # fmt: skip


def planned(
    folder: Path, capsys: pytest.CaptureFixture[str], document: dict[str, Any], *flags: str
) -> dict[str, Any]:
    path = folder / "fleet.yaml"
    path.write_text(yaml.safe_dump(document))
    status = cli.main(["plan", "--json", "-f", str(path), *flags])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert status == (0 if answer.get("after", answer)["plan"] else 1)
    return answer


def changed(**changes: Any) -> dict[str, Any]:
    """The fleet with fields of its group changed."""
    document = copy.deepcopy(FLEET)
    document["groups"][0].update(changes)
    return document


def test_two_variants_of_one_model_are_placed_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sized apart 380 cents an hour; together 310 with one A100 kept, 270 without."""
    apart = copy.deepcopy(FLEET)
    group = apart.pop("groups")[0]
    apart["variants"] = [
        {
            "name": member["name"],
            "model": "m",
            "class": "Premium",
            "rate_rpm": 900,
            "input_tokens": 128,
            "output_tokens": 178,
            "keep_accelerator": True,
            "current": {"accelerator": member["accelerator"], "replicas": 1},
        }
        for member in group["variants"]
    ]
    assert planned(tmp_path, capsys, apart)["total_cost"] == 380
    answer = planned(tmp_path, capsys, FLEET)
    assert answer["total_cost"] == 270
    assert answer["termination"] == "optimal"
    assert {name: item["share"] for name, item in answer["plan"].items()} == {"a": 0.0, "h": 1.0}
    assert answer["groups"]["chat"]["cost"] == 270
    assert answer["groups"]["chat"]["demand_rpm"] == pytest.approx(1800)
    assert answer["groups"]["chat"]["capacity_rpm"] >= 1800
    assert answer["groups"]["chat"]["binding"] in {"ttft", "itl", "stability"}
    kept = copy.deepcopy(FLEET)
    kept["groups"][0]["variants"][0].update(min_replicas=1)
    assert planned(tmp_path, capsys, kept)["total_cost"] == 310


def test_what_a_variant_cannot_carry_goes_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unschedulable or at its maximum: the others take its part; else the group says what is missing."""
    document = copy.deepcopy(FLEET)
    document["groups"][0]["variants"][1]["available"] = 1
    answer = planned(tmp_path, capsys, document)
    assert answer["plan"]["h"]["replicas"] == 1
    assert answer["groups"]["chat"]["capacity_rpm"] >= 1800
    document["groups"][0]["variants"][0]["max_replicas"] = 1
    answer = planned(tmp_path, capsys, document)["groups"]["chat"]
    assert answer["binding"] == "unavailable"
    assert answer["served"] == "partial"
    assert answer["capacity_rpm"] < 1800


def test_the_slowest_used_replica_binds_round_robin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An A100 that must be kept makes every replica worth as little as it is."""
    document = changed(routing="round-robin")
    document["groups"][0]["variants"][0]["min_replicas"] = 1
    answer = planned(tmp_path, capsys, document)
    number = sum(item["replicas"] for item in answer["plan"].values())
    slowest = answer["plan"]["a"]["max_rate_rpm"]
    assert answer["groups"]["chat"]["capacity_rpm"] == pytest.approx(number * slowest)
    assert answer["groups"]["chat"]["capacity_rpm"] >= 1800


def test_who_gets_nothing_is_told_what_was_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve variants that do not fit, without partial service: the devices that are short are named."""
    variants = [
        {"name": f"v{number}", "accelerator": ("A100", "H100")[number % 2], "min_replicas": 0,
         "max_replicas": 8}
        for number in range(12)
    ]  # fmt: skip
    document = {**changed(variants=variants), "capacity": {"A100": 3, "H100": 2}}
    chat = planned(tmp_path, capsys, document)["groups"]["chat"]
    assert chat["served"] == "none"
    assert set(chat["cut_by"]) == {"capacity A100", "capacity H100"}
    # No variant alone is above the capacity by its own maximum: all of them together are.
    more = [item | {"max_replicas": 2} for item in variants]
    document = {**changed(variants=more, rate_rpm=4500), "capacity": {"A100": 3, "H100": 2}}
    chat = planned(tmp_path, capsys, document)["groups"]["chat"]
    assert (chat["served"], chat["binding"]) == ("none", chat["cut_by"][0])
    assert chat["cut_by"][0].startswith("capacity ")
    none = changed()
    for member in none["groups"][0]["variants"]:
        member["available"] = 0
    chat = planned(tmp_path, capsys, none)["groups"]["chat"]
    assert (chat["served"], chat["binding"]) == ("none", "unavailable")


def test_weights_and_interruptible_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are followed whatever the cost; spot replicas carry no more than their share."""
    document = changed(routing="weights")
    for member in document["groups"][0]["variants"]:
        member["weight"] = 1
    answer = planned(tmp_path, capsys, document)
    assert {name: item["share"] for name, item in answer["plan"].items()} == {"a": 0.5, "h": 0.5}
    assert answer["total_cost"] == 380
    spot = changed(interruptible_share=0.3)
    spot["groups"][0]["variants"][1]["interruptible"] = True
    answer = planned(tmp_path, capsys, spot)
    assert answer["plan"]["h"]["share"] <= 0.3
    assert answer["groups"]["chat"]["capacity_rpm"] >= 1800


def test_budgets_are_kept_and_who_was_cut_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ceiling in money: less is served, with the ceiling, and the latency that is left, on record."""
    document = copy.deepcopy(FLEET)
    document["budgets"] = [{"name": "team", "scope": "class", "subject": "Premium", "cost": 200}]
    document["settings"] = {"saturation_policy": "PriorityExhaustive"}
    for solver in ("branch-and-bound", "greedy"):
        answer = planned(tmp_path, capsys, document, "--solver", solver)
        assert answer["total_cost"] <= 200
        assert answer["groups"]["chat"]["cut_by"] == ["budget team: cost"]
        assert answer["groups"]["chat"]["served"] == "partial"
        assert answer["plan"]["h"]["ttft_ms"] > 500
        assert answer["budgets"][0]["used"] <= 200
    document["budgets"] = [{"name": "all", "quotas": {"H100": 0}}]
    answer = planned(tmp_path, capsys, document)
    assert answer["plan"]["h"]["replicas"] == 0
    assert answer["plan"]["a"]["replicas"] > 0
    # What would be cheaper, or would serve all, is no choice that is left.
    assert answer["groups"]["chat"]["runner_up"].endswith(
        "cents/h, more than capacity or budgets leave"
    )
    document["budgets"] = [{"name": "all", "cost": -1}]
    answer = planned(tmp_path, capsys, document)
    assert answer["total_cost"] == 270
    assert answer["groups"]["chat"]["runner_up"].endswith("cents/h")


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        ({"scope": "cluster", "cost": 300}, 270),
        ({"type": "quota", "scope": "cluster", "quotas": {"H100": 1, "A100": -1}}, 370),
        ({"scope": "namespace", "namespace": "default", "quotas": {"H100": 0}}, 400),
        ({"type": "quota", "scope": "namespace", "namespaceQuotas": {"team": {"H100": 0}}}, 400),
        ({"scope": "namespace", "subject": "team", "quotas": {"H100": 0}}, 400),
        ({"scope": "class", "class": "Premium", "gpus": 3}, 270),
        ({"scope": "class", "subject": "Bulk", "devices": 0}, 270),
    ],
)
def test_budgets_have_the_shape_of_the_configmap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: dict[str, Any], cost: float
) -> None:
    """The adapter's budgets and the limiters of WVA can be pasted; the subject may be named as such."""
    document = changed(namespace="team")
    document["budgets"] = [budget]
    assert planned(tmp_path, capsys, document)["total_cost"] == cost


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"name": "x", "cost": -2}, "budgets: entry 1 ('x'): cost: must be -1"),
        ({"cost": 1, "subject": "Bulk"}, "budgets: entry 1: subject: needs scope"),
        ({"gpus": 1, "devices": 2}, "budgets: entry 1: give devices or gpus"),
        ({"name": "x"}, "entry 1 ('x'): has no ceiling"),
    ],
)
def test_a_bad_budget_is_refused_by_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: dict[str, Any], reason: str
) -> None:
    """A plan without it could exceed it."""
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump({**FLEET, "budgets": [budget]}))
    assert cli.main(["plan", "-f", str(path)]) == 1
    assert reason in capsys.readouterr().err


def test_who_fits_under_either_ceiling_but_not_under_both_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Devices leave room for the dear way and money for none of it: the ceiling is still on record."""
    document = copy.deepcopy(FLEET)
    document["capacity"] = {"A100": 2, "H100": 9}
    document["budgets"] = [{"name": "all", "cost": 340}, {"name": "h", "quotas": {"H100": 2}}]
    for solver in ("branch-and-bound", "greedy"):
        chat = planned(tmp_path, capsys, document, "--solver", solver)["groups"]["chat"]
        assert chat["served"] == "none"
        assert chat["cut_by"]
        assert chat["binding"] == chat["cut_by"][0]


def test_a_variant_of_its_own_that_a_budget_cuts_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason of a variant without a group is the ceiling, in one sentence."""
    document = copy.deepcopy(FLEET)
    group = document.pop("groups")[0]
    fields = ("model", "class", "rate_rpm", "input_tokens", "output_tokens")
    document["variants"] = [{"name": "s", **{field: group[field] for field in fields}}]
    document["budgets"] = [{"name": "t", "cost": 50}]
    decision = planned(tmp_path, capsys, document)["plan"]["s"]
    assert decision["reason"] == "not served; budget t: cost: 0 of 50 cents/h used"
    assert decision["cut_by"] == ["budget t: cost"]


def test_requests_that_the_gateway_sends_against_the_plan_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of a variant that cannot serve or is interruptible, and replicas that round robin sends to."""
    spot = changed(routing="weights", interruptible_share=0.2)
    spot["groups"][0]["variants"][0]["interruptible"] = True
    reason = planned(tmp_path, capsys, spot)["groups"]["chat"]["reason"]
    assert "interruptible variants get 50% of the requests by their weights" in reason
    slow = changed(routing="weights")
    slow["classes"][0]["models"][0]["itl_ms"] = 10
    reason = planned(tmp_path, capsys, slow)["groups"]["chat"]["reason"]
    assert "a cannot serve, but its weight sends it 50% of the requests" in reason
    slow["groups"][0]["routing"] = "round-robin"
    slow["groups"][0]["variants"][0]["min_replicas"] = 1
    reason = planned(tmp_path, capsys, slow)["groups"]["chat"]["reason"]
    assert "a cannot serve, but round robin sends requests" in reason


def test_weights_of_a_variant_that_cannot_have_replicas_leave_the_part_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replicas that carry their own part are no capacity of 0, and the group is served in part."""
    document = changed(routing="weights")
    document["groups"][0]["variants"][0] |= {"min_replicas": 0, "max_replicas": 0}
    answer = planned(tmp_path, capsys, document)
    group = answer["groups"]["chat"]
    assert answer["plan"]["h"]["replicas"] > 0
    assert group["served"] == "partial"
    assert group["capacity_rpm"] == pytest.approx(0.5 * group["demand_rpm"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"class": "Bulk"}, "class: 'Bulk' is not the group's, 'Premium'"),
        ({"model": "x"}, "model: 'x' is not the group's"),
    ],
)
def test_a_variant_of_another_class_or_model_is_named_and_its_group_planned_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    """One wrong field of one variant does not cost the others their plan."""
    document = copy.deepcopy(FLEET)
    document["groups"][0]["variants"][0] |= change
    answer = planned(tmp_path, capsys, document)
    assert reason in answer["set_aside"]["a"]
    assert set(answer["plan"]) == {"h"}
    assert answer["groups"]["chat"]["served"] == "full"


def test_a_budget_below_minimum_replicas_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The group that contradicts the budget is set aside with the numbers; others are planned."""
    document = copy.deepcopy(FLEET)
    document["groups"][0]["variants"][1]["min_replicas"] = 2
    document["budgets"] = [{"name": "team", "scope": "class", "subject": "Premium", "cost": 100}]
    other = copy.deepcopy(FLEET["groups"][0])
    other.update({"name": "bulk", "class": "Bulk"})
    other["variants"] = [{"name": "b", "accelerator": "A100"}]
    document["groups"].append(other)
    answer = planned(tmp_path, capsys, document)
    assert "minimum replicas take 180 cents/h" in answer["set_aside"]["chat"]
    assert "budget team: cost allows 100" in answer["set_aside"]["chat"]
    assert set(answer["plan"]) == {"b"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"routing": "random"}, "routing"),
        ({"rate_rpm": -1}, "rate_rpm"),
        ({"model": "other"}, "model: 'other' has no profile"),
        ({"variants": []}, "variants: has none; give one or more"),
        (
            {"variants": [{"name": "h", "current": -1}, None]},
            "variants: h: current: must be >= 0, not -1; 1: must be a mapping of fields, not null",
        ),
        (
            {"routing": "weights", "variants": [{"name": "a", "weight": 0}]},
            "variants: weight: all are 0",
        ),
        ({"variants": [{"name": "a", "class": "Bulk"}]}, "class: 'Bulk' is not the group's"),
        ({"variants": [{"name": "a", "model": "x"}]}, "model: 'x' is not the group's"),
        (
            {"variants": [{"name": "a", "accelerator": "B200"}]},
            "accelerator: 'B200' has no profile",
        ),
        (
            {"routing": "weights", "variants": [{"name": "a", "weight": 0}]},
            "weight: all are 0",
        ),
        ({"class": "Gold"}, "class: 'Gold' is none of classes: Bulk, Premium"),
        ({"length_classes": [{"name": "s", "share": 0.5, "output_tokens": 9}]}, "sum up to 1"),
    ],
)
def test_a_bad_group_is_named_and_the_others_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    """What is wrong stands under the group's name."""
    document = changed(**change)
    good = copy.deepcopy(FLEET["groups"][0])
    good["name"] = "good"
    for member in good["variants"]:
        member["name"] = f"good-{member['name']}"
    document["groups"].append(good)
    answer = planned(tmp_path, capsys, document)
    assert reason in answer["set_aside"]["chat"]
    assert answer["groups"]["good"]["cost"] == 270


def test_targets_that_no_variant_meets_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group whose variants cannot serve the targets at all is set aside with the reason of each."""
    document = copy.deepcopy(FLEET)
    document["classes"][0]["models"][0]["itl_ms"] = 1
    answer = planned(tmp_path, capsys, document)
    assert "no variant can serve it" in answer["set_aside"]["chat"]
    assert "ITL target 1 ms cannot be met" in answer["set_aside"]["a"]


def test_what_if_knows_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields of groups, of their variants, and of budgets can be changed."""
    document = copy.deepcopy(FLEET)
    document["budgets"] = [{"name": "all", "cost": 1000}]
    answer = planned(
        tmp_path, capsys, document,
        "--what-if", "group.chat.rate_rpm=600", "--what-if", "variant.h.max_replicas=0",
        "--what-if", "budget.all.cost=900",
    )  # fmt: skip
    assert answer["before"]["groups"]["chat"]["cost"] == 270
    assert answer["after"]["plan"]["h"]["replicas"] == 0
    assert answer["after"]["budgets"][0]["limit"] == 900
    path = str(tmp_path / "fleet.yaml")
    assert cli.main(["plan", "-f", path, "--what-if", "variant.h.max_replicas=0"]) == 0
    assert "0 replicas" in capsys.readouterr().out


def test_without_load_the_minimum_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group without requests goes to its minimum, and to zero where that is allowed."""
    document = changed(rate_rpm=0)
    assert planned(tmp_path, capsys, document)["total_cost"] == 0
    document["groups"][0]["variants"][0]["min_replicas"] = 2
    answer = planned(tmp_path, capsys, document)
    assert answer["plan"]["a"]["replicas"] == 2
    assert answer["groups"]["chat"]["binding"] == "minimum"


@pytest.mark.parametrize(
    ("changes", "demand", "reason"),
    [
        ({"model": "other"}, 1800.0, "model: 'other' has no profile; there are m"),
        ({"rate_rpm": "many"}, None, "rate_rpm: "),
        ({"routing": "weights", "interruptible_share": 2}, 1800.0, "interruptible_share: "),
    ],
)
def test_a_group_set_aside_is_among_the_groups_with_its_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    demand: float | None,
    reason: str,
) -> None:
    """Readers of `groups` see a group that cannot be planned, also where it is the only one."""
    group = planned(tmp_path, capsys, changed(**changes))["groups"]["chat"]
    assert (group["served"], group["binding"], group["demand_rpm"]) == ("none", "set aside", demand)
    assert (group["cost"], group["capacity_rpm"]) == (0.0, 0.0)
    assert group["reason"].startswith(reason)

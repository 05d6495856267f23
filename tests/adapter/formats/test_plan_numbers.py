"""Numbers of a plan file that no fleet has: rates without bound, traffic without tokens, true for numbers."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.planning import fleet

FLEET: dict[str, Any] = {
    "accelerators": [{"name": "A100", "cost": 40}, {"name": "H100", "cost": 90}],
    "classes": [{"name": "P", "priority": 1, "models": [{"model": "m", "itl_ms": 30}]}],
    "profiles": [
        {"model": "m", "accelerator": "A100", "alpha": 7, "beta": 0.3, "max_batch": 16},
        {"model": "m", "accelerator": "H100", "alpha": 5, "beta": 0.1, "max_batch": 32},
    ],
    "groups": [
        {
            "name": "g",
            "model": "m",
            "class": "P",
            "rate_rpm": 600,
            "output_tokens": 178,
            "variants": [
                {"name": "a", "accelerator": "A100", "min_replicas": 0},
                {"name": "s", "accelerator": "H100", "min_replicas": 0, "interruptible": True},
            ],
        }
    ],
    "settings": {"time_limit": 2},
}
ALONE = {"name": "v", "model": "m", "class": "P", "rate_rpm": 60, "output_tokens": 178}


def answered(tmp_path: Path, document: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    status = cli.main(["plan", "-f", str(path), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert status == (0 if answer["plan"] else 1)
    return answer


def with_group(**fields: Any) -> dict[str, Any]:
    document = copy.deepcopy(FLEET)
    document["groups"][0] |= fields
    return document


@pytest.mark.parametrize("rate", [1e11, 1e12, 1e300])
def test_rates_beyond_the_bound_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: float
) -> None:
    document = with_group(rate_rpm=rate) | {"variants": [{**ALONE, "rate_rpm": rate}]}
    aside = answered(tmp_path, document, capsys)["set_aside"]
    for name in ("g", "v"):
        assert aside[name].startswith("rate_rpm: must be <= 1e+09, not "), aside


@pytest.mark.parametrize(
    "times",
    [{"alpha": 0.02058, "beta": 0.00041}, {"step": {"base": 0.007, "per_prefill_token": 4e-5}}],
)
def test_times_in_seconds_are_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: dict[str, Any]
) -> None:
    """No replica is planned as a thousand times faster than it is; the profile is named, and the fix."""
    document = copy.deepcopy(FLEET)
    document["profiles"][0] = {"model": "m", "accelerator": "A100", "max_batch": 16, **times}
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert cli.main(["plan", "-f", str(path)]) == 0
    printed = capsys.readouterr()
    assert "set aside: a: accelerator: 'A100' has no profile" in printed.out
    assert "profiles.0: m on A100: a step with 16 requests takes 0.0" in printed.err
    assert "which no server reaches; times are in ms: multiply seconds by 1000" in printed.err


@pytest.mark.parametrize(
    "times",
    [
        {"alpha": 0, "beta": 0.0815},
        {"step": {"base": 0.0081, "per_request": 0.0815, "per_prefill_token": 0.04}},
    ],
)
def test_fits_to_full_batches_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: dict[str, Any]
) -> None:
    """Runs at 100 to 256 requests leave hardly anything that does not grow with the batch."""
    document = copy.deepcopy(FLEET)
    document["profiles"][0] = {"model": "m", "accelerator": "A100", "max_batch": 256, **times}
    assert answered(tmp_path, document, capsys)["set_aside"] == {}


@pytest.mark.parametrize("rate", [1e8, fleet.LARGEST_RATE_RPM])
@pytest.mark.parametrize("slow", [1, 30])
@pytest.mark.parametrize("more", [{}, {"budgets": [{"name": "all", "cost": 1e9}]}])
def test_rates_up_to_the_bound_are_planned(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rate: float,
    slow: int,
    more: dict[str, Any],
) -> None:
    """Slow replicas are as many as fast ones at a higher rate; no variant has more than there can be."""
    document = with_group(rate_rpm=rate) | more
    for profile in document["profiles"]:
        profile |= {"alpha": profile["alpha"] * slow, "beta": profile["beta"] * slow}
    document["classes"][0]["models"][0]["itl_ms"] *= slow
    group = answered(tmp_path, document, capsys)["groups"]["g"]
    assert group["capacity_rpm"] > 0
    assert group["served"] == "full" or group["binding"] == "maximum", group


def test_a_huge_rate_ends_without_capacity_in_time(tmp_path: Path) -> None:
    """As one process, which ends: the solver's own limit does not stop it everywhere."""
    document = with_group(rate_rpm=fleet.LARGEST_RATE_RPM)
    for profile in document["profiles"]:
        profile |= {"alpha": profile["alpha"] * 1000, "beta": profile["beta"] * 1000}
    document["classes"][0]["models"][0]["itl_ms"] *= 1000
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "adapter", "plan", "-f", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout)["groups"]["g"]["binding"] == "maximum"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"output_tokens": 0}, "output_tokens: must be >= 1 where requests arrive, not 0; without"),
        ({"output_tokens": 0.5}, "output_tokens: must be >= 1 where requests arrive, not 0.5"),
        ({"output_tokens": -1}, "output_tokens: must be >= 0, not -1"),
        ({"output_tokens": True}, "output_tokens: must be a number, not true"),
        ({"input_tokens": True}, "input_tokens: must be a number, not true"),
        ({"input_tokens": -3}, "input_tokens: must be >= 0, not -3"),
        ({"input_tokens": "10ms"}, "input_tokens: must be a number, not '10ms'"),
        ({"rate_rpm": True}, "rate_rpm: must be a number, not true"),
    ],
)
def test_traffic_without_tokens_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    document = with_group(**fields) | {"variants": [ALONE | fields]}
    aside = answered(tmp_path, document, capsys)["set_aside"]
    assert aside["g"].startswith(said), aside
    assert aside["v"].startswith(said), aside


def test_without_traffic_lengths_may_be_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = {"rate_rpm": 0, "output_tokens": 0}
    answer = answered(tmp_path, with_group(**idle) | {"variants": [ALONE | idle]}, capsys)
    assert answer["set_aside"] == {}


def test_numbers_as_text_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML 1.1 reads 1e5 as text."""
    group = answered(tmp_path, with_group(rate_rpm="6e2"), capsys)["groups"]["g"]
    assert group["demand_rpm"] == pytest.approx(600)


def test_a_length_class_without_tokens_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = [
        {"name": "short", "share": 0.5, "output_tokens": 100},
        {"name": "none", "share": 0.5, "output_tokens": 0},
    ]
    aside = answered(tmp_path, with_group(length_classes=classes), capsys)["set_aside"]
    assert aside["g"].startswith("length_classes.1.output_tokens: must be >= 1"), aside


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"current": True}, "current: must be a number, not true"),
        ({"current": "x"}, "current: must be a whole number, not 'x'"),
        ({"min_replicas": 2**31 - 1}, "min_replicas: must be <= 1e+06, not 2147483647"),
        ({"min_replicas": True}, "min_replicas: must be a number, not true"),
        ({"max_replicas": 0}, "max_replicas: 0 is less than min_replicas, 1"),
    ],
)
def test_numbers_of_a_groups_variant_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str
) -> None:
    document = with_group()
    document["groups"][0]["variants"][0] |= {"min_replicas": 1} | fields
    answer = answered(tmp_path, document, capsys)
    assert answer["set_aside"] == {"a": said}
    assert answer["groups"]["g"]["served"] == "full"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_batch": 0}, "profiles.0.max_batch: must be >= 1, not 0"),
        ({"alpha": 0, "beta": 0}, "profiles.0: m on A100: alpha and beta: must not both be 0"),
    ],
)
def test_a_profile_that_no_server_has_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any], said: str
) -> None:
    document = copy.deepcopy(FLEET)
    document["profiles"][0] |= wrong
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert cli.main(["plan", "-f", str(path)]) == 0
    assert said in capsys.readouterr().err


def test_a_max_batch_is_given_by_the_profile_or_the_variant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None at all would be one request at a time, many times the replicas."""
    document = with_group() | {"variants": [ALONE, ALONE | {"name": "w", "max_batch": 8}]}
    document["groups"][0]["variants"][1] |= {"min_replicas": 1}
    del document["profiles"][0]["max_batch"]
    answer = answered(tmp_path, document, capsys)
    missing = "max_batch: is missing; give it here, or in the profile on A100"
    assert answer["set_aside"] == {"a": missing, "v": missing}
    assert answer["plan"]["w"]["served"] == "full"
    assert answer["plan"]["s"]["served"] == "full"


def test_systems_without_generated_tokens_have_no_traffic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the reference, where a missing number is zero."""
    load = {"arrivalRate": 60, "avgInTokens": 10, "avgOutTokens": 0}
    server = {"name": "v", "model": "m", "class": "P", "currentAlloc": {"load": load}}
    system = {
        "acceleratorData": {"accelerators": [{"name": "A100", "type": "A100", "cost": 40}]},
        "modelData": {
            "models": [
                {
                    "name": "m",
                    "acc": "A100",
                    "maxBatchSize": 16,
                    "decodeParms": {"alpha": 7, "beta": 0.3},
                    "prefillParms": {"gamma": 5, "delta": 0.02},
                }
            ]
        },
        "serviceClassData": {
            "serviceClasses": [
                {"name": "P", "priority": 1, "modelTargets": [{"model": "m", "slo-itl": 30}]}
            ]
        },
        "serverData": {"servers": [server]},
        "optimizerData": {"optimizer": {"unlimited": True}},
    }
    answer = answered(tmp_path, {"system": system}, capsys)
    assert answer["set_aside"] == {}
    assert answer["plan"]["v"]["replicas"] == 0


@pytest.mark.parametrize("settings", [[], "", 0, False])
def test_empty_settings_that_are_no_mapping_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: object
) -> None:
    """As others are that hold something; without any, or with null, the defaults hold."""
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({**FLEET, "settings": settings}), encoding="utf-8")
    assert cli.main(["plan", "-f", str(path)]) == 1
    assert "settings: must be a mapping of fields" in capsys.readouterr().err
    path.write_text(json.dumps({**FLEET, "settings": None}), encoding="utf-8")
    assert cli.main(["plan", "-f", str(path)]) == 0

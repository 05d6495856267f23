"""Fleet files whose profiles hold step times and the limits of an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter import cli
from adapter.errors import InputError
from adapter.formats import fleet_file

STEP: dict[str, Any] = {
    "model": "m",
    "accelerator": "H100",
    "step": {
        "base": 7.0, "per_request": 0.05, "per_prefill_token": 0.04, "per_context_token": 4e-5,
    },
    "engine": {"max_num_seqs": 64, "max_num_batched_tokens": 2048, "kv_tokens": 60000},
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "model": "m",
    "accelerator": "H100",
    "alpha": 6.8,
    "beta": 0.23,
    "gamma": 7.0,
    "delta": 0.04,
    "max_batch": 64,
    "at_input_tokens": 512,
    "at_tokens": 128,
}


def document(profile: dict[str, Any], **variant: Any) -> dict[str, Any]:
    return {
        "accelerators": [{"name": "H100", "cost": 60}],
        "classes": [
            {
                "name": "gold",
                "priority": 1,
                "models": [{"model": "m", "ttft_ms": 60000, "itl_ms": 500}],
            }
        ],
        "profiles": [profile],
        "variants": [
            {
                "name": "v", "model": "m", "class": "gold", "rate_rpm": 180,
                "input_tokens": 8000, "output_tokens": 500, "input_tokens_cv": 0.5,
                "output_tokens_cv": 0.5, **variant,
            }
        ],
    }  # fmt: skip


def planned(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    given: dict[str, Any],
    *flags: str,
    status: int = 0,
) -> str:
    file = folder / "fleet.json"
    file.write_text(json.dumps(given))
    assert cli.main(["plan", "-f", str(file), *flags]) == status
    return capsys.readouterr().out


def test_a_profile_with_step_times_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The KV cache binds, and the reason says how many requests of what length it holds."""
    decision = json.loads(planned(tmp_path, capsys, document(STEP), "--json"))["plan"]["v"]
    assert decision["replicas"] > 1
    assert decision["reason"].startswith("bound by KV cache: 6 requests of 8,312 tokens")
    cached = document(STEP, cached_tokens=4000)
    more = json.loads(planned(tmp_path, capsys, cached, "--json"))["plan"]["v"]
    assert more["max_rate_rpm"] > decision["max_rate_rpm"]


def test_traffic_that_has_left_a_measurement_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times with both lengths are converted; without --explain the JSON has the note."""
    text = planned(tmp_path, capsys, document(LINEAR), "--explain")
    note = "profile was measured at 512/128 tokens, traffic has 8000/500"
    assert f"note: {note}" in text
    decision = json.loads(planned(tmp_path, capsys, document(LINEAR), "--json"))["plan"]["v"]
    assert decision["notes"][0].startswith(note)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({**STEP, "alpha": 3}, "m on H100 has step and alpha, beta, gamma, delta"),
        ({"model": "m", "accelerator": "H100"}, "m on H100: alpha is missing: give alpha and beta"),
        ({**STEP, "step": {**STEP["step"], "base": 0}}, "profiles.0.step.base: "),
        ({**STEP, "step": {**STEP["step"], "base": float("inf")}}, "profiles.0.step.base: "),
        ({**STEP, "step": {**STEP["step"], "per_request": -1}}, "profiles.0.step.per_request: "),
        ({**STEP, "engine": {"kv_tokens": 0}}, "profiles.0.engine.kv_tokens: "),
    ],
)
def test_profiles_that_have_no_meaning_are_refused(profile: dict[str, Any], said: str) -> None:
    """With the field, or the pair, and what to do."""
    with pytest.raises(InputError, match=said):
        fleet_file.parse(document(profile), "fleet.json")


def test_a_cache_that_holds_no_request_sets_the_variant_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others would go on; the exit status is 1, as there are none."""
    tiny = {**STEP, "engine": {**STEP["engine"], "kv_tokens": 6000}}
    text = planned(tmp_path, capsys, document(tiny), status=1)
    assert "set aside: v: H100: kv_tokens: 6000 tokens do not hold one request" in text


@pytest.mark.parametrize("kind", ["variants", "groups"])
@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({**LINEAR, "at_tokens": 0, "at_input_tokens": 0}, 1),
        (LINEAR, 0),
        (STEP, 0),
    ],
)
def test_fields_that_need_step_times_are_named_where_there_are_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    profile: dict[str, Any],
    said: int,
) -> None:
    """A variance that changes nothing is said; with step times, or what gives them, it counts."""
    fleet = document(profile, cached_tokens=5)
    if kind == "groups":
        fleet["groups"] = [{**fleet.pop("variants")[0], "name": "v", "variants": [{"name": "a"}]}]
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(fleet))
    assert cli.main(["plan", "-f", str(path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert len(lines) == said
    for line in lines:
        assert "v: input_tokens_cv, output_tokens_cv, cached_tokens: m has alpha and beta" in line

"""Values in forms that parsers guess at: read for what they say, or refused with the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapter.planning import fleet
from adapter.resources import schemas
from adapter.resources.configuration import attainable, profiles, rows
from analyzer.latency import LatencyParameters
from analyzer.step_times import StepTimes

CLASS = "name: Premium\npriority: 1\ndata:\n  - model: m\n    slo-ttft: "
COST = {"device": "NVIDIA-H100-80GB-HBM3", "cost": "80"}


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("500", 500), ("0500", 500), ('"500"', 500), ("5e2", 500), ("+500.0", 500), (".5", 0.5)],
)
def test_numbers_of_yaml_are_decimal(text: str, milliseconds: float) -> None:
    """A leading zero is no octal number: 0500 is not 320."""
    row = rows.parse_class(CLASS + text)
    assert row.entry_problems == {}
    assert row.service_class is not None
    assert row.service_class.targets["m"].ttft_ms == milliseconds


@pytest.mark.parametrize("text", ["1:30", "yes", "on", "true", "0x10", "24ms", "99%", "1k", ".inf"])
def test_what_is_no_number_is_refused_as_written(text: str) -> None:
    """One minute and a half is not 90, yes is not 1 ms, and no unit is guessed."""
    row = rows.parse_class(CLASS + text)
    (problem,) = row.entry_problems.values()
    assert problem.startswith("line 5: data[0].slo-ttft: must be a ")
    assert problem.endswith((f"not {text!r}", f"not {text.lstrip('.')}"))


def test_a_date_is_a_name_of_a_model() -> None:
    """Text, as it was written."""
    row = rows.parse_class(CLASS.replace("model: m", "model: 2024-01-01") + "500")
    assert row.service_class is not None
    assert list(row.service_class.targets) == ["2024-01-01"]


def test_a_byte_order_mark_is_no_part_of_a_row() -> None:
    """Neither of YAML nor of JSON."""
    assert rows.parse_cost("H100", "\ufeff" + json.dumps(COST)).problems == ()
    assert rows.parse_class("\ufeff" + CLASS + "500").problems == ()


@pytest.mark.parametrize("text", ["", "40.00", "device: x\ncost: 1\n", '{"cost": "1",}'])
def test_a_price_in_another_form_is_told_its_form(text: str) -> None:
    """The message has a row to copy, or the field."""
    (problem,) = rows.parse_cost("H100", text).problems
    assert '{"device": ' in problem or "must be a mapping of fields" in problem


@pytest.mark.parametrize(
    ("field", "value"),
    [("variantCost", True), ("minReplicas", True), ("maxReplicas", False)],
)
def test_true_and_false_are_no_numbers(field: str, value: object) -> None:
    """In no field of a variant."""
    with pytest.raises(ValueError, match=field):
        schemas.VariantAutoscalingSpec.model_validate({"modelID": "m", field: value})


def test_a_profile_that_takes_no_time_is_none() -> None:
    """Zeros stand for what was not measured; one of the two may be zero."""
    with pytest.raises(ValueError, match="alpha and beta are both 0"):
        schemas.DecodeParameters.model_validate({"alpha": "0", "beta": "0.0"})
    assert schemas.DecodeParameters.model_validate({"alpha": "7", "beta": "0"}).alpha == 7


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("H100", 1), ("2xH100", 2), ("8 x H200", 8), ("H100x4", 4), ("16xMI300X", 16),
        ("H100x16", 16), ("H100 x 8", 8), ("NVIDIA-A100-SXM4-80GB", 1), ("a100-sxm4", 1),
        ("MI300X", 1), ("RTX4090", 1), ("RTX-6000", 1), ("L40S", 1), ("GB200-NVL72x2", 2),
        ("tpu-v5e-2x4", 1), ("2x4", 1), ("4x4x4", 1), ("2x4-v5e", 1), ("v4-2x2x2", 1), ("rtx4", 1),
        ("RTX-6000x2", 2), ("GPU x 4", 4), ("H100x4x2", 2),
    ],
)  # fmt: skip
def test_a_row_of_several_gpus_is_one_unit_of_them(name: str, devices: int) -> None:
    """A price of `2xH100` is that of two: a replica with two GPUs is one unit, not two."""
    row = rows.parse_cost(name, json.dumps(COST))
    assert row.accelerator is not None
    assert row.accelerator.multiplicity == devices

    def units(gpus: int | None) -> int:
        given: tuple[fleet.Profile, ...] = ()
        return profiles.units(given, name, own=None, gpus=gpus)

    assert units(devices) == 1
    assert units(3 * devices) == 3
    assert units(None) == 1
    assert units(devices + 1) == (2 if devices > 1 else 1 + devices)


def test_a_row_that_is_no_text_is_refused() -> None:
    """Nothing of a class is read from a list or a number."""
    wrong: tuple[Any, ...] = ("- a\n", "7", "null")
    assert all(rows.parse_class(text).problems for text in wrong)


def alone(alpha: float, beta: float) -> fleet.Profile:
    latency = LatencyParameters(alpha_ms=alpha, beta_ms=beta, gamma_ms=5.0, delta_ms=0.1)
    return fleet.Profile(accelerator="A100", latency=latency, max_batch=8)


def of_steps(base: float, per_request: float) -> fleet.Profile:
    latency = StepTimes(
        base_ms=base,
        per_request_ms=per_request,
        per_prefill_token_ms=0.04,
        per_context_token_ms=4e-5,
    )
    return fleet.Profile(accelerator="A100", latency=latency, max_batch=8)


@pytest.mark.parametrize(
    ("profile", "itl_ms", "said"),
    [
        (alone(20.58, 0.41), 24.0, ""),
        (alone(0.15, 0.05), 24.0, ""),
        (alone(0.02058, 0.00041), 24.0, "A100: a step with 16 requests takes 0.0271 ms"),
        (of_steps(7.0, 0.05), 24.0, ""),
        (of_steps(0.007, 0.00005), 24.0, "A100: a step with 16 requests takes 0.0078 ms"),
        (alone(20.58, 0.41), 0.024, "slo-tpot is 0.024 ms, which no server keeps"),
        (alone(20.58, 0.41), 20.0, "slo-tpot is 20 ms, and A100 takes 20.99 ms"),
    ],
)
def test_times_in_seconds_are_named(profile: fleet.Profile, itl_ms: float, said: str) -> None:
    """By a thousand too quick, one replica would seem to serve anything; the condition then says the unit."""
    texts = attainable.warnings([profile], fleet.Targets(itl_ms=itl_ms))
    assert len(texts) == bool(said)
    for text in texts:
        assert said in text
        assert ("times are in ms: multiply seconds by 1000" in text) == ("no server" in text)

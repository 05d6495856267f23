"""Restarts while a whole ConfigMap is gone, or a row of it is broken: nothing is known of what was good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from adapter.installation import CLASSES, COSTS, WVA_QUEUEING
from adapter.resources.inputs import Inputs, Reader
from adapter.resources.variant import VariantSource

H100 = "NVIDIA-H100-80GB-HBM3"
ROW = f'{{"device": "{H100}", "cost": 90}}'
CLASS = "name: Premium\npriority: 1\ndata:\n  - {model: m, slo-tpot: 24}\n"


def inputs(
    maps: Mapping[str, dict[str, str] | None],
    *,
    model: str = "m",
    label: str = H100,
    generation: int | None = None,
    spec: Mapping[str, Any] | None = None,
    **last: str,
) -> Inputs:
    """One variant of 2026 with a price of its own, and its last decision; None: no such ConfigMap.

    `generation`: that of the object, whose last decision was for the first one; `spec`: more of it.
    """
    reader = Reader()
    for name in (COSTS, CLASSES, WVA_QUEUEING):
        data = maps.get(name, {"H100": ROW} if name == COSTS else {"p": CLASS})
        if name != WVA_QUEUEING and data is None:
            reader.settings.missing(f"ConfigMap s/{name}", name)
        elif data is not None and (name != WVA_QUEUEING or name in maps):
            document = {"metadata": {"name": name}, "data": data}
            reader.read_config_map(f"ConfigMap s/{name}", document)
    metadata: dict[str, Any] = {"name": "v", "namespace": "n"}
    reader.read_object("", {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata})
    metadata = {**metadata, "labels": {"inference.optimization/acceleratorName": label}}
    seen = {} if generation is None else {"observedGeneration": 1}
    metadata |= {} if generation is None else {"generation": generation}
    decided = {"numReplicas": 4, "lastRunTime": "2026-11-28T12:00:00Z", **last}
    reader.read_object(
        "",
        {
            "kind": "VariantAutoscaling",
            "apiVersion": "llmd.ai/v1alpha1",
            "metadata": metadata,
            "spec": {
                "modelID": model,
                "variantCost": "10",
                "scaleTargetRef": {"kind": "Deployment", "name": "v"},
                **(spec or {}),
            },
            "status": {**seen, "desiredOptimizedAlloc": decided} if last else {},
        },
    )
    return reader.inputs()


def variant(maps: Mapping[str, dict[str, str] | None], **last: Any) -> VariantSource:
    """The variant, which is not refused; arguments of `inputs`."""
    (source,) = inputs(maps, **last).variants
    return source


@pytest.mark.parametrize("label", ["H100", H100])
def test_prices_that_are_gone(label: str) -> None:
    """The variant is held, rather than priced by itself, and told which ConfigMap is missing."""
    source = variant({COSTS: None}, label=label, accelerator="H100")
    assert f"ConfigMap s/{COSTS}: is missing" in source.held
    assert source.published is not None
    assert (source.published.replicas, source.accelerator) == (4, "H100")
    assert not variant({}, label=label, accelerator="H100").held


def test_a_row_that_may_have_the_device_is_broken() -> None:
    """A device of two rows means neither; while one of them cannot be read it does not mean the other."""
    own = f"{H100}@10"
    assert variant({COSTS: {"H100": ROW, "2xH100": ROW}}, accelerator=own).accelerator == own
    source = variant({COSTS: {"H100": ROW, "2xH100": "{"}}, accelerator=own)
    assert f"ConfigMap s/{COSTS}: data.2xH100: not valid JSON" in source.held


@pytest.mark.parametrize("accelerator", ["", f"{H100}@10", f"{H100}@8"])
def test_a_price_of_its_own_stays_one(accelerator: str) -> None:
    """Whoever was priced by itself before, or was never decided for, is so still."""
    source = variant({COSTS: None}, **({"accelerator": accelerator} if accelerator else {}))
    assert (source.held, source.accelerator) == ("", f"{H100}@10")


@pytest.mark.parametrize("accelerator", ["H100", "unknown@10"])
def test_a_price_that_nothing_names_is_none_for_a_row_that_is_gone(accelerator: str) -> None:
    """Who was decided by a row is held; who had the price of its own CRD keeps it."""
    rows = {"A100": '{"device": "NVIDIA-A100", "cost": 40}', "L4": '{"device": "L4", "cost": 9}'}
    none = {"variantCost": None}
    source = variant({COSTS: rows}, label="", spec=none, generation=1, accelerator=accelerator)
    assert source.accelerator == accelerator
    assert ("must name the accelerator" in source.held) == (accelerator == "H100")


def test_targets_of_the_other_autoscaler_that_are_gone() -> None:
    """The variant is held until the ConfigMap is back, or is there and has none."""
    last: dict[str, Any] = {"accelerator": "H100", "serviceClass": f"{WVA_QUEUEING}/m"}
    lost = inputs({}, model="other", **last)
    assert f"ConfigMap {WVA_QUEUEING}: is missing, whose data.m had" in lost.variants[0].held
    assert any(WVA_QUEUEING in text for text in lost.row_problems)
    there = {"default": "sloMultiplier: 3.0"}
    assert not variant({WVA_QUEUEING: there}, model="other", **last).held
    entry = {"m": "model_id: other\nnamespace: n\ntargetTTFT: 500\n"}
    assert variant({WVA_QUEUEING: entry}, model="other", **last).targets.ttft_ms == 500
    assert not variant({}, model="other", accelerator="H100", serviceClass="(none)").held


def test_another_row_that_is_broken_does_not_hold_a_variant_that_moves() -> None:
    """From one accelerator to another, whose prices both are known."""
    rows = {"H100": ROW, "A100": '{"device": "NVIDIA-A100-PCIE-80GB", "cost": 40}', "TPU": "{"}
    source = variant({COSTS: rows}, accelerator="A100")
    assert (source.held, source.accelerator) == ("", "H100")
    # Its own row may be the one that cannot be read.
    assert variant({COSTS: {"A100": rows["A100"], "H100": "{"}}, accelerator="A100").held


FREEMIUM = "name: Freemium\npriority: 10\ndata:\n  - {model: m, slo-tpot: 200}\n"


@pytest.mark.parametrize("name", ["Premium", "Premium (prefill)"])
@pytest.mark.parametrize("broken", [CLASS.replace("24", "fast"), "name: ["])
def test_a_class_whose_row_is_broken_is_not_another_one(broken: str, name: str) -> None:
    """The variant is held, rather than given the targets of a class that lists its model too."""
    last = {"accelerator": "H100", "serviceClass": name}
    source = variant({CLASSES: {"p": broken, "f": FREEMIUM}}, **last)
    assert f"ConfigMap s/{CLASSES}: data.p" in source.held
    assert source.published is not None
    assert source.published.replicas == 4
    # The row is there and says no more of the model, or is gone: that is a statement.
    other = CLASS.replace("model: m", "model: other")
    for rows in ({"p": other, "f": FREEMIUM}, {"f": FREEMIUM}):
        source = variant({CLASSES: rows}, **last)
        assert (source.held, source.targets.itl_ms) == ("", 200)
    # What was decided for the other class before concerns no broken row.
    last = {"accelerator": "H100", "serviceClass": "Freemium"}
    assert not variant({CLASSES: {"p": broken, "f": FREEMIUM}}, **last).held


@pytest.mark.parametrize("rows", [{}, {"p": CLASS.replace("model: m", "model: other")}])
@pytest.mark.parametrize(
    "spec", [{}, {"sloClassRef": {"name": "Premium", "key": "m"}}], ids=["by model", "by name"]
)
def test_a_class_that_is_gone(rows: dict[str, str], spec: dict[str, Any]) -> None:
    """The variant is held, rather than decided without targets, until the row is back or its spec changed."""
    last: dict[str, Any] = {"accelerator": "H100", "serviceClass": "Premium", "spec": spec}
    source = variant({CLASSES: rows}, generation=1, **last)
    assert source.published is not None
    assert source.published.replicas == 4
    assert "model 'm'" in source.held
    # Whoever changed it meant what it says now.
    known = inputs({CLASSES: rows}, generation=2, **last)
    if spec:
        assert [item.reason for item in known.refused] == ["InvalidConfiguration"]
    else:
        assert [(item.held, item.service_class) for item in known.variants] == [("", "(none)")]
    assert not variant({CLASSES: {"p": CLASS}}, generation=1, **last).held
    last["serviceClass"] = "(none)"
    if not spec:
        assert not variant({CLASSES: rows}, generation=1, **last).held


@pytest.mark.parametrize("name", ["Premium", "Premium (decode)"])
@pytest.mark.parametrize(
    "named", [{"name": "premium", "key": "m"}, {"name": CLASSES, "key": "Premium"}]
)
def test_a_class_that_is_gone_is_not_another_one_that_lists_the_model(
    name: str, named: dict[str, str]
) -> None:
    """The object names it; one that is changed, or was decided for the other class before, is of that one."""
    last: dict[str, Any] = {"accelerator": "H100", "serviceClass": name}
    spec = {"spec": {"sloClassRef": named}}
    held = variant({CLASSES: {"f": FREEMIUM}}, generation=1, **last, **spec)
    assert "service class 'Premium' of its last decision" in held.held
    for generation, other in ((2, last), (1, {**last, "serviceClass": "Freemium"})):
        source = variant({CLASSES: {"f": FREEMIUM}}, generation=generation, **other, **spec)
        assert (source.held, source.service_class) == ("", "Freemium")
    # Where no class is named, the rows say which one it is.
    assert not variant({CLASSES: {"f": FREEMIUM}}, generation=1, **last).held


def test_the_price_of_a_profile_that_is_gone() -> None:
    """The variant is held, rather than sized by the profile of an accelerator that it does not run on."""
    profiles = [
        {"acc": name, "accCount": 1, "alpha": "20", "beta": "0.4", "maxBatchSize": 8}
        for name in ("H100", "A100")
    ]
    rows = {"A100": '{"device": "NVIDIA-A100-PCIE-80GB", "cost": 40}'}
    spec = {"modelProfile": {"accelerators": profiles}}
    for broken in (rows, {**rows, "H100": "{"}):
        source = variant({COSTS: broken}, generation=1, accelerator="H100", spec=spec)
        assert "accelerator 'H100' of its last decision" in source.held
        assert source.accelerator == "H100"
    for generation, accelerator in ((2, "H100"), (1, "A100")):
        source = variant({COSTS: rows}, generation=generation, accelerator=accelerator, spec=spec)
        assert not source.held

"""Where a price that nothing names decides something, and its variant's condition says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapter.installation import COSTS
from adapter.planning.groups import Budget
from adapter.resources import schemas
from adapter.resources.inputs import Inputs, Reader
from adapter.resources.wva import prices

LABEL = "inference.optimization/acceleratorName"
ROWS = {
    "A100": '{"device": "NVIDIA-A100", "cost": 40}',
    "H100": '{"device": "NVIDIA-H100", "cost": 90}',
}
NO_PRICE: dict[str, Any] = {}
PRICE = {"variantCost": "10.0"}


def read(
    *specs: dict[str, Any], label: str = "", products: tuple[str, ...] = (), model: str = "m"
) -> Inputs:
    """Variants v0, v1, … of 2026 with these specs; `label` and `products`: what the last one runs on."""
    reader = Reader()
    reader.read_config_map(f"ConfigMap s/{COSTS}", {"metadata": {"name": COSTS}, "data": ROWS})
    for index, spec in enumerate(specs):
        last = index == len(specs) - 1
        metadata = {"name": f"v{index}", "namespace": "n"}
        deployment = schemas.Deployment.model_validate({"metadata": metadata})
        reader.add_deployment(deployment, products=products if last else ())
        reference = {"kind": "Deployment", "name": f"v{index}", "apiVersion": "apps/v1"}
        own = {"modelID": "m" if index == 0 else model, "scaleTargetRef": reference, **spec}
        labels = {LABEL: label} if last and label else {}
        variant = {"kind": "VariantAutoscaling", "apiVersion": "llmd.ai/v1alpha1"}
        reader.read_object("", {**variant, "metadata": {**metadata, "labels": labels}, "spec": own})
    read_inputs = reader.inputs()
    assert read_inputs.problems == ()
    return read_inputs


def told(inputs: Inputs, *budgets: Budget) -> dict[str, str]:
    """What each variant with an assumed price is told, by name; whose price is its own is told nothing."""
    variants = prices.with_problems(inputs, budgets).variants
    return {item.name: "; ".join(item.warnings) for item in variants if item.warnings}


def test_one_alone_is_told_nothing() -> None:
    """Nobody compares its price: 10, as its own CRD had it."""
    inputs = read(NO_PRICE)
    assert [item.accelerator for item in inputs.variants] == ["unknown@10"]
    assert told(inputs) == {}


def test_prices_that_are_all_assumed_are_equal() -> None:
    """Replicas on the same accelerator then differ by nothing that a price could say."""
    inputs = read(NO_PRICE, NO_PRICE)
    assert [group.members for group in inputs.groups] == [("n/v0", "n/v1")]
    assert told(inputs) == {}


@pytest.mark.parametrize(
    "other", [(PRICE, "", ()), (NO_PRICE, "A100", ()), (NO_PRICE, "", ("NVIDIA-L4",))]
)
def test_a_group_with_other_prices(other: tuple[dict[str, Any], str, tuple[str, ...]]) -> None:
    """A price or a row of another variant, or its GPU: requests go to what seems cheap."""
    spec, label, products = other
    texts = told(read(NO_PRICE, spec, label=label, products=products))
    assert texts.keys() == ({"v0", "v1"} if products else {"v0"})
    assert texts["v0"].startswith("spec.variantCost: is not given, and 10 cents per hour")
    assert "other variants of its group have other prices or GPUs; set it" in texts["v0"]
    assert told(read(NO_PRICE, spec, label=label, products=products, model="another")) == {}


@pytest.mark.parametrize(
    ("budgets", "counted"),
    [
        ([Budget(name="all", cost=50)], "all"),
        ([Budget(name="own", scope="namespace", subject="n", cost=50)], "own"),
        ([Budget(name="every", scope="namespace", subject="*", cost=50)], "every"),
        ([Budget(name="class", scope="class", subject="*", cost=50)], "class"),
        ([Budget(name="gpus", devices=4)], ""),
        ([Budget(name="other", scope="namespace", subject="o", cost=50)], ""),
        (
            [
                Budget(name="own", scope="namespace", subject="n", devices=4),
                Budget(name="every", scope="namespace", subject="*", cost=50),
            ],
            "",
        ),
    ],
    ids=["all", "own", "every", "class", "gpus", "other", "without-its-own"],
)
def test_a_budget_in_cents_counts_it(budgets: list[Budget], counted: str) -> None:
    """That of the installation, its namespace or its class; one of GPUs, or of others, does not."""
    texts = told(read(NO_PRICE), *budgets)
    assert texts.keys() == ({"v0"} if counted else set())
    assert all(f"budget {counted!r} counts them; set it" in text for text in texts.values())
    assert told(read(PRICE), *budgets) == {}


def test_limited_gpus_go_by_price() -> None:
    """Among those of one priority on one device, of which one has a price of its own."""
    inputs = read(NO_PRICE, {"variantCost": "80"}, model="another")
    limited = replace(inputs, capacity={"unknown": 3})
    assert told(inputs) == told(replace(inputs, capacity={"NVIDIA-A100": 3})) == {}
    assert "may want the same GPUs (--limited)" in told(limited)["v0"]
    equal = replace(read(NO_PRICE, NO_PRICE, model="another"), capacity={"unknown": 3})
    assert told(equal) == {}

"""HPAs are looked up by target and series: as a scan of all of them would, in work that grows as they do."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from adapter.kube.scale import Reference
from adapter.resources import hpa, schemas
from adapter.resources.configuration import scaling
from adapter.resources.configuration.scalers import Scalers
from tests.fakes import cluster_world as worlds

LABELS = ("variant_name", "model_name", "accelerator_type", "namespace", "tier")
VALUES = ("a", "b", "c")


def reading(selector: Mapping[str, Any]) -> dict[str, Any]:
    """A metric source of an HPA."""
    target = {"type": "AverageValue", "averageValue": "1"}
    metric = {"name": "wva_desired_replicas", "selector": dict(selector)}
    return {"type": "External", "external": {"metric": metric, "target": target}}


def selector(draw: random.Random) -> dict[str, Any]:
    """A selector of up to three terms of any kind."""
    terms = []
    for _ in range(draw.randrange(4)):
        operator = draw.choice(("In", "In", "In", "NotIn", "Exists", "DoesNotExist"))
        values = draw.sample(VALUES, draw.randrange(1, 3)) if operator.endswith("In") else []
        terms.append({"key": draw.choice(LABELS), "operator": operator, "values": values})
    return {"matchExpressions": terms}


def series(draw: random.Random) -> dict[str, str]:
    """Labels of a variant's series."""
    name, model, accelerator, namespace = (draw.choice(VALUES) for _ in range(4))
    return hpa.served_labels(namespace=namespace, name=name, model=model, accelerator=accelerator)


def test_lookup_is_a_scan() -> None:
    """For random HPAs the first that reads a series and scales another target is that of a scan of all."""
    draw = random.Random(22)  # noqa: S311 - no secret
    several = 0
    for _ in range(60):
        scalers = []
        for number in range(12):
            item = worlds.scaler(f"hpa-{number}", target=draw.choice(VALUES))
            item["metadata"]["namespace"] = draw.choice(VALUES)
            item["spec"]["metrics"] = [reading(selector(draw)) for _ in range(draw.randrange(1, 3))]
            scalers.append(hpa.parse(item))
        index = Scalers(scalers)
        for _ in range(20):
            served, target = series(draw), Reference(name=draw.choice(VALUES))
            namespace = served["namespace"]
            among = [item for item in scalers if item.namespace == namespace]
            others = [item for item in among if item.reads(served) and item.reference != target]
            several += len(others) > 1
            expected = others[0] if others else None
            assert index.of_another_target(namespace, target, served) is expected
            scaling_it = [item for item in among if item.reference == target]
            assert list(index.of_target(namespace, target)) == scaling_it
    assert several > 100


def calls_of_joining(number: int, **metric: Any) -> int:
    """Python calls for bounds and HPAs of that many variants, each with its own HPA."""
    names = [f"v{index}" for index in range(number)]
    scalers = []
    for name in names:
        item = worlds.scaler(name)
        match = {key: text.format(name=name) for key, text in metric.items()}
        item["spec"]["metrics"] = [reading({"matchLabels": match})]
        scalers.append(hpa.parse(item))
    variants = [schemas.VariantAutoscaling.model_validate(worlds.variant(name)) for name in names]
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        index = Scalers(scalers)
        for variant in variants:
            target = Reference(name=variant.metadata.name)
            scaling.of_variant(variant, {}, target=target, scalers=index, accelerator="A100")
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize(
    "metric",
    [
        {"variant_name": "{name}"},
        {"model_name": "model-of-{name}"},
        {"variant_name": "{name}", "accelerator_type": "A100"},
        {"accelerator_type": "of-{name}", "namespace": "team-a"},
        {"tier-of-{name}": "x"},
    ],
)
def test_lookup_grows_linearly(metric: dict[str, str]) -> None:
    """Twice the variants with twice the HPAs take twice the calls, whatever labels the HPAs select by."""
    once, twice = calls_of_joining(100, **metric), calls_of_joining(200, **metric)
    assert once > 100
    assert twice < 2.1 * once


def test_versions_of_a_custom_kind_are_one_target() -> None:
    """An HPA that names another version of the target's API scales the same workload."""
    item = worlds.scaler("hpa", target="chat")
    item["spec"]["scaleTargetRef"] = {
        "apiVersion": "x.example/v1beta1",
        "kind": "Server",
        "name": "chat",
    }
    item["spec"]["metrics"] = [reading({"matchLabels": {"variant_name": "a"}})]
    index = Scalers([hpa.parse(item)])
    target = Reference(name="chat", kind="Server", api_version="x.example/v1")
    other = Reference(name="chat", kind="Server", api_version="y.example/v1")
    namespace = item["metadata"]["namespace"]
    served = hpa.served_labels(namespace=namespace, name="a", model="m", accelerator="A100")
    scaling = index.of_target(namespace, target)
    assert [scaler.name for scaler in scaling] == ["hpa"]
    assert hpa.of_target(scaling, target, served)[0] is scaling[0]
    assert index.of_another_target(namespace, target, served) is None
    assert index.of_another_target(namespace, other, served) is scaling[0]


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"maxReplicas": 2}, "spec.maxReplicas: 2 is less than minReplicas 3"),
        ({"minReplicas": 9}, "spec.minReplicas: 9 is more than maxReplicas 8"),
        ({"minReplicas": 1, "maxReplicas": 3}, ""),
        ({"minReplicas": 8, "maxReplicas": 20}, ""),
        ({}, ""),
    ],
)
def test_bounds_that_the_hpa_does_not_keep_are_told(bounds: dict[str, int], told: str) -> None:
    """It holds anyhow, and the variant's own bound does not."""
    document = worlds.variant("v")
    variant = schemas.VariantAutoscaling.model_validate(
        {**document, "spec": {**document["spec"], **bounds}}
    )
    scaler = hpa.parse(worlds.scaler("v", low=3, high=8))
    limits = scaling.of_variant(
        variant, {}, target=Reference(name="v"), scalers=Scalers([scaler]), accelerator="A100"
    )
    assert limits.scaler == scaler
    expected = f"{told} of HorizontalPodAutoscaler v, which holds; change one of the two"
    assert limits.warnings == ((expected,) if told else ())

"""The CRD and the pydantic models say the same, and the CRD takes what users have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from adapter.resources import schemas

ROOT = Path(__file__).parents[3]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "manifests/crd/variantautoscalings.yaml").read_text())
VERSION: dict[str, Any] = CRD["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]

# The flat profile shape, which the model lifts into perfParms before it looks; and what only clients read.
ONLY_IN_CRD = {
    "spec.modelProfile.accelerators[].alpha", "spec.modelProfile.accelerators[].beta",
    "spec.modelProfile.accelerators[].gamma", "spec.modelProfile.accelerators[].delta",
}  # fmt: skip

PERF: dict[str, Any] = {
    "apiVersion": "llmd.ai/v1alpha1",
    "kind": "VariantAutoscaling",
    "metadata": {"name": "v", "namespace": "ns"},
    "spec": {
        "modelID": "m",
        "sloClassRef": {"name": "premium", "key": "m"},
        "modelProfile": {
            "accelerators": [
                {
                    "acc": "A100",
                    "accCount": 1,
                    "maxBatchSize": 4,
                    "perfParms": {
                        "decodeParms": {"alpha": "20.58", "beta": "0.41"},
                        "prefillParms": {"gamma": "5.2", "delta": "0.1"},
                    },
                }
            ]
        },
    },
}
STEP = copy.deepcopy(PERF)
STEP["spec"]["modelProfile"]["accelerators"] = [
    {
        "acc": "H100",
        "perfParms": {
            "stepParms": {
                "base": "7.0",
                "perRequest": "0.05",
                "perPrefillToken": "0.04",
                "perContextToken": "4e-05",
            }
        },
        "engine": {"maxNumSeqs": 64, "maxNumBatchedTokens": 2048, "kvTokens": 432000},
    }
]
FLAT = copy.deepcopy(PERF)
FLAT["spec"]["modelProfile"]["accelerators"] = [
    {
        "acc": "A100",
        "accCount": 1,
        "alpha": "20.58",
        "beta": "0.41",
        "maxBatchSize": 4,
        "atTokens": 512,
    }
]


def of_model(model: type[BaseModel], at: str) -> dict[str, bool]:
    """Paths of a model's fields, and whether they are required."""
    required: dict[str, bool] = {}
    for name, item in model.model_fields.items():
        path = f"{at}.{item.alias or name}".lstrip(".")
        required[path] = item.is_required()
        inner, many = item.annotation, ""
        arguments = [a for a in getattr(inner, "__args__", ()) if isinstance(a, type)]
        for argument in arguments:
            if issubclass(argument, BaseModel):
                many = "[]" if str(inner).startswith("tuple") else ""
                inner = argument
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            required |= of_model(inner, f"{path}{many}")
    return required


def of_schema(schema: dict[str, Any], at: str) -> dict[str, bool]:
    """The same of a schema."""
    required: dict[str, bool] = {}
    if schema["type"] == "array":
        return of_schema(schema["items"], f"{at}[]")
    for name, part in schema.get("properties", {}).items():
        path = f"{at}.{name}".lstrip(".")
        required[path] = name in schema.get("required", ())
        required |= of_schema(part, path)
    return required


def test_models_and_crd_have_the_same_fields() -> None:
    """Every field of the spec is in both, required in both or in neither."""
    crd = of_schema(SCHEMA["properties"]["spec"], "spec")
    model = of_model(schemas.VariantAutoscalingSpec, "spec")
    # The model takes perfParms as required because it lifts the flat shape; the CRD has a rule for that.
    model["spec.modelProfile.accelerators[].perfParms"] = False
    assert {path: need for path, need in crd.items() if path not in ONLY_IN_CRD} == model


def test_what_the_adapter_writes_is_in_the_status() -> None:
    """Fields and printer columns that people and tools of the reference know."""
    status = of_schema(SCHEMA["properties"]["status"], "")
    for path in (
        "currentAlloc.accelerator", "currentAlloc.numReplicas", "currentAlloc.load.arrivalRate",
        "desiredOptimizedAlloc.lastRunTime", "desiredOptimizedAlloc.numReplicas", "actuation.applied",
        "conditions[].type", "observedGeneration", "group.name", "group.share", "group.routing",
    ):  # fmt: skip
        assert path in status
    columns: dict[int, list[str]] = {}
    for column in VERSION["additionalPrinterColumns"]:
        columns.setdefault(column.get("priority", 0), []).append(column["name"].upper())
    assert columns[0] == [
        "MODEL", "ACCELERATOR", "CURRENTREPLICAS", "OPTIMIZED", "SHARE", "METRICSREADY", "AGE",
    ]  # fmt: skip
    assert columns[1] == ["TARGET", "READY", "REASON", "MESSAGE"]
    assert VERSION["subresources"] == {"status": {}}
    assert CRD["spec"]["names"]["shortNames"] == ["va"]


def accepted(document: dict[str, Any]) -> bool:
    """Whether the CRD's schema and its one rule take the object."""
    try:
        jsonschema.validate(document, SCHEMA)
    except jsonschema.ValidationError:
        return False
    return all(
        "perfParms" in item or {"alpha", "beta"} <= set(item)
        for item in document["spec"]["modelProfile"]["accelerators"]
    )


@pytest.mark.parametrize("document", [PERF, FLAT, STEP], ids=["perfParms", "flat", "stepParms"])
def test_every_published_shape_is_accepted(document: dict[str, Any]) -> None:
    """By the CRD and by the model alike."""
    assert accepted(document)
    assert schemas.VariantAutoscaling.model_validate(document).spec.model == "m"


def test_the_samples_are_accepted() -> None:
    """What the repository shows to users passes its own CRD."""
    samples = 0
    for path in (ROOT / "manifests/samples").rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") == "VariantAutoscaling":
                assert accepted(document), path
                samples += 1
    assert samples


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("modelID", ""),
        ("modelProfile.accelerators", []),
        ("modelProfile.accelerators.0.acc", ""),
        ("modelProfile.accelerators.0.accCount", 0),
        ("modelProfile.accelerators.0.maxBatchSize", 0),
        ("modelProfile.accelerators.0.perfParms.decodeParms.alpha", "-1"),
        ("modelProfile.accelerators.0.perfParms.decodeParms.alpha", "fast"),
        ("modelProfile.accelerators.0.perfParms.decodeParms.alpha", "NaN"),
    ],
)
def test_what_the_model_refuses_the_crd_refuses(path: str, value: Any) -> None:
    """Bad objects do not even enter the cluster."""
    document = copy.deepcopy(PERF)
    part: Any = document["spec"]
    *ways, last = path.split(".")
    for way in ways:
        part = part[int(way) if way.isdigit() else way]
    part[last] = value
    assert not accepted(document)
    with pytest.raises(ValidationError):
        schemas.VariantAutoscaling.model_validate(document)


def test_the_rule_stands_where_the_schema_cannot_tell() -> None:
    """A profile without parameters is refused by the CRD's rule, and by the model."""
    item = SCHEMA["properties"]["spec"]["properties"]["modelProfile"]["properties"]["accelerators"]
    rules = [rule["rule"] for rule in item["items"]["x-kubernetes-validations"]]
    assert rules == [
        "has(self.perfParms) || (has(self.alpha) && has(self.beta))",
        "has(self.maxBatchSize) || has(self.engine)",
    ]
    (step,) = item["items"]["properties"]["perfParms"]["x-kubernetes-validations"]
    assert step["rule"] == "has(self.decodeParms) || has(self.stepParms)"
    document = copy.deepcopy(FLAT)
    del document["spec"]["modelProfile"]["accelerators"][0]["beta"]
    assert not accepted(document)
    with pytest.raises(ValidationError, match="flat alpha and beta"):
        schemas.VariantAutoscaling.model_validate(document)


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    """Paths of fields without a description of their own, the schema's root included."""
    missing = [] if schema.get("description", "").strip() else [path or "(root)"]
    for name, item in schema.get("properties", {}).items():
        missing += undescribed(item, f"{path}.{name}" if path else name)
    if "items" in schema and schema["items"].get("type") == "object":
        missing += undescribed(schema["items"], f"{path}[]")
    return missing


def test_every_field_is_described() -> None:
    """`kubectl explain va` teaches: every field has a description that is a sentence of its own."""
    # The API server refuses a CRD that says anything of metadata but names.
    assert SCHEMA["properties"]["metadata"] == {"type": "object"}
    assert undescribed(SCHEMA, "") == ["metadata"]
    bare = copy.deepcopy(SCHEMA)
    del bare["properties"]["spec"]["properties"]["modelID"]["description"]
    assert undescribed(bare, "") == ["metadata", "spec.modelID"]

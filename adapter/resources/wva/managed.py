"""HPAs that say of themselves what a VariantAutoscaling would: the annotations of WVA 0.8 and 0.9.

`llm-d.ai/managed: "true"` and `llm-d.ai/model-id` are needed, `llm-d.ai/variant-cost` is not. KEDA gives the
annotations of a ScaledObject to the HPA that it makes; the variant then has the ScaledObject's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapter.resources import hpa
from adapter.resources.texts.documents import DocumentError, parse_json

MANAGED = "llm-d.ai/managed"
MODEL = "llm-d.ai/model-id"
COST = "llm-d.ai/variant-cost"
VARIANT = "llm-d.ai/variant"
"""Label of pods with the name of their variant."""

EXCLUDE = "wva.llmd.ai/exclude"


def excluded(metadata: Mapping[str, Any]) -> bool:
    """Whether an object is kept from being managed, by annotation or label."""
    return "true" in (
        (metadata.get("annotations") or {}).get(EXCLUDE),
        (metadata.get("labels") or {}).get(EXCLUDE),
    )


def entry(key: str) -> str:
    """Key of a variant `NAMESPACE/NAME` in the ConfigMap."""
    return key.replace("/", "_", 1)


def status_of(targets: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What the ConfigMap holds of a variant, as its `.status` would; empty without a valid entry."""
    text = (targets.get("data") or {}).get(entry(key))
    try:
        allocation = parse_json(text) if isinstance(text, str) else None
    except DocumentError:
        return {}
    return {"desiredOptimizedAlloc": allocation} if isinstance(allocation, dict) else {}


def problem(metadata: Mapping[str, Any]) -> str:
    """Why an HPA whose annotations say that it is managed stands for no variant; empty where it may."""
    notes = metadata.get("annotations") or {}
    said, cost = str(notes.get(MANAGED, "false")).lower(), notes.get(COST)
    if said == "false" or excluded(metadata):
        return ""
    if said != "true":
        return f'metadata.annotations[{MANAGED}]: must be "true" or "false", not {notes[MANAGED]!r}'
    if not notes.get(MODEL):
        return f"metadata.annotations[{MODEL}]: is missing; set it to the model, as its servers name it"
    try:
        known = cost is None or 0.0 <= float(cost) < math.inf
    except (TypeError, ValueError):
        known = False
    return "" if known else f"metadata.annotations[{COST}]: must be a number >= 0, not {cost!r}"


def variant_of(item: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The VariantAutoscaling that an HPA stands for; None where it is not a managed one.

    What is missing in it is refused as in any VariantAutoscaling, with the field.
    """
    metadata, spec = item.get("metadata") or {}, item.get("spec") or {}
    notes = metadata.get("annotations") or {}
    if str(notes.get(MANAGED)).lower() != "true" or excluded(metadata):
        return None
    cost = notes.get(COST)
    return {
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": {
            **{
                name: metadata[name]
                for name in ("namespace", "labels", "annotations", "creationTimestamp")
                if metadata.get(name) is not None
            },
            "name": hpa.scaled_object(metadata) or metadata.get("name"),
        },
        "spec": {
            "modelID": notes.get(MODEL) or "",
            "scaleTargetRef": spec.get("scaleTargetRef") or {},
            **({} if cost is None else {"variantCost": cost}),
        },
    }

"""Fields of a VariantAutoscaling's spec that mean nothing: mistyped ones would else change nothing, silently.

In a cluster the API server refuses or prunes them; a folder of objects has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from adapter.resources import schemas
from adapter.resources.texts.documents import field_path

_MOST = 5
"""Most such fields of one object that are named."""

_ALSO: Mapping[type[BaseModel], frozenset[str]] = {
    schemas.VariantAutoscalingSpec: frozenset(
        {"variantID", "variantProfile", "accelerator", "acceleratorCount"}
    ),
    schemas.AcceleratorProfile: frozenset({"alpha", "beta", "gamma", "delta"}),
}
"""Fields of other published shapes, which are read too."""

_PARTS: Mapping[str, type[BaseModel]] = {
    "sloClassRef": schemas.ServiceClassReference,
    "scaleTargetRef": schemas.ScaleTargetReference,
    "modelProfile": schemas.ModelProfile,
    "accelerators": schemas.AcceleratorProfile,
    "perfParms": schemas.PerformanceParameters,
    "decodeParms": schemas.DecodeParameters,
    "prefillParms": schemas.PrefillParameters,
    "stepParms": schemas.StepParameters,
    "engine": schemas.EngineSettings,
}
"""What stands in a field of objects."""


def fields(document: Mapping[str, Any]) -> list[str]:
    """One line for each field of a valid object's spec that is not known."""
    lines = _unknown(schemas.VariantAutoscalingSpec, document.get("spec"), ("spec",))
    return [text for text, _ in zip(lines, range(_MOST), strict=False)]


def _unknown(model: type[BaseModel], part: object, path: tuple[int | str, ...]) -> Iterator[str]:
    if isinstance(part, list):
        for index, item in enumerate(part):
            yield from _unknown(model, item, (*path, index))
    if not isinstance(part, Mapping):
        return
    names = {item.alias or name for name, item in model.model_fields.items()}
    known = names | _ALSO.get(model, frozenset())
    for key, value in part.items():
        if key not in known:
            listed = ", ".join(sorted(names))
            yield f"{field_path((*path, key))}is not known and changes nothing; known are {listed}"
        elif key in names and key in _PARTS:
            yield from _unknown(_PARTS[key], value, (*path, key))

"""Fields and annotations that mean nothing: mistyped ones would else change nothing, silently.

In a cluster the API server refuses or prunes fields of a VariantAutoscaling's spec; a folder of objects has
none. Annotations it checks nowhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from adapter.resources import schemas
from adapter.resources.annotations import (
    ALLOW_SCALE,
    ENDPOINTS,
    MAX_REPLICAS,
    MIN_REPLICAS,
    REPLICAS,
)
from adapter.resources.model_groups import membership
from adapter.resources.texts.documents import field_path
from adapter.settings.groups import all_declarations

_MOST = 5
"""Most such fields, or annotations, of one object that are named."""

_PREFIX = "llmd.ai/"

_ANNOTATIONS = sorted(
    {item.annotation for item in all_declarations() if item.annotation}
    | {ALLOW_SCALE, ENDPOINTS, MAX_REPLICAS, MIN_REPLICAS, REPLICAS}
    | {*membership.ALL, membership.INTERRUPTIBLE}
)
"""Annotations of a variant or its scale target that mean something."""

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


def notes(given: Mapping[str, str]) -> list[str]:
    """One line for each annotation of this project that is not known, with the nearest that is."""
    unknown = (name for name in given if name.startswith(_PREFIX) and name not in _ANNOTATIONS)
    return [
        f"metadata.annotations[{name}]: is not known and changes nothing; {_nearest(name)}"
        for name, _ in zip(unknown, range(_MOST), strict=False)
    ]


def _nearest(name: str) -> str:
    """The known annotation that is spelt most like this one; all of them without one."""
    by_word = {known.removeprefix(_PREFIX): known for known in _ANNOTATIONS}
    near = difflib.get_close_matches(name.removeprefix(_PREFIX).lower(), by_word, n=1, cutoff=0.7)
    return f"did you mean {by_word[near[0]]}?" if near else f"known are {', '.join(_ANNOTATIONS)}"


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

"""The workload-variant-autoscaler's `system` documents, converted to fleet documents.

There a missing field is zero, and zero often means that it was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter.errors import InputError


def document(system: Any, path: Path) -> dict[str, Any]:
    """The fleet document for a `SystemSpec`, unchecked.

    Raises:
        InputError: a part of it is of the wrong kind.

    """
    optimizer = _part(_part(_object(system), "optimizerData", path), "optimizer", path)
    capacity = {
        str(item.get("type")): item.get("count", 0)
        for item in _items(system, "capacityData", "count", path)
    }
    return {
        "accelerators": [
            _accelerator(item) for item in _items(system, "acceleratorData", "accelerators", path)
        ],
        "capacity": None if optimizer.get("unlimited") else capacity,
        "classes": [
            _service_class(item)
            for item in _items(system, "serviceClassData", "serviceClasses", path)
        ],
        "profiles": [_profile(item, path) for item in _items(system, "modelData", "models", path)],
        "variants": [
            _variant(item, path) for item in _items(system, "serverData", "servers", path)
        ],
        "settings": {
            "saturation_policy": optimizer.get("saturationPolicy") or "None",
            "delayed_best_effort": bool(optimizer.get("delayedBestEffort")),
            "stability_margin": 0.0,  # as the reference, which keeps one for tokens per second only
        },
    }


def _object(item: Any) -> Mapping[str, Any]:
    return item if isinstance(item, dict) else {}


def _items(system: Any, section: str, name: str, path: Path) -> list[dict[str, Any]]:
    items = _object(_object(system).get(section)).get(name)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{path}: {section}.{name}: must be a list of objects")
    return items


def _part(item: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    part = item.get(name) or {}
    if not isinstance(part, dict):
        raise InputError(f"{path}: {name}: must be an object")
    return part


def _accelerator(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": item.get("name"),
        "device": item.get("type") or "",
        "cost": item.get("cost", 0),
        "multiplicity": item.get("multiplicity") or 1,
    }


def _service_class(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": item.get("name"),
        "priority": item.get("priority", 0),
        "models": [
            {
                "model": target.get("model"),
                "itl_ms": target.get("slo-itl") or None,
                "ttft_ms": target.get("slo-ttft") or None,
                "tps": target.get("slo-tps") or None,
            }
            for target in item.get("modelTargets") or ()
        ],
    }


def _profile(item: Mapping[str, Any], path: Path) -> dict[str, Any]:
    decode, prefill = _part(item, "decodeParms", path), _part(item, "prefillParms", path)
    return {
        "model": item.get("name"),
        "accelerator": item.get("acc"),
        "accelerators_per_replica": max(item.get("accCount") or 1, 1),
        **{name: decode.get(name, 0) for name in ("alpha", "beta")},
        **{name: prefill.get(name, 0) for name in ("gamma", "delta")},
        # As in the reference, a batch of none is one of one request, whatever the tokens.
        "max_batch": item.get("maxBatchSize") or 1,
        "at_tokens": item.get("atTokens", 0) if item.get("maxBatchSize") else 0,
    }


def _variant(item: Mapping[str, Any], path: Path) -> dict[str, Any]:
    now = _part(item, "currentAlloc", path)
    load = _part(now, "load", path)
    return {
        "name": item.get("name"),
        "model": item.get("model"),
        "class": item.get("class"),
        # As in the reference, where nothing is generated there is no traffic.
        "rate_rpm": load.get("arrivalRate", 0) if load.get("avgOutTokens") else 0,
        "input_tokens": load.get("avgInTokens", 0),
        "output_tokens": load.get("avgOutTokens", 0),
        "min_replicas": item.get("minNumReplicas", 0),
        "max_batch": item.get("maxBatchSize", 0),
        "keep_accelerator": item.get("keepAccelerator", False),
        "current": {
            "accelerator": now.get("accelerator") or "",
            "replicas": now.get("numReplicas", 0),
            "cost": now.get("cost", 0),
        },
    }

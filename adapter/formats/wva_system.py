"""The workload-variant-autoscaler's `system` documents, turned into ours.

There a missing field is zero, and zero often means that it was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter.errors import InputError


def document(system: Any, path: Path) -> dict[str, Any]:
    """Our document for a `SystemSpec`, unchecked.

    Raises:
        InputError: a part of it is of the wrong kind.

    """

    def items(section: str, name: str) -> list[dict[str, Any]]:
        part = system.get(section) if isinstance(system, dict) else None
        found = (part or {}).get(name) if isinstance(part or {}, dict) else None
        if found is None:
            found = []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise InputError(f"{path}: {section}.{name}: must be a list of objects")
        return found

    def part(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = item.get(name) or {}
        if not isinstance(found, dict):
            raise InputError(f"{path}: {name}: must be an object")
        return found

    optimizer = part(part(system, "optimizerData"), "optimizer")
    return {
        "accelerators": [
            {
                "name": item.get("name"),
                "device": item.get("type") or "",
                "cost": item.get("cost", 0),
                "multiplicity": item.get("multiplicity") or 1,
            }
            for item in items("acceleratorData", "accelerators")
        ],
        "capacity": None
        if optimizer.get("unlimited")
        else {
            str(item.get("type")): item.get("count", 0) for item in items("capacityData", "count")
        },
        "classes": [
            {
                "name": item.get("name"),
                "priority": item.get("priority", 0),
                "models": [
                    {
                        "model": level.get("model"),
                        "itl_ms": level.get("slo-itl") or None,
                        "ttft_ms": level.get("slo-ttft") or None,
                        "tps": level.get("slo-tps") or None,
                    }
                    for level in item.get("modelTargets") or ()
                ],
            }
            for item in items("serviceClassData", "serviceClasses")
        ],
        "profiles": [
            {
                "model": item.get("name"),
                "accelerator": item.get("acc"),
                "accelerators_per_replica": max(item.get("accCount") or 1, 1),
                **{name: part(item, "decodeParms").get(name, 0) for name in ("alpha", "beta")},
                **{name: part(item, "prefillParms").get(name, 0) for name in ("gamma", "delta")},
                "max_batch": item.get("maxBatchSize", 0),
                "at_tokens": item.get("atTokens", 0),
            }
            for item in items("modelData", "models")
        ],
        "variants": [_from_server(item, part) for item in items("serverData", "servers")],
        "settings": {
            "saturation_policy": optimizer.get("saturationPolicy") or "None",
            "delayed_best_effort": bool(optimizer.get("delayedBestEffort")),
            "stability_margin": 0.0,  # as the reference, which keeps one for tokens per second only
        },
    }


def _from_server(item: Mapping[str, Any], part: Any) -> dict[str, Any]:
    now = part(item, "currentAlloc")
    load = part(now, "load")
    return {
        "name": item.get("name"),
        "model": item.get("model"),
        "class": item.get("class"),
        "rate_rpm": load.get("arrivalRate", 0),
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

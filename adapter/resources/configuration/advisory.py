"""What the objects of a cluster say beyond the variants themselves: who acts, and what was decided before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adapter.resources import stored_status
from adapter.resources.inputs import Inputs
from adapter.settings.serving import Actuator


def completed(
    inputs: Inputs,
    objects: Iterable[tuple[tuple[str, str], Mapping[str, Any]]],
    *,
    actuate: Actuator,
) -> Inputs:
    """Inputs whose variants know whether they only advise, and what earlier leaders decided.

    Args:
        inputs: what was read.
        objects: VariantAutoscalings by namespace and name.
        actuate: what sets the replicas of variants that do not say.

    """
    histories = {key: stored_status.history(item.get("status")) for key, item in objects}
    sources = (
        replace(
            source,
            advisory=(source.actuate or actuate) == "none",
            history=histories.get((source.namespace, source.name), ()),
        )
        for source in inputs.variants
    )
    return replace(inputs, variants=tuple(sources))

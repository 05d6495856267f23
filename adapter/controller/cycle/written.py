"""What people write in objects, and whose it is: its change requests a reconcile cycle."""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter

from adapter.controller.cycle.early import EVERYBODY
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource

_UNWRITTEN = frozenset(
    {
        "endpoints",
        "pods",
        "startup_seconds",
        "replicas",
        "spec_replicas",
        "generation",
        "published",
        "gpus",
        "existing",
        "stored",
        "history",
        "target_uid",
        # These follow from nodes and from pods of other namespaces, on whose account the cycle is.
        "closed",
        "narrowed",
    }
)
"""Fields of a variant that others than people change."""

_written_fields = attrgetter(
    *(item.name for item in fields(VariantSource) if item.name not in _UNWRITTEN)
)


class Written:
    """The part of the objects whose change requests a cycle: what people write."""

    def __init__(self) -> None:
        self._last: dict[str, list[object]] = {}

    @property
    def namespaces(self) -> frozenset[str]:
        """Namespaces that had variants at the last call, used or refused."""
        return frozenset(self._last) - {EVERYBODY}

    def changes(self, inputs: Inputs) -> frozenset[str]:
        """Namespaces where it differs from that of the last call; `EVERYBODY` where it is of none alone."""
        own = {item.own_accelerator for item in inputs.variants}
        priced = [item for item in inputs.accelerators if item not in own]
        # Not of parts of them, which tolerations make, and the replicas that there are.
        devices = {item.device_type for item in inputs.accelerators}
        free = {kind: count for kind, count in (inputs.capacity or {}).items() if kind in devices}
        written: dict[str, list[object]] = {EVERYBODY: [priced, inputs.service_classes, free]}
        for refused in inputs.refused:
            written.setdefault(refused.namespace, []).append(refused)
        for source in inputs.variants:
            written.setdefault(source.namespace, []).append(_written_fields(source))
        last, self._last = self._last, written
        names = last.keys() | written.keys()
        return frozenset(name for name in names if last.get(name) != written.get(name))

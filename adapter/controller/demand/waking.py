"""The start of a variant at zero replicas as soon as there are requests for it, ahead of the next cycle."""

from __future__ import annotations

from dataclasses import replace

from adapter.controller import stabilization
from adapter.controller.state import Moment, VariantRecord, series_of
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource


def first_replicas(source: VariantSource) -> int:
    """Replicas that a variant starts with: its minimum, at least 1; 0 where its maximum is 0."""
    least = max(source.min_replicas or 0, 1)
    return least if source.max_replicas is None else min(least, source.max_replicas)


def fits(inputs: Inputs, source: VariantSource) -> bool:
    """Whether devices are free for its first replicas; where they are not, the next cycle decides who has some."""
    free = stabilization.free_capacity(inputs, inputs.variants)
    if free is None:
        return True
    device, number = stabilization.devices(inputs, source, source.accelerator)
    return number * first_replicas(source) <= free.get(device, 0)


def wake(record: VariantRecord, moment: Moment) -> VariantRecord:
    """The record with a target of its first replicas, or with the one that it has where that is more."""
    before = record.state
    replicas = max(first_replicas(record.source), before.desired or 0)
    state = replace(
        before,
        desired=replicas,
        accelerator=before.accelerator or record.source.accelerator,
        reason="requests wait at a gateway: started at once, the next cycle decides how many it needs",
        notes=(),
        problem="",
        outcome="OptimizationSucceeded",
        decided_at=moment.now,
        scaled_up=before.scaled_up + (replicas > (before.desired or 0)),
    )
    series = series_of(state, valid_until=moment.now + moment.valid_seconds)
    return replace(record, state=state, series=series, followed=None)

"""Queues of a group counted in the replicas of each of its variants, which differ in what they carry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from adapter.planning.groups import Group

_ROUNDING = 1e-9


def member_loads(fleet: fleets.Fleet, groups: Sequence[Group]) -> dict[str, fleets.Load]:
    """Loads of the variants of groups in which requests wait, by variant.

    What was ordered of all variants, and what is full of its own queue, counts by what it carries. Where what
    was ordered carries the rate, requests that wait ask for no more.
    """
    waiting = [group for group in groups if group.traffic.in_flight > 0]
    if not waiting:
        return {}
    worths = _worths(fleet, waiting)
    return {
        name: load
        for group in waiting
        for name, load in _loads(group, {name: worths[name] for name in group.variants}).items()
    }


def _worths(fleet: fleets.Fleet, groups: Sequence[Group]) -> dict[str, float]:
    """What one replica of each variant carries of its group's rate, as if nothing waited."""
    owners = {name: group for group in groups for name in group.variants}
    sized = candidates.Candidates(
        replace(
            fleet,
            variants=tuple(
                replace(
                    variant,
                    load=replace(group.traffic, in_flight=0.0, queued_at=0),
                    min_replicas=1,
                    max_replicas=None,
                )
                for variant in fleet.variants
                if (group := owners.get(variant.name)) is not None
            ),
        )
    )
    present = {variant.name: variant.current.accelerator for variant in fleet.variants}
    worths: dict[str, float] = {}
    for name in owners:
        by_accelerator = {
            sized.pair(row).profile.accelerator: sized.worth(row)
            for row in sized.by_variant[name].rows
        }
        best = max(by_accelerator.values(), default=0.0)
        worths[name] = by_accelerator.get(present[name], best)
    return worths


def _loads(group: Group, worths: dict[str, float]) -> dict[str, fleets.Load]:
    """Loads of the variants of one group."""
    members = {name: group.members[name] for name in group.variants if name in group.members}
    ordered = sum(member.ordered * worths[name] for name, member in members.items())
    full = sum(member.queued * worths[name] for name, member in members.items())
    load = group.traffic
    if load.arrival_rate_rps <= ordered * (1.0 + _ROUNDING):
        return dict.fromkeys(worths, replace(load, in_flight=0.0, queued_at=0))
    return {
        name: replace(
            load,
            ordered=0,
            queued_at=math.ceil(full / worth * (1.0 - _ROUNDING)) if worth > 0 else 0,
        )
        for name, worth in worths.items()
    }

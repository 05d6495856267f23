"""Groups of a fleet that can be planned, and what is wrong with the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from adapter.planning import fleet as fleets
from adapter.planning.groups import ROUTINGS, Group, Member

_NOBODY = Member()


class Checked(NamedTuple):
    """Groups that can be planned, and what is wrong with others.

    Attributes:
        groups: groups that can be planned, each without the variants that do not belong in it.
        wrong: what is wrong with each other group, by name.
        apart: why a variant does not belong in its group, by its name.

    """

    groups: list[Group]
    wrong: dict[str, str]
    apart: dict[str, str]


def checked(fleet: fleets.Fleet) -> Checked:
    """Groups that can be planned: a variant of another class or model stays out of its group alone."""
    variants = {variant.name: variant for variant in fleet.variants}
    owner: dict[str, str] = {}
    sound: list[Group] = []
    wrong: dict[str, str] = {}
    apart: dict[str, str] = {}
    names: set[str] = set()
    for whole in fleet.groups:
        unlike = dict(_unlike(whole, variants))
        group = replace(whole, variants=tuple(n for n in whole.variants if n not in unlike))
        problems = list(_problems(group, variants, owner))
        if unlike and not group.variants:
            problems = list(unlike.values())
        if group.name in wrong or group.name in names:
            problems.append("name: is taken by another group")
        if problems:
            wrong[group.name] = "; ".join(problems)
            continue
        owner.update(dict.fromkeys(group.variants, group.name))
        sound.append(group)
        names.add(group.name)
        apart |= {name: f"group {group.name}: {why}" for name, why in unlike.items()}
    return Checked(sound, wrong, apart)


def _unlike(group: Group, variants: Mapping[str, fleets.Variant]) -> Iterator[tuple[str, str]]:
    """Variants that are not what the group is of, and why."""
    for name in group.variants:
        variant = variants.get(name)
        if variant is None:
            continue
        if variant.service_class != group.service_class:
            yield (
                name,
                f"class: {name} has class {variant.service_class!r}, the group {group.service_class!r}",
            )
        elif variant.model != group.model:
            yield name, f"model: {name} serves model {variant.model!r}, the group {group.model!r}"


def _problems(
    group: Group, variants: Mapping[str, fleets.Variant], owner: Mapping[str, str]
) -> Iterator[str]:
    if group.routing not in ROUTINGS:
        yield f"routing: must be one of {', '.join(ROUTINGS)}, not {group.routing!r}"
    if not group.variants:
        yield "variants: has none"
    if not 0 <= group.interruptible_share <= 1:
        yield f"interruptible_share: must be from 0 to 1, not {group.interruptible_share:g}"
    weights = [group.members.get(name, _NOBODY).weight for name in group.variants]
    if any(not 0 <= weight < math.inf for weight in weights):
        yield "weight: must be a number >= 0"
    elif group.routing == "weights" and weights and not any(weights):
        yield "weight: all are 0; give at least one variant a part of the requests"
    yield from _odd_traffic(group)
    if len(set(group.variants)) < len(group.variants):
        yield "variants: one is there twice"
    shares = sum(item.share for item in group.length_classes)
    if group.length_classes and abs(shares - 1.0) > 1e-6:
        yield f"length_classes: shares must sum up to 1, not {shares:g}"
    for name in group.variants:
        variant = variants.get(name)
        if variant is None:
            yield f"variants: there is no variant {name!r}"
        elif name in owner:
            yield f"variants: {name} belongs to group {owner[name]}"


def _odd_traffic(group: Group) -> Iterator[str]:
    offered = (group.traffic.arrival_rate_rps, group.traffic.in_flight)
    for field, number in zip(("arrival_rate_rps", "in_flight"), offered, strict=True):
        if not (math.isfinite(number) and number >= 0):
            yield f"traffic.{field}: must be a number >= 0, not {number:g}"

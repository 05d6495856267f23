"""`groups` and `budgets` of a fleet document.

A bad variant of a group is left out with its reason, and a bad group with all its variants; the others are
planned. A bad budget is refused, as a plan without it could exceed it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError

from adapter.errors import InputError
from adapter.formats.fleet_parts import (
    NUMBER,
    ClassPart,
    Count,
    CurrentPart,
    NonNegative,
    OfferedPart,
    Part,
    ProfilePart,
    VariantPart,
    batch_problem,
    bounds_problem,
    class_problem,
    first_problem,
    length_problem,
    listed,
    name_of,
    variant_of,
)
from adapter.planning import fleet
from adapter.planning.groups import (
    INTERRUPTIBLE_SHARE,
    Budget,
    Group,
    LengthClass,
    Member,
    Routing,
)
from adapter.settings.budgets import entries

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), NUMBER]

_SPELLINGS = {"devices": "gpus"}
"""Other names of the fields of a budget."""


class LengthPart(Part):
    """`groups[].length_classes[]`: part of the requests with their mean lengths."""

    name: str = Field(min_length=1)
    share: Share
    input_tokens: NonNegative = 0.0
    output_tokens: NonNegative


class MemberPart(Part):
    """`groups[].variants[]`: one accelerator, or each that the model has a profile of."""

    name: str = Field(min_length=1)
    accelerator: str = ""
    model: str = ""
    service_class: str = Field(default="", alias="class")
    min_replicas: Annotated[int, Field(ge=0, le=fleet.MOST_REPLICAS), NUMBER] = 1
    max_replicas: Count | None = None
    max_batch: Count = 0
    current: Annotated[Annotated[int, Field(ge=0, le=2**31 - 1)] | CurrentPart, NUMBER] = 0
    available: Count | None = None
    interruptible: bool = False
    weight: NonNegative = 1.0


class GroupPart(OfferedPart):
    """`groups[]`: variants that share one demand."""

    namespace: str = ""
    routing: Routing = "least-loaded"
    interruptible_share: Share = INTERRUPTIBLE_SHARE
    length_classes: tuple[LengthPart, ...] = ()
    variants: Annotated[tuple[Any, ...], Field(min_length=1)]


def groups(
    raw: Sequence[Any],
    profiles: Sequence[ProfilePart],
    classes: Sequence[ClassPart],
    left_out: dict[str, str],
    variants: Sequence[fleet.Variant],
) -> tuple[tuple[Group, ...], tuple[fleet.Variant, ...]]:
    """Groups and their variants; those that were left out are added to `left_out` with their reasons."""
    accepted: list[Group] = []
    members: list[fleet.Variant] = []
    taken = {variant.name for variant in variants}
    known = {*taken, *left_out, *(name_of(member) for item in raw for member in _inner(item))}
    for index, item in enumerate(raw):
        name = name_of(item) or f"groups[{index}]"
        try:
            part = GroupPart.model_validate(item)
        except ValidationError as error:
            reason = first_problem(error, GroupPart)
        else:
            checked, wrong = _members(part, profiles, taken)
            reason = _problem(part, checked, wrong, profiles) or class_problem(part, classes)
            if any(group.name == name for group in accepted):
                name, reason = f"{name} (groups[{index}])", "name: is taken by another group"
            if not reason:
                accepted.append(_group(part, checked))
                members += [_member(part, member, profiles) for member in checked]
                taken |= {member.name for member in checked}
                for place, why in wrong.items():
                    variant = name_of(part.variants[place])
                    where = f"groups[{index}].variants[{place}]"
                    if variant in taken or variant in left_out:
                        where = f"{variant} ({where})"
                    elif variant:
                        where = variant
                    left_out[where] = why
                continue
        left_out[f"group {name}" if name in known else name] = reason
        for member in _inner(item):
            if (variant := name_of(member)) and variant not in taken:
                left_out.setdefault(variant, f"group {name}: {reason}")
    return tuple(accepted), tuple(members)


def set_aside(
    raw: Sequence[Any], reasons: Mapping[str, str], planned: Container[str]
) -> dict[str, tuple[float | None, str]]:
    """Groups of a document that were not planned: requests per minute, None where unreadable, and why.

    `reasons` has a group that shares its name with a variant under "group NAME".
    """
    aside: dict[str, tuple[float | None, str]] = {}
    for index, item in enumerate(raw):
        own = name_of(item)
        for name in (f"{own} (groups[{index}])", own or f"groups[{index}]"):
            why = reasons.get(f"group {name}", reasons.get(name))
            if why is not None and name not in planned:
                rate: Any = item.get("rate_rpm") if isinstance(item, Mapping) else None
                known = isinstance(rate, int | float) and 0 <= rate < math.inf
                aside[name] = (float(rate) if known else None, why)
                break
    return aside


def _inner(item: Any) -> Sequence[Any]:
    """Unchecked variants of an unchecked group."""
    inner = item.get("variants") if isinstance(item, Mapping) else None
    return inner if isinstance(inner, list | tuple) else ()


def _members(
    part: GroupPart, profiles: Sequence[ProfilePart], taken: Container[str]
) -> tuple[list[MemberPart], dict[int, str]]:
    """Variants of a group that can be planned, and what is wrong with the others by their place."""
    there = {profile.accelerator: profile for profile in profiles if profile.model == part.model}
    valid: dict[str, MemberPart] = {}
    wrong: dict[int, str] = {}
    for place, raw in enumerate(part.variants):
        try:
            member = MemberPart.model_validate(raw)
        except ValidationError as error:
            wrong[place] = first_problem(error, MemberPart)
            continue
        if member.name in taken or member.name in valid:
            wrong[place] = "name: is taken by another variant"
        elif member.accelerator and member.accelerator not in there:
            wrong[place] = (
                f"accelerator: {member.accelerator!r} has no profile of model {part.model!r};"
                f" there are {listed(there)}"
            )
        elif problem := bounds_problem(member.min_replicas, member.max_replicas) or batch_problem(
            member.max_batch,
            [there[name] for name in there if member.accelerator in ("", name)],
        ):
            wrong[place] = problem
        elif member.service_class not in ("", part.service_class):
            wrong[place] = (
                f"class: {member.service_class!r} is not the group's, {part.service_class!r}"
            )
        elif member.model not in ("", part.model):
            wrong[place] = f"model: {member.model!r} is not the group's, {part.model!r}"
        else:
            valid[member.name] = member
    return list(valid.values()), wrong


def _problem(
    part: GroupPart,
    members: Sequence[MemberPart],
    wrong: Mapping[int, str],
    profiles: Sequence[ProfilePart],
) -> str:
    """What is wrong with a group, with the field; empty where nothing is."""
    return next(_problems(part, members, wrong, profiles), "")


def _problems(
    part: GroupPart,
    members: Sequence[MemberPart],
    wrong: Mapping[int, str],
    profiles: Sequence[ProfilePart],
) -> Iterator[str]:
    models = {profile.model for profile in profiles}
    if part.model not in models:
        yield f"model: {part.model!r} has no profile; there are {listed(models)}"
    yield from _length_problems(part)
    twice = [
        name for name, number in Counter(i.name for i in part.length_classes).items() if number > 1
    ]
    if twice:
        yield f"length_classes: name: {twice[0]!r} is given twice; give each class its own"
    if not members:
        reasons = (f"{name_of(part.variants[at]) or at}: {why}" for at, why in wrong.items())
        yield f"variants: {'; '.join(reasons)}"
    if part.routing == "weights" and not any(member.weight for member in members):
        yield "variants: weight: all are 0, so requests have nowhere to go; give one more than 0"
    total = sum(item.share for item in part.length_classes)
    if part.length_classes and abs(total - 1.0) > 1e-6:
        yield f"length_classes: shares must sum up to 1, not {total:g}"


def _length_problems(part: GroupPart) -> Iterator[str]:
    lengths = [(part.output_tokens, 1.0, "")]
    lengths += [
        (item.output_tokens, item.share, f"length_classes.{place}.")
        for place, item in enumerate(part.length_classes)
    ]
    for output_tokens, share, where in lengths:
        if problem := length_problem(output_tokens, share * part.rate_rpm, where):
            yield problem


def _variant_part(part: GroupPart, member: MemberPart) -> VariantPart:
    now = member.current
    if isinstance(now, int):
        now = CurrentPart(accelerator=member.accelerator if now else "", replicas=now)
    return VariantPart.model_validate(
        {
            "name": member.name,
            "model": part.model,
            "class": part.service_class,
            "rate_rpm": part.rate_rpm,
            "input_tokens": part.input_tokens,
            "output_tokens": part.output_tokens,
            "input_tokens_cv": part.input_tokens_cv,
            "output_tokens_cv": part.output_tokens_cv,
            "short_answers": part.short_answers,
            "cached_tokens": part.cached_tokens,
            "min_replicas": member.min_replicas,
            "max_replicas": member.max_replicas,
            "max_batch": member.max_batch,
            "current": now,
        }
    )


def _member(part: GroupPart, member: MemberPart, profiles: Sequence[ProfilePart]) -> fleet.Variant:
    mine = [p for p in profiles if member.accelerator in ("", p.accelerator)]
    return variant_of(_variant_part(part, member), mine)


def _group(part: GroupPart, members: Sequence[MemberPart]) -> Group:
    traffic = variant_of(_variant_part(part, members[0]), ()).load
    return Group(
        name=part.name,
        namespace=part.namespace,
        model=part.model,
        service_class=part.service_class,
        variants=tuple(member.name for member in members),
        traffic=traffic,
        routing=part.routing,
        members={
            member.name: Member(
                available=member.available,
                unavailable_reason="" if member.available is None else "available is given",
                interruptible=member.interruptible,
                weight=member.weight,
            )
            for member in members
        },
        interruptible_share=part.interruptible_share,
        length_classes=tuple(LengthClass(**item.model_dump()) for item in part.length_classes),
    )


def budgets(raw: Sequence[Mapping[str, Any]], place: str) -> tuple[Budget, ...]:
    """Budgets of a document: as in the ConfigMap, where `subject` may stand for `namespace` or `class`.

    Raises:
        InputError: one is unusable; names the place, the budget and the field.

    """
    try:
        return entries([_entry(number, item) for number, item in enumerate(raw)])
    except ValueError as error:
        raise InputError(f"{place}: budgets: {error}") from error


def _entry(number: int, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """One budget of a document as the ConfigMap has it."""
    entry = {_SPELLINGS.get(field, field): value for field, value in item.items()}
    if len(entry) < len(item):
        raise ValueError(f"entry {number + 1}: give devices or gpus, not both")
    if "subject" in entry:
        scope = entry.get("scope")
        if scope not in ("namespace", "class") or scope in entry:
            raise ValueError(
                f"entry {number + 1}: subject: needs scope: namespace or class, and stands for that field"
            )
        entry[scope] = entry.pop("subject")
    return entry


def budget_names(raw: Sequence[Any]) -> list[str]:
    """Name of each budget of a document as plans show it; its own where it is unusable or several in one."""
    names = []
    for item in raw:
        try:
            made = entries([_entry(0, item)])
        except (ValueError, AttributeError):  # unusable, or no mapping: refused as such elsewhere
            made = ()
        names.append(made[0].name if len(made) == 1 else name_of(item))
    return names


def namespaces(groups: Iterable[Any], variants: Iterable[Any]) -> set[str]:
    """Namespaces in which budgets count the unchecked groups and variants of a document."""
    there = {name_of(item).rpartition("/")[0] for item in variants}
    for group in groups:
        own = group.get("namespace") if isinstance(group, Mapping) else None
        default = own if isinstance(own, str) else ""
        there |= {name_of(item).rpartition("/")[0] or default for item in _inner(group)}
    return there - {""}


def changed(raw: Sequence[Any], name: str, field: str, value: Any) -> list[Any] | None:
    """Groups with one field of one of their variants changed; None where no group has the variant."""
    edited: list[Any] = []
    matched = False
    for group in raw:
        members = group.get("variants") if isinstance(group, Mapping) else None
        if not isinstance(members, list | tuple) or not any(
            name_of(item) == name for item in members
        ):
            edited.append(group)
            continue
        matched = True
        fresh = [{**item, field: value} if name_of(item) == name else item for item in members]
        edited.append({**group, "variants": fresh})
    return edited if matched else None

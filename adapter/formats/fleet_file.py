"""Fleets as YAML or JSON documents in the format of `plan`; `wva_system` converts the reference's.

Everything is checked by field. A document that holds something unusable is refused as a whole where that
concerns everyone (capacity, budgets, settings); a bad row of accelerators, classes or profiles is not used,
and a bad variant is left out with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from adapter.errors import InputError, shown
from adapter.formats import files, fleet_groups, wva_system
from adapter.formats.fleet_parts import (
    ClassPart,
    Count,
    Part,
    ProfilePart,
    SettingsPart,
    TargetPart,
    VariantPart,
    batch_problem,
    bounds_problem,
    checked_rows,
    class_problem,
    first_problem,
    length_problem,
    listed,
    name_of,
    variant_of,
)
from adapter.kube.paths import shortened
from adapter.planning import fleet, step_model
from adapter.planning.groups import EVERY
from adapter.resources.texts import documents


class FleetDocument(Part):
    """A whole document; without `capacity` devices are unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    accelerators: tuple[Any, ...]
    capacity: dict[str, Count] | None = None
    classes: tuple[Any, ...]
    profiles: tuple[Any, ...]
    variants: tuple[Any, ...] = ()
    groups: tuple[Any, ...] = ()
    budgets: tuple[dict[str, Any], ...] = ()
    settings: SettingsPart = SettingsPart()


def read(path: Path) -> dict[str, Any]:
    """A fleet document, unchecked; a reference `system` document is turned into one.

    Raises:
        InputError: the file cannot be read, or is no YAML or JSON object.

    """
    text = files.read_text(path)
    try:
        document = documents.checked(json.loads(text, object_pairs_hook=documents.unrepeated))
    except (ValueError, RecursionError):
        # JSON with a key twice too: the YAML parser tells its line.
        try:
            document = documents.parse_file(text)
        except documents.DocumentError as error:
            problem = str(error).replace("not valid YAML", "neither JSON nor YAML", 1)
            raise InputError(f"{path}: {problem}") from error
    if not isinstance(document, dict):
        given = "is empty;" if document is None else f"is {shown(document)};"
        raise InputError(
            f"{path}: {given} it must be an object with accelerators, classes, profiles, variants"
        )
    if "apiVersion" in document and "kind" in document:
        raise InputError(
            f"{path}: is a Kubernetes object ({shortened(document['kind'])}); a fleet file has accelerators,"
            " classes, profiles, variants (docs/optimizer.md)"
        )
    if "system" in document or "serverData" in document:
        return wva_system.document(document.get("system", document), path)
    return _with_limiters(document, path)


def _with_limiters(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """The document with the workload-variant-autoscaler's `limiters` as further budgets, which they are."""
    if "limiters" not in document:
        return document
    given = (("limiters", document["limiters"]), ("budgets", document.get("budgets")))
    limiters, budgets = ([] if value is None else value for _, value in given)
    for name, value in (("limiters", limiters), ("budgets", budgets)):
        if not isinstance(value, list):
            raise InputError(f"{path}: {name}: must be a list of budgets, not {shortened(value)}")
    rest = {key: value for key, value in document.items() if key != "limiters"}
    return {**rest, "budgets": [*budgets, *limiters]}


def parse(document: Mapping[str, Any], place: str) -> tuple[fleet.Fleet, dict[str, str]]:
    """A checked fleet, and the variants that were left out with their reasons.

    Raises:
        InputError: something that concerns everyone is unusable; names the place and the field.

    """
    try:
        checked = FleetDocument.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{place}: {first_problem(error, FleetDocument)}") from error
    if "variants" not in document and not checked.groups:
        raise InputError(f"{place}: variants: is missing: give variants or groups")
    rows = checked_rows(document)
    rows.refuse_empty(place)
    profiles = tuple(rows.profiles.values())
    classes = tuple(rows.classes.values())
    settings = checked.settings
    variants, left_out = _variants(checked.variants, profiles, classes)
    groups, members = fleet_groups.groups(checked.groups, profiles, classes, left_out, variants)
    variants += members
    return (
        fleet.Fleet(
            accelerators=tuple(
                fleet.Accelerator(
                    name=item.name,
                    device_type=item.device or item.name,
                    unit_cost=item.cost,
                    multiplicity=item.multiplicity,
                )
                for item in rows.accelerators.values()
            ),
            service_classes=tuple(
                fleet.ServiceClass(
                    name=item.name,
                    priority=item.priority,
                    targets={level.model: _targets(level) for level in item.models},
                )
                for item in classes
            ),
            variants=variants,
            capacity=checked.capacity,
            settings=fleet.Settings(
                solver=settings.solver,
                policy=settings.saturation_policy,
                delayed_best_effort=settings.delayed_best_effort,
                transition_factor=settings.transition_factor,
                time_limit_s=settings.time_limit,
                gap=settings.gap,
                hysteresis=settings.hysteresis,
            ).with_margin(settings.stability_margin),
            groups=groups,
            budgets=fleet_groups.budgets(checked.budgets, place),
        ),
        left_out,
    )


def unused(document: Mapping[str, Any]) -> list[str]:
    """What a checked document holds and no plan can use: bad rows, misspelled accelerators and classes."""
    rows = checked_rows(document)
    names = {item.name for item in rows.accelerators.values()}
    types = {item.device or item.name for item in rows.accelerators.values()}
    capacity = document.get("capacity")
    lines = list(rows.problems)
    # One that capacity leaves out by its own name may be meant so: none of it is there. A `device` names one.
    lines += [
        f"accelerators.{index}.device: {item.device!r} is none of capacity: {listed(capacity)}"
        for index, item in rows.accelerators.items()
        if capacity and item.device and item.device not in {*capacity, item.name}
    ]
    lines += [
        f"profiles[{index}].accelerator: {item.accelerator!r} is none of accelerators: {listed(names)}"
        for index, item in rows.profiles.items()
        if item.accelerator not in names
    ]
    lines += [
        f"{name}: current.accelerator: {current!r} is none of accelerators: {listed(names)};"
        " correct it, or give current.cost"
        for name, current in _currents(document)
        if current not in names
    ]
    lines += [
        f"capacity.{name}: no accelerator is of this device type; there are {listed(types)}"
        for name in capacity or ()
        if name not in types
    ]
    lines += _without_effect(document, rows.profiles.values())
    classes = {item.name for item in rows.classes.values()}
    there = fleet_groups.namespaces(document.get("groups") or (), document.get("variants") or ())
    for budget in fleet_groups.budgets(document.get("budgets") or (), ""):
        if budget.scope == "namespace" and budget.subject not in there | {EVERY} and budget.bounds:
            lines.append(
                f"budget {budget.name}: namespace: nothing is in {budget.subject!r}; there are"
                f" {listed(there)}"
            )
        if budget.scope == "class" and budget.subject not in classes | {EVERY}:
            lines.append(
                f"budget {budget.name}: class: {budget.subject!r} is none of classes: {listed(classes)}"
            )
        lines += [
            f"budget {budget.name}: quotas.{name}: is neither an accelerator nor a device type;"
            f" there are {listed(names | types)}"
            for name in budget.devices_by_type
            if name not in names | types
        ]
    return lines


_STEP_FIELDS = ("input_tokens_cv", "output_tokens_cv", "short_answers", "cached_tokens")
"""Fields of a load that only a replica with step times depends on."""


def _without_effect(
    document: Mapping[str, Any], profiles: Collection[ProfilePart]
) -> Iterator[str]:
    """Fields of loads whose model has no profile with step times, or that is converted to them."""
    models = {profile.model for profile in profiles}
    stepped = {
        profile.model
        for profile in profiles
        if step_model.step_times(profile.profile()) is not None
    }
    for raw in (*(document.get("variants") or ()), *(document.get("groups") or ())):
        if isinstance(raw, dict) and raw.get("model") in models - stepped:
            fields = [name for name in _STEP_FIELDS if raw.get(name)]
            if fields:
                yield (
                    f"{name_of(raw)}: {', '.join(fields)}: {raw['model']} has alpha and beta only; give a"
                    " profile its step times, or at_input_tokens and at_tokens"
                )


def _currents(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Usable variants by name with the accelerator that they have now and whose cost is not given."""
    for raw in document.get("variants") or ():
        try:
            part = VariantPart.model_validate(raw)
        except ValidationError:
            continue  # it is set aside, with its reason
        if part.current.accelerator and part.current.cost is None:
            yield part.name, part.current.accelerator


def changed(document: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The document with one thing changed, such as `accelerator.H100.cost=50` or `capacity.A100=8`.

    Raises:
        InputError: there is no such thing, or it is unusable then.

    """
    path, equals, text = what.partition("=")
    section, _, rest = path.partition(".")
    if not equals or not rest:
        raise InputError(
            f"{what}: must be SECTION.NAME.FIELD=VALUE or capacity.TYPE=VALUE,"
            " SECTION one of accelerator, budget, class, group, variant"
        )
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    edited = dict(document)
    if section == "capacity":
        if edited.get("capacity") is None:
            raise InputError(f"{what}: the fleet has no capacity; it is unlimited")
        if rest not in edited["capacity"]:
            raise InputError(f"{what}: no such type; there are {listed(edited['capacity'])}")
        edited["capacity"] = {**edited["capacity"], rest: value}
        return edited
    lists = {
        "accelerator": "accelerators",
        "class": "classes",
        "variant": "variants",
        "group": "groups",
        "budget": "budgets",
    }
    if section not in lists:
        raise InputError(f"{what}: {section}: must be one of capacity, {listed(lists)}")
    name, dot, field = rest.rpartition(".")
    items = list(edited.get(lists[section]) or ())
    budgets = section == "budget"
    shown = fleet_groups.budget_names(items) if budgets else [name_of(item) for item in items]
    indices = [index for index, each in enumerate(shown) if each == name]
    if section == "variant" and dot and not indices:
        changed_groups = fleet_groups.changed(edited.get("groups") or (), name, field, value)
        if changed_groups is not None:
            edited["groups"] = changed_groups
            return edited
    if not dot or not indices:
        raise InputError(
            f"{what}: no {section} {name or rest!r}; there are {listed(filter(None, shown))}"
        )
    for index in indices:
        items[index] = {**items[index], field: value}
    edited[lists[section]] = items
    known = checked_rows(document).problems
    for problem in checked_rows(edited).problems:
        if problem not in known:
            raise InputError(f"{what}: {problem}")
    return edited


def _variants(
    rows: Sequence[Any], profiles: Sequence[ProfilePart], classes: Sequence[ClassPart]
) -> tuple[tuple[fleet.Variant, ...], dict[str, str]]:
    valid: dict[str, fleet.Variant] = {}
    left_out: dict[str, str] = {}
    models = {profile.model for profile in profiles}
    for index, raw in enumerate(rows):
        name = name_of(raw) or f"variants[{index}]"
        try:
            part = VariantPart.model_validate(raw)
        except ValidationError as error:
            left_out[name] = first_problem(error, VariantPart)
            continue
        if name in valid or name in left_out:
            left_out[f"{name} (variants[{index}])"] = "name: is taken by another variant"
        elif part.model not in models:
            left_out[name] = f"model: {part.model!r} has no profile; there are {listed(models)}"
        elif problem := (
            class_problem(part, classes)
            or bounds_problem(part.min_replicas, part.max_replicas)
            or batch_problem(
                part.max_batch, [each for each in profiles if each.model == part.model]
            )
            or length_problem(part.output_tokens, part.rate_rpm)
        ):
            left_out[name] = problem
        else:
            valid[name] = variant_of(part, profiles)
    return tuple(valid.values()), left_out


def _targets(level: TargetPart) -> fleet.Targets:
    return fleet.Targets(
        itl_ms=level.itl_ms or 0.0,
        ttft_ms=level.ttft_ms or 0.0,
        tps=level.tps or 0.0,
        percentile=None if level.percentile is None else level.percentile / 100,
    )

"""Fleets as YAML or JSON documents in the format of `plan`; `wva_system` converts the reference's.

Everything is checked by field. A document that holds something unusable is refused as a whole where that
concerns everyone (accelerators, capacity, classes); a bad variant is left out with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapter.errors import InputError
from adapter.formats import files, wva_system
from adapter.planning import fleet
from adapter.settings.percentiles import Percentile
from analyzer.defaults import STABILITY_MARGIN
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from optimizer.problem import TRANSITION_FACTOR, SaturationPolicy, SolverName

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AcceleratorPart(_Part):
    """`accelerators[]`; cost in cents per hour of one unit of `multiplicity` devices."""

    name: str = Field(min_length=1)
    device: str = ""
    cost: NonNegative
    multiplicity: Annotated[int, Field(ge=1)] = 1


class TargetPart(_Part):
    """`classes[].models[]`; ms, tokens per second, percent."""

    model: str = Field(min_length=1)
    itl_ms: Positive | None = None
    ttft_ms: Positive | None = None
    tps: Positive | None = None
    percentile: Percentile | None = None


class ClassPart(_Part):
    """`classes[]`; priority 1 is served first."""

    name: str = Field(min_length=1)
    priority: Annotated[int, Field(ge=1, le=100)]
    models: tuple[TargetPart, ...] = ()


class StepPart(_Part):
    """`profiles[].step`: time of one engine step; ms."""

    base: Positive
    per_request: NonNegative = 0.0
    per_sqrt_request: NonNegative = 0.0
    per_prefill_token: NonNegative
    per_context_token: NonNegative = 0.0
    per_prompt: NonNegative = 0.0


class EnginePart(_Part):
    """`profiles[].engine`: limits of the engine; without `kv_tokens` the KV cache does not bind."""

    max_num_seqs: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] = 2048
    kv_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None


class ProfilePart(_Part):
    """`profiles[]`: one model on one accelerator; ms. Either `step` or `alpha` and `beta`."""

    model: str = Field(min_length=1)
    accelerator: str = Field(min_length=1)
    accelerators_per_replica: Annotated[int, Field(ge=1)] = 1
    alpha: NonNegative | None = None
    beta: NonNegative | None = None
    gamma: NonNegative = 0.0
    delta: NonNegative = 0.0
    step: StepPart | None = None
    engine: EnginePart | None = None
    max_batch: Count = 0
    at_tokens: Count = 0
    at_input_tokens: Count = 0

    @model_validator(mode="after")
    def _one_form(self) -> ProfilePart:
        where = f"{self.model} on {self.accelerator}"
        linear = self.alpha is not None or self.beta is not None or self.gamma or self.delta
        if self.step is not None and linear:
            raise ValueError(f"{where} has step and alpha, beta, gamma, delta: give one of the two")
        for name in ("alpha", "beta"):
            if self.step is None and getattr(self, name) is None:
                raise ValueError(f"{where}: {name} is missing: give alpha and beta, or step")
        return self

    @property
    def latency(self) -> LatencyParameters | StepTimes:
        """The form that is given."""
        if self.step is not None:
            return StepTimes(**{f"{name}_ms": ms for name, ms in self.step.model_dump().items()})
        return LatencyParameters(
            alpha_ms=self.alpha or 0.0,
            beta_ms=self.beta or 0.0,
            gamma_ms=self.gamma,
            delta_ms=self.delta,
        )

    @property
    def limits(self) -> EngineLimits | None:
        """Limits of the engine; those of a step profile without any are the defaults."""
        engine = self.engine
        if engine is None:
            if self.step is None or self.max_batch:
                return None
            engine = EnginePart()
        return EngineLimits(**engine.model_dump())


class CurrentPart(_Part):
    """`variants[].current`; the cost is that of the accelerator when it is not given."""

    accelerator: str = ""
    replicas: Count = 0
    cost: NonNegative | None = None


class VariantPart(_Part):
    """`variants[]`; the rate in requests per minute."""

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    service_class: str = Field(alias="class", min_length=1)
    rate_rpm: NonNegative
    input_tokens: NonNegative = 0.0
    output_tokens: NonNegative
    input_tokens_cv: NonNegative = 0.0
    output_tokens_cv: NonNegative = 0.0
    cached_tokens: NonNegative = 0.0
    min_replicas: Count = 1
    max_replicas: Count | None = None
    max_batch: Count = 0
    keep_accelerator: bool = False
    current: CurrentPart = CurrentPart()


class SettingsPart(_Part):
    """`settings`."""

    solver: SolverName = "auto"
    saturation_policy: SaturationPolicy = "None"
    delayed_best_effort: bool = False
    transition_factor: NonNegative = TRANSITION_FACTOR
    stability_margin: Annotated[float, Field(ge=0, lt=1)] = STABILITY_MARGIN
    time_limit: Positive = 10.0
    gap: NonNegative = 1e-6


class FleetDocument(_Part):
    """A whole document; without `capacity` devices are unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    accelerators: tuple[AcceleratorPart, ...]
    capacity: dict[str, Count] | None = None
    classes: tuple[ClassPart, ...]
    profiles: tuple[ProfilePart, ...]
    variants: tuple[dict[str, Any], ...]
    settings: SettingsPart = SettingsPart()


def read(path: Path) -> dict[str, Any]:
    """A fleet document, unchecked; a reference `system` document is turned into one.

    Raises:
        InputError: the file cannot be read, or is no YAML or JSON object.

    """
    text = files.read_text(path)
    try:
        # YAML 1.1 reads 1e5 as text; JSON does not.
        document = json.loads(text)
    except ValueError:
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{path}: neither JSON nor YAML: {error}") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: must be an object with accelerators, classes, profiles, variants"
        )
    if "system" in document or "serverData" in document:
        return wva_system.document(document.get("system", document), path)
    return document


def parse(document: Mapping[str, Any], place: str) -> tuple[fleet.Fleet, dict[str, str]]:
    """A checked fleet, and the variants that were left out with their reasons.

    Raises:
        InputError: something that concerns everyone is unusable; names the place and the field.

    """
    try:
        checked = FleetDocument.model_validate(document)
    except ValidationError as error:
        raise InputError(f"{place}: {_first(error)}") from error
    _unique(place, "accelerators", (item.name for item in checked.accelerators))
    _unique(place, "classes", (item.name for item in checked.classes))
    _unique(place, "profiles", (f"{p.model} on {p.accelerator}" for p in checked.profiles))
    for item in checked.classes:
        _unique(place, f"classes: {item.name}: models", (level.model for level in item.models))
    settings = checked.settings
    variants, left_out = _variants(checked)
    return (
        fleet.Fleet(
            accelerators=tuple(
                fleet.Accelerator(
                    name=item.name,
                    device_type=item.device or item.name,
                    unit_cost=item.cost,
                    multiplicity=item.multiplicity,
                )
                for item in checked.accelerators
            ),
            service_classes=tuple(
                fleet.ServiceClass(
                    name=item.name,
                    priority=item.priority,
                    targets={level.model: _targets(level) for level in item.models},
                )
                for item in checked.classes
            ),
            variants=variants,
            capacity=checked.capacity,
            settings=fleet.Settings(
                solver=settings.solver,
                policy=settings.saturation_policy,
                delayed_best_effort=settings.delayed_best_effort,
                transition_factor=settings.transition_factor,
                stability_margin=settings.stability_margin,
                time_limit_s=settings.time_limit,
                gap=settings.gap,
            ),
        ),
        left_out,
    )


def changed(document: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The document with one thing changed, such as `accelerator.H100.cost=50` or `capacity.A100=8`.

    Raises:
        InputError: there is no such thing.

    """
    path, equals, text = what.partition("=")
    section, _, rest = path.partition(".")
    if not equals or not rest:
        raise InputError(
            f"{what}: must be SECTION.NAME.FIELD=VALUE or capacity.TYPE=VALUE,"
            " SECTION one of accelerator, class, variant"
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
            raise InputError(f"{what}: no such type; there are {_listed(edited['capacity'])}")
        edited["capacity"] = {**edited["capacity"], rest: value}
        return edited
    lists = {"accelerator": "accelerators", "class": "classes", "variant": "variants"}
    if section not in lists:
        raise InputError(f"{what}: {section}: must be one of capacity, {_listed(lists)}")
    name, dot, field = rest.rpartition(".")
    items = list(edited.get(lists[section]) or ())
    indices = [index for index, item in enumerate(items) if _name(item) == name]
    if not dot or not indices:
        names = _listed(_name(item) for item in items)
        raise InputError(f"{what}: no {section} {name or rest!r}; there are {names}")
    for index in indices:
        items[index] = {**items[index], field: value}
    edited[lists[section]] = items
    return edited


def _variants(document: FleetDocument) -> tuple[tuple[fleet.Variant, ...], dict[str, str]]:
    valid: dict[str, fleet.Variant] = {}
    left_out: dict[str, str] = {}
    models = {profile.model for profile in document.profiles}
    for index, raw in enumerate(document.variants):
        name = _name(raw) or f"variants[{index}]"
        try:
            part = VariantPart.model_validate(raw)
        except ValidationError as error:
            left_out[name] = _first(error)
            continue
        if name in valid or name in left_out:
            left_out[f"{name} (variants[{index}])"] = "name: is taken by another variant"
        elif part.model not in models:
            left_out[name] = f"model: {part.model!r} has no profile; there are {_listed(models)}"
        elif part.max_replicas is not None and part.max_replicas < part.min_replicas:
            left_out[name] = f"max_replicas: {part.max_replicas} is less than min_replicas"
        else:
            valid[name] = _variant(part, document.profiles)
    return tuple(valid.values()), left_out


def _variant(part: VariantPart, profiles: Iterable[ProfilePart]) -> fleet.Variant:
    idle = part.rate_rpm == 0 or part.output_tokens == 0
    return fleet.Variant(
        name=part.name,
        model=part.model,
        service_class=part.service_class,
        profiles=tuple(
            fleet.Profile(
                accelerator=profile.accelerator,
                accelerator_count=profile.accelerators_per_replica,
                max_batch=profile.max_batch,
                at_tokens=profile.at_tokens,
                at_input_tokens=profile.at_input_tokens,
                latency=profile.latency,
                limits=profile.limits,
            )
            for profile in profiles
            if profile.model == part.model
        ),
        load=fleet.Load(
            arrival_rate_rps=0.0 if idle else part.rate_rpm / 60.0,
            input_tokens=part.input_tokens,
            output_tokens=max(part.output_tokens, 1.0),
            input_cv=part.input_tokens_cv,
            output_cv=part.output_tokens_cv,
            cached_tokens=part.cached_tokens,
        ),
        current=fleet.CurrentAllocation(
            accelerator=part.current.accelerator,
            replicas=part.current.replicas,
            cost=part.current.cost,
        ),
        max_batch=part.max_batch,
        min_replicas=part.min_replicas,
        max_replicas=part.max_replicas,
        keep_accelerator=part.keep_accelerator,
    )


def _targets(level: TargetPart) -> fleet.Targets:
    return fleet.Targets(
        itl_ms=level.itl_ms or 0.0,
        ttft_ms=level.ttft_ms or 0.0,
        tps=level.tps or 0.0,
        percentile=None if level.percentile is None else level.percentile / 100,
    )


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    problem = {"missing": "is missing", "extra_forbidden": "is not known"}.get(
        first["type"], first["msg"]
    )
    given = first["input"]
    shown = f", not {given!r}" if isinstance(given, (str, int, float, type(None))) else ""
    complete = first["type"] in {"missing", "extra_forbidden"}
    return f"{field}: {problem}{'' if complete else shown}"


def _unique(where: str, what: str, names: Iterable[str]) -> None:
    known: set[str] = set()
    for name in names:
        if name in known:
            raise InputError(f"{where}: {what}: {name} is there twice")
        known.add(name)


def _name(item: Any) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"

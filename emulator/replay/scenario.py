"""What a replay is about: models with their targets, variants, GPUs, HPA, from one YAML file.

name: one model on one accelerator
accelerators: {A100: {cost: 40, devices: 64}}       # cents per hour; devices: how many there are
models:
- model: default/default
serviceClass: Premium
slo: {ttft: 500, itl: 24}                       # ms; what requests are judged by
trace: {kind: poisson, ...}                     # where --trace does not give it
variants:
- name: chat
model: default/default
accelerator: A100
profile: {alpha: 20.58, beta: 0.41, gamma: 5.2, delta: 0.1, maxBatchSize: 8}
startup: 60s
replicas: 2
hpa: {syncPeriod: 15s, scaleDownStabilization: 0s}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from adapter import errors
from adapter.kube import duration
from emulator import trace_files, traces
from emulator.traces import Trace


def _seconds(value: Any) -> float:
    """A duration such as 15s; 0 is allowed here."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return float(value)
    if str(value).strip() in {"0", "0s"}:
        return 0.0
    return duration.seconds(str(value))


Seconds = Annotated[float, BeforeValidator(_seconds)]
Period = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


_GENERATORS = frozenset({".yaml", ".yml", ".json"})
"""Suffixes of files that describe a generator."""

_STEP_FACTOR = 1.5
"""By which a level must exceed the one before to be a step upwards."""


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class Accelerator(_Part):
    """One kind of GPU: cents per hour, and how many there are (None: any number)."""

    cost: float = Field(gt=0)
    devices: int | None = Field(default=None, ge=1)


class Slo(_Part):
    """Targets in ms that single requests are judged by."""

    ttft: float = Field(gt=0)
    itl: float = Field(gt=0)


class Model(_Part):
    """One model's traffic and what it is owed."""

    model: str = Field(min_length=1)
    service_class: str = "default"
    priority: int = Field(default=1, ge=1, le=100)
    slo: Slo
    trace: dict[str, Any] | str | None = None


class Profile(_Part):
    """As in a VariantAutoscaling, ms."""

    alpha: float = Field(gt=0)
    beta: float = Field(ge=0)
    gamma: float = Field(default=0.0, ge=0)
    delta: float = Field(default=0.0, ge=0)
    max_batch_size: int = Field(ge=1)


class Variant(_Part):
    """One scale target."""

    name: str = Field(min_length=1)
    model: str
    accelerator: str
    profile: Profile
    devices: int = Field(default=1, ge=1)
    startup: Seconds = 60.0
    replicas: int = Field(default=1, ge=1)
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=100, ge=1)


class Hpa(_Part):
    """Of the policies that scale on a metric of vLLM, by default as Kubernetes has it."""

    sync_period: Period = 15.0
    tolerance: float = Field(default=0.1, ge=0)
    scale_down_stabilization: Seconds = 300.0
    queue_target: float = Field(default=2.0, gt=0)
    kv_target: float = Field(default=0.8, gt=0, le=1)


class Loop(_Part):
    """Of the policies that decide by a model."""

    interval: Period = 30.0
    scrape_interval: Period = 15.0


class Scenario(_Part):
    """The whole of it."""

    name: str = "scenario"
    accelerators: dict[str, Accelerator]
    models: tuple[Model, ...]
    variants: tuple[Variant, ...]
    hpa: Hpa = Hpa()
    loop: Loop = Loop()
    warm_up: Seconds = 300.0
    routing: Literal["least-loaded", "round-robin"] = "least-loaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One model's traffic, with when its load steps up and until when it stays, in seconds."""

    trace: Trace
    steps: tuple[tuple[float, float], ...] = ()


def read(path: Path) -> Scenario:
    """A scenario from a YAML file.

    Raises:
        InputError: names the field and the fix.

    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InputError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise errors.InputError(
            f"{path}: not valid YAML: {' '.join(str(error).split())}"
        ) from error
    try:
        found = Scenario.model_validate(document)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}"
            for item in error.errors()
        )
        raise errors.InputError(f"{path}: {said}") from error
    _check(path, found)
    return found


def _check(path: Path, found: Scenario) -> None:
    """What the parts say of each other."""
    models = {model.model for model in found.models}
    if not models:
        raise errors.InputError(f"{path}: models: must have at least one")
    if len(models) < len(found.models):
        raise errors.InputError(f"{path}: models: each model can be there only once")
    names = [variant.name for variant in found.variants]
    for variant in found.variants:
        where = f"{path}: variants.{variant.name}"
        if variant.model not in models:
            raise errors.InputError(
                f"{where}.model: {variant.model!r} is none of models: {', '.join(sorted(models))}"
            )
        if variant.accelerator not in found.accelerators:
            known = ", ".join(sorted(found.accelerators))
            raise errors.InputError(
                f"{where}.accelerator: {variant.accelerator!r} is none of accelerators: {known}"
            )
        there = found.accelerators[variant.accelerator].devices
        if there is not None and variant.devices > there:
            raise errors.InputError(
                f"{where}.devices: {variant.devices} are more than the accelerator's {there}"
            )
        if not variant.min_replicas <= variant.replicas <= variant.max_replicas:
            raise errors.InputError(
                f"{where}.replicas: {variant.replicas} is not within minReplicas and maxReplicas"
            )
        if names.count(variant.name) > 1:
            raise errors.InputError(f"{where}.name: is there twice")
    served = {variant.model for variant in found.variants}
    for model in sorted(models - served):
        raise errors.InputError(f"{path}: models.{model}: no variant serves it")


def traffic(scenario: Scenario, given: Path | None, *, base: Path) -> dict[str, Traffic]:
    """Traces by model: the given one for the first model, else what the scenario names.

    Args:
        scenario: the scenario.
        given: a trace file, or a generator's description in YAML or JSON.
        base: the folder that file names in the scenario are relative to.

    Raises:
        InputError: a trace is missing or wrong.

    """
    found = {}
    for index, model in enumerate(scenario.models):
        where: Path | Mapping[str, Any] | None
        if given is not None and index == 0:
            where = given
        else:
            where = base / model.trace if isinstance(model.trace, str) else model.trace
        if where is None:
            raise errors.InputError(
                f"models.{model.model}.trace: is missing; name a file or a generator, or give --trace"
            )
        try:
            trace = load(where)
        except errors.InputError as error:
            raise errors.InputError(f"models.{model.model}.trace: {error}") from error
        if not len(trace) or trace.arrival_seconds[-1] < scenario.warm_up:
            raise errors.InputError(
                f"models.{model.model}.trace: has no request after the warm-up of"
                f" {scenario.warm_up:g} s; give a longer one, or a shorter warmUp"
            )
        found[model.model] = Traffic(trace=trace, steps=tuple(steps(where)))
    return found


def rises(levels: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """When the load steps up, and until when it stays, from levels of (seconds, rate)."""
    found, at = [], 0.0
    for index, (seconds, rate) in enumerate(levels):
        if index and rate >= _STEP_FACTOR * levels[index - 1][1]:
            found.append((at, at + seconds))
        at += seconds
    return found


def steps(where: Path | Mapping[str, Any]) -> list[tuple[float, float]]:
    """When the load of a generator steps up, and until when it stays, seconds; none for recorded traffic."""
    spec: Any = where
    if isinstance(where, Path):
        if where.suffix not in _GENERATORS:
            return []
        spec = yaml.safe_load(where.read_text(encoding="utf-8"))
    return rises(spec["levels"]) if spec.get("kind") == "step" else []


def load(where: Path | Mapping[str, Any]) -> Trace:
    """One trace: a file of a public format, or a generator's description.

    Raises:
        InputError: it is neither.

    """
    try:
        if not isinstance(where, Path):
            return traces.generate(where)
        if where.suffix not in _GENERATORS:
            return trace_files.read(where)
    except traces.TraceError as error:
        raise errors.InputError(str(error)) from error
    try:
        return traces.generate(yaml.safe_load(where.read_text(encoding="utf-8")))
    except OSError as error:
        raise errors.InputError(f"{where}: cannot be read: {error.strerror}") from error
    except (traces.TraceError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise errors.InputError(f"{where}: {said}") from error

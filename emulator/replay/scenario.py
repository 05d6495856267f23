"""Scenario of a replay: models with their SLO targets, variants, GPUs and HPAs, from one YAML file.

name: one model on one accelerator
accelerators: {A100: {cost: 40, devices: 64}}       # cents per hour; devices: number of GPUs
models:
  - model: default/default
    serviceClass: Premium
    slo: {ttft: 500, itl: 24}                       # ms; targets of single requests
    trace: {kind: poisson, ...}                     # used without --trace
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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from adapter import errors
from adapter.resources.texts import documents
from emulator import trace_files, trace_folder, traces
from emulator.engines import step_times
from emulator.replay.replicas import fields
from emulator.replay.replicas.fields import Milliseconds, Part, Period, Seconds
from emulator.replay.replicas.specs import VariantSpec, VllmEngine
from emulator.trace_lines import also
from emulator.trace_selection import Selection
from emulator.traces import Trace

_GENERATORS = frozenset({".yaml", ".yml", ".json"})
"""Suffixes of files that describe a generator."""

_SHOWN = 5
"""Problems of a file that are named; a file of another kind has one in each field."""

_HAS = "a scenario has accelerators, models and variants (docs/replay.md)"
"""End of the error for a file that is no scenario."""

_STEP_FACTOR = 1.5
"""Ratio of a level to the one before from which it is an upward step."""


class AcceleratorSpec(Part):
    """One kind of GPU: its cost in cents per hour, and the number of devices (None: unlimited)."""

    cost: float = Field(gt=0)
    devices: int | None = Field(default=None, ge=1)


class Slo(Part):
    """Latency targets of single requests, ms."""

    ttft: Milliseconds
    itl: Milliseconds


class Clients(Part):
    """Clients that drop a request without a first token in time, and may send it again."""

    timeout: Period
    retries: int = Field(default=0, ge=0, le=100)
    backoff: Seconds = 1.0


class Model(Part):
    """One model: its service class, SLO targets and traffic.

    `group: false` keeps its variants apart: the adapter then sizes each alone, by what its own pods get.
    """

    model: str = Field(min_length=1)
    service_class: str = "default"
    priority: int = Field(default=1, ge=1, le=100)
    slo: Slo
    clients: Clients | None = None
    group: bool = True
    trace: dict[str, Any] | str | None = None


class Hpa(Part):
    """HPA settings of the policies that scale on one of vLLM's metrics; defaults are Kubernetes' own."""

    sync_period: Period = 15.0
    tolerance: float = Field(default=0.1, ge=0, lt=1)
    scale_down_stabilization: Seconds = 300.0
    queue_target: float = Field(default=2.0, gt=0)
    kv_target: float = Field(default=0.8, gt=0, le=1)


class Loop(Part):
    """Intervals of the policies that decide by the queueing model, seconds."""

    interval: Period = 30.0
    scrape_interval: Period = 15.0


class Scenario(Part):
    """One scenario: GPUs, models, variants, HPA and loop settings."""

    name: str = "scenario"
    accelerators: dict[str, AcceleratorSpec]
    models: tuple[Model, ...]
    variants: tuple[VariantSpec, ...]
    hpa: Hpa = Hpa()
    loop: Loop = Loop()
    warm_up: Seconds = 300.0
    routing: Literal["least-loaded", "round-robin"] = "least-loaded"

    @property
    def groups(self) -> dict[str, tuple[VariantSpec, ...]]:
        """Variants of each model that share its demand, by model: those of one that has several."""
        by_model = {
            item.model: tuple(variant for variant in self.variants if variant.model == item.model)
            for item in self.models
            if item.group
        }
        return {model: members for model, members in by_model.items() if len(members) > 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedTraffic:
    """One model's traffic.

    Attributes:
        trace: Requests in order of arrival.
        steps: Start and end in seconds of each upward step of the load.

    """

    trace: Trace
    steps: tuple[tuple[float, float], ...] = ()


def read(path: Path) -> Scenario:
    """A scenario from a YAML file.

    Raises:
        InputError: The file cannot be read or a field is wrong; the message names the field and the fix.

    """
    try:
        document = documents.parse_file(_text(path))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise errors.InputError(f"{path}: cannot be read: {why}") from error
    except documents.DocumentError as error:
        raise errors.InputError(f"{path}: {error}") from error
    if document is None:
        raise errors.InputError(f"{path}: is empty; {_HAS}")
    if isinstance(document, dict) and not document.keys() & {"accelerators", "models", "variants"}:
        shown = ", ".join(str(name) for name in list(document)[:_SHOWN]) or "nothing"
        raise errors.InputError(
            f"{path}: has {shown}, and so is no scenario; {_HAS}. A trace goes to --trace"
        )
    try:
        scenario = Scenario.model_validate(document)
    except ValidationError as error:
        wrong = error.errors()
        kinds = {item["loc"][:-1] for item in wrong if item["loc"] and item["loc"][-1] == "kind"}
        problems = [
            f"{fields.path(item['loc']) or 'document'}: {errors.field_problem(item, Scenario)}"
            for item in wrong
            # Which fields there are follows from the kind, so they cannot be judged beside a wrong one.
            if item["type"] != "extra_forbidden" or item["loc"][:-1] not in kinds
        ]
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise errors.InputError(f"{path}: {'; '.join(problems[:_SHOWN])}{more}") from error
    _check(path, scenario)
    return scenario


def _check(path: Path, scenario: Scenario) -> None:
    """Raise InputError where fields contradict each other."""
    models = {model.model for model in scenario.models}
    if not models:
        raise errors.InputError(f"{path}: models: must have at least one")
    if len(models) < len(scenario.models):
        raise errors.InputError(f"{path}: models: each model can be there only once")
    names = [variant.name for variant in scenario.variants]
    for variant in scenario.variants:
        where = f"{path}: variants.{variant.name}"
        if variant.model not in models:
            raise errors.InputError(
                f"{where}.model: {variant.model!r} is none of models: {', '.join(sorted(models))}"
            )
        if variant.accelerator not in scenario.accelerators:
            known = ", ".join(sorted(scenario.accelerators))
            raise errors.InputError(
                f"{where}.accelerator: {variant.accelerator!r} is none of accelerators: {known}"
            )
        devices = scenario.accelerators[variant.accelerator].devices
        if devices is not None and variant.devices > devices:
            raise errors.InputError(
                f"{where}.devices: {variant.devices} are more than the accelerator's {devices}"
            )
        if variant.min_replicas > variant.max_replicas:
            raise errors.InputError(
                f"{where}.maxReplicas: {variant.max_replicas} is less than minReplicas,"
                f" {variant.min_replicas}"
            )
        if not variant.min_replicas <= variant.replicas <= variant.max_replicas:
            raise errors.InputError(
                f"{where}.replicas: {variant.replicas} is not within minReplicas and maxReplicas,"
                f" {variant.min_replicas} to {variant.max_replicas}"
            )
        gone = variant.unschedulable
        if gone is not None and gone.end is not None and gone.start >= gone.end:
            raise errors.InputError(
                f"{where}.unschedulable: from ({gone.start:g} s) must be before to ({gone.end:g} s)"
            )
        if names.count(variant.name) > 1:
            raise errors.InputError(f"{where}.name: is there twice")
    served = {variant.model for variant in scenario.variants}
    for model in sorted(models - served):
        raise errors.InputError(f"{path}: models.{model}: no variant serves it")
    for item in scenario.models:
        _check_targets(path, scenario, item)


def _check_targets(path: Path, scenario: Scenario, model: Model) -> None:
    """Raise InputError for a target shorter than one step of every engine: no request could meet it."""
    engines = [item.served_by for item in scenario.variants if item.model == model.model]
    steps = [engine.step_ms.base for engine in engines if isinstance(engine, VllmEngine)]
    if not steps or len(steps) < len(engines):
        return
    for name, target in model.slo.model_dump().items():
        if target < min(steps):
            raise errors.InputError(
                f"{path}: models.{model.model}.slo.{name}: {target:g} ms are shorter than one step of an"
                f" engine, {min(steps):g} ms (stepMs.base); targets are in ms"
            )


def traffic(
    scenario: Scenario,
    given: Path | None,
    *,
    base: Path,
    selection: Selection = Selection(),  # noqa: B008 - immutable
    folder: Path | None = None,
    trace_format: trace_files.Format | None = None,
) -> dict[str, OfferedTraffic]:
    """Traffic by model: the given trace for the first model, for others what the scenario names.

    Args:
        scenario: Scenario with its models.
        given: Trace file, or a generator's description in YAML or JSON; None to use the scenario's.
        base: Folder to which file names in the scenario are relative.
        selection: Part of each trace to replay, and factor on its rate.
        folder: Folder of public traces, where names are looked up that are no files.
        trace_format: Format of the given file; None to tell it by its fields.

    Raises:
        InputError: A trace is missing or wrong, or has a request that an engine can never serve.

    """
    traffic_by_model = {}
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
        own_format = trace_format if where is given else None
        named = "--trace" if where is given else f"models.{model.model}.trace"
        try:
            if isinstance(where, Path):
                where = _existing(where, base, folder)
            trace = load(where, format=own_format, selection=selection)
        except (errors.InputError, traces.TraceError) as error:
            raise errors.InputError(f"{named}: {error}") from error
        if not len(trace) or trace.arrival_seconds[-1] < scenario.warm_up:
            raise errors.InputError(
                f"{named}: has no request after the warm-up of {scenario.warm_up:g} s, and lasts"
                f" {trace.duration_seconds:.0f} s; give a longer one, more of it (--from, --to), or less"
                f" warmUp{also(trace.left_out)}"
            )
        _check_lengths(scenario, model, trace, named)
        traffic_by_model[model.model] = OfferedTraffic(
            trace=trace, steps=selection.steps(tuple(steps(where)))
        )
    return traffic_by_model


def _existing(where: Path, base: Path, folder: Path | None) -> Path:
    """The file itself, or the one of that name in the folder of traces."""
    if where.exists():
        return where
    name = where.relative_to(base) if where.is_relative_to(base) else where
    return trace_folder.find(where if folder is None else name, folder)


def _check_lengths(scenario: Scenario, model: Model, trace: Trace, named: str) -> None:
    """Raise InputError where a request does not fit into the KV cache of an engine that may get it."""
    for variant in scenario.variants:
        engine = variant.served_by
        if variant.model != model.model or not isinstance(engine, VllmEngine):
            continue
        tokens = trace.input_tokens + trace.output_tokens
        longest = int(np.argmax(tokens))
        try:
            step_times.check_lengths(
                engine.limits,
                max(int(trace.input_tokens[longest]), 1),
                int(trace.output_tokens[longest]),
            )
        except ValueError as error:
            lines = trace.lines
            where = (
                f"request {longest + 1}" if lines is None else f"{lines.where(longest)}: request"
            )
            raise errors.InputError(
                f"{named}: {where} has"
                f" {trace.input_tokens[longest]} input and {trace.output_tokens[longest]} output tokens,"
                f" more than variants.{variant.name}.engine.kvTokens ({engine.kv_tokens}) holds; raise it,"
                " or shorten the request"
            ) from error


def rises(levels: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Start and end in seconds of each upward step, from levels of (seconds, rate)."""
    steps_up, at = [], 0.0
    for index, (seconds, rate) in enumerate(levels):
        if index and rate >= _STEP_FACTOR * levels[index - 1][1]:
            steps_up.append((at, at + seconds))
        at += seconds
    return steps_up


def _text(path: Path) -> str:
    """A file's text, and no more than is parsed: a device has no end."""
    with path.open(encoding="utf-8") as file:
        return file.read(documents.FILE_LENGTH + 1)


def steps(where: Path | Mapping[str, Any]) -> list[tuple[float, float]]:
    """Start and end in seconds of each upward step of a generator's load; none for recorded traffic."""
    spec: Any = where
    if isinstance(where, Path):
        if where.suffix not in _GENERATORS:
            return []
        spec = documents.parse_file(_text(where))
    return rises(spec["levels"]) if spec.get("kind") == "step" else []


def load(
    where: Path | Mapping[str, Any],
    *,
    format: trace_files.Format | None = None,  # noqa: A002 - the common name of the argument
    selection: Selection = Selection(),  # noqa: B008 - immutable
) -> Trace:
    """Load one trace: a file of a public format, or a generator's description.

    Args:
        where: The file, or the description itself.
        format: Format of the file; None to tell it by its fields.
        selection: Part of the trace to return, and factor on its rate.

    Raises:
        InputError: The file cannot be read or is neither of these.

    """
    try:
        if not isinstance(where, Path):
            return selection.of(traces.generate(where))
        if where.suffix not in _GENERATORS:
            return trace_files.read(where, format=format, selection=selection)
    except traces.TraceError as error:
        raise errors.InputError(str(error)) from error
    try:
        description = documents.parse_file(_text(where))
        if description is None:
            raise errors.InputError(f"{where}: is empty; a generator has kind, such as poisson")
        trace = traces.generate(description)
    except OSError as error:
        raise errors.InputError(f"{where}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.InputError(f"{where}: cannot be read: not UTF-8") from error
    except (traces.TraceError, documents.DocumentError) as error:
        raise errors.InputError(f"{where}: {' '.join(str(error).split())}") from error
    try:
        return selection.of(trace)
    except traces.TraceError as error:
        raise errors.InputError(str(error)) from error

"""Parts of a fleet document, checked by field, and how their problems are named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapter.errors import field_problem
from adapter.planning import fleet
from adapter.settings.percentiles import Percentile
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from optimizer.problem import TRANSITION_FACTOR, SaturationPolicy, SolverName

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Part(BaseModel):
    """Base of all parts: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AcceleratorPart(Part):
    """`accelerators[]`; cost in cents per hour of one unit of `multiplicity` devices."""

    name: str = Field(min_length=1)
    device: str = ""
    cost: NonNegative
    multiplicity: Annotated[int, Field(ge=1)] = 1


class TargetPart(Part):
    """`classes[].models[]`; ms, tokens per second, percent."""

    model: str = Field(min_length=1)
    itl_ms: Positive | None = None
    ttft_ms: Positive | None = None
    tps: Positive | None = None
    percentile: Percentile | None = None


class ClassPart(Part):
    """`classes[]`; priority 1 is served first."""

    name: str = Field(min_length=1)
    priority: Annotated[int, Field(ge=1, le=100)]
    models: tuple[TargetPart, ...] = ()


class StepPart(Part):
    """`profiles[].step`: time of one engine step; ms."""

    base: Positive
    per_request: NonNegative = 0.0
    per_sqrt_request: NonNegative = 0.0
    per_prefill_token: NonNegative
    per_context_token: NonNegative = 0.0
    per_prompt: NonNegative = 0.0


class EnginePart(Part):
    """`profiles[].engine`: limits of the engine; without `kv_tokens` the KV cache does not bind."""

    max_num_seqs: Annotated[int, Field(ge=1, le=2**16)] = 256
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] = 2048
    kv_tokens: Annotated[int, Field(ge=1, le=2**53)] | None = None


class ProfilePart(Part):
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

    def profile(self) -> fleet.Profile:
        """As planning has it."""
        return fleet.Profile(
            accelerator=self.accelerator,
            accelerator_count=self.accelerators_per_replica,
            max_batch=self.max_batch,
            at_tokens=self.at_tokens,
            at_input_tokens=self.at_input_tokens,
            latency=self.latency,
            limits=self.limits,
        )


class CurrentPart(Part):
    """`variants[].current`; the cost is that of the accelerator when it is not given."""

    accelerator: str = ""
    replicas: Count = 0
    cost: NonNegative | None = None


class VariantPart(Part):
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


class SettingsPart(Part):
    """`settings`."""

    solver: SolverName = "auto"
    saturation_policy: SaturationPolicy = "None"
    delayed_best_effort: bool = False
    transition_factor: NonNegative = TRANSITION_FACTOR
    stability_margin: Annotated[float, Field(ge=0, lt=1)] | None = None
    time_limit: Positive = 10.0
    gap: NonNegative = 1e-6
    hysteresis: Annotated[float, Field(ge=0, le=1)] = 0.0


def variant_of(part: VariantPart, profiles: Iterable[ProfilePart]) -> fleet.Variant:
    """A variant with the profiles of its model."""
    idle = part.rate_rpm == 0 or part.output_tokens == 0
    return fleet.Variant(
        name=part.name,
        model=part.model,
        service_class=part.service_class,
        profiles=tuple(profile.profile() for profile in profiles if profile.model == part.model),
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


_ALTERNATIVES = frozenset({"constrained-int", "CurrentPart"})
"""What a schema calls the forms of a field that has two; no field of a document."""


def first_problem(error: ValidationError, checked: type[Part]) -> str:
    """The first problem of a part that was checked: field, what is wrong, and what was given or is known."""
    # An unknown field first: it is often the misspelled name of one that is missing.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    place = [part for part in first["loc"] if part not in _ALTERNATIVES]
    problem = field_problem(first)
    if first["type"] == "extra_forbidden":
        problem += f"; known are {', '.join(_fields(checked, place[:-1]))}"
    field = ".".join(map(str, place))
    return f"{field}: {problem}" if field else problem


def _fields(part: type[Part], place: Iterable[int | str]) -> list[str]:
    """Names of the fields of a part's part, as documents write them."""
    for name in place:
        field = part.model_fields.get(str(name))  # an index in a list is no field
        part = (field and _part_in(field.annotation)) or part
    return [field.alias or name for name, field in part.model_fields.items()]


def _part_in(annotation: Any) -> type[Part] | None:
    """The part that a field holds, be it one, several, or none of them."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next(filter(None, map(_part_in, get_args(annotation))), None)


def name_of(item: Any) -> str:
    """Name of an unchecked part; empty where it has none."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def listed(names: Iterable[str]) -> str:
    """Names in order."""
    return ", ".join(sorted(names)) or "none"

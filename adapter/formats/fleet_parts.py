"""Parts of a fleet document, checked by field, and how their problems are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticKnownError

from adapter.errors import InputError, field_problem
from adapter.formats.step_cases import ShortAnswers
from adapter.planning import fleet
from adapter.settings.percentiles import Percentile
from analyzer.latency import LatencyParameters, unit_problem
from analyzer.step_times import EngineLimits, StepTimes
from optimizer.problem import TRANSITION_FACTOR, SaturationPolicy, SolverName


def _number(value: Any) -> Any:
    """Refuse true and false: as numbers they would be 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


NUMBER = BeforeValidator(_number)
"""Refuses true and false where a number is expected."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NUMBER]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), NUMBER]
Rate = Annotated[float, Field(ge=0, le=fleet.LARGEST_RATE_RPM, allow_inf_nan=False), NUMBER]
Count = Annotated[int, Field(ge=0, le=2**31 - 1), NUMBER]
Whole = Annotated[int, Field(ge=1, le=2**31 - 1), NUMBER]


class Part(BaseModel):
    """Base of all parts: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Row = TypeVar("Row", bound=Part)


class AcceleratorPart(Part):
    """`accelerators[]`; cost in cents per hour of one unit of `multiplicity` devices."""

    name: str = Field(min_length=1)
    device: str = ""
    cost: NonNegative
    multiplicity: Whole = 1


class TargetPart(Part):
    """`classes[].models[]`; ms, tokens per second, percent."""

    model: str = Field(min_length=1)
    itl_ms: Positive | None = None
    ttft_ms: Positive | None = None
    tps: Positive | None = None
    percentile: Annotated[Percentile, NUMBER] | None = None


class ClassPart(Part):
    """`classes[]`; priority 1 is served first."""

    name: str = Field(min_length=1)
    priority: Annotated[int, Field(ge=1, le=100), NUMBER]
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

    max_num_seqs: Annotated[int, Field(ge=1, le=2**16), NUMBER] = 256
    max_num_batched_tokens: Whole = 2048
    kv_tokens: Annotated[int, Field(ge=1, le=2**53), NUMBER] | None = None


class ProfilePart(Part):
    """`profiles[]`: one model on one accelerator; ms. Either `step` or `alpha` and `beta`."""

    model: str = Field(min_length=1)
    accelerator: str = Field(min_length=1)
    accelerators_per_replica: Whole = 1
    alpha: NonNegative | None = None
    beta: NonNegative | None = None
    gamma: NonNegative = 0.0
    delta: NonNegative = 0.0
    step: StepPart | None = None
    engine: EnginePart | None = None
    max_batch: Whole = 0
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
        if self.step is None and not (self.alpha or self.beta):
            raise ValueError(f"{where}: alpha and beta: must not both be 0; give the times, in ms")
        if (step := self.step) is not None:
            problem = unit_problem(step.base, step.per_request, step.per_sqrt_request)
        else:
            problem = unit_problem(self.alpha or 0.0, self.beta or 0.0)
        if problem:
            raise ValueError(f"{where}: {problem}")
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


class OfferedPart(Part):
    """What is offered to a variant or to a group: the rate in requests per minute, and lengths in tokens."""

    name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    service_class: str = Field(alias="class", min_length=1)
    rate_rpm: Rate
    input_tokens: NonNegative = 0.0
    output_tokens: NonNegative
    input_tokens_cv: NonNegative = 0.0
    output_tokens_cv: NonNegative = 0.0
    short_answers: ShortAnswers = ()
    cached_tokens: NonNegative = 0.0


def class_problem(part: OfferedPart, classes: Iterable[ClassPart]) -> str:
    """What is wrong with a variant's or a group's class: there is none of that name; else empty."""
    names = {item.name for item in classes}
    if part.service_class in names:
        return ""
    return f"class: {part.service_class!r} is none of classes: {listed(names)}"


class VariantPart(OfferedPart):
    """`variants[]`."""

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
    stability_margin: Annotated[float, Field(ge=0, lt=1), NUMBER] | None = None
    time_limit: Positive = 10.0
    gap: NonNegative = 1e-6
    hysteresis: Annotated[float, Field(ge=0, le=1), NUMBER] = 0.0


def bounds_problem(least: int, most: int | None) -> str:
    """What is wrong with bounds of a variant's replicas; empty where nothing is."""
    if most is None or most >= least:
        return ""
    return f"max_replicas: {most} is less than min_replicas, {least}"


def batch_problem(part_batch: int, profiles: Iterable[ProfilePart]) -> str:
    """What is wrong with a variant's max batch: neither it nor a linear profile has one; else empty."""
    for profile in () if part_batch else profiles:
        if profile.step is None and not profile.max_batch:
            return (
                f"max_batch: is missing; give it here, or in the profile on {profile.accelerator}"
            )
    return ""


def length_problem(output_tokens: float, rate: float, where: str = "") -> str:
    """What is wrong with the mean output tokens at a rate; empty where nothing is, or none arrives.

    `where` stands before the field's name, such as `length_classes.0.`.
    """
    if rate <= 0 or output_tokens >= 1:
        return ""
    return (
        f"{where}output_tokens: must be >= 1 where requests arrive, not {output_tokens:g};"
        " without traffic set rate_rpm to 0"
    )


def variant_of(part: VariantPart, profiles: Iterable[ProfilePart]) -> fleet.Variant:
    """A variant with the profiles of its model."""
    return fleet.Variant(
        name=part.name,
        model=part.model,
        service_class=part.service_class,
        profiles=tuple(profile.profile() for profile in profiles if profile.model == part.model),
        load=fleet.Load(
            arrival_rate_rps=part.rate_rpm / 60.0,
            input_tokens=part.input_tokens,
            output_tokens=max(part.output_tokens, 1.0),
            input_cv=part.input_tokens_cv,
            output_cv=part.output_tokens_cv,
            short_answers=part.short_answers,
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


def first_problem(error: ValidationError, schema: type[Part]) -> str:
    """The first problem: field, what is wrong, and what was given."""
    # An unknown field first: it is often the misspelled name of one that is missing.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"] if part not in _ALTERNATIVES)
    problem = field_problem(first, schema)
    return f"{field}: {problem}" if field else problem


def name_of(item: Any) -> str:
    """Name of an unchecked part; empty where it has none."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def listed(names: Iterable[str]) -> str:
    """Names in order."""
    return ", ".join(sorted(names)) or "none"


@dataclass(frozen=True, slots=True)
class Rows:
    """Usable rows of `accelerators`, `classes` and `profiles` by their place in the document.

    A row that is unusable costs only the variants that need it.

    Attributes:
        problems: what is wrong with the others, each with its field.
        empty: sections that have rows, of which none is usable, with what is wrong with the first.

    """

    accelerators: Mapping[int, AcceleratorPart]
    classes: Mapping[int, ClassPart]
    profiles: Mapping[int, ProfilePart]
    problems: tuple[str, ...]
    empty: tuple[str, ...]

    def refuse_empty(self, place: str) -> None:
        """Raise InputError where no row of a section is usable."""
        for problem in self.empty:
            raise InputError(f"{place}: {problem}")


def checked_rows(document: Mapping[str, Any]) -> Rows:
    """Usable rows of a document whose three sections are lists."""
    problems: list[str] = []
    empty: list[str] = []

    def section(
        name: str, model: type[Row], key: Callable[[Row], str], rows: Iterable[Any]
    ) -> dict[int, Row]:
        before = len(problems)
        valid = _valid(name, model, key, rows, problems)
        if not valid and len(problems) > before:
            empty.append(problems[before])
        return valid

    accelerators = section(
        "accelerators", AcceleratorPart, lambda row: row.name, document.get("accelerators") or ()
    )
    classes = [
        _with_usable_models(f"classes.{place}.models", row, problems)
        for place, row in enumerate(document.get("classes") or ())
    ]
    return Rows(
        accelerators=accelerators,
        classes=section("classes", ClassPart, lambda row: row.name, classes),
        profiles=section(
            "profiles",
            ProfilePart,
            lambda row: f"{row.model} on {row.accelerator}",
            document.get("profiles") or (),
        ),
        problems=tuple(problems),
        empty=tuple(empty),
    )


def _with_usable_models(where: str, row: Any, problems: list[str]) -> Any:
    models = row.get("models") if isinstance(row, dict) else None
    if not isinstance(models, list | tuple):
        return row
    valid = _valid(where, TargetPart, lambda level: level.model, models, problems)
    return {**row, "models": tuple(valid.values())}


def _valid(
    where: str,
    model: type[Row],
    key: Callable[[Row], str],
    rows: Iterable[Any],
    problems: list[str],
) -> dict[int, Row]:
    """Rows that are usable by place; of two with the same key the first."""
    valid: dict[int, Row] = {}
    known: set[str] = set()
    for place, raw in enumerate(rows):
        try:
            row = model.model_validate(raw)
        except ValidationError as error:
            reason = first_problem(error, model)
            dot = "." if error.errors()[0]["loc"] else ": "
            problems.append(f"{where}.{place}{dot}{reason}")
            continue
        if key(row) in known:
            problems.append(
                f"{where}.{place}: {key(row)} is there twice; remove one (the first is used)"
            )
            continue
        known.add(key(row))
        valid[place] = row
    return valid

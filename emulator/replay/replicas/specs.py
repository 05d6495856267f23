"""What a scenario says of a variant's replicas: engine, start-up time, and the profile for the policies.

Without `engine` the replicas schedule as vLLM does, with the step times of the profile, see `default_engine`.

    engine:
      kind: vllm
      stepMs: {base: 7, perRequest: 0.05, perPrefillToken: 0.04, perContextToken: 4e-5}
      maxNumSeqs: 256
      maxNumBatchedTokens: 8192
      kvTokens: 432000
    profile: fit                                    # or none, or parameters: `LinearProfile`, `StepProfile`
    startup: {median: 180s, sigma: 0.4}             # or 180s
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from emulator.engine import EngineProfile
from emulator.engines import step_times
from emulator.engines.factories import load_factory
from emulator.engines.profile import ProfileEngine
from emulator.engines.protocol import EngineFactory
from emulator.engines.scheduler_engine import SchedulerEngine
from emulator.replay.replicas.fields import FORM, Part, Seconds, in_ms, seconds


class StepMs(Part):
    """Time of one engine step, ms, as `stepParms` of a VariantAutoscaling; of engines and of profiles."""

    base: float = Field(gt=0)
    per_request: float = Field(default=0.0, ge=0)
    per_prefill_token: float = Field(default=0.0, ge=0)
    per_context_token: float = Field(default=0.0, ge=0)
    per_sqrt_request: float = Field(default=0.0, ge=0)
    per_prompt: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _in_ms(self) -> StepMs:
        return in_ms(self, self.base, self.per_request, self.per_sqrt_request)


class Limits(Part):
    """Limits of an engine, under vLLM's names."""

    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    kv_tokens: int | None = Field(default=None, ge=1)


class LinearProfile(Part):
    """Decode time alpha + beta * batch and prefill time gamma + delta * tokens * batch, ms.

    The lengths are those at which they were measured, 0 where they are unknown.
    """

    alpha: float = Field(gt=0)
    beta: float = Field(ge=0)
    gamma: float = Field(default=0.0, ge=0)
    delta: float = Field(default=0.0, ge=0)
    max_batch_size: int = Field(ge=1)
    at_tokens: int = Field(default=0, ge=0)
    at_input_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _in_ms(self) -> LinearProfile:
        return in_ms(self, self.alpha, self.beta)


class StepProfile(Part):
    """Step times, and the limits that the policies assume; None: those of the variant's engine."""

    step_parms: StepMs
    engine: Limits | None = None


class VllmEngine(Limits):
    """An engine that schedules as vLLM's v1 scheduler does, see `emulator.engines.scheduler`."""

    kind: Literal["vllm"]
    step_ms: StepMs
    kv_tokens: int = Field(ge=step_times.BLOCK_TOKENS)

    @field_validator("max_num_batched_tokens")
    @classmethod
    def _budget(cls, tokens: int, info: Any) -> int:
        least = info.data.get("max_num_seqs", 1)
        if tokens < least:
            raise ValueError(f"must be >= maxNumSeqs ({least}): each request takes a token")
        return tokens

    @property
    def limits(self) -> step_times.SchedulerLimits:
        """Limits of the scheduler; KV cache in whole blocks."""
        return step_times.SchedulerLimits(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            kv_blocks=self.kv_tokens // step_times.BLOCK_TOKENS,
        )

    def factory(self) -> EngineFactory:
        """Makes the engine of one replica."""
        times = step_times.StepTimes(
            base_ms=self.step_ms.base,
            per_request_ms=self.step_ms.per_request,
            per_prefill_token_ms=self.step_ms.per_prefill_token,
            per_context_token_ms=self.step_ms.per_context_token,
            per_sqrt_request_ms=self.step_ms.per_sqrt_request,
            per_prompt_ms=self.step_ms.per_prompt,
        )
        limits = self.limits
        # A replay asks for no gaps between single tokens.
        return lambda: SchedulerEngine(times, limits, gaps=False)


class ProfileSteps(Part):
    """The engine of `emulator.engine`; without `parms` it runs with the variant's linear profile."""

    kind: Literal["profile"] = "profile"
    parms: LinearProfile | None = None

    def factory(self) -> EngineFactory:
        """Makes the engine of one replica; only with `parms`."""
        assert self.parms is not None  # noqa: S101 - the caller gives the profile's where there are none
        profile = engine_profile(self.parms)
        return lambda: ProfileEngine(profile)


class OtherEngine(Part):
    """An engine from `module:factory`; the limits are what the policies assume of it."""

    kind: str
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    kv_tokens: int | None = Field(default=None, ge=1)

    @field_validator("kind")
    @classmethod
    def _loads(cls, name: str) -> str:
        if ":" not in name:
            raise ValueError(f"must be vllm, profile or module:factory, not {name!r}")
        load_factory(name)
        return name

    def factory(self) -> EngineFactory:
        """Makes the engine of one replica."""
        return load_factory(self.kind)


class Startup(Part):
    """A lognormal start-up time: its median, and the standard deviation of its logarithm."""

    median: Seconds
    sigma: float = Field(default=0.0, ge=0, le=3)
    seed: int = Field(default=0, ge=0)

    @property
    def p95(self) -> float:
        """Seconds within which 95 % of the replicas start."""
        return self.median * math.exp(1.6449 * self.sigma)


class Unschedulable(Part):
    """Time in which no node takes new replicas of a variant; `evict` drains those that run as it begins."""

    start: Seconds = Field(alias="from")
    end: Seconds | None = Field(alias="to", default=None)
    evict: bool = False

    def covers(self, at: float) -> bool:
        """Whether that time, seconds since the beginning, is within."""
        return self.start <= at and (self.end is None or at < self.end)


def engine_profile(profile: LinearProfile) -> EngineProfile:
    """The profile as `emulator.engine` takes it."""
    return EngineProfile(
        alpha_ms=profile.alpha,
        beta_ms=profile.beta,
        gamma_ms=profile.gamma,
        delta_ms=profile.delta,
        max_batch=profile.max_batch_size,
    )


DEFAULT_KV_TOKENS_PER_REQUEST = 16_384
"""KV cache of an engine that nothing is said of, per request of its largest batch: room for long prompts."""


def default_engine(profile: LinearProfile | StepProfile) -> VllmEngine:
    """An engine that schedules as vLLM, with the step times of a profile: for variants that name none.

    Step parameters are taken as they are. Of a linear profile a step takes alpha, beta per request and delta
    per prompt token. Where the profile says the lengths that it was measured at, the part of beta that was
    other requests' prompts, delta * input / output, is taken off: in the engine it comes by itself. Without
    them it counts twice, and the engine is a little slower than its profile. gamma, the fixed part of a
    prefill alone, is the step that a prompt shares here.
    """
    if isinstance(profile, StepProfile):
        limits = profile.engine or Limits()
        step, seqs, kv = profile.step_parms, limits.max_num_seqs, limits.kv_tokens
        budget = max(limits.max_num_batched_tokens, seqs)
    else:
        seqs, kv, budget = profile.max_batch_size, None, max(8192, profile.max_batch_size)
        per_request = profile.beta
        if profile.at_tokens and profile.at_input_tokens:
            interference = profile.delta * profile.at_input_tokens / profile.at_tokens
            per_request = max(per_request - interference, 0.0)
        step = StepMs(base=profile.alpha, per_request=per_request, per_prefill_token=profile.delta)
    return VllmEngine(
        kind="vllm",
        step_ms=step,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        kv_tokens=kv or seqs * DEFAULT_KV_TOKENS_PER_REQUEST,
    )


def _engine_form(value: Any) -> str:
    has_steps = isinstance(value, Mapping) and "kind" not in value and "parms" not in value
    default = getattr(value, "kind", "vllm" if has_steps and value else "profile")
    kind = value.get("kind", default) if isinstance(value, Mapping) else default
    return FORM + (kind if kind in ("vllm", "profile") else "other")


def _profile_form(value: Any) -> str:
    if isinstance(value, str):
        return FORM + "word"
    steps = isinstance(value, Mapping) and ("stepParms" in value or "step_parms" in value)
    return FORM + ("steps" if steps or isinstance(value, StepProfile) else "linear")


def _startup(value: Any) -> Any:
    return value if isinstance(value, Mapping | Startup) else Startup(median=seconds(value))


EngineSpec = Annotated[
    Annotated[VllmEngine, Tag(FORM + "vllm")]
    | Annotated[ProfileSteps, Tag(FORM + "profile")]
    | Annotated[OtherEngine, Tag(FORM + "other")],
    Discriminator(_engine_form),
]
ProfileSpec = Annotated[
    Annotated[LinearProfile, Tag(FORM + "linear")]
    | Annotated[StepProfile, Tag(FORM + "steps")]
    | Annotated[Literal["fit", "none"], Tag(FORM + "word")],
    Discriminator(_profile_form),
]
StartupSpec = Annotated[Startup, BeforeValidator(_startup)]


class VariantSpec(Part):
    """One variant: a scale target that serves a model on one kind of GPU."""

    name: str = Field(min_length=1)
    model: str
    accelerator: str
    engine: EngineSpec | None = None
    profile: ProfileSpec
    devices: int = Field(default=1, ge=1)
    startup_time: StartupSpec = Field(alias="startup", default=Startup(median=60.0))
    replicas: int = Field(default=1, ge=1)
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=100, ge=1)
    unschedulable: Unschedulable | None = None

    @model_validator(mode="after")
    def _engine_has_times(self) -> VariantSpec:
        if self.engine is None and not isinstance(self.profile, LinearProfile | StepProfile):
            raise ValueError(
                f"engine: is missing; with profile {self.profile} nothing says its step times: write"
                " {kind: vllm, stepMs: {base, perRequest, perPrefillToken, perContextToken}, kvTokens}"
            )
        own = isinstance(self.engine, ProfileSteps) and self.engine.parms is None
        if own and not isinstance(self.profile, LinearProfile):
            raise ValueError(
                "engine.parms: is missing; kind profile needs alpha, beta and maxBatchSize there"
                " where profile has none"
            )
        return self

    @property
    def startup(self) -> float:
        """Median time from creation to ready, seconds."""
        return self.startup_time.median

    @property
    def served_by(self) -> VllmEngine | ProfileSteps | OtherEngine:
        """The engine with its parameters: those of the profile where it has none of its own."""
        if self.engine is None:
            assert isinstance(self.profile, LinearProfile | StepProfile)  # noqa: S101 - as below
            return default_engine(self.profile)
        if isinstance(self.engine, ProfileSteps) and self.engine.parms is None:
            assert isinstance(self.profile, LinearProfile)  # noqa: S101 - checked when it was read
            return ProfileSteps(parms=self.profile)
        return self.engine

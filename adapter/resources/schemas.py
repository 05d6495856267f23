"""The Kubernetes objects that users write, as pydantic models: shapes only, no decisions.

Accelerator profiles come in both published shapes: flat `alpha` and `beta` beside `acc`, and
`perfParms: {decodeParms: {alpha, beta}, prefillParms: {gamma, delta}}`. Numbers may be strings.
Unknown fields are ignored, as a cluster that knows a newer version of them would.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from adapter.kube import paths
from adapter.kube.scale import MOST_REPLICAS
from adapter.planning.fleet import LARGEST_BATCH
from adapter.settings.percentiles import Percentile

LARGEST = 1e9
"""Largest cost, coefficient or target that is accepted; more is a mistake, and overflows further on."""

LARGEST_TOKENS, LARGEST_CACHE = 10_000_000, 10**9
"""Most tokens of one request or step, and most tokens of a KV cache, that are accepted."""

LARGEST_UNITS = 4096
"""Most units of an accelerator that one replica may hold."""

MOST_ACCELERATORS = 64
"""Most profiles of one variant."""


def _number(value: Any) -> Any:
    """Refuse true and false: as numbers they would be 1 and 0."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


_Number = BeforeValidator(_number)

NonNegative = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False), _Number]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False), _Number]
Size = Annotated[int, Field(ge=1, le=LARGEST_BATCH), _Number]
Tokens = Annotated[int, Field(ge=0, le=LARGEST_TOKENS), _Number]
Count = Annotated[int, Field(ge=0, le=MOST_REPLICAS), _Number]
ObjectName = Annotated[str, AfterValidator(paths.check_name)]
Text = Annotated[str, Field(min_length=1, max_length=253)]


class _Object(BaseModel):
    # Validators are built when an object is read: few commands read one, and none all kinds.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, defer_build=True)


class Metadata(_Object):
    """The part of ObjectMeta that we read."""

    name: ObjectName
    namespace: Annotated[str, AfterValidator(paths.check_label)] = "default"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    generation: int = 0
    created: str = Field(alias="creationTimestamp", default="")

    @field_validator("labels", "annotations", "created", mode="before")
    @classmethod
    def _null_is_empty(cls, data: Any, info: ValidationInfo) -> Any:
        # YAML's `labels:` without anything is null, and so is what some clients send.
        if data is None:
            return "" if info.field_name == "created" else {}
        return str(data) if info.field_name == "created" else data


class DecodeParameters(_Object):
    """Decode time alpha + beta * batch, milliseconds."""

    alpha: NonNegative
    beta: NonNegative

    @model_validator(mode="after")
    def _takes_time(self) -> DecodeParameters:
        if not self.alpha + self.beta:
            raise ValueError(
                "alpha and beta are both 0, so a token would take no time; measure them"
            )
        return self


class PrefillParameters(_Object):
    """Prefill time gamma + delta * input_tokens * batch, milliseconds."""

    gamma: NonNegative = 0.0
    delta: NonNegative = 0.0


class StepParameters(_Object):
    """Time of one engine step, milliseconds; see `analyzer.step_times.StepTimes`."""

    base: Positive
    per_request: NonNegative = Field(alias="perRequest", default=0.0)
    per_sqrt_request: NonNegative = Field(alias="perSqrtRequest", default=0.0)
    per_prefill_token: NonNegative = Field(alias="perPrefillToken")
    per_context_token: NonNegative = Field(alias="perContextToken", default=0.0)
    per_prompt: NonNegative = Field(alias="perPrompt", default=0.0)


class PerformanceParameters(_Object):
    """The newer of the two published profile shapes; step times win where both are given."""

    decode: DecodeParameters | None = Field(alias="decodeParms", default=None)
    prefill: PrefillParameters = Field(alias="prefillParms", default=PrefillParameters())
    step: StepParameters | None = Field(alias="stepParms", default=None)

    @model_validator(mode="after")
    def _some_form(self) -> PerformanceParameters:
        if self.decode is None and self.step is None:
            raise ValueError("needs decodeParms or stepParms")
        return self


class EngineSettings(_Object):
    """Limits of the engine, as its own flags name them."""

    max_num_seqs: Size = Field(alias="maxNumSeqs", default=256)
    max_num_batched_tokens: int = Field(
        alias="maxNumBatchedTokens", default=2048, ge=1, le=LARGEST_TOKENS
    )
    kv_tokens: int | None = Field(alias="kvTokens", default=None, ge=1, le=LARGEST_CACHE)


class AcceleratorProfile(_Object):
    """One entry of `spec.modelProfile.accelerators`, of either published shape."""

    accelerator: Text = Field(alias="acc")
    accelerator_count: Annotated[int, _Number] = Field(
        alias="accCount", default=1, ge=1, le=LARGEST_UNITS
    )
    max_batch: int = Field(alias="maxBatchSize", default=0, ge=1, le=LARGEST_BATCH)
    at_tokens: Tokens = Field(alias="atTokens", default=0)
    at_input_tokens: Tokens = Field(alias="atInputTokens", default=0)
    parameters: PerformanceParameters = Field(alias="perfParms")
    engine: EngineSettings | None = None

    @model_validator(mode="after")
    def _batch_is_bounded(self) -> AcceleratorProfile:
        if not self.max_batch and self.engine is None:
            raise ValueError("needs maxBatchSize or engine.maxNumSeqs")
        return self

    @model_validator(mode="before")
    @classmethod
    def _lift_flat_shape(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "perfParms" in data:
            return data
        missing = [name for name in ("alpha", "beta") if name not in data]
        if missing:
            raise ValueError(
                f"needs either perfParms or flat alpha and beta; {' and '.join(missing)} missing"
            )
        flat = {name: data[name] for name in ("alpha", "beta")}
        prefill = {name: data[name] for name in ("gamma", "delta") if name in data}
        return {**data, "perfParms": {"decodeParms": flat, "prefillParms": prefill}}


class ModelProfile(_Object):
    """`spec.modelProfile`."""

    accelerators: Annotated[tuple[AcceleratorProfile, ...], Field(max_length=MOST_ACCELERATORS)]

    @field_validator("accelerators", mode="before")
    @classmethod
    def _not_empty(cls, data: Any) -> Any:
        # Not min_length: pydantic reports that too when the only entry is bad.
        if isinstance(data, list) and not data:
            raise ValueError("needs at least one accelerator")
        return data


class ServiceClassReference(_Object):
    """`spec.sloClassRef`: service class by name; `key` is what the ConfigMap calls it."""

    name: str = Field(default="", max_length=253)
    key: str = Field(default="", max_length=253)


class ScaleTargetReference(_Object):
    """`spec.scaleTargetRef`."""

    api_version: Annotated[str, AfterValidator(paths.check_api_version)] = Field(
        alias="apiVersion", default="apps/v1"
    )
    kind: Annotated[str, AfterValidator(paths.check_kind)] = "Deployment"
    name: ObjectName


class VariantAutoscalingSpec(_Object):
    """`spec` of a VariantAutoscaling."""

    model: Text = Field(alias="modelID")
    service_class: ServiceClassReference = Field(
        alias="sloClassRef", default=ServiceClassReference()
    )
    profile: ModelProfile | None = Field(alias="modelProfile", default=None)
    scale_target: ScaleTargetReference | None = Field(alias="scaleTargetRef", default=None)
    min_replicas: Count | None = Field(alias="minReplicas", default=None)
    max_replicas: Count | None = Field(alias="maxReplicas", default=None)
    variant_cost: NonNegative | None = Field(alias="variantCost", default=None)

    @model_validator(mode="before")
    @classmethod
    def _lift_variant_profile(cls, data: Any) -> Any:
        """`variantProfile` beside `accelerator`, as WVA's configuration guide has it, is the only profile."""
        if not isinstance(data, dict) or "modelProfile" in data:
            return data
        profile = data.get("variantProfile")
        if not isinstance(profile, dict) or "accelerator" not in data:
            return data
        entry = {"acc": data["accelerator"], "accCount": data.get("acceleratorCount", 1), **profile}
        return {**data, "modelProfile": {"accelerators": [entry]}}


class VariantAutoscaling(_Object):
    """`llmd.ai/v1alpha1` VariantAutoscaling."""

    metadata: Metadata
    spec: VariantAutoscalingSpec


class ConfigMap(_Object):
    """`v1` ConfigMap."""

    metadata: Metadata
    data: dict[str, str] = {}


class DeploymentSpec(_Object):
    """The part of a Deployment's spec that we read."""

    replicas: int = Field(default=1, ge=0, le=2**31)


class DeploymentStatus(_Object):
    """The part of a Deployment's status that we read."""

    replicas: int | None = Field(default=None, ge=0, le=2**31)


class Deployment(_Object):
    """`apps/v1` Deployment."""

    metadata: Metadata
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class UnitCost(_Object):
    """One value of ConfigMap `accelerator-unit-costs`: JSON `{"device": ..., "cost": "40.00"}`."""

    model_config = ConfigDict(extra="forbid")

    device: str = ""
    cost: NonNegative


class ServiceLevel(_Object):
    """One entry of a service class: targets of one model; 0 means no such target.

    `slo-itl` and `slo-ttw` are the names of 2025 for `slo-tpot` and `slo-ttft`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)
    itl_ms: NonNegative = Field(validation_alias=AliasChoices("slo-tpot", "slo-itl"), default=0.0)
    ttft_ms: NonNegative = Field(validation_alias=AliasChoices("slo-ttft", "slo-ttw"), default=0.0)
    tps: NonNegative = Field(alias="slo-tps", default=0.0)
    percentile: Percentile | None = Field(alias="slo-percentile", default=None)

    @model_validator(mode="after")
    def _some_target(self) -> ServiceLevel:
        if not (self.itl_ms or self.ttft_ms or self.tps):
            raise ValueError("has no target; give slo-tpot, slo-ttft or slo-tps above 0")
        return self


class ServiceClassDocument(_Object):
    """One value of ConfigMap `service-classes-config`: a YAML document.

    `data` has one `ServiceLevel` per model, which are validated one by one.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    priority: Annotated[int, _Number] = Field(ge=1, le=100)
    data: list[Any] = Field(min_length=1)

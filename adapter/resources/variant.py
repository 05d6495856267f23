"""From objects to one variant: its service class, profiles, endpoints and current replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapter import errors
from adapter.kube import scale
from adapter.planning import fleet
from adapter.resources import hpa, pods, schemas
from adapter.resources.annotations import (
    ACCELERATOR_LABEL,
    ENDPOINTS,
    KEEP_ACCELERATOR,
    MAX_REPLICAS,
    METRICS_SOURCE,
    MIN_REPLICAS,
    REPLICAS,
    RETENTION,
    ROUTING,
    SCALE_TO_ZERO,
    STARTUP,
    TUNE,
    parse_actuate,
    parse_count,
    parse_endpoints,
    parse_flag,
    parse_one_of,
    parse_seconds,
)
from adapter.resources.stored_status import Published
from adapter.settings.control import SOURCES, Source
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes

NO_REFERENCE = scale.Reference(name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedClass:
    """A service class and its key in the ConfigMap."""

    key: str
    service_class: fleet.ServiceClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A scale target as observed.

    Attributes:
        replicas: current replicas.
        spec_replicas: replicas that its spec asks for.
        uid: UID of the object; empty where it is unknown.
        serving: ready pods; None where pods are not watched.

    """

    replicas: int
    spec_replicas: int
    uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    serving: pods.Serving | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSource:
    """A variant as its objects describe it, without its load.

    Attributes:
        profiles: measured profiles; empty where none is given, and the load alone decides.
        accelerator: accelerator that the replicas run on; empty where it is unknown, which it is only with
            profiles.
        device: GPU of that accelerator by ConfigMap `accelerator-unit-costs`; empty where it is not there.
        gpus: whole GPUs of one replica; 0 where it has slices or shares of one; None where unknown.
        endpoints: URLs whose metrics text is scraped, one per replica.
        pods: names of the pods behind `endpoints`, in the same order; empty where unknown.
        pods_known: True where `pods` lists every pod of the scale target.
        metrics_source: source of the load; None uses the global setting.
        scale_to_zero: True allows 0 replicas; None uses the global setting.
        retention_seconds: idle time before it scales to zero; None uses the global setting.
        startup_seconds: time from creation of a replica until it serves; None where unknown.
        routing: policy by which requests reach replicas; None uses the global setting.
        replicas: current replicas.
        spec_replicas: replicas that the scale target's spec asks for.
        min_replicas: lower bound; None is 1, or 0 where scale to zero is on.
        keep_accelerator: True never proposes another accelerator; None uses the global setting.
        tune: True lets profiles follow observed latencies; None uses the global setting.
        actuate: True patches `/scale` instead of relying on an HPA; None uses the global setting.
        scaler: HPA of the scale target.
        mismatch: conflict between an HPA and this variant; empty if there is none.
        published: decision that `.status` holds.
        stored: step times that `.status` holds as learned, unchecked; empty without any.

    """

    namespace: str
    name: str
    model: str
    service_class: str
    profiles: tuple[fleet.Profile, ...]
    targets: fleet.Targets
    accelerator: str
    endpoints: tuple[str, ...]
    replicas: int
    spec_replicas: int = 0
    pods: tuple[str, ...] = ()
    pods_known: bool = False
    metrics_source: Source | None = None
    scale_to_zero: bool | None = None
    retention_seconds: float | None = None
    startup_seconds: float | None = None
    routing: fleet.Routing | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    keep_accelerator: bool | None = None
    tune: bool | None = None
    actuate: bool | None = None
    generation: int = 0
    uid: str = ""
    reference: scale.Reference = NO_REFERENCE
    target_uid: str = ""
    scaler: hpa.Scaler | None = None
    mismatch: str = ""
    published: Published | None = None
    device: str = ""
    gpus: int | None = None
    stored: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`, unique in the fleet."""
        return f"{self.namespace}/{self.name}"


def reference(variant: schemas.VariantAutoscaling) -> scale.Reference:
    """Scale target of a variant: the one that it names, else the Deployment with its name."""
    named = variant.spec.scale_target
    if named is None:
        return scale.Reference(name=variant.metadata.name)
    return scale.Reference(name=named.name, kind=named.kind, api_version=named.api_version)


def source(
    variant: schemas.VariantAutoscaling,
    target: Target | None,
    classes: Sequence[NamedClass],
    accelerators: Mapping[str, fleet.Accelerator],
    *,
    scalers: Sequence[hpa.Scaler] = (),
    published: Published | None = None,
    stored: str = "",
) -> VariantSource:
    """Join one VariantAutoscaling with what it refers to; `scalers` are the HPAs of its namespace.

    Raises:
        InputError: it cannot be planned; names the field and the fix.

    """
    spec, metadata = variant.spec, variant.metadata
    notes = {**(target.annotations if target else {}), **metadata.annotations}
    service_class = _service_class(spec, classes)
    profiles, warnings = _profiles(spec, accelerators)
    endpoints, names = _endpoints(notes, target)
    replicas = _current_replicas(notes, target, endpoints)
    scaler = next((item for item in scalers if item.reference == reference(variant)), None)
    minimum, maximum = _bounds(notes, scaler)
    accelerator = _accelerator(metadata.labels.get(ACCELERATOR_LABEL, ""), profiles, accelerators)
    return VariantSource(
        namespace=metadata.namespace,
        name=metadata.name,
        model=spec.model,
        service_class=service_class.name,
        targets=service_class.targets[spec.model],
        profiles=profiles,
        accelerator=accelerator,
        endpoints=endpoints,
        replicas=replicas,
        spec_replicas=replicas if target is None else target.spec_replicas,
        pods=names,
        pods_known=target is not None and target.serving is not None,
        metrics_source=parse_one_of(notes, METRICS_SOURCE, SOURCES),
        routing=parse_one_of(notes, ROUTING, fleet.ROUTINGS),
        scale_to_zero=parse_flag(notes, SCALE_TO_ZERO),
        retention_seconds=parse_seconds(notes, RETENTION),
        startup_seconds=_startup(notes, None if target is None else target.serving),
        min_replicas=minimum,
        max_replicas=maximum,
        keep_accelerator=parse_flag(notes, KEEP_ACCELERATOR),
        tune=parse_flag(notes, TUNE),
        actuate=parse_actuate(notes),
        generation=metadata.generation,
        uid=metadata.uid,
        reference=reference(variant),
        target_uid="" if target is None else target.uid,
        scaler=scaler,
        mismatch=_mismatch(variant, scalers),
        published=published,
        device=accelerators[accelerator].device_type if accelerator in accelerators else "",
        gpus=_gpus(reference(variant), target),
        stored=stored,
        warnings=tuple(warnings),
    )


def _endpoints(
    notes: Mapping[str, str], target: Target | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics URLs and the names of their pods: the annotation's, which names no pods, else the pods' own."""
    endpoints = parse_endpoints(notes.get(ENDPOINTS, ""))
    if endpoints or target is None or target.serving is None:
        return endpoints, ()
    return target.serving.endpoints, target.serving.names


def _current_replicas(
    notes: Mapping[str, str], target: Target | None, endpoints: tuple[str, ...]
) -> int:
    """Replicas by the annotation, else by the scale target, else one per endpoint."""
    replicas = parse_count(notes, REPLICAS)
    if replicas is None and target is not None:
        replicas = target.replicas
    if replicas is not None:
        return replicas
    if not endpoints:
        raise errors.InputError(
            f"metadata.annotations: neither {ENDPOINTS} nor {REPLICAS} is set, and there is no"
            " Deployment of the same name beside it: nothing to scrape and nothing to scale"
        )
    return len(endpoints)


def _bounds(notes: Mapping[str, str], scaler: hpa.Scaler | None) -> tuple[int | None, int | None]:
    """Least and most replicas: the annotations' within the HPA's, which it would enforce anyhow."""
    minimum, maximum = parse_count(notes, MIN_REPLICAS), parse_count(notes, MAX_REPLICAS)
    if minimum is not None and maximum is not None and minimum > maximum:
        raise errors.InputError(
            f"metadata.annotations[{MIN_REPLICAS}]: {minimum} is more than {MAX_REPLICAS} {maximum}"
        )
    if scaler is None:
        return minimum, maximum
    most = scaler.maximum if maximum is None else max(min(maximum, scaler.maximum), scaler.minimum)
    if minimum is None:
        # An HPA that may go to 0 leaves it to the setting whether we do.
        return scaler.minimum or None, most
    return min(max(minimum, scaler.minimum), most), most


def _mismatch(variant: schemas.VariantAutoscaling, scalers: Sequence[hpa.Scaler]) -> str:
    """Conflict with the HPAs that read this variant's metric; empty if there is none."""
    wanted = reference(variant)
    for item in scalers:
        if item.reads(variant.metadata.name) and item.reference != wanted:
            return (
                f"HorizontalPodAutoscaler {item.name} reads this variant's metric but scales"
                f" {item.reference}, not {wanted}; make its spec.scaleTargetRef and that of the"
                " VariantAutoscaling the same"
            )
    return ""


def _startup(notes: Mapping[str, str], serving: pods.Serving | None) -> float | None:
    told = parse_seconds(notes, STARTUP)
    if told is not None or serving is None:
        return told
    return serving.startup_seconds


def _gpus(reference: scale.Reference, target: Target | None) -> int | None:
    """Whole GPUs of one replica, where a replica is one pod."""
    if target is None or target.serving is None or reference.kind == "LeaderWorkerSet":
        return None
    return target.serving.gpus


def _service_class(
    spec: schemas.VariantAutoscalingSpec, classes: Sequence[NamedClass]
) -> fleet.ServiceClass:
    """Service class that the spec names, else the one of highest priority that lists the model."""
    wanted = spec.service_class.name.lower()
    if wanted:
        named = [
            item.service_class
            for item in classes
            if wanted in {item.service_class.name.lower(), item.key.lower()}
        ]
        if named:
            if spec.model not in named[0].targets:
                raise errors.InputError(
                    f"spec.modelID: service class {named[0].name!r} lists no SLO for model"
                    f" {spec.model!r}; it lists {_listed(named[0].targets)}. Add it to ConfigMap"
                    " service-classes-config, or name another class in spec.sloClassRef"
                )
            return named[0]
    listing = [item.service_class for item in classes if spec.model in item.service_class.targets]
    if not listing:
        raise errors.InputError(
            f"spec.modelID: no service class lists an SLO for model {spec.model!r}; add it to"
            " ConfigMap service-classes-config"
        )
    return min(listing, key=lambda item: (item.priority, item.name))


def _profiles(
    spec: schemas.VariantAutoscalingSpec, accelerators: Mapping[str, fleet.Accelerator]
) -> tuple[tuple[fleet.Profile, ...], list[str]]:
    profiles: list[fleet.Profile] = []
    warnings: list[str] = []
    if spec.profile is None:
        return (), []
    for index, item in enumerate(spec.profile.accelerators):
        field = f"spec.modelProfile.accelerators[{index}].acc"
        if item.accelerator not in accelerators:
            warnings.append(
                f"{field}: accelerator {item.accelerator!r} has no cost; left out. Add it to"
                f" ConfigMap accelerator-unit-costs, which has {_listed(accelerators)}"
            )
            continue
        if any(item.accelerator == profile.accelerator for profile in profiles):
            warnings.append(f"{field}: {item.accelerator!r} is listed twice; the first one counts")
            continue
        profiles.append(_profile(item))
    if not profiles:
        raise errors.InputError("; ".join(warnings))
    return tuple(profiles), warnings


def _accelerator(
    label: str,
    profiles: Sequence[fleet.Profile],
    accelerators: Mapping[str, fleet.Accelerator],
) -> str:
    """Accelerator that the replicas run on: the label's, else the only one there is; empty if unknown."""
    if profiles:
        return label or (profiles[0].accelerator if len(profiles) == 1 else "")
    if label in accelerators or (not label and len(accelerators) == 1):
        return label or next(iter(accelerators))
    why = f"its value {label!r} has no cost" if label else "it is not set"
    raise errors.InputError(
        "spec.modelProfile: not given, so metadata.labels"
        f"[{ACCELERATOR_LABEL}] must name the accelerator that the replicas run on, and {why}; set it to"
        f" a key of ConfigMap accelerator-unit-costs, which has {_listed(accelerators)}, or give a profile"
    )


def _profile(item: schemas.AcceleratorProfile) -> fleet.Profile:
    """Profile of one accelerator, in whichever forms it is given."""
    engine = item.engine
    return fleet.Profile(
        accelerator=item.accelerator,
        accelerator_count=item.accelerator_count,
        max_batch=item.max_batch or (0 if engine is None else engine.max_num_seqs),
        at_tokens=item.at_tokens,
        at_input_tokens=item.at_input_tokens,
        latency=_latency(item.parameters),
        limits=None
        if engine is None
        else EngineLimits(
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            kv_tokens=engine.kv_tokens,
        ),
    )


def _latency(given: schemas.PerformanceParameters) -> LatencyParameters | StepTimes:
    """Step times where they are given, else decode and prefill times."""
    if given.step is not None:
        return StepTimes(
            base_ms=given.step.base,
            per_request_ms=given.step.per_request,
            per_sqrt_request_ms=given.step.per_sqrt_request,
            per_prefill_token_ms=given.step.per_prefill_token,
            per_context_token_ms=given.step.per_context_token,
        )
    assert given.decode is not None  # noqa: S101 - the schema requires one of the two
    return LatencyParameters(
        alpha_ms=given.decode.alpha,
        beta_ms=given.decode.beta,
        gamma_ms=given.prefill.gamma,
        delta_ms=given.prefill.delta,
    )


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"

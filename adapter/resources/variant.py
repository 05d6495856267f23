"""From objects to one variant: its service class, profiles, endpoints and current replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from adapter import errors
from adapter.kube import scale
from adapter.planning import fleet
from adapter.resources import config_maps, schemas
from adapter.resources.annotations import (
    ENDPOINTS,
    INTERRUPTIBLE_SHARE,
    KEEP_ACCELERATOR,
    METRICS_SOURCE,
    REPLICAS,
    RETENTION,
    ROUTING,
    SCALE_TO_ZERO,
    STARTUP,
    TUNE,
    Destinations,
    parse_actuate,
    parse_count,
    parse_endpoints,
    parse_flag,
    parse_number,
    parse_one_of,
)
from adapter.resources.configuration import attainable, indexed, profiles, scaling
from adapter.resources.configuration.scalers import Scalers
from adapter.resources.model_groups import membership
from adapter.resources.model_groups.membership import INTERRUPTIBLE, NO_MEMBERSHIP, Membership
from adapter.resources.stored_status import Decided, Published
from adapter.settings.control import SOURCES, Source
from adapter.settings.serving import Actuator

if TYPE_CHECKING:
    from adapter.resources import hpa, pods

NO_REFERENCE = scale.Reference(name="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A scale target as observed.

    Attributes:
        replicas: current replicas.
        spec_replicas: replicas that its spec asks for.
        uid: UID of the object; empty where it is unknown.
        serving: ready pods; None where pods are not watched.
        unselected: why its pods are not known; empty where they are.
        products: GPU products that its pods ask for or run on, as nodes are labelled.

    """

    replicas: int
    spec_replicas: int
    uid: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    serving: pods.Serving | None = None
    unselected: str = ""
    products: tuple[str, ...] = ()
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSource:
    """A variant as its objects describe it, without its load.

    Attributes:
        profiles: measured profiles; empty where none is given, and the load alone decides.
        accelerator: accelerator that the replicas run on; empty where unknown, which needs profiles.
        device: GPU of that accelerator by ConfigMap `accelerator-unit-costs`; empty where it is not there.
        role: prefill or decode where its replicas do only that; empty where they serve whole requests.
        prefilling: endpoints that prefill for others of the same replicas, whose requests they share.
        beside: group of each endpoint of several pods; empty where that group is not ready whole.
        restarts: when the containers behind endpoints last started again, Unix seconds, where they did.
        closed: GPUs of its device that no pod of a variant may use, with the reason; empty without any.
        narrowed: device type that counts for a device type of which its pods tolerate only some nodes.
        gpus: whole GPUs of one replica; 0 where it has slices or shares of one; None where unknown.
        endpoints: URLs whose metrics text is scraped, one per server: a replica may have several.
        pods: names of the pods behind `endpoints`, in the same order; empty where unknown.
        pods_known: True where `pods` lists every pod of the scale target.
        scale_to_zero, retention_seconds: True allows 0 replicas, after that idle time; None: global setting.
        startup_seconds: time from creation of a replica until it serves; None where unknown.
        metrics_source, routing: source of the load, how requests reach replicas; None: the global setting.
        replicas, spec_replicas: current replicas, and those that the scale target's spec asks for.
        min_replicas: lower bound; None is 1, or 0 where scale to zero is on.
        keep_accelerator: True never proposes another accelerator; None uses the global setting.
        tune: True lets profiles follow observed latencies; None uses the global setting.
        actuate: what sets the replicas; None uses the global setting.
        advisory: whether that is nothing: decisions are recorded, and no autoscaler reads them.
        own_accelerator: accelerator that only `spec.variantCost` prices; None where a ConfigMap does.
        price_assumed: True where nothing names the price of `own_accelerator`: that of its own CRD holds.
        scaler: HPA of the scale target.
        ambiguity: several HPAs on its scale target, which Kubernetes then stops; empty if there are none.
        unselected: why the pods of its scale target are not known; empty where they are.
        mismatch: conflict between an HPA and this variant; empty if there is none.
        held: why it cannot be planned, and its last target is renewed instead; empty where it can be.
        published: decision that `.status` holds.
        gated: pods of one replica each that a scheduling gate holds, such as Kueue's.
        unschedulable, failing: pods that no node has room for, and whose containers end or cannot start.
        existing: pods of the scale target, ready or not; None where they are not watched.
        membership: what it says of the group that shares its demand.
        interruptible: True where its replicas may be taken away at any time.
        interruptible_share: most of its group's demand that such variants carry; None: global setting.
        history: last decisions that `.status` holds, oldest first.
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
    actuate: Actuator | None = None
    advisory: bool = False
    generation: int = 0
    uid: str = ""
    reference: scale.Reference = NO_REFERENCE
    target_uid: str = ""
    own_accelerator: fleet.Accelerator | None = None
    price_assumed: bool = False
    narrowed: Mapping[str, str] = field(default_factory=dict)
    scaler: hpa.Scaler | None = None
    mismatch: str = ""
    unselected: str = ""
    ambiguity: str = ""
    published: Published | None = None
    device: str = ""
    role: str = ""
    prefilling: frozenset[str] = frozenset()
    beside: Mapping[str, str] = field(default_factory=dict)
    restarts: Mapping[str, float] = field(default_factory=dict)
    closed: str = ""
    gpus: int | None = None
    gated: int = 0
    unschedulable: int = 0
    failing: int = 0
    existing: int | None = None
    membership: Membership = NO_MEMBERSHIP
    interruptible: bool = False
    interruptible_share: float | None = None
    stored: str = ""
    history: tuple[Decided, ...] = ()
    warnings: tuple[str, ...] = ()
    held: str = ""

    @property
    def ready(self) -> int:
        """Ready replicas as far as they are known; pods of a group, and servers of one pod, are one."""
        if not self.pods:
            return len(self.endpoints) or self.replicas
        known = len(set(self.pods))
        return min(known, self.replicas or known)

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`, unique in the fleet."""
        return f"{self.namespace}/{self.name}"

    def units(self, accelerator: str) -> int:
        """Units of an accelerator that one replica holds."""
        return profiles.units(self.profiles, accelerator, own=self.own_accelerator, gpus=self.gpus)


def reference(variant: schemas.VariantAutoscaling) -> scale.Reference:
    """Scale target of a variant, canonical: the one that it names, else the Deployment of its name."""
    named = variant.spec.scale_target
    return scale.Reference(name=variant.metadata.name) if named is None else referred(named)


def referred(named: schemas.ScaleTargetReference) -> scale.Reference:
    """A scale target that is named, canonical."""
    one = scale.Reference(name=named.name, kind=named.kind, api_version=named.api_version)
    return one.canonical


def unselected(reference: scale.Reference, field: str, why: str) -> str:
    """Why the pods of a scale target are not known: what its selector is, or that it has none."""
    if why:
        return f"{reference}: {field} {why}, so its pods are not known; or annotate {ENDPOINTS}"
    return (
        f"{reference}: its /scale has no status.selector, so its pods are not known; let its CRD set"
        f" subresources.scale.labelSelectorPath, or annotate {ENDPOINTS}"
    )


def source(
    variant: schemas.VariantAutoscaling,
    target: Target | None,
    settings: config_maps.ConfigMaps,
    *,
    scalers: Scalers,
    published: Published | None = None,
    stored: str = "",
    destinations: Destinations | None = None,
) -> VariantSource:
    """Join one VariantAutoscaling with what it refers to; `scalers` are all HPAs.

    Raises:
        InputError: it cannot be planned; names the field and the fix.

    """
    spec, metadata = variant.spec, variant.metadata
    notes = {**(target.annotations if target else {}), **metadata.annotations}
    service_class, class_problems = settings.class_of(spec, metadata, published)
    named = profiles.accelerators_of(variant, published)
    devices = profiles.devices_of(variant, target.products if target else (), published)
    accelerators, cost_problems = settings.prices(named, devices)
    given, warnings = profiles.of_spec(spec, accelerators, settings.broken_costs, named)
    accelerator, own = _accelerator(variant, target, given, accelerators, published)
    published = profiles.renamed(published, own)
    unit = own if own and own.name == accelerator else accelerators.get(accelerator)
    to_zero, retention = settings.wva.scale_to_zero(metadata.namespace, spec.model)
    limits = scaling.of_variant(
        variant, notes, target=reference(variant), scalers=scalers,
        accelerator=published.accelerator if published else accelerator,
    )  # fmt: skip
    source = _of_target(variant, target, destinations)
    return replace(
        source,
        scale_to_zero=_scale_to_zero(source, spec, configured=to_zero),
        retention_seconds=source.retention_seconds or retention,
        own_accelerator=own,
        price_assumed=own is not None and spec.variant_cost is None,
        service_class=service_class.name,
        targets=(targets := service_class.targets[spec.model]),
        profiles=given,
        accelerator=accelerator,
        device="" if unit is None else unit.device_type,
        min_replicas=None if to_zero is False and limits.minimum == 0 else limits.minimum,
        max_replicas=limits.maximum,
        scaler=limits.scaler,
        mismatch=limits.mismatch,
        ambiguity=limits.ambiguity,
        published=published,
        stored=stored,
        warnings=(
            *class_problems,
            *cost_problems,
            *warnings,
            *limits.warnings,
            *attainable.warnings(given, targets),
            *_pod_problems(target, unit),
        ),
    )


def _accelerator(
    variant: schemas.VariantAutoscaling,
    target: Target | None,
    given: tuple[fleet.Profile, ...],
    accelerators: indexed.Prices,
    published: Published | None,
) -> tuple[str, fleet.Accelerator | None]:
    """As `profiles.accelerator`, by the pods of the target and the last decision."""
    return profiles.accelerator(
        variant,
        given,
        accelerators,
        products=() if target is None else target.products,
        gpus=None if target is None or target.serving is None else target.serving.gpus,
        published=published,
    )


def held_source(
    variant: schemas.VariantAutoscaling,
    target: Target | None,
    published: Published,
    *,
    why: str,
    destinations: Destinations | None = None,
) -> VariantSource:
    """A variant that cannot be planned now; its last target is renewed until it can be.

    Raises:
        InputError: its annotations cannot be read; names the field and the fix.

    """
    return replace(
        _of_target(variant, target, destinations),
        accelerator=published.accelerator,
        published=published,
        held=why,
    )


def _of_target(
    variant: schemas.VariantAutoscaling,
    target: Target | None,
    destinations: Destinations | None,
) -> VariantSource:
    """What a variant's annotations and its scale target say, without class and profiles."""
    spec, metadata = variant.spec, variant.metadata
    notes = {**(target.annotations if target else {}), **metadata.annotations}
    endpoints, names = _endpoints(notes, target, destinations)
    replicas = _replicas(notes, target, endpoints)
    return VariantSource(
        namespace=metadata.namespace,
        name=metadata.name,
        model=spec.model,
        service_class="",
        targets=fleet.Targets(),
        profiles=(),
        accelerator="",
        endpoints=endpoints,
        replicas=replicas,
        spec_replicas=replicas if target is None else target.spec_replicas,
        pods=names,
        pods_known=target is not None and target.serving is not None,
        metrics_source=parse_one_of(notes, METRICS_SOURCE, SOURCES),
        routing=parse_one_of(notes, ROUTING, fleet.ROUTINGS),
        scale_to_zero=parse_flag(notes, SCALE_TO_ZERO),
        retention_seconds=parse_number(notes, RETENTION),
        startup_seconds=_startup(notes, None if target is None else target.serving),
        keep_accelerator=parse_flag(notes, KEEP_ACCELERATOR),
        tune=parse_flag(notes, TUNE),
        actuate=parse_actuate(notes),
        advisory=parse_actuate(notes) == "none",
        generation=metadata.generation,
        uid=metadata.uid,
        reference=reference(variant),
        target_uid="" if target is None else target.uid,
        unselected="" if target is None else target.unselected,
        gpus=None if target is None or target.serving is None else target.serving.gpus,
        role="" if target is None else target.role,
        **({} if target is None or target.serving is None else target.serving.counts),
        membership=membership.parse(metadata.annotations, metadata.namespace),
        interruptible=bool(parse_flag(notes, INTERRUPTIBLE)),
        interruptible_share=parse_number(notes, INTERRUPTIBLE_SHARE),
    )


def _endpoints(
    notes: Mapping[str, str], target: Target | None, destinations: Destinations | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics URLs and the names of their pods: the annotation's, which names no pods, else the pods' own."""
    serving = None if target is None else target.serving
    own = () if serving is None else serving.addresses
    endpoints = parse_endpoints(notes.get(ENDPOINTS, ""), own=own, destinations=destinations)
    if endpoints or target is None or target.serving is None:
        return endpoints, ()
    return target.serving.endpoints, target.serving.names


def _pod_problems(target: Target | None, unit: fleet.Accelerator | None) -> tuple[str, ...]:
    if target is None or target.serving is None:
        return ()
    products = () if target.serving.gpus is None else target.products
    return (*target.serving.problems, *profiles.others(products, unit))


def _replicas(notes: Mapping[str, str], target: Target | None, endpoints: tuple[str, ...]) -> int:
    """Replicas by the annotation, else by the scale target, else one per endpoint."""
    replicas = parse_count(notes, REPLICAS)
    known = replicas if replicas is not None or target is None else target.replicas
    if known is not None:
        return known
    if not endpoints:
        raise errors.InputError(
            f"metadata.annotations: neither {ENDPOINTS} nor {REPLICAS} is set, and there is no"
            " Deployment of the same name beside it: nothing to scrape and nothing to scale"
        )
    return len(endpoints)


def _scale_to_zero(
    source: VariantSource, spec: schemas.VariantAutoscalingSpec, *, configured: bool | None
) -> bool | None:
    """Whether it may go to zero: by annotation, else by WVA's ConfigMap, else by a minimum of 0."""
    configured = True if configured is None and spec.min_replicas == 0 else configured
    return configured if source.scale_to_zero is None else source.scale_to_zero


def _startup(notes: Mapping[str, str], serving: pods.Serving | None) -> float | None:
    told = parse_number(notes, STARTUP)
    return told if told is not None or serving is None else serving.startup_seconds

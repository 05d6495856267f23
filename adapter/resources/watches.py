"""The objects of a cluster, followed by watches, and joined to what a cycle needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from adapter import logs
from adapter.kube import advice, paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Unavailable
from adapter.kube.informer import Informer, Object, same_but_status
from adapter.kube.scale import Reference, Scale, Scales, Unresolved
from adapter.resources import config_maps, hpa, pods, schemas
from adapter.resources import gpus as inventory
from adapter.resources import inputs as joined
from adapter.resources import variant as variants
from adapter.resources.annotations import Destinations
from adapter.resources.configuration import advisory, defaults
from adapter.resources.configuration.last_good import NOTHING, LastGood
from adapter.resources.devices import dra, products, taints
from adapter.resources.devices.asked import device_types
from adapter.resources.serving import groups
from adapter.resources.wva import managed
from adapter.settings.serving import Actuator

log = logs.LazyLogger()

VARIANTS, DEPLOYMENTS = "llmd.ai/v1alpha1", "apps/v1"
SCALERS, CORE = "autoscaling/v2", "v1"

_Items = list[tuple[tuple[str, str], Object]]

SCALE_SECONDS = 5.0
"""Seconds between two readings of a scale subresource, which cannot be watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Objects that this installation reads.

    Attributes:
        namespaces, selector: namespaces and label selector of the variants; empty means all.
        config_namespace: namespace of the ConfigMaps.
        limited: True bounds the plan by the GPUs of the nodes.
        actuate: actuator of variants that name none.
        allowed_endpoints: CIDRs, hosts and `*.DOMAIN`s that annotations may name besides a target's own pods.

    """

    config_namespace: str
    namespaces: tuple[str, ...] = ()
    selector: str = ""
    limited: bool = False
    actuate: Actuator = "hpa"
    allowed_endpoints: tuple[str, ...] = ()


class ClusterObjects:
    """All watches of one installation; `changed` is called after every event that a join would show.

    `status_changed` is called instead where of a VariantAutoscaling nothing but its status changed.
    """

    def __init__(
        self,
        cluster: Cluster,
        scope: Scope,
        *,
        changed: Callable[[], None],
        status_changed: Callable[[Object], None] = lambda _: None,
    ) -> None:
        self._scope = scope
        self._scales = Scales(cluster)
        self._others: dict[tuple[str, Reference], Scale | Unresolved] = {}
        self._others_read_at = float("-inf")
        self._last_good = NOTHING

        def informers(
            version: str, plural: str, among: Sequence[str] = scope.namespaces, **more: Any
        ) -> list[Informer]:
            more = {"changed": changed, "same": same_but_status, **more}
            found = [paths.collection(version, plural, namespace=name) for name in among or ("",)]
            return [Informer(cluster, path, **more) for path in found]

        query = (("labelSelector", scope.selector),) if scope.selector else ()
        self._variants = informers(
            VARIANTS, "variantautoscalings", query=query, noted=status_changed
        )
        counted = partial(same_but_status, status=("replicas",))
        self._deployments = informers(DEPLOYMENTS, "deployments", same=counted)
        self._scalers = informers(SCALERS, "horizontalpodautoscalers")
        # GPUs are held by pods of every namespace.
        of_pods = () if scope.limited else scope.namespaces
        self._pods = informers(CORE, "pods", of_pods, trim=pods.trimmed)
        (self._configs,) = informers(CORE, "configmaps", (scope.config_namespace,))
        (self._nodes,) = informers(CORE, "nodes", (), trim=inventory.trimmed)
        # Not every cluster has the API, and nothing waits for it.
        self._slices = _of_dra(cluster, "resourceslices", changed, dra.trimmed_slice, scope)
        self._claims = _of_dra(cluster, "resourceclaims", changed, dra.trimmed_claim, scope)
        self._all = [
            *self._variants,
            *self._deployments,
            *self._scalers,
            *self._pods,
            self._configs,
            *([self._nodes] if scope.limited else []),
        ]

    async def run(self) -> None:
        """Follow everything until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in (*self._all, *self._slices, *self._claims):
                group.create_task(informer.run(), name=f"watch {informer.path}")

    def readiness(self) -> str | None:
        """Return None once the variants and settings were listed, else the watch that is missing."""
        for informer in (*self._variants, self._configs):
            if not informer.synced.is_set():
                return f"{informer.path}: {_problem(informer) or 'not read yet'}"
        return None

    @property
    def problems(self) -> list[str]:
        """Problems of watches that need an administrator; other failures are retried."""
        return [_problem(item) for item in self._all if advice.of(item.lasting)]

    @property
    def synced(self) -> bool:
        """Whether every watch has completed its first list; an earlier cycle would miss targets."""
        return all(informer.synced.is_set() for informer in self._all)

    def variant(self, key: str) -> Object | None:
        """Return the latest version of VariantAutoscaling `NAMESPACE/NAME`; None if there is none."""
        namespace, _, name = key.partition("/")
        for informer in self._variants:
            item = informer.objects.get((namespace, name))
            if item is not None:
                return item
        return None

    def config_map(self, name: str) -> Object | None:
        """Return the latest version of a ConfigMap of the adapter's namespace; None if there is none."""
        return self._configs.objects.get((self._scope.config_namespace, name))

    async def refresh_scales(self) -> None:
        """Read `/scale` of the scale targets that are not Deployments, which are not watched."""
        wanted = set()
        stand_ins = [(key, managed.variant_of(item)) for key, item in _items(self._scalers)]
        for (namespace, _), item in [*_items(self._variants), *stand_ins]:
            reference = None if item is None else _reference(item)
            if reference is not None and not reference.is_deployment:
                wanted.add((namespace, reference))
        now = asyncio.get_running_loop().time()
        if wanted == self._others.keys() and now - self._others_read_at < SCALE_SECONDS:
            return
        self._others_read_at = now
        scales: dict[tuple[str, Reference], Scale | Unresolved] = {}
        for namespace, reference in sorted(wanted, key=str):
            try:
                scales[namespace, reference] = await self._scales.read(namespace, reference)
            except ApiError as error:
                before = self._others.get((namespace, reference))
                # A cluster that does not answer says nothing about the scale; a refusal does.
                if isinstance(error, Unavailable) and isinstance(before, Scale):
                    scales[namespace, reference] = before
                else:
                    scales[namespace, reference] = Unresolved(str(error))
        self._others = scales

    async def inputs(self) -> joined.Inputs:
        """Join all objects as they are now; runs in a thread, so that requests are served meanwhile."""
        seen = _Seen(
            variants=_items(self._variants),
            deployments=_items(self._deployments),
            scalers=_items(self._scalers),
            pods=_items(self._pods),
            configs=_items([self._configs]),
            nodes=_items([self._nodes]),
            slices=_items(self._slices),
            claims=_items(self._claims),
            others=dict(self._others),
            configs_read=self._configs.synced.is_set(),
            unread="; ".join(i.problem or "not read yet" for i in self._unread()),
            last_good=self._last_good,
        )
        inputs = await asyncio.to_thread(_join, self._scope, seen)
        self._last_good = inputs.last_good
        return inputs

    def _unread(self) -> list[Informer]:
        return [informer for informer in self._deployments if not informer.synced.is_set()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """All objects at one moment."""

    variants: _Items
    deployments: _Items
    scalers: _Items
    pods: _Items
    configs: _Items
    nodes: _Items
    slices: _Items
    claims: _Items
    others: Mapping[tuple[str, Reference], Scale | Unresolved]
    configs_read: bool
    unread: str
    last_good: LastGood


def _join(scope: Scope, seen: _Seen) -> joined.Inputs:
    reader = joined.Reader(Destinations(scope.allowed_endpoints), last_good=seen.last_good)
    by_label = pods.ByLabel(pod for _, pod in seen.pods)
    seen_names = {name for (_, name), _ in seen.configs}
    for (_, name), item in seen.configs:
        if name in config_maps.READ or name.endswith(config_maps.CONFIG_SUFFIX):
            reader.read_config_map(f"ConfigMap {scope.config_namespace}/{name}", item)
    for name in config_maps.NEEDED:
        if seen.configs_read and seen_names.isdisjoint({name, f"{name}{defaults.SUFFIX}"}):
            reader.settings.missing(f"ConfigMap {scope.config_namespace}/{name}", name)
    for (namespace, name), item in seen.variants:
        if managed.excluded(item.get("metadata") or {}):
            continue
        reader.read_variant(f"VariantAutoscaling {namespace}/{name}", item)
    reader.scalers = _scalers(reader, seen)
    _read_managed(reader, seen)
    variant_pods = _read_targets(reader, seen, by_label)
    if scope.limited:
        gpus = inventory.take(
            (node for _, node in seen.nodes),
            (pod for _, pod in seen.pods),
            variant_pods=frozenset(variant_pods.pods),
            tolerations=variant_pods.tolerations,
            allocation=dra.allocation(
                (item for _, item in seen.slices), (item for _, item in seen.claims)
            ),
        )
        reader.capacity, problems = gpus.capacity(device_types(reader, scope.config_namespace))
        reader.problems.extend(problems)
    return advisory.completed(reader.inputs(), seen.variants, actuate=scope.actuate)


@dataclass(slots=True)
class _VariantPods:
    """Pods of the scale targets, and the tolerations that their templates state."""

    pods: set[tuple[str, str]] = field(default_factory=set)
    tolerations: set[taints.Tolerations] = field(default_factory=set)


def _read_targets(reader: joined.Reader, seen: _Seen, by_label: pods.ByLabel) -> _VariantPods:
    """Add every scale target that a variant names to the reader."""
    variant_pods = _VariantPods()
    deployments = dict(seen.deployments)
    for (namespace, name), (_, variant) in reader.variants.items():
        reference = variants.reference(variant)
        if (namespace, reference) in reader.targets:
            continue
        try:
            matching = _read_target(
                reader, seen, by_label, deployments, (namespace, reference), variant=name
            )
            variant_pods.pods.update(
                (pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in matching
            )
            variant_pods.tolerations.add(
                taints.of_pod(pods.template_of(deployments.get((namespace, reference.name))))
            )
        except Exception as error:
            # Whatever one object makes of us is the problem of the variant that names it.
            log.exception("scale target cannot be read", namespace=namespace, target=str(reference))
            why = f"cannot be read ({type(error).__name__})"
            reader.targets[namespace, reference] = Unresolved(why)
    return variant_pods


def _read_target(
    reader: joined.Reader,
    seen: _Seen,
    by_label: pods.ByLabel,
    deployments: Mapping[tuple[str, str], Object],
    name: tuple[str, Reference],
    *,
    variant: str,
) -> list[Mapping[str, Any]]:
    """Add one scale target to the reader; return its pods."""
    namespace, reference = name
    if reference.is_deployment:
        written = deployments.get((namespace, reference.name))
        if written is None:
            why = seen.unread or "not found; create it, or name another scale target"
            reader.targets[namespace, reference] = Unresolved(why)
            return []
        selector = pods.selector_of((written.get("spec") or {}).get("selector") or {})
        deployment = schemas.Deployment.model_validate(written)
        matching = by_label.matching(namespace, selector)
        reader.add_deployment(
            deployment,
            by_label.serving(namespace, selector),
            products=_products(seen, matching, products.of_pod(pods.template_of(written))),
        )
    else:
        scale = seen.others.get((namespace, reference), Unresolved("/scale was not read yet"))
        if isinstance(scale, Unresolved):
            reader.targets[namespace, reference] = scale
            return []
        selector = groups.members(pods.parsed(scale.selector))
        if not scale.selector:
            selector = pods.parsed(f"{managed.VARIANT}={variant}")
        matching = by_label.matching(namespace, selector)
        reader.targets[namespace, reference] = variants.Target(
            replicas=scale.replicas,
            spec_replicas=scale.spec_replicas,
            uid=scale.uid,
            serving=by_label.serving(namespace, selector),
            unselected=variants.unselected(reference, scale.selector)
            if not selector.requirements or not (scale.selector or matching)
            else "",
            products=_products(seen, matching, ()),
        )
    return matching


def _products(
    seen: _Seen, matching: Iterable[Mapping[str, Any]], stated: tuple[str, ...]
) -> tuple[str, ...]:
    """GPU products that the pods of a scale target ask for, else those of the nodes that they run on."""
    known = products.distinct([*stated, *(name for pod in matching for name in pod["products"])])
    if known:
        return known
    nodes = dict(seen.nodes)
    on = (nodes.get(("", pod["node"])) for pod in matching)
    return products.distinct(
        products.of_labels(node["metadata"]["labels"]) for node in on if node is not None
    )


def _read_managed(reader: joined.Reader, seen: _Seen) -> None:
    """Read HPAs that stand for a VariantAutoscaling, where there is none of their name or target."""
    targets = next((item for (_, name), item in seen.configs if name == managed.TARGETS), {})
    taken = {(key[0], variants.reference(item)) for key, (_, item) in reader.variants.items()}
    for (namespace, name), item in seen.scalers:
        document = managed.variant_of(item)
        if document is None or (namespace, document["metadata"]["name"]) in reader.variants:
            continue
        if (namespace, hpa.parse(item).reference) not in taken:
            status = managed.status_of(targets, f"{namespace}/{document['metadata']['name']}")
            document = {**document, "status": status}
            reader.read_variant(f"HorizontalPodAutoscaler {namespace}/{name}", document)


def _scalers(reader: joined.Reader, seen: _Seen) -> list[hpa.Scaler]:
    """HPAs; one that cannot be read is left out."""
    scalers = []
    for (namespace, name), item in seen.scalers:
        try:
            scalers.append(hpa.parse(item))
        except Exception as error:
            log.exception("HPA cannot be read; leaving it out", namespace=namespace, name=name)
            reader.problems.append(
                f"HorizontalPodAutoscaler {namespace}/{name}: cannot be read ({type(error).__name__})"
            )
    return scalers


def _of_dra(
    cluster: Cluster,
    plural: str,
    changed: Callable[[], None],
    trim: Callable[[Object], Object],
    scope: Scope,
) -> list[Informer]:
    """The watch of a collection of dynamic resource allocation; none without limits."""
    path = paths.collection(dra.VERSION, plural)
    return [Informer(cluster, path, changed=changed, trim=trim)] if scope.limited else []


def _items(informers: list[Informer]) -> _Items:
    objects = [item for informer in informers for item in informer.objects.items()]
    return sorted(objects, key=lambda item: item[0])


def _reference(item: Mapping[str, Any]) -> Reference | None:
    """What a VariantAutoscaling scales; None where the object is no valid one."""
    try:
        return variants.reference(schemas.VariantAutoscaling.model_validate(item))
    except ValidationError:
        return None


def _problem(informer: Informer) -> str:
    return "" if informer.error is None else advice.explained(informer.error)

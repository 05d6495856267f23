"""The objects of a cluster, followed by watches, and joined to what a pass needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from adapter import logs
from adapter.kube import advice
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Unavailable
from adapter.kube.informer import Informer, Object
from adapter.kube.scale import Reference, Scale, Scales, Unresolved
from adapter.resources import config_maps, hpa, pods, schemas
from adapter.resources import gpus as inventory
from adapter.resources import inputs as joined
from adapter.resources import variant as variants
from adapter.resources.annotations import ACCELERATOR_LABEL

log = logs.LazyLogger()

VARIANTS, DEPLOYMENTS = "/apis/llmd.ai/v1alpha1", "/apis/apps/v1"
SCALERS, CORE = "/apis/autoscaling/v2", "/api/v1"

_Items = list[tuple[tuple[str, str], Object]]

SCALE_SECONDS = 5.0
"""Seconds between two readings of a scale subresource, which cannot be watched."""

NEEDED = (config_maps.COSTS, config_maps.CLASSES)
"""ConfigMaps that planning requires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Objects that this installation reads.

    Attributes:
        namespaces: namespaces of the variants; empty means all.
        selector: label selector of the VariantAutoscalings; empty means all.
        config_namespace: namespace of the ConfigMaps.
        limited: True bounds the plan by the GPUs of the nodes.

    """

    config_namespace: str
    namespaces: tuple[str, ...] = ()
    selector: str = ""
    limited: bool = False


class ClusterObjects:
    """All watches of one installation; `changed` is called after every event."""

    def __init__(self, cluster: Cluster, scope: Scope, *, changed: Callable[[], None]) -> None:
        self._scope = scope
        self._scales = Scales(cluster)
        self._others: dict[tuple[str, Reference], Scale | Unresolved] = {}
        self._others_read_at = float("-inf")

        def informers(root: str, plural: str, **more: Any) -> list[Informer]:
            parts = [f"namespaces/{name}/{plural}" for name in scope.namespaces] or [plural]
            return [Informer(cluster, f"{root}/{part}", changed=changed, **more) for part in parts]

        query = (("labelSelector", scope.selector),) if scope.selector else ()
        self._variants = informers(VARIANTS, "variantautoscalings", query=query)
        self._deployments = informers(DEPLOYMENTS, "deployments")
        self._scalers = informers(SCALERS, "horizontalpodautoscalers")
        everywhere = Informer(cluster, f"{CORE}/pods", changed=changed, trim=pods.trimmed)
        # GPUs are held by pods of every namespace.
        self._pods = [everywhere] if scope.limited else informers(CORE, "pods", trim=pods.trimmed)
        self._configs = Informer(
            cluster,
            f"{CORE}/namespaces/{scope.config_namespace}/configmaps",
            changed=changed,
        )
        self._nodes = Informer(cluster, f"{CORE}/nodes", changed=changed, trim=inventory.trimmed)
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
            for informer in self._all:
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
        return [_problem(item) for item in self._all if advice.of(item.error)]

    @property
    def synced(self) -> bool:
        """Whether every watch has completed its first list; an earlier cycle would miss targets."""
        return all(informer.synced.is_set() for informer in self._all)

    def variant(self, key: str) -> Object | None:
        """Return the latest version of VariantAutoscaling `NAMESPACE/NAME`; None if there is none."""
        namespace, _, name = key.partition("/")
        for informer in self._variants:
            found = informer.objects.get((namespace, name))
            if found is not None:
                return found
        return None

    async def refresh_scales(self) -> None:
        """Read `/scale` of the scale targets that are not Deployments, which are not watched."""
        wanted = set()
        for (namespace, _), item in _items(self._variants):
            reference = _reference(item)
            if reference is not None and reference.kind != "Deployment":
                wanted.add((namespace, reference))
        now = asyncio.get_running_loop().time()
        if wanted == self._others.keys() and now - self._others_read_at < SCALE_SECONDS:
            return
        self._others_read_at = now
        found: dict[tuple[str, Reference], Scale | Unresolved] = {}
        for namespace, reference in sorted(wanted, key=str):
            try:
                found[namespace, reference] = await self._scales.read(namespace, reference)
            except ApiError as error:
                before = self._others.get((namespace, reference))
                # A cluster that does not answer says nothing about the scale; a refusal does.
                if isinstance(error, Unavailable) and isinstance(before, Scale):
                    found[namespace, reference] = before
                else:
                    found[namespace, reference] = Unresolved(str(error))
        self._others = found

    async def inputs(self) -> joined.Inputs:
        """Join all objects as they are now; runs in a thread, so that requests are served meanwhile."""
        seen = _Seen(
            variants=_items(self._variants),
            deployments=_items(self._deployments),
            scalers=_items(self._scalers),
            pods=_items(self._pods),
            configs=_items([self._configs]),
            nodes=_items([self._nodes]),
            others=dict(self._others),
            configs_read=self._configs.synced.is_set(),
            unread="; ".join(i.problem or "not read yet" for i in self._unread()),
        )
        return await asyncio.to_thread(_join, self._scope, seen)

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
    others: Mapping[tuple[str, Reference], Scale | Unresolved]
    configs_read: bool
    unread: str


def _join(scope: Scope, seen: _Seen) -> joined.Inputs:
    reader = joined.Reader()
    by_label = pods.ByLabel(pod for _, pod in seen.pods)
    found = set()
    for (_, name), item in seen.configs:
        if name in NEEDED or name.endswith(config_maps.CONFIG_SUFFIX):
            reader.read_config_map(f"ConfigMap {scope.config_namespace}/{name}", item)
            found.add(name)
    for name in NEEDED:
        if seen.configs_read and name not in found:
            reader.problems.append(
                f"ConfigMap {scope.config_namespace}/{name}: is missing;"
                " kubectl apply -k manifests/base makes it"
            )
    for (namespace, name), item in seen.variants:
        reader.read_variant(f"VariantAutoscaling {namespace}/{name}", item)
    reader.scalers = [hpa.parse(item) for _, item in seen.scalers]
    ours = _read_targets(reader, seen, by_label)
    if scope.limited:
        gpus = inventory.take(
            (node for _, node in seen.nodes), (pod for _, pod in seen.pods), ours=ours
        )
        reader.capacity, problems = gpus.capacity(_device_types(scope, reader))
        reader.problems.extend(problems)
    return reader.inputs()


def _device_types(scope: Scope, reader: joined.Reader) -> dict[str, str]:
    """Device types of the accelerators that variants name, each with the place that says so."""
    named: set[str] = set()
    for _, variant in reader.variants.values():
        if variant.spec.profile is not None:
            named.update(profile.accelerator for profile in variant.spec.profile.accelerators)
        else:
            # Without a profile and a label there is only one accelerator, or the variant is refused.
            label = variant.metadata.labels.get(ACCELERATOR_LABEL)
            named.update([label] if label else reader.settings.accelerators)
    where = f"ConfigMap {scope.config_namespace}/{config_maps.COSTS}"
    return {
        accelerator.device_type: f"{where}: data.{name}"
        for name, accelerator in sorted(reader.settings.accelerators.items(), reverse=True)
        if name in named
    }


def _read_targets(
    reader: joined.Reader, seen: _Seen, by_label: pods.ByLabel
) -> frozenset[tuple[str, str]]:
    """Add every scale target that a variant names to the reader; return the pods of all of them."""
    ours: set[tuple[str, str]] = set()
    deployments = dict(seen.deployments)
    for (namespace, _), (_, variant) in reader.variants.items():
        reference = variants.reference(variant)
        if (namespace, reference) in reader.targets:
            continue
        if reference.kind == "Deployment":
            found = deployments.get((namespace, reference.name))
            if found is None:
                why = seen.unread or "not found; create it, or name another scale target"
                reader.targets[namespace, reference] = Unresolved(why)
                continue
            selector = pods.selector_of((found.get("spec") or {}).get("selector") or {})
            deployment = schemas.Deployment.model_validate(found)
            reader.add_deployment(deployment, by_label.serving(namespace, selector))
        else:
            unread = Unresolved("/scale was not read yet")
            scale = seen.others.get((namespace, reference), unread)
            if isinstance(scale, Unresolved):
                reader.targets[namespace, reference] = scale
                continue
            selector = pods.parsed(scale.selector)
            reader.targets[namespace, reference] = variants.Target(
                replicas=scale.replicas,
                spec_replicas=scale.spec_replicas,
                uid=scale.uid,
                serving=by_label.serving(namespace, selector),
            )
        ours.update(
            (pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in by_label.matching(namespace, selector)
        )
    return frozenset(ours)


def _items(informers: list[Informer]) -> _Items:
    found = [item for informer in informers for item in informer.objects.items()]
    return sorted(found, key=lambda item: item[0])


def _reference(item: Mapping[str, Any]) -> Reference | None:
    """What a VariantAutoscaling scales; None where the object is no valid one."""
    try:
        return variants.reference(schemas.VariantAutoscaling.model_validate(item))
    except ValidationError:
        return None


def _problem(informer: Informer) -> str:
    """Why a collection cannot be watched, with what to do about it; empty while it can."""
    return "" if informer.error is None else advice.explained(informer.error)

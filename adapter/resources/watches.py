"""The objects of a cluster, followed by watches, and joined to what a cycle needs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapter import logs
from adapter.kube import advice, paths
from adapter.kube.client import Cluster
from adapter.kube.informer import Informer, Object, same_but_scale, same_but_status
from adapter.kube.scale import Reference, Scales
from adapter.resources import gpus as inventory
from adapter.resources import inputs as joined
from adapter.resources import pods, schemas
from adapter.resources import variant as variants
from adapter.resources.configuration.last_good import NOTHING
from adapter.resources.devices import dra
from adapter.resources.serving import monitors, pools
from adapter.resources.watched import trimming
from adapter.resources.watched.joining import Items, Seen, join
from adapter.resources.watched.scales import ReadScales, Target
from adapter.resources.watched.scope import Scope
from adapter.resources.wva import managed
from adapter.tasks import Pieces

log = logs.LazyLogger()

VARIANTS, DEPLOYMENTS = "llmd.ai/v1alpha1", "apps/v1"
SCALERS, CORE = "autoscaling/v2", "v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """What is called after events that a join of the objects would show.

    Attributes:
        changed: Called after every event that none of the others is called for.
        status_changed: Called where of a VariantAutoscaling nothing but its status changed.
        scaled: Called with both versions where of a Deployment nothing but its replicas changed.
        pods_changed: Called after events of pods.

    """

    changed: Callable[[], None]
    status_changed: Callable[[Object], None]
    scaled: Callable[[Object, Object], None]
    pods_changed: Callable[[], None]

    def note_status(self, _: Object, after: Object) -> None:
        """Take two versions of a VariantAutoscaling that differ in nothing but their status."""
        self.status_changed(after)

    def note_scale(self, before: Object, after: Object) -> None:
        """Take two versions of a Deployment that differ in nothing but replicas and status."""
        if _counts(before) != _counts(after):
            self.scaled(before, after)


class ClusterObjects:
    """All watches of one installation."""

    def __init__(self, cluster: Cluster, scope: Scope, listeners: Listeners) -> None:
        self._scope = scope
        changed = listeners.changed
        self._scales = ReadScales(Scales(cluster), changed=changed)
        self._last_good = NOTHING

        def informers(
            version: str, plural: str, among: Sequence[str] = scope.namespaces, **more: Any
        ) -> list[Informer]:
            more = {"changed": changed, "same": same_but_status, **more}
            collection_paths = [
                paths.collection(version, plural, namespace=name) for name in among or ("",)
            ]
            return [Informer(cluster, path, **more) for path in collection_paths]

        query = (("labelSelector", scope.selector),) if scope.selector else ()
        noted = listeners.note_status
        self._variants = informers(
            VARIANTS, "variantautoscalings", trim=trimming.variant, query=query, noted=noted
        )
        self._deployments = informers(
            DEPLOYMENTS,
            "deployments",
            trim=trimming.deployment,
            same=same_but_scale,
            noted=listeners.note_scale,
        )
        self._scalers = informers(SCALERS, "horizontalpodautoscalers", trim=trimming.scaler)
        # GPUs are held by pods of every namespace.
        of_pods = () if scope.limited else scope.namespaces
        self._pods = informers(
            CORE, "pods", of_pods, trim=pods.trimmed, changed=listeners.pods_changed
        )
        among = (scope.config_namespace,)
        (self._configs,) = informers(CORE, "configmaps", among, trim=trimming.config_map)
        (self._nodes,) = informers(CORE, "nodes", (), trim=inventory.trimmed)
        # Not every cluster has the API, and nothing waits for it.
        self._slices = _of_dra(cluster, "resourceslices", changed, dra.trimmed_slice, scope)
        self._claims = _of_dra(cluster, "resourceclaims", changed, dra.trimmed_claim, scope)
        self._rules = [
            informer
            for version in dra.TAINT_VERSIONS
            for informer in _of_dra(
                cluster, dra.TAINT_RULES, changed, dra.trimmed_rule, scope, version=version
            )
        ]
        self._pickers = pools.Pickers(cluster, scope.namespaces, changed=changed)
        watch = functools.partial(informers, monitors.VERSION, optional=True)
        self._monitors = watch(monitors.PLURAL, trim=monitors.trimmed)
        self._service_monitors = watch(monitors.OF_SERVICES, trim=monitors.trimmed_of_services)
        self._services = informers(CORE, "services", trim=monitors.trimmed_service)
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
            for informer in (
                *self._all,
                *self._slices,
                *self._claims,
                *self._rules,
                *self._pickers.informers,
                *self._monitors,
                *self._service_monitors,
                *self._services,
            ):
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

    @property
    def reads_scales(self) -> bool:
        """Whether a scale target is not watched, but its `/scale` read now and then."""
        return bool(self._scales.read)

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

    async def refresh_scales(self) -> bool:
        """Read what is not watched, `/scale` of targets that are no Deployments; whether it changed."""
        references: set[Target] = set()
        # Thousands of them are validated each time, while requests are to be answered.
        pieces = Pieces()
        for informers, read in ((self._variants, _reference), (self._scalers, _managed)):
            for (namespace, _), item in _items(informers):
                reference = read(item)
                if reference is not None and not reference.is_deployment:
                    references.add((namespace, reference))
                await pieces.breathe()
        picked = self._pickers.picked()
        changed = await self._scales.refresh(references)
        await self._pickers.refresh()
        return changed or picked != self._pickers.picked()

    async def inputs(self) -> joined.Inputs:
        """Join all objects as they are now; runs in a thread, so that requests are served meanwhile."""
        seen = Seen(
            variants=_items(self._variants),
            deployments=_items(self._deployments),
            scalers=_items(self._scalers),
            pods=_items(self._pods),
            configs=_items([self._configs]),
            nodes=dict(_items([self._nodes])),
            slices=_items(self._slices),
            claims=_items(self._claims),
            rules=_items(self._rules),
            pickers=self._pickers.picked(),
            ported=self._pickers.ported(),
            monitors=_items(self._monitors),
            service_monitors=_items(self._service_monitors),
            services=_items(self._services),
            others=self._scales.read,
            configs_read=self._configs.synced.is_set(),
            unread="; ".join(i.problem or "not read yet" for i in self._unread()),
            last_good=self._last_good,
        )
        inputs = await asyncio.to_thread(join, self._scope, seen)
        self._last_good = inputs.last_good
        return inputs

    def _unread(self) -> list[Informer]:
        return [informer for informer in self._deployments if not informer.synced.is_set()]


def _counts(deployment: Object) -> tuple[object, object]:
    spec, status = deployment.get("spec") or {}, deployment.get("status") or {}
    return spec.get("replicas"), status.get("replicas")


def replicas_of(deployment: Object) -> tuple[int, int]:
    """Replicas that there are and those that its spec asks for, as a join reads them.

    Raises:
        ValidationError: they are no numbers of replicas.

    """
    read = schemas.Deployment.model_validate(deployment)
    asked, present = read.spec.replicas, read.status.replicas
    return asked if present is None else present, asked


def _of_dra(
    cluster: Cluster,
    plural: str,
    changed: Callable[[], None],
    trim: Callable[[Object], Object],
    scope: Scope,
    *,
    version: str = dra.VERSION,
) -> list[Informer]:
    """The watch of a collection of dynamic resource allocation; none without limits."""
    path = paths.collection(version, plural)
    informer = Informer(cluster, path, changed=changed, trim=trim, optional=True)
    return [informer] if scope.limited else []


def _items(informers: list[Informer]) -> Items:
    objects = [item for informer in informers for item in informer.objects.items()]
    return sorted(objects, key=lambda item: item[0])


def _reference(item: Mapping[str, Any]) -> Reference | None:
    """What a VariantAutoscaling scales, unless it names nothing; None where the object is no valid one."""
    spec = item.get("spec")
    if not isinstance(spec, dict) or not spec.get("scaleTargetRef"):
        return None  # the Deployment of its name
    try:
        # Not the whole object: validation takes its time, for thousands of them too.
        named = schemas.ScaleTargetReference.model_validate(spec["scaleTargetRef"])
        return variants.referred(named)
    except Exception:  # noqa: BLE001 - the join says what is wrong with it
        return None


def _managed(item: Mapping[str, Any]) -> Reference | None:
    """What the variant scales that an HPA stands for; None where it stands for none, or cannot be read."""
    try:
        document = managed.variant_of(item)
    except Exception:  # noqa: BLE001 - the join says what is wrong with it
        return None
    return None if document is None else _reference(document)


def _problem(informer: Informer) -> str:
    return "" if informer.error is None else advice.explained(informer.error)

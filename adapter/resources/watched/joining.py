"""All objects of a cluster at one moment, joined to what a reconcile cycle needs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from adapter import logs
from adapter.installation import (
    CONFIG_SUFFIX,
    DEFAULTS_SUFFIX,
    MANAGED_TARGETS,
    NEEDED_CONFIG_MAPS,
    READ_CONFIG_MAPS,
)
from adapter.kube import labels
from adapter.kube.informer import Object
from adapter.kube.scale import Reference, Scale, Unresolved
from adapter.resources import gpu_vendors, hpa, pods, schemas
from adapter.resources import gpus as inventory
from adapter.resources import inputs as joined
from adapter.resources import variant as variants
from adapter.resources.annotations import Destinations
from adapter.resources.configuration import advisory
from adapter.resources.configuration.last_good import LastGood
from adapter.resources.configuration.scalers import Scalers
from adapter.resources.devices import dra, products, taints
from adapter.resources.serving import groups, monitors, owners, pools, roles, target_ports
from adapter.resources.serving.selection import OverlapError
from adapter.resources.watched import counted
from adapter.resources.watched.scope import Scope
from adapter.resources.wva import managed

log = logs.LazyLogger()

Items = list[tuple[tuple[str, str], Object]]

Joined = TypeVar("Joined")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All objects at one moment."""

    variants: Items
    deployments: Items
    scalers: Items
    pods: Items
    configs: Items
    nodes: Mapping[tuple[str, str], Object]
    slices: Items
    claims: Items
    rules: Items
    pickers: list[pools.Picked]
    ported: list[tuple[str, pools.Pool]]
    monitors: Items
    service_monitors: Items
    services: Items
    others: Mapping[tuple[str, Reference], Scale | Unresolved]
    configs_read: bool
    unread: str
    last_good: LastGood


def join(scope: Scope, seen: Seen) -> joined.Inputs:
    reader = joined.Reader(Destinations(scope.allowed_endpoints), last_good=seen.last_good)
    running: Sequence[Object] = _with_claims(seen)
    apart = functools.partial(_apart, reader)
    running = _or_as_before(
        reader, "monitors", running, lambda: _monitored(scope, seen, running, apart)
    )
    ported = running
    running = _or_as_before(
        reader,
        "InferencePools",
        ported,
        lambda: target_ports.applied(ported, seen.ported, apart=apart),
    )
    deployments = None if seen.unread else (name for name, _ in seen.deployments)
    by_label = pods.ByLabel(running, deployments=deployments)
    seen_names = {name for (_, name), _ in seen.configs}
    for (_, name), item in seen.configs:
        if name in READ_CONFIG_MAPS or name.endswith(CONFIG_SUFFIX):
            reader.read_config_map(f"ConfigMap {scope.config_namespace}/{name}", item)
    for name in NEEDED_CONFIG_MAPS:
        if seen.configs_read and seen_names.isdisjoint({name, f"{name}{DEFAULTS_SUFFIX}"}):
            reader.settings.missing(f"ConfigMap {scope.config_namespace}/{name}", name)
    for (namespace, name), item in seen.variants:
        if managed.excluded(item.get("metadata") or {}):
            continue
        reader.read_variant(f"VariantAutoscaling {namespace}/{name}", item)
    reader.scalers = Scalers(_scalers(reader, seen))
    _read_managed(reader, seen)
    _leave_out_unread(reader, seen)
    variant_pods = _read_targets(reader, seen, by_label)
    reader.gateways = _or_as_before(
        reader,
        "InferencePools",
        reader.gateways,
        lambda: pools.endpoints(seen.pickers, by_label, variant_pods.labels, apart=apart),
    )
    inputs = (
        counted.inputs(
            reader,
            functools.partial(
                inventory.take,
                seen.nodes.values(),
                [pod for _, pod in seen.pods],
                tolerations=set[taints.Tolerations]().union(*variant_pods.tolerations.values()),
                allocation=dra.allocation(
                    (item for _, item in seen.slices),
                    (item for _, item in seen.claims),
                    (item for _, item in seen.rules),
                ),
            ),
            variant_pods.pods,
            variant_pods.tolerations,
            scope.config_namespace,
        )
        if scope.limited
        else reader.inputs()
    )
    return advisory.completed(inputs, seen.variants, actuate=scope.actuate)


def _monitored(
    scope: Scope, seen: Seen, running: Sequence[Object], apart: pods.Apart
) -> Sequence[Object]:
    """The pods with the URLs that monitors have for them."""
    trusted = scope.config_namespace
    scraped = [item["monitor"] for _, item in seen.monitors]
    scraped += monitors.of_services(
        (item["monitor"] for _, item in seen.service_monitors),
        ((namespace, item["service"]) for (namespace, _), item in seen.services),
        trusted=trusted,
    )
    return monitors.applied(running, scraped, trusted=trusted, apart=apart)


@contextlib.contextmanager
def _apart(reader: joined.Reader, what: str) -> Iterator[None]:
    """Go on without an object that cannot be joined."""
    try:
        yield
    except OverlapError as error:
        reader.problems.append(f"{what}: {error}")
    except Exception as error:
        log.exception("an object cannot be joined; going on without it", object=what)
        reader.problems.append(f"{what}: cannot be used ({type(error).__name__})")


def _or_as_before(
    reader: joined.Reader, what: str, before: Joined, join_them: Callable[[], Joined]
) -> Joined:
    """What objects of tenants add to what is known; without all of them where one cannot be joined."""
    try:
        return join_them()
    except Exception as error:
        log.exception("objects cannot be joined; going on without them", objects=what)
        reader.problems.append(f"{what}: cannot be used ({type(error).__name__})")
        return before


def _with_claims(seen: Seen) -> list[Object]:
    """All pods, each with the devices that its claims hold."""
    claimed = dra.claimed((item for _, item in seen.slices), (item for _, item in seen.claims))
    return [
        {**pod, "claimed": claimed[name]} if name in claimed else pod for name, pod in seen.pods
    ]


@dataclass(slots=True)
class _VariantPods:
    """Pods whose devices are those of scale targets, by target; labels by namespace, tolerations."""

    pods: dict[tuple[str, Reference], frozenset[tuple[str, str]]] = field(default_factory=dict)
    tolerations: dict[tuple[str, Reference], set[taints.Tolerations]] = field(default_factory=dict)
    labels: dict[str, list[Mapping[str, str]]] = field(default_factory=dict)


def _read_targets(reader: joined.Reader, seen: Seen, by_label: pods.ByLabel) -> _VariantPods:
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
            variant_pods.pods[namespace, reference] = counted.holding(
                matching, reference, reader.targets[namespace, reference]
            )
            deployment = (
                deployments.get((namespace, reference.name)) if reference.is_deployment else None
            )
            template = _template(deployment)
            tolerations = {pod["tolerations"] for pod in matching}
            if deployment is not None:
                tolerations.add(template.get("tolerations", frozenset()))
            variant_pods.tolerations[namespace, reference] = tolerations
            labelled = variant_pods.labels.setdefault(namespace, [])
            labelled += [pod["metadata"]["labels"] for pod in matching]
            # A variant at zero replicas has a template only.
            labelled.append(_labels(template))
        except OverlapError as error:
            reader.targets[namespace, reference] = Unresolved(str(error))
        except Exception as error:
            # Whatever one object makes of us is the problem of the variant that names it.
            log.exception(
                "scale target cannot be read; its variants get no target until it can",
                namespace=namespace,
                target=str(reference),
            )
            why = f"cannot be read ({type(error).__name__})"
            reader.targets[namespace, reference] = Unresolved(why)
    return variant_pods


def _template(deployment: Object | None) -> Mapping[str, Any]:
    """What a Deployment says of its pods; empty where there is none."""
    template: Mapping[str, Any] = ((deployment or {}).get("spec") or {}).get("template") or {}
    return template


def _labels(template: Mapping[str, Any]) -> Mapping[str, str]:
    labelled: Mapping[str, str] = (template.get("metadata") or {}).get("labels") or {}
    return labelled


def _unusable(deployment: Object | None, unread: str) -> str:
    """Why a Deployment cannot be used, by what is wrong with it or with the watch; empty where it can."""
    if deployment is None:
        return unread or "not found; create it, or name another scale target"
    problem = deployment["spec"].get("unread")
    return f"cannot be read ({problem})" if problem else ""


def _read_target(
    reader: joined.Reader,
    seen: Seen,
    by_label: pods.ByLabel,
    deployments: Mapping[tuple[str, str], Object],
    name: tuple[str, Reference],
    *,
    variant: str,
) -> list[Mapping[str, Any]]:
    """Add one scale target to the reader; return its pods."""
    namespace, reference = name
    workload = (reference.kind, reference.name)
    if reference.is_deployment:
        written = deployments.get((namespace, reference.name))
        unusable = _unusable(written, seen.unread)
        if written is None or unusable:
            reader.targets[namespace, reference] = Unresolved(unusable)
            return []
        (selector, why), template = written["spec"]["selector"], _template(written)
        deployment = schemas.Deployment.model_validate(written)
        matching = by_label.of_workload(namespace, selector, workload)
        serving = _serving(matching)
        if serving.gpus is None:
            serving = replace(serving, gpus=template.get("gpus"))
        reader.add_deployment(
            deployment,
            serving,
            role=roles.of_pods(matching or [{"metadata": {"labels": _labels(template)}}]),
            products=_products(seen, matching, template.get("products", ())),
            unselected=why and variants.unselected(reference, "spec.selector", why),
        )
    else:
        scale = seen.others[namespace, reference]
        if isinstance(scale, Unresolved):
            reader.targets[namespace, reference] = scale
            return []
        stated, why = labels.explained_text(scale.selector)
        if made_by := owners.made_by(namespace, reference, stated, deployments):
            problem = f"is one of {' '.join(made_by)}, which sets its replicas; name that one"
            reader.targets[namespace, reference] = Unresolved(problem)
            return []
        selector = groups.members(stated)
        if not scale.selector:
            selector = labels.parse_lenient(f"{managed.VARIANT}={variant}")
        matching = by_label.of_workload(namespace, selector, workload)
        reader.targets[namespace, reference] = variants.Target(
            # The scaler of one role of a DisaggregatedSet counts pods, and a replica is a group of them.
            replicas=groups.leaders(matching)
            if reference.kind == groups.ROLE_SCALER
            else scale.replicas,
            role=roles.of_pods(matching),
            spec_replicas=scale.spec_replicas,
            uid=scale.uid,
            serving=_serving(matching),
            unselected=variants.unselected(reference, "status.selector of its /scale", why)
            if not selector.requirements or not (scale.selector or matching)
            else "",
            products=_products(seen, matching, ()),
        )
    return matching


def _serving(matching: Sequence[Mapping[str, Any]]) -> pods.Serving:
    """Serving pods of a scale target, with their roles and groups."""
    serving = replace(
        pods.serving_of(matching), workload=owners.of_role(matching), beside=groups.beside(matching)
    )
    return roles.paired(matching, serving)


def _products(
    seen: Seen, matching: Iterable[Mapping[str, Any]], stated: tuple[str, ...]
) -> tuple[str, ...]:
    """GPU products that the pods of a scale target ask for, else those of their claims or nodes."""
    known = products.distinct([*stated, *(name for pod in matching for name in pod["products"])])
    if known:
        return known
    if claimed := products.distinct(
        device.product
        for pod in matching
        for device in sorted(pod.get("claimed", ()))
        # The label of a node with TPUs has the topology too.
        if device.driver != dra.TPU_DRIVER
    ):
        return claimed
    on = ((pod, seen.nodes.get(("", pod["node"]))) for pod in matching)
    return products.distinct(
        name
        for pod, node in on
        if node is not None
        for name in gpu_vendors.held(node, pod["requests"])
    )


def _read_managed(reader: joined.Reader, seen: Seen) -> None:
    """Read HPAs that stand for a VariantAutoscaling, where there is none of their name or target."""
    targets = next((item for (_, name), item in seen.configs if name == MANAGED_TARGETS), {})
    taken = {(key[0], variants.reference(item)) for key, (_, item) in reader.variants.items()}
    for (namespace, name), item in seen.scalers:
        where = f"HorizontalPodAutoscaler {namespace}/{name}"
        try:
            document = managed.variant_of(item)
            if document is None or (namespace, document["metadata"]["name"]) in reader.variants:
                continue
            scaler = item["scaler"]
            if isinstance(scaler, hpa.Scaler) and (namespace, scaler.reference) not in taken:
                status = managed.status_of(targets, f"{namespace}/{document['metadata']['name']}")
                reader.read_variant(where, {**document, "status": status})
        except Exception as error:
            log.exception(
                "managed HPA cannot be read; leaving it out", namespace=namespace, name=name
            )
            reader.problems.append(f"{where}: cannot be read ({type(error).__name__})")


def _leave_out_unread(reader: joined.Reader, seen: Seen) -> None:
    """Leave out variants whose target's `/scale` was not read: whether it exists is not known.

    Its status stays as it is until then. All that name it wait, however they spell it: it has one owner.
    """
    targets = {key: variants.reference(item) for key, (_, item) in reader.variants.items()}
    unread = {
        (namespace, reference.identity)
        for (namespace, _), reference in targets.items()
        if not reference.is_deployment and (namespace, reference) not in seen.others
    }
    for key, reference in targets.items():
        if (key[0], reference.identity) in unread:
            del reader.variants[key]


def _scalers(reader: joined.Reader, seen: Seen) -> list[hpa.Scaler]:
    """HPAs; one that cannot be read is left out."""
    scalers = []
    for (namespace, name), item in seen.scalers:
        scaler = item["scaler"]
        if isinstance(scaler, hpa.Scaler):
            scalers.append(scaler)
        else:
            reader.problems.append(
                f"HorizontalPodAutoscaler {namespace}/{name}: cannot be read ({scaler})"
            )
    return scalers

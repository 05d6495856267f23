"""Checks of the VariantAutoscalings: their CRD and their conditions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from adapter.diagnostics.site import MOST_NAMED, VARIANTS, Finding, Level, Site, key_of
from adapter.kube import duration, paths
from adapter.kube.errors import ApiError, Forbidden
from adapter.resources.stored_status import CONFIGURATION, GATEWAYS

_FIX = "kubectl apply -k manifests/crd"

_OTHER = "workload-variant-autoscaler"
"""Value of the label `app.kubernetes.io/name` of the autoscaler whose objects the adapter reads."""

TIME_TO_LIVE = 300.0
"""Seconds that a target is valid, where no flag says so."""

_LATE = 2.0
"""Times to live after which a target is old: the leader writes it anew after a third of one."""

_DEFINITIONS, _NAME = "apiextensions.k8s.io/v1", "variantautoscalings.llmd.ai"


async def definition(site: Site) -> AsyncIterator[Finding]:
    """Whether the CRD is installed, with its status subresource."""
    resources = await site.find(paths.root(VARIANTS)) or {}
    names = {item.get("name") for item in resources.get("resources") or ()}
    if "variantautoscalings" not in names:
        yield Finding("error", "no CRD variantautoscalings.llmd.ai", _FIX)
    elif "variantautoscalings/status" not in names:
        yield Finding("error", "CRD variantautoscalings.llmd.ai has no status subresource", _FIX)
    else:
        yield Finding("ok", "CRD variantautoscalings.llmd.ai")


async def versions(site: Site) -> AsyncIterator[Finding]:
    """Whether CRD, adapter and this program are of one version, by the labels that the manifests set."""
    definition = await site.find(paths.item(_DEFINITIONS, "customresourcedefinitions", _NAME))
    if definition is None:
        return  # a finding of its own
    deployment = await site.deployment()
    crd, own = _version(definition), metadata.version("variant-adapter")
    adapter = _version(deployment)
    if not crd:
        yield Finding(
            "warning",
            f"CRD {_NAME} has no version: it is of another project, or of an older adapter",
            _FIX,
        )
    elif adapter and crd != adapter:
        yield Finding(
            "error",
            f"CRD {_NAME} is of version {crd}, the adapter of {adapter}: fields of its status may get lost",
            f"{_FIX}, of the release {adapter}",
        )
    elif own != (adapter or crd):
        yield Finding(
            "warning",
            f"the adapter is of version {adapter or crd}, this program of {own}: its checks may not fit",
            f"run doctor of version {adapter or crd}",
        )
    else:
        yield Finding("ok", f"CRD and adapter of version {own}")


def _version(item: Mapping[str, Any]) -> str:
    labels = (item.get("metadata") or {}).get("labels") or {}
    return str(labels.get("app.kubernetes.io/version") or "")


async def others(site: Site) -> AsyncIterator[Finding]:
    """Whether the workload-variant-autoscaler runs beside the adapter, as far as one may see it."""
    path = paths.collection("apps/v1", "deployments")
    try:
        deployments, _ = await site.cluster.list_objects(
            path, (("labelSelector", f"app.kubernetes.io/name={_OTHER}"),)
        )
    except Forbidden:
        # Nothing else here needs that right, and nothing is wrong with the installation.
        return
    for item in deployments:
        if (item.get("spec") or {}).get("replicas", 1):
            namespace, _, name = key_of(item).partition("/")
            yield Finding(
                "warning",
                f"Deployment {namespace}/{name} ({_OTHER}) runs too: both write the status of the same"
                " VariantAutoscalings",
                f"kubectl -n {namespace} scale deployment {name} --replicas=0 (docs/migration.md)",
            )


async def _time_to_live(site: Site) -> float:
    """Time to live of a target in seconds, by the flag of the adapter's Deployment."""
    try:
        return duration.seconds(await site.flag("--time-to-live") or "")
    except (ApiError, ValueError):
        return TIME_TO_LIVE


def _age(site: Site, item: Mapping[str, Any]) -> float:
    """Seconds since a variant's target was decided; 0 without one."""
    target = (item.get("status") or {}).get("desiredOptimizedAlloc") or {}
    return site.seconds_since(target.get("lastRunTime")) or 0.0


def _first(keys: Sequence[str]) -> str:
    """The first of objects of which the same is said, and how many more there are."""
    return f"{keys[0]} and {len(keys) - 1} more" if len(keys) > 1 else keys[0]


def _alike(level: Level, text: str, keys: Sequence[str]) -> Iterator[Finding]:
    """What variants' conditions say; the same of hundreds, such as of one missing row, is one line."""
    shown = keys if len(keys) <= MOST_NAMED else [_first(keys)]
    for key, name in zip(keys, shown, strict=False):
        yield Finding(level, f"VariantAutoscaling {name}: {text}", f"variant-adapter explain {key}")


async def statuses(site: Site) -> AsyncIterator[Finding]:
    """Whether every variant has a status without failed conditions."""
    items = await site.variants()
    if not items:
        yield Finding(
            "warning", "no VariantAutoscaling", "create one per Deployment, see manifests/samples"
        )
    fine = []
    blind: dict[str, list[str]] = {}
    wrong: dict[tuple[Level, str], list[str]] = {}
    oldest = _LATE * await _time_to_live(site)
    for item in items:
        conditions = (item.get("status") or {}).get("conditions") or ()
        failed = [condition for condition in conditions if condition.get("status") == "False"]
        unread = [condition for condition in failed if condition.get("type") == GATEWAYS]
        for condition in unread:
            failed.remove(condition)
            blind.setdefault(str(condition.get("message")), []).append(key_of(item))
        # A target that is served, from less than what was written, comes after one that is not.
        failed.sort(key=lambda condition: condition.get("type") == CONFIGURATION)
        shown = f"VariantAutoscaling {key_of(item)}"
        if not conditions:
            yield Finding(
                "warning", f"{shown}: has no status yet", "see the finding on the leader, above"
            )
        elif failed:
            level: Level = "warning" if failed[0].get("type") == CONFIGURATION else "error"
            text = f"{failed[0].get('reason')}: {failed[0].get('message')}"
            wrong.setdefault((level, text), []).append(key_of(item))
        elif (age := _age(site, item)) > oldest:
            yield Finding(
                "error",
                f"{shown}: its target was decided {age / 60.0:.0f} min ago, and is not written anew: no cycle"
                " ends, or the status cannot be written",
                f"kubectl -n {site.names.namespace} logs deployment/{site.names.service}",
            )
        elif not unread:
            fine.append(shown)
    for (level, text), keys in wrong.items():
        for finding in _alike(level, text, keys):
            yield finding
    for message, keys in blind.items():
        yield Finding(
            "error",
            f"gateway of VariantAutoscaling {_first(keys)}: {message}",
            "give the adapter what it needs to read it (docs/collection.md), or do not have it read:"
            " without its URL in --gateway-metrics, or with --no-discover-gateways",
        )
    if len(fine) > MOST_NAMED:
        fine = [f"{len(fine)} VariantAutoscalings"]
    for shown in fine:
        yield Finding("ok", shown)

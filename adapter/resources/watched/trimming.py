"""The fields of watched objects that are read: most of what tenants write into them is not.

Pods, nodes and monitors are trimmed by the modules that read them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapter import logs
from adapter.installation import CONFIG_SUFFIX, MANAGED_TARGETS, READ_CONFIG_MAPS
from adapter.kube import labels
from adapter.kube.informer import MOST_LABELS, Object, short
from adapter.resources import hpa, pods
from adapter.resources.devices import products, taints

log = logs.LazyLogger()

DOMAINS = ("llmd.ai/", "llm-d.ai/")
"""Ends of the prefixes of annotations that are read."""

_UID_CHARACTERS = 64
"""Most characters of a uid, which is a UUID of 36."""

_METADATA = ("namespace", "name", "resourceVersion", "uid", "generation", "creationTimestamp")

_OF_TARGETS = ("apiVersion", "kind", "name")
"""Fields of the reference to a scale target."""


def variant(item: Object) -> Object:
    """A VariantAutoscaling without annotations of others, and with its owners by uid alone: none has a bound.

    Whether its scale target is an owner must be known here, or each cycle would ask the API server.
    """
    metadata = _metadata(item, ("labels",))
    owners = (item.get("metadata") or {}).get("ownerReferences") or ()
    uids = dict.fromkeys(str(owner.get("uid")) for owner in owners)
    kept = [{"uid": uid} for uid in uids if len(uid) <= _UID_CHARACTERS]
    return {**item, "metadata": {**metadata, "ownerReferences": kept} if kept else metadata}


def deployment(item: Object) -> Object:
    """Fields of a Deployment that are read; environments and volumes of its pods are not.

    `selector` is the selector, and why it selects nothing; `template` has what the spec of its pods says.
    Of one that cannot be read `unread` has the kind of error: it is there, and its pods are its own.
    """
    spec, metadata = item.get("spec") or {}, _metadata(item, ())
    kept = _only(spec, ("replicas",))
    try:
        kept["selector"] = labels.explained(spec.get("selector") or {})
        if spec.get("template"):
            kept["template"] = _template(spec["template"])
    except Exception as error:
        log.exception(
            "Deployment cannot be read; its variants get no target until it can",
            namespace=metadata.get("namespace"),
            name=metadata.get("name"),
        )
        kept["unread"] = type(error).__name__
    return {
        "metadata": metadata,
        "spec": kept,
        "status": _only(item.get("status") or {}, ("replicas",)),
    }


def scaler(item: Object) -> Object:
    """What a HorizontalPodAutoscaler says: read once, as it arrives, for its metrics may be most of it.

    `scaler` has it, or the kind of error with which it cannot be read.
    """
    metadata = _metadata(item, ("labels", "ownerReferences"))
    spec = item.get("spec") or {}
    if spec.get("scaleTargetRef"):
        spec = {**spec, "scaleTargetRef": short(spec["scaleTargetRef"], _OF_TARGETS)}
    try:
        read: hpa.Scaler | str = hpa.parse({**item, "spec": spec})
    except Exception as error:
        log.exception(
            "HPA cannot be read; leaving it out",
            namespace=metadata.get("namespace"),
            name=metadata.get("name"),
        )
        read = type(error).__name__
    return {
        "metadata": metadata,
        "spec": _only(spec, ("scaleTargetRef",)),
        "scaler": read,
    }


def config_map(item: Object) -> Object:
    """A ConfigMap that is read; of another one in the same namespace only that it is there."""
    kept: dict[str, Any] = {"metadata": _metadata(item, ())}
    name = str(kept["metadata"].get("name"))
    if name in (*READ_CONFIG_MAPS, MANAGED_TARGETS) or name.endswith(CONFIG_SUFFIX):
        kept |= _only(item, ("data",))
    return kept


def _template(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """The labels of a Deployment's pods, and what is read of their spec: once, as it may be very long."""
    spec = template.get("spec") or {}
    labelled = (template.get("metadata") or {}).get("labels") or {}
    return {
        "metadata": {"labels": dict(list(labelled.items())[:MOST_LABELS])},
        "gpus": pods.gpus_of(spec),
        "products": products.of_pod(spec),
        "tolerations": taints.of_pod(spec),
    }


def _metadata(item: Object, more: Iterable[str]) -> Mapping[str, Any]:
    metadata = item.get("metadata") or {}
    notes = {
        name: value
        for name, value in (metadata.get("annotations") or {}).items()
        if name[: name.find("/") + 1].endswith(DOMAINS)
    }
    return {**_only(metadata, (*_METADATA, *more)), "annotations": notes}


def _only(item: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: item[name] for name in names if name in item}

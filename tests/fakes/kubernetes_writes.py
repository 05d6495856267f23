"""Writes to the in-memory Kubernetes API: PUT, merge patch, server-side apply, and the scale subresource."""

from __future__ import annotations

import copy
from typing import Any

from aiohttp import web

from tests.fakes.kubernetes_objects import Object, ObjectStore, ResourcePath, StatusError

SCALED = {"deployments", "statefulsets", "leaderworkersets", "disaggregatedsetrolescalers"}


def scale(store: ObjectStore, method: str, path: ResourcePath, body: Any) -> Object:
    """Read or patch `/scale`."""
    item = store.find(path)
    if path.plural not in SCALED:
        raise StatusError(404, "no scale")
    if method == "PATCH":
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version and version != item["metadata"]["resourceVersion"]:
            raise StatusError(409, f'{path.plural} "{path.name}": the object has been modified')
        changed = copy.deepcopy(item)
        changed.setdefault("spec", {})["replicas"] = body["spec"]["replicas"]
        item = store.update(path, changed)
    labels = (item["spec"].get("selector") or {}).get("matchLabels") or {}
    status = item.get("status") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        # As in the real API, annotations and labels of the object are not those of its scale.
        "metadata": {
            name: item["metadata"][name]
            for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        },
        "spec": {"replicas": item["spec"].get("replicas", 1)},
        "status": {
            "replicas": status.get("replicas", 0),
            # Groups of pods are not selected by their spec.
            "selector": status.get("hpaPodSelector")
            or ",".join(f"{k}={v}" for k, v in labels.items()),
        },
    }


def changed(current: Object, path: ResourcePath, body: Any, request: web.Request) -> Object:
    """The object that a PUT or PATCH makes of the current one."""
    version = (body.get("metadata") or {}).get("resourceVersion")
    if version and version != current["metadata"]["resourceVersion"]:
        raise StatusError(409, f'{path.plural} "{path.name}": the object has been modified')
    item = copy.deepcopy(current)
    if request.method == "PUT":
        return {**body, "metadata": {**current["metadata"], **body["metadata"]}}
    if request.content_type == "application/merge-patch+json":
        patched: Object = merged(item, body)
        if path.subresource != "status" and "status" in current:
            patched["status"] = current["status"]
        return patched
    if request.content_type == "application/apply-patch+yaml":
        assert request.query["fieldManager"]
        assert path.subresource == "status", "only the status is ours to apply"
        # As the API server answers an apply of what the installed CRD does not declare.
        for name in UNDECLARED_STATUS.get(path.name, ()):
            if name in body["status"]:
                raise StatusError(
                    500,
                    f"failed to create typed patch object: .status.{name}: field not declared in schema",
                )
        # One manager owns the whole status: fields that are no longer applied go.
        item["status"] = body["status"]
        return item
    raise StatusError(415, f"unsupported patch {request.content_type}")


UNDECLARED_STATUS: dict[str, frozenset[str]] = {}
"""Fields of `.status` that the CRD lacks, by the name of the object."""


def owners_changed(current: Object, item: Object) -> bool:
    """Whether a write changes owner references, which admission guards by the right to delete."""
    before, after = (one["metadata"].get("ownerReferences") for one in (current, item))
    return bool(before != after)


def merged(item: Any, patch: Any) -> Any:
    """Apply a JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(item) if isinstance(item, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result

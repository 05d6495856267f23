"""The objects of the in-memory Kubernetes API: resource versions, generations, history, and our CRD's schema.

It behaves as the real one where the adapter could go wrong: optimistic locking, compacted history, spec and
status apart, defaults and validation by the CRD.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import yaml

from adapter.kube import labels as selectors

ROOT = Path(__file__).parents[2]
VARIANTS = "/apis/llmd.ai/v1alpha1"
CLUSTER_WIDE = {"nodes", "resourceslices", "namespaces", "apiservices", "customresourcedefinitions"}
CRD = yaml.safe_load((ROOT / "manifests/crd/variantautoscalings.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
# `jsonschema.validate` would check the schema itself at every write, which takes far longer than the object.
VALIDATOR = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)

Object = dict[str, Any]


class StatusError(Exception):
    """An answer other than success, as HTTP status and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ResourcePath:
    """A URL path, parsed; `name` is empty for collections.

    Attributes:
        root: `/api/v1` or `/apis/GROUP/VERSION`.

    """

    root: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def collection(self) -> tuple[str, str]:
        return self.root, self.plural


def parse_path(path: str) -> ResourcePath:
    """The resource that a URL path names."""
    parts = path.strip("/").split("/")
    size = 2 if parts[0] == "api" else 3
    root, rest = "/" + "/".join(parts[:size]), parts[size:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return ResourcePath(root, rest[0], namespace, *rest[1:3])


class Change(NamedTuple):
    """One entry of the history; `before` is None for a new object."""

    version: int
    collection: tuple[str, str]
    kind: str
    item: Object
    before: Object | None


class ObjectStore:
    """All objects with their history.

    Attributes:
        objects: Objects by collection, then by (namespace, name).
        version: Resource version of the last change.
        oldest: Oldest resource version that can be watched from.
        admits: Whether the CRD's schema is enforced; objects of an older CRD stay as they were stored.

    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = {}
        self.history: list[Change] = []
        self.version = 100
        self.oldest = 100
        self.admits = True
        self._changed = asyncio.Event()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change; every change makes a new one."""
        return self._changed

    # For tests.

    def put(self, root: str, plural: str, item: Object) -> Object:
        """Create an object, or change it as a user does: everything but status."""
        metadata = item["metadata"]
        path = ResourcePath(root, plural, metadata.get("namespace", ""), metadata["name"])
        current = self.collection(path).get((path.namespace, path.name))
        if current is None:
            return self.create(path, copy.deepcopy(item))
        changed = {**copy.deepcopy(item)}
        if plural == "variantautoscalings" and "status" in current:
            changed["status"] = current["status"]
        changed["metadata"] = {**current["metadata"], **changed["metadata"]}
        return self.update(path, changed)

    def set_status(self, root: str, plural: str, namespace: str, name: str, **status: Any) -> None:
        """Change parts of a status, as a controller does."""
        path = ResourcePath(root, plural, namespace, name)
        item = copy.deepcopy(self.find(path))
        item["status"] = {**(item.get("status") or {}), **status}
        self.update(path, item)

    def get(self, root: str, plural: str, namespace: str, name: str) -> Object:
        """A copy of an object."""
        return copy.deepcopy(self.find(ResourcePath(root, plural, namespace, name)))

    def all(self, root: str, plural: str) -> list[Object]:
        """Copies of all objects of a collection."""
        return copy.deepcopy(list(self.objects.get((root, plural), {}).values()))

    def remove(self, root: str, plural: str, namespace: str, name: str) -> None:
        """Delete an object."""
        path = ResourcePath(root, plural, namespace, name)
        item = self.collection(path).pop((namespace, name))
        self.version += 1
        deleted = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self._record(path, "DELETED", deleted, item)

    def compact(self) -> None:
        """Forget the history: a watch from an earlier version gets 410."""
        self.oldest = self.version + 1
        self.version += 1
        self.history.clear()

    # For requests.

    def collection(self, path: ResourcePath) -> dict[tuple[str, str], Object]:
        """Objects of the path's collection, by (namespace, name)."""
        return self.objects.setdefault(path.collection, {})

    def find(self, path: ResourcePath) -> Object:
        """The object itself, or 404."""
        item = self.collection(path).get((path.namespace, path.name))
        if item is None:
            raise StatusError(404, f'{path.plural} "{path.name}" not found')
        return item

    def create(self, path: ResourcePath, item: Object) -> Object:
        """Add an object, or 409 where there is one of that name."""
        metadata = item.setdefault("metadata", {})
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        key = (path.namespace, metadata["name"])
        if key in self.collection(path):
            raise StatusError(409, f'{path.plural} "{metadata["name"]}" already exists')
        if path.plural not in CLUSTER_WIDE:
            metadata["namespace"] = path.namespace
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata["generation"] = 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata.setdefault("creationTimestamp", now)
        if path.plural == "variantautoscalings":
            item.pop("status", None)
            if self.admits:
                _admit(item)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.collection(path)[key] = item
        self._record(path, "ADDED", item, None)
        return item

    def update(self, path: ResourcePath, item: Object) -> Object:
        """Replace an object; an equal one changes nothing, as in the real API."""
        key = (path.namespace, path.name)
        before = self.collection(path)[key]
        if path.plural == "variantautoscalings" and self.admits:
            _admit(item)
        metadata = item["metadata"]
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        if item == before:
            return before
        if item.get("spec") != before.get("spec"):
            metadata["generation"] = before["metadata"].get("generation", 1) + 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.collection(path)[key] = item
        self._record(path, "MODIFIED", item, before)
        return item

    def page(self, path: ResourcePath, query: Mapping[str, str]) -> Object:
        """A page of a list."""
        items = [
            item
            for (namespace, _), item in sorted(self.collection(path).items())
            if path.namespace in {"", namespace} and selected(item, query)
        ]
        start = int(query.get("continue") or 0)
        end = start + int(query.get("limit") or len(items) or 1)
        metadata = {"resourceVersion": str(self.version)}
        if end < len(items):
            metadata["continue"] = str(end)
        return {"kind": "List", "metadata": metadata, "items": items[start:end]}

    def _record(self, path: ResourcePath, kind: str, item: Object, before: Object | None) -> None:
        self.history.append(
            Change(self.version, path.collection, kind, copy.deepcopy(item), before)
        )
        self._changed.set()
        self._changed = asyncio.Event()


def selected(item: Object, query: Mapping[str, str]) -> bool:
    """Whether the label selector and the field selector of a request match an object."""
    labels = item["metadata"].get("labels") or {}
    label_selector = query.get("labelSelector", "")
    if label_selector and not selectors.parse(label_selector).matches(labels):
        return False
    field_selector = query.get("fieldSelector", "")
    name = field_selector.removeprefix("metadata.name=")
    return not field_selector or item["metadata"]["name"] == name


def _admit(item: Object) -> None:
    """Default and validate by the CRD; what it would prune is an error, so that no test overlooks it."""
    _default(SCHEMA, item)
    error = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(item))
    if error is not None:
        raise StatusError(422, f"{error.json_path}: {error.message}") from error
    unknown = list(_unknown(SCHEMA, {k: v for k, v in item.items() if k != "metadata"}, ""))
    if unknown:
        raise StatusError(422, f"unknown fields: {unknown}")


def _default(schema: Object, item: Any) -> None:
    if isinstance(item, list):
        for one in item:
            _default(schema.get("items", {}), one)
    if not isinstance(item, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        if name not in item and "default" in inner:
            item[name] = inner["default"]
        if name in item:
            _default(inner, item[name])


def _unknown(schema: Object, item: Any, path: str) -> Iterator[str]:
    if isinstance(item, list):
        for one in item:
            yield from _unknown(schema.get("items", {}), one, f"{path}[]")
    elif isinstance(item, dict):
        for name, value in item.items():
            inner = schema.get("properties", {}).get(name)
            if inner is None:
                yield f"{path}.{name}"
            else:
                yield from _unknown(inner, value, f"{path}.{name}")

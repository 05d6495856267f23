"""The scale subresource of any workload: discover its path, read it, patch its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapter.kube import errors, paths
from adapter.kube.client import Cluster

MOST_REPLICAS = 100_000
"""Largest number of replicas that is taken from an object; more is no number of replicas."""

KNOWN_KINDS = {
    ("apps", "deployment"): ("apps/v1", "Deployment"),
    ("apps", "replicaset"): ("apps/v1", "ReplicaSet"),
    ("apps", "statefulset"): ("apps/v1", "StatefulSet"),
    ("extensions", "deployment"): ("apps/v1", "Deployment"),
    ("extensions", "replicaset"): ("apps/v1", "ReplicaSet"),
    # By its kind alone, as the workload-variant-autoscaler finds it: a reference may leave the group out.
    ("apps", "leaderworkerset"): ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}
"""Workloads by group and lower-case kind, with the one spelling that is used here."""

DEPLOYMENT = ("apps/v1", "Deployment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A workload with a scale subresource, in the namespace of the object that refers to it."""

    name: str
    kind: str = "Deployment"
    api_version: str = "apps/v1"

    def __str__(self) -> str:
        """Kind and name, as in messages."""
        return f"{self.kind} {self.name}"

    def difference(self, other: Reference) -> str:
        """What messages add where two workloads differ in their group alone; empty otherwise."""
        if str(self) != str(other):
            return ""
        return f" of apiVersion {self.api_version!r}, not {other.api_version!r}"

    @property
    def is_deployment(self) -> bool:
        """Whether it is a Deployment of `apps`, which is watched; `read` and `write` serve all others."""
        return (self.api_version, self.kind) == DEPLOYMENT

    @property
    def canonical(self) -> Reference:
        """The same workload in the one spelling of its version and kind, where it is a built-in one."""
        group = self.api_version.rpartition("/")[0]
        known = KNOWN_KINDS.get((group, self.kind.lower()))
        if known is None:
            return self
        return Reference(name=self.name, api_version=known[0], kind=known[1])

    @property
    def identity(self) -> tuple[str, str, str]:
        """Group, kind and name without what may be spelled in several ways: equal for one real workload."""
        one = self.canonical
        return one.api_version.rpartition("/")[0], one.kind.lower(), one.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One `autoscaling/v1` Scale.

    Attributes:
        replicas: `status.replicas`: pods that exist.
        spec_replicas: `spec.replicas`: pods that the workload shall have.
        selector: Label selector of the pods, as text; empty where the workload has none.
        uid: UID of the workload.

    """

    replicas: int
    spec_replicas: int
    selector: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A scale target itself, as it was read before a write.

    Attributes:
        annotations: Annotations of the object.
        version: Resource version that the write is for.

    """

    annotations: Mapping[str, str]
    version: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A scale target that cannot be used.

    Attributes:
        reason: Clause for messages: what is wrong, with the fix where one is known.

    """

    reason: str


class Scales:
    """The scale subresources of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._plurals: dict[tuple[str, str], str] = {("apps/v1", "Deployment"): "deployments"}

    async def read(self, namespace: str, reference: Reference) -> Scale:
        """Read the scale of a workload.

        Raises:
            NotFound: the workload, its kind, or its scale subresource does not exist.
            ApiError: the API server refused, or did not answer.

        """
        plural = await self._plural(reference)
        path = paths.item(
            reference.api_version, plural, reference.name, namespace=namespace, subresource="scale"
        )
        document = await self._cluster.request("GET", path)
        metadata, spec, status = (
            _mapping(document.get(name)) for name in ("metadata", "spec", "status")
        )
        return Scale(
            replicas=count(status.get("replicas")),
            spec_replicas=count(spec.get("replicas")),
            selector=str(status.get("selector") or ""),
            uid=str(metadata.get("uid") or ""),
        )

    async def workload(self, namespace: str, reference: Reference) -> Workload:
        """Read the workload itself.

        Raises:
            NotFound: the workload or its kind does not exist.
            ApiError: the API server refused, or did not answer.

        """
        plural = await self._plural(reference)
        path = paths.item(reference.api_version, plural, reference.name, namespace=namespace)
        metadata = _mapping((await self._cluster.request("GET", path)).get("metadata"))
        return Workload(
            annotations=_mapping(metadata.get("annotations")),
            version=str(metadata.get("resourceVersion") or ""),
        )

    async def namespace_annotations(self, namespace: str) -> Mapping[str, str]:
        """Read the annotations of a namespace.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        document = await self._cluster.request("GET", paths.item("v1", "namespaces", namespace))
        return _mapping(_mapping(document.get("metadata")).get("annotations"))

    async def write(
        self,
        namespace: str,
        reference: Reference,
        replicas: int,
        *,
        version: str = "",
        manager: str = "",
    ) -> None:
        """Set `spec.replicas` of a workload.

        Args:
            namespace: namespace of the workload.
            reference: the workload.
            replicas: replicas to set.
            version: resource version that the workload must have; empty: any.
            manager: field manager of the write; empty: the API server's default.

        Raises:
            NotFound: the workload, its kind, or its scale subresource does not exist.
            Conflict: the workload has another resource version.
            ApiError: the API server refused, or did not answer.

        """
        plural = await self._plural(reference)
        body: dict[str, Any] = {"spec": {"replicas": replicas}}
        if version:
            body["metadata"] = {"resourceVersion": version}
        await self._cluster.request(
            "PATCH",
            paths.item(
                reference.api_version,
                plural,
                reference.name,
                namespace=namespace,
                subresource="scale",
            ),
            body=body,
            query=(("fieldManager", manager),) if manager else (),
            content_type="application/merge-patch+json",
        )

    async def _plural(self, reference: Reference) -> str:
        version = reference.api_version
        plural = self._plurals.get((version, reference.kind))
        if plural is None:
            root = paths.root(version)
            plural = _plural(await self._cluster.request("GET", root), reference, root)
            self._plurals[version, reference.kind] = plural
        return plural


def count(value: object) -> int:
    """Replicas of an object of the API, from 0 to `MOST_REPLICAS`; 0 for what is no number."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return min(max(value, 0), MOST_REPLICAS)


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plural(resources: dict[str, Any], reference: Reference, root: str) -> str:
    """The resource name of a kind that has a scale subresource."""
    listed = [item for item in resources.get("resources") or () if isinstance(item, dict)]
    names = {str(item.get("name")) for item in listed}
    for item in listed:
        name = str(item.get("name"))
        if item.get("kind") == reference.kind and "/" not in name:
            if f"{name}/scale" not in names:
                message = f"{root}: kind {reference.kind} has no scale subresource"
                raise errors.NotFound(message, path=root, code=404)
            return name
    raise errors.NotFound(f"{root}: no kind {reference.kind}", path=root, code=404)

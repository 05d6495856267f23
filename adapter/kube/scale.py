"""The scale subresource of any workload: discover its path, read it, patch its replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapter.kube import errors
from adapter.kube.client import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A workload with a scale subresource, in the namespace of the object that refers to it."""

    name: str
    kind: str = "Deployment"
    api_version: str = "apps/v1"

    def __str__(self) -> str:
        """Kind and name, as in messages."""
        return f"{self.kind} {self.name}"


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
        document = await self._cluster.request("GET", await self._path(namespace, reference))
        spec, status = document.get("spec") or {}, document.get("status") or {}
        return Scale(
            replicas=int(status.get("replicas") or 0),
            spec_replicas=int(spec.get("replicas") or 0),
            selector=str(status.get("selector") or ""),
            uid=str((document.get("metadata") or {}).get("uid") or ""),
        )

    async def write(self, namespace: str, reference: Reference, replicas: int) -> None:
        """Set `spec.replicas` of a workload.

        Raises:
            NotFound: the workload, its kind, or its scale subresource does not exist.
            ApiError: the API server refused, or did not answer.

        """
        await self._cluster.request(
            "PATCH",
            await self._path(namespace, reference),
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def _path(self, namespace: str, reference: Reference) -> str:
        version = reference.api_version
        plural = self._plurals.get((version, reference.kind))
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if plural is None:
            plural = _plural(await self._cluster.request("GET", root), reference, root)
            self._plurals[version, reference.kind] = plural
        return f"{root}/namespaces/{namespace}/{plural}/{reference.name}/scale"


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

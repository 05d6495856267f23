"""`/scale` of any object: where it is, what it says, and how it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapter.kube.client import ApiError, Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An object with a `/scale`, in the namespace of whoever refers to it."""

    name: str
    kind: str = "Deployment"
    api_version: str = "apps/v1"

    def __str__(self) -> str:
        """As in messages."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One `autoscaling/v1` Scale.

    Attributes:
        replicas: that there are.
        wanted: that the spec asks for.
        selector: of its pods, as text; empty where it has none.

    """

    replicas: int
    wanted: int
    selector: str = ""
    uid: str = ""


class Scales:
    """The scale subresources of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._plurals: dict[tuple[str, str], str] = {("apps/v1", "Deployment"): "deployments"}

    async def read(self, namespace: str, reference: Reference) -> Scale:
        """What it says now.

        Raises:
            ApiError: there is none, or the cluster did not answer.

        """
        found = await self._cluster.request("GET", await self._path(namespace, reference))
        spec, status = found.get("spec") or {}, found.get("status") or {}
        return Scale(
            replicas=int(status.get("replicas") or 0),
            wanted=int(spec.get("replicas") or 0),
            selector=str(status.get("selector") or ""),
            uid=str((found.get("metadata") or {}).get("uid") or ""),
        )

    async def write(self, namespace: str, reference: Reference, replicas: int) -> None:
        """Ask for that many replicas.

        Raises:
            ApiError: there is none, we may not, or the cluster did not answer.

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
    """The resource of a kind, which must have a scale."""
    listed = [item for item in resources.get("resources") or () if isinstance(item, dict)]
    names = {str(item.get("name")) for item in listed}
    for item in listed:
        name = str(item.get("name"))
        if item.get("kind") == reference.kind and "/" not in name:
            if f"{name}/scale" not in names:
                raise ApiError(f"{root}: {reference.kind} has no /scale", code=404)
            return name
    raise ApiError(f"{root}: has no kind {reference.kind}", code=404)

"""Requests of the leader for VariantAutoscalings: statuses by server-side apply, owner references.

Both carry the resource version that they replace: one that is delayed until after another's is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from adapter.controller import status as variant_status
from adapter.controller.live.events import VARIANT
from adapter.kube import paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Conflict
from adapter.resources.variant import VariantSource

MANAGER = "variant-adapter"
"""Field manager of server-side apply."""

ATTEMPTS = 3
"""Attempts of one status write, of which all but the first follow a change of the object meanwhile."""


class StatusRequests:
    """Requests of a replica for as long as it leads."""

    def __init__(
        self, cluster: Cluster, *, leads: Callable[[], bool], transitions: Callable[[], int]
    ) -> None:
        """Make it.

        Args:
            cluster: API server.
            leads: whether this replica leads; others never write.
            transitions: transitions of the Lease that this replica holds.

        """
        self._cluster, self._leads, self._transitions = cluster, leads, transitions

    async def apply(
        self,
        key: str,
        uid: str,
        version: str,
        status: Mapping[str, Any],
        *,
        newest: Callable[[], bool],
    ) -> Mapping[str, Any] | None:
        """Apply a status to that version of the object; None where this replica must not, or has a newer one.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        namespace, _, name = key.partition("/")
        path = _path(namespace, name, subresource="status")
        for attempt in range(1, ATTEMPTS + 1):
            if not self._leads() or not newest():
                return None
            metadata = {"name": name, "namespace": namespace, "resourceVersion": version}
            status = {**status, variant_status.LEADER: self._transitions()}
            body = {**VARIANT, "metadata": metadata, "status": status}
            try:
                return await _apply(self._cluster, path, body)
            except Conflict:
                if attempt == ATTEMPTS or not self._leads():
                    raise
            # Somebody changed the object: the status still holds, as long as this replica leads, and
            # unless it was a newer status.
            current = (await self._cluster.request("GET", _path(namespace, name))).get(
                "metadata"
            ) or {}
            if str(current.get("uid")) != uid:
                return None
            version = str(current.get("resourceVersion"))
        return None

    async def own(self, source: VariantSource, metadata: Mapping[str, Any]) -> bool:
        """Add the scale target as an owner, unless it is one; `metadata`: of the variant as last seen.

        Returns:
            Whether it was added.

        Raises:
            ApiError: the API server refused, or did not answer.

        """
        if _owned(metadata, source):
            return False
        # The watch keeps only a part of many owners, and a patch of the list replaces all of them.
        path = _path(source.namespace, source.name)
        current = (await self._cluster.request("GET", path)).get("metadata") or {}
        if current.get("uid") != metadata.get("uid") or _owned(current, source):
            return False
        # The resource version protects owners that others add meanwhile.
        owners = [*(current.get("ownerReferences") or ()), _owner(source)]
        version = current.get("resourceVersion")
        body = {"metadata": {"resourceVersion": version, "ownerReferences": owners}}
        try:
            await self._cluster.request(
                "PATCH",
                path,
                body=body,
                content_type="application/merge-patch+json",
            )
        except Conflict:
            return False  # somebody has just written it: at the next cycle
        return True


def _owned(metadata: Mapping[str, Any], source: VariantSource) -> bool:
    """Whether the scale target is an owner of the variant with these metadata."""
    owners = metadata.get("ownerReferences") or ()
    return any(owner.get("uid") == source.target_uid for owner in owners)


def _owner(source: VariantSource) -> dict[str, str]:
    """The scale target as an owner."""
    reference = source.reference
    return {
        "apiVersion": reference.api_version,
        "kind": reference.kind,
        "name": reference.name,
        "uid": source.target_uid,
    }


def _path(namespace: str, name: str, *, subresource: str = "") -> str:
    return paths.item(
        VARIANT["apiVersion"],
        "variantautoscalings",
        name,
        namespace=namespace,
        subresource=subresource,
    )


async def _apply(cluster: Cluster, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Apply a status; without what an older CRD does not have a field for.

    Raises:
        ApiError: it was not applied.

    """
    query = (("fieldManager", MANAGER), ("force", "true"))
    kind = "application/apply-patch+yaml"
    status = body["status"]
    while True:
        try:
            body = {**body, "status": status}
            return await cluster.request("PATCH", path, body=body, query=query, content_type=kind)
        except ApiError as error:
            unknown = [name for name in variant_status.NEWER if f".status.{name}" in str(error)]
            if not status.keys() & set(unknown):
                raise
        status = {name: value for name, value in status.items() if name not in unknown}

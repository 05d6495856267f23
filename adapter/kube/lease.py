"""The Lease of `coordination.k8s.io` as `leadership` wants it: read, create, write over a version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapter.kube.client import ApiError, Cluster
from adapter.kube.leader_election import LeaseConflictError, LeaseRecord, LeaseUnavailableError

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class KubernetesLease:
    """One Lease of a cluster."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._others: Mapping[str, Any] = {}

    async def read(self) -> tuple[LeaseRecord, str] | None:
        """The record and its version; None if there is none yet."""
        try:
            found = await self._cluster.request("GET", f"{self._path}/{self._name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise LeaseUnavailableError(str(error)) from error
        return self._parsed(found)

    async def create(self, record: LeaseRecord) -> str:
        """Write the first one; gives the version."""
        self._others = {}
        return await self._write("POST", self._path, record, {})

    async def update(self, record: LeaseRecord, version: str) -> str:
        """Write over that version; gives the new one."""
        path = f"{self._path}/{self._name}"
        return await self._write("PUT", path, record, {"resourceVersion": version})

    async def _write(
        self, method: str, path: str, record: LeaseRecord, metadata: dict[str, str]
    ) -> str:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            # Labels and owners that others put there stay.
            "metadata": {
                **self._others,
                **metadata,
                "name": self._name,
                "namespace": self._namespace,
            },
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration_seconds,
                "acquireTime": record.acquired_at.astimezone(UTC).strftime(_TIME),
                "renewTime": record.renewed_at.astimezone(UTC).strftime(_TIME),
                "leaseTransitions": record.transitions,
            },
        }
        try:
            found = await self._cluster.request(method, path, body=body)
        except ApiError as error:
            if error.code == 409:
                raise LeaseConflictError(str(error)) from error
            raise LeaseUnavailableError(str(error)) from error
        return str((found.get("metadata") or {}).get("resourceVersion") or "")

    def _parsed(self, found: Mapping[str, Any]) -> tuple[LeaseRecord, str]:
        metadata, spec = found.get("metadata") or {}, found.get("spec") or {}
        self._others = {
            name: metadata[name]
            for name in ("labels", "annotations", "ownerReferences", "finalizers")
            if name in metadata
        }
        record = LeaseRecord(
            holder=str(spec.get("holderIdentity") or ""),
            duration_seconds=int(spec.get("leaseDurationSeconds") or 0),
            acquired_at=_time(spec.get("acquireTime")),
            renewed_at=_time(spec.get("renewTime")),
            transitions=int(spec.get("leaseTransitions") or 0),
        )
        return record, str(metadata.get("resourceVersion") or "")


def _time(text: object) -> datetime:
    """A MicroTime; what is none is long ago, because only people read it."""
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)

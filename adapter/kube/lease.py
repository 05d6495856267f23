"""The Lease of `coordination.k8s.io` of leader election: read, create, update with optimistic locking."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapter.kube import errors, paths
from adapter.kube.client import Cluster
from adapter.kube.leader_election import LeaseConflictError, LeaseRecord, LeaseUnavailableError

LEASES = "coordination.k8s.io/v1"

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class KubernetesLease:
    """One Lease of a cluster."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._collection = paths.collection(LEASES, "leases", namespace=namespace)
        self._path = paths.item(LEASES, "leases", name, namespace=namespace)
        self._others: Mapping[str, Any] = {}

    async def read(self) -> tuple[LeaseRecord, str] | None:
        """The record and its resource version; None where no Lease exists yet."""
        try:
            lease = await self._cluster.request("GET", self._path)
        except errors.NotFound:
            return None
        except errors.ApiError as error:
            raise LeaseUnavailableError(str(error)) from error
        return self._parsed(lease)

    async def create(self, record: LeaseRecord) -> str:
        """Create the Lease; give its resource version."""
        self._others = {}
        return await self._write("POST", self._collection, record, {})

    async def update(self, record: LeaseRecord, version: str) -> str:
        """Replace that resource version; give the new one."""
        return await self._write("PUT", self._path, record, {"resourceVersion": version})

    async def _write(
        self, method: str, path: str, record: LeaseRecord, metadata: dict[str, str]
    ) -> str:
        body = {
            "apiVersion": LEASES,
            "kind": "Lease",
            # Labels and owner references set by others stay.
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
            lease = await self._cluster.request(method, path, body=body)
        except errors.Conflict as error:
            raise LeaseConflictError(str(error)) from error
        except errors.ApiError as error:
            raise LeaseUnavailableError(str(error)) from error
        return str((lease.get("metadata") or {}).get("resourceVersion") or "")

    def _parsed(self, lease: Mapping[str, Any]) -> tuple[LeaseRecord, str]:
        metadata, spec = lease.get("metadata") or {}, lease.get("spec") or {}
        self._others = {
            name: metadata[name]
            for name in ("labels", "annotations", "ownerReferences", "finalizers")
            if name in metadata
        }
        return parsed(spec), str(metadata.get("resourceVersion") or "")


def parsed(spec: Mapping[str, Any]) -> LeaseRecord:
    """The record of a Lease's spec; what is odd in it is empty, 0 or the epoch."""
    return LeaseRecord(
        holder=str(spec.get("holderIdentity") or ""),
        duration_seconds=_whole(spec.get("leaseDurationSeconds")),
        acquired_at=_time(spec.get("acquireTime")),
        renewed_at=_time(spec.get("renewTime")),
        transitions=_whole(spec.get("leaseTransitions")),
    )


def _whole(value: object) -> int:
    """A number of the Lease; 0 for anything else."""
    return value if isinstance(value, int) and value >= 0 else 0


def _time(text: object) -> datetime:
    """A MicroTime in UTC; the epoch for text that is not one, as these times are for people only."""
    try:
        return max(datetime.fromisoformat(str(text)).astimezone(UTC), _EPOCH)
    except (ValueError, OverflowError):
        return _EPOCH


_EPOCH = datetime.fromtimestamp(0, UTC)

"""Events about variants: recorded after their statuses, as nothing may wait for what only people read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from adapter.auth.allowance import Allowances
from adapter.controller import status as variant_status
from adapter.controller.live.turns import FairWrites
from adapter.kube import paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError

log = structlog.get_logger()

CONTROLLER = "llmd.ai/variant-adapter"
"""Reporting controller of Events."""

CONCURRENCY = 8
"""Events that are written at the same time."""

NOTE_LIMIT = 1024
"""Characters of an Event's note, the API's limit."""

BURST, PER_SECOND = 25, 1 / 30
"""Events of one variant at once, and per second after that: a tenant that edits its variant again and again
changes its target in every cycle. Recorders of Kubernetes' own controllers have such a limit too, with a
longer pause: https://pkg.go.dev/k8s.io/client-go/tools/record#EventSpamKeyFunc"""

NAMESPACE_BURST, NAMESPACE_PER_SECOND = 1000, 5.0
"""The same for all variants of one namespace, also those that are made anew under other names."""

VARIANT = {"apiVersion": "llmd.ai/v1alpha1", "kind": "VariantAutoscaling"}


class EventWriter:
    """Records Events about variants."""

    def __init__(self, cluster: Cluster, *, identity: str, now: Callable[[], float]) -> None:
        self._cluster = cluster
        self._identity = identity
        self._now = now
        self._due, self._number = FairWrites(CONCURRENCY), 0
        self._of_variants = Allowances(burst=BURST, per_second=PER_SECOND)
        self._of_namespaces = Allowances(burst=NAMESPACE_BURST, per_second=NAMESPACE_PER_SECOND)

    def add(self, key: str, uid: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Record the Events of a status later; each is of one change, and none takes another's place."""
        self._number += 1
        self._due.add(f"{key}#{self._number}", partial(self._record, key, uid, before, after))

    async def write(self) -> None:
        """Write those that are due."""
        await self._due.wait()

    def stop(self) -> None:
        """Write no more of them."""
        self._due.stop()

    async def _record(
        self, key: str, uid: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Record the Events of one status; those that cannot be made fail no cycle."""
        try:
            await self._record_all(key, uid, before, after)
        except Exception:
            log.exception("Events cannot be made; continuing without", variant=key)

    async def _record_all(
        self, key: str, uid: str, before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> None:
        """Record Events for a new target and for conditions that turned bad."""
        was, new = (item.get("desiredOptimizedAlloc") or {} for item in (before, after))
        if new and (was.get("numReplicas"), was.get("accelerator")) != (
            new["numReplicas"],
            new["accelerator"],
        ):
            reason = variant_status.conditions(after)["OptimizationReady"]["message"]
            from_ = was.get("numReplicas", "no target")
            note = f"{from_} -> {new['numReplicas']} replicas of {new['accelerator']}: {reason}"
            await self._create(key, uid, "Normal", "ScalingDecision", note)
        last = variant_status.conditions(before)
        noted = set()
        for kind, item in variant_status.conditions(after).items():
            former = last.get(kind) or {}
            same = (former.get("status"), former.get("reason")) == (item["status"], item["reason"])
            bad = item["status"] == "False" or item["reason"] == "CapacityShort"
            if bad and not same and item["message"] not in noted:
                noted.add(item["message"])
                await self._create(key, uid, "Warning", str(item["reason"]), str(item["message"]))
            elif kind == variant_status.ACCURATE and not bad and not same:
                await self._create(key, uid, "Normal", str(item["reason"]), str(item["message"]))

    def _may_write(self, key: str, namespace: str) -> bool:
        now = asyncio.get_running_loop().time()
        return self._of_variants.of(key).take(now) and self._of_namespaces.of(namespace).take(now)

    async def _create(self, key: str, uid: str, kind: str, reason: str, note: str) -> None:
        namespace, _, name = key.partition("/")
        # The conditions and the log say what is left out here.
        if not self._may_write(key, namespace):
            return
        at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        regarding = {**VARIANT, "namespace": namespace, "name": name, "uid": uid}
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name[:200]}-", "namespace": namespace},
            "eventTime": at,
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity[:128],
            "action": "Optimize",
            "type": kind,
            "reason": reason,
            "regarding": regarding,
            "note": note[:NOTE_LIMIT],
        }
        try:
            path = paths.collection("events.k8s.io/v1", "events", namespace=namespace)
            await self._cluster.request("POST", path, body=body)
        except ApiError as error:
            # The conditions and the log say the same.
            log.info("Event not written; continuing without", variant=key, error=str(error))

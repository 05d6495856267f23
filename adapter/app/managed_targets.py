"""Targets of HPAs that stand for a VariantAutoscaling: a ConfigMap holds them, as they have no `.status`.

The leader writes it when a target changes, and before the others would take it for too old. A new leader
writes it once in any case: what a former leader sent bears the resource version before that, and is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from adapter.controller.state import VariantState
from adapter.controller.status import class_of_target
from adapter.installation import MANAGED_TARGETS
from adapter.kube import advice, paths
from adapter.kube.client import Cluster
from adapter.kube.errors import ApiError, Conflict
from adapter.resources.wva import managed

log = structlog.get_logger()

LEADER = "llmd.ai/leader-transitions"
"""Annotation of the ConfigMap: transitions of the Lease that the leader which wrote it held."""

KEY_LENGTH = 253
"""Most characters of a key of a ConfigMap; the API server refuses the whole of it for a longer one."""

MOST_BYTES = 900 * 1024
"""Most bytes of all entries: the API server allows 1 MiB."""

Object = Mapping[str, Any]


class ManagedTargets:
    """Writes the ConfigMap; only the leader does."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        watched: Callable[[], Object | None],
        leads: Callable[[], bool],
        transitions: Callable[[], int],
        refresh_seconds: float,
    ) -> None:
        """Make a writer.

        Args:
            cluster: API server.
            namespace: namespace of the adapter.
            watched: gives the ConfigMap as last seen; None where it does not exist.
            leads: whether this replica leads.
            transitions: transitions of the Lease that this replica holds.
            refresh_seconds: age after which an unchanged target is written again.

        """
        self._cluster = cluster
        self._path = paths.item("v1", "configmaps", MANAGED_TARGETS, namespace=namespace)
        self._watched = watched
        self._leads = leads
        self._transitions = transitions
        self._refresh = refresh_seconds
        self._problem = ""

    async def write(self, states: Mapping[str, VariantState]) -> None:
        """Write the targets of these variants, which have no object, where something changed."""
        item = self._watched()
        if item is None or not self._leads():
            if item is None and states:
                self._failed(
                    "the ConfigMap is missing; kubectl apply -f manifests/base/managed-targets.yaml makes it"
                )
            return
        before = item.get("data") or {}
        targets = {key: _target(state) for key, state in states.items()}
        kept = fitting({key: _text(target) for key, target in targets.items() if target})
        entries = {managed.entry(key): targets[key] for key in kept}
        changes: dict[str, str | None] = {
            name: _text(target)
            for name, target in entries.items()
            if target is not None and self._differs(before.get(name), target)
        }
        changes |= dict.fromkeys(name for name in before if entries.get(name) is None)
        leader = str(self._transitions())
        written = (item["metadata"].get("annotations") or {}).get(LEADER)
        if not changes and (not entries or written == leader):
            return
        # The resource version protects what another leader wrote meanwhile.
        metadata = {
            "resourceVersion": item["metadata"].get("resourceVersion"),
            "annotations": {LEADER: leader},
        }
        try:
            await self._cluster.request(
                "PATCH",
                self._path,
                body={"metadata": metadata, "data": changes},
                content_type="application/merge-patch+json",
            )
        except Conflict:
            return  # the watch lags behind; the next cycle writes
        except ApiError as error:
            self._failed(advice.explained(error))
            return
        beyond = sum(target is not None for target in targets.values()) - len(kept)
        if beyond:
            self._failed(f"{beyond} of them do not fit into it, or have names that are too long")
        else:
            self._problem = ""

    def _failed(self, problem: str) -> None:
        if problem != self._problem:
            log.warning(
                "targets of managed HPAs not written; other replicas do not serve them",
                name=MANAGED_TARGETS,
                error=problem,
            )
        self._problem = problem

    def _differs(self, text: str | None, target: Mapping[str, Any]) -> bool:
        """Whether a target is another one, or so much later that it has to be written."""
        try:
            before = json.loads(text or "{}")
            old, new = (datetime.fromisoformat(item[_TIME]) for item in (before, target))
        except (ValueError, KeyError, TypeError, RecursionError):
            return True
        same = all(before.get(name) == target[name] for name in target if name != _TIME)
        return not same or (new - old).total_seconds() >= self._refresh


_TIME = "lastRunTime"


def fitting(texts: Mapping[str, str]) -> list[str]:
    """Keys of the variants whose entries fit into the ConfigMap, in turn of every namespace.

    Args:
        texts: what is to be written, by key of the variant.

    """
    ranked: list[tuple[int, str]] = []
    numbers: Counter[str] = Counter()
    for key in sorted(texts):
        if len(managed.entry(key)) <= KEY_LENGTH:
            namespace = key.partition("/")[0]
            ranked.append((numbers[namespace], key))
            numbers[namespace] += 1
    kept: list[str] = []
    size = 0
    for _, key in sorted(ranked):
        size += len(managed.entry(key)) + len(texts[key].encode())
        if size > MOST_BYTES:
            break
        kept.append(key)
    return kept


def _target(state: VariantState) -> dict[str, Any] | None:
    """A target as `.status.desiredOptimizedAlloc` would hold it; None without one."""
    if state.desired is None:
        return None
    return {
        _TIME: datetime.fromtimestamp(int(state.decided_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "accelerator": state.accelerator,
        "numReplicas": state.desired,
        "serviceClass": class_of_target(state.source),
    }


def _text(target: Mapping[str, Any]) -> str:
    return json.dumps(target)

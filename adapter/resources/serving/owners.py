"""Which workload a pod is of: a selector may match pods of others too, which are theirs alone.

Controllers go by owner references, and `/scale` gives a selector only.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from adapter.kube import labels
from adapter.kube.scale import Reference
from adapter.resources.serving import groups

Owner = tuple[str, str]
"""Kind and name of a workload."""

_TEMPLATE_HASH = "pod-template-hash"
"""Label of a Deployment's pods; their ReplicaSet's name ends with it."""

_SETS = {_TEMPLATE_HASH: "Deployment", "rollouts-pod-template-hash": "Rollout"}
"""Labels of the selectors of ReplicaSets that these kinds made; their names end with the value."""

OWN_PODS = frozenset({"Deployment", "StatefulSet"})
"""Kinds whose pods have them as controller, through a ReplicaSet or directly."""

_OF_ROLES = (
    (groups.DISAGGREGATED, groups.DISAGGREGATED_ROLE, groups.ROLE_SET),
    (
        "rbg.workloads.x-k8s.io/group-name",
        "rbg.workloads.x-k8s.io/role-name",
        "RoleBasedGroup",
    ),
    (
        "rolebasedgroup.workloads.x-k8s.io/name",
        "rolebasedgroup.workloads.x-k8s.io/role",
        "RoleBasedGroup",
    ),
)
"""Labels of pods with the name of an object that has several roles, and with the role; kind of the object."""

_COUNTED = OWN_PODS | {"ReplicaSet"}
"""Kinds each of whose replicas is one pod, which they control themselves."""

_OTHERS = OWN_PODS | {"DaemonSet", "Job"}
"""Kinds of controllers whose pods are of no other workload that has its pods so."""


def of_pod(metadata: Mapping[str, Any]) -> Owner | None:
    """The workload that controls a pod; None where that is not known.

    A ReplicaSet that one Deployment made and another one adopted has the name of the first still.
    """
    owners = metadata.get("ownerReferences") or ()
    owner = next((item for item in owners if item.get("controller")), None)
    if owner is None:
        return None
    kind, name = str(owner.get("kind") or ""), str(owner.get("name") or "")
    if kind == "ReplicaSet":
        end = f"-{(metadata.get('labels') or {}).get(_TEMPLATE_HASH) or ''}"
        return ("Deployment", name.removesuffix(end)) if end != "-" and name.endswith(end) else None
    return (kind, name)


def controlled(metadata: Mapping[str, Any]) -> bool:
    """Whether any workload controls a pod."""
    return any(item.get("controller") for item in metadata.get("ownerReferences") or ())


def holding_for(
    pods: Iterable[Mapping[str, Any]], workload: Owner, replicas: int
) -> list[Mapping[str, Any]]:
    """The pods that hold devices as replicas of a scale target, out of those that its selector matches.

    A selector may also match pods of Jobs, or pods that somebody created by hand: these keep their devices
    whatever is decided for the target. Of pods whose owner is not known, at most `replicas` count.
    """
    matching = [pod for pod in pods if pod["owner"] in {None, workload} or _may_be(pod, workload)]
    if any(pod.get("controlled") for pod in matching):
        matching = [pod for pod in matching if pod.get("controlled")]
    if workload[0] not in _COUNTED:
        return matching
    own = [pod for pod in matching if pod["owner"] == workload]
    doubtful = [pod for pod in matching if pod["owner"] != workload]
    return [*own, *doubtful[: max(replicas - len(own), 0)]]


def _may_be(pod: Mapping[str, Any], workload: Owner) -> bool:
    """Whether a pod with another controller may be of a workload whose kind makes such controllers."""
    return workload[0] not in _COUNTED and pod["owner"][0] not in {"DaemonSet", "Job"}


def exclusive(
    pod: Mapping[str, Any], deployments: Container[tuple[str, str]] | None = None
) -> Owner | None:
    """The workload that alone may count a pod; None where every one may whose selector matches it.

    `deployments`: Namespace and name of all; None: not known. One that is not there has no pods.
    """
    owner: Owner | None = pod.get("owner")
    if owner is None or owner[0] not in _OTHERS:
        return None
    if owner[0] == "Deployment" and deployments is not None:
        return owner if (pod["metadata"]["namespace"], owner[1]) in deployments else None
    return owner


def of_role(pods: Iterable[Mapping[str, Any]]) -> str:
    """The one role of an object with several whose pods these all are; empty where they are of none.

    Its scaler and the workload that its controller makes of the role are one scale target.
    """
    known = list(pods)
    for name, role, kind in _OF_ROLES:
        named = {tuple(pod["metadata"]["labels"].get(key) for key in (name, role)) for pod in known}
        own, part = named.pop() if len(named) == 1 else (None, None)
        if own and part:
            return f"{kind} {own}, role {part}"
    return ""


def made_by(
    namespace: str,
    reference: Reference,
    selector: labels.Selector,
    deployments: Container[tuple[str, str]],
) -> Owner | None:
    """The workload that made a scale target and sets its replicas; None where it is known to be of none.

    It is in the selector: a ReplicaSet's has the hash that its name ends with, and that of a StatefulSet of
    leaders the name of the LeaderWorkerSet. Both have the consent to patches that their workload has.
    """
    equal = selector.equalities()
    if (reference.api_version, reference.kind) == ("apps/v1", "StatefulSet"):
        return ("LeaderWorkerSet", equal[groups.NAME]) if groups.NAME in equal else None
    if (reference.api_version, reference.kind) != ("apps/v1", "ReplicaSet"):
        return None
    for label, kind in _SETS.items():
        end = f"-{equal.get(label, '')}"
        if end != "-" and reference.name.endswith(end):
            name = reference.name.removesuffix(end)
            orphan = kind == "Deployment" and (namespace, name) not in deployments
            return None if orphan else (kind, name)
    return None

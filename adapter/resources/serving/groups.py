"""Replicas that are groups of pods: LeaderWorkerSet and what is made of it, and groups of other controllers.

A LeaderWorkerSet's `/scale` selects leaders only, which are the replicas, and that of AIBrix's
RayClusterFleet the heads of its Ray clusters. Workers hold GPUs too, and some serve. Kthena's ModelServing,
AIBrix's StormService, Grove's scaling groups and KAITO's InferenceSet select all pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapter.kube import labels

NAME = "leaderworkerset.sigs.k8s.io/name"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""Labels of the pods of a group; the leader's index is 0."""

GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
"""Label with the number of a pod's group."""

_FLEET, _NODE_TYPE = "orchestration.aibrix.ai/raycluster-fleet-name", "ray.io/node-type"
"""Labels of the pods of a RayClusterFleet; the type of a cluster's head is `head`."""

_OF_GROUPS = (
    (NAME, GROUP_INDEX),
    ("ray.io/cluster",),
    ("modelserving.volcano.sh/name", "modelserving.volcano.sh/group-name"),
    ("storm-service-name", "roleset-name"),
    ("grove.io/podcliquescalinggroup", "grove.io/podcliquescalinggroup-replica-index"),
    ("rbg.workloads.x-k8s.io/group-name", "rbg.workloads.x-k8s.io/role-instance-name"),
    ("inferenceset.kaito.sh/created-by", "kaito.sh/workspace"),
)
"""Labels that the pods of one replica have in common, by its controller."""

DISAGGREGATED, DISAGGREGATED_ROLE = (
    "disaggregatedset.x-k8s.io/name",
    "disaggregatedset.x-k8s.io/role",
)
"""Labels of the pods of a DisaggregatedSet, whose scaler of a role selects leaders of all of its sets."""

_OF_LEADERS = ((NAME, WORKER_INDEX), (DISAGGREGATED, WORKER_INDEX), (_FLEET, _NODE_TYPE))
"""Labels in selectors of leaders: that of the set, and that which tells leaders from the others."""

ROLE_SCALER, ROLE_SET = "DisaggregatedSetRoleScaler", "DisaggregatedSet"
"""Kinds of `disaggregatedset.x-k8s.io`: the scale target of one role, and the set of all roles, which has no
`/scale`."""
NO_SCALE = (
    "a DisaggregatedSet has no /scale of its own; name the DisaggregatedSetRoleScaler of one role"
    " (kubectl get disaggregatedsetrolescalers)"
)


def leaders(pods: Iterable[Mapping[str, Any]]) -> int:
    """Groups that these pods are: those with index 0; pods without an index are groups of their own."""
    return sum(pod["metadata"]["labels"].get(WORKER_INDEX, "0") == "0" for pod in pods)


def of_pod(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """What a pod has in common with the others of its group; its own name where it is in none."""
    labelled = pod["metadata"]["labels"]
    for names in _OF_GROUPS:
        if all(name in labelled for name in names):
            return tuple(labelled[name] for name in names)
    return (str(pod["metadata"].get("name")),)


def beside(pods: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Group of each endpoint, of groups of several pods; empty for one of a group that is not ready whole.

    Where one pod of a group serves, the others have no server, and none answers while that one starts.
    """
    by_group: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for pod in pods:
        by_group.setdefault(of_pod(pod), []).append(pod)
    return {
        str(url): "/".join(group) if all(pod["ready"] for pod in members) else ""
        for group, members in by_group.items()
        if len(members) > 1
        for member in members
        for url in member["urls"]
    }


def members(selector: labels.Selector) -> labels.Selector:
    """The selector of all pods of the groups whose leaders a selector selects; another one as it is."""
    keys = {requirement.key for requirement in selector.requirements}
    for of_set, of_leader in _OF_LEADERS:
        if {of_set, of_leader} <= keys:
            return labels.Selector(
                tuple(item for item in selector.requirements if item.key != of_leader)
            )
    return selector

"""Replicas that are groups of pods: LeaderWorkerSet and what is made of it.

Its `/scale` selects leaders only, which are the replicas. Workers hold GPUs too, and some serve.
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
    if NAME in labelled and GROUP_INDEX in labelled:
        return labelled[NAME], labelled[GROUP_INDEX]
    return (str(pod["metadata"].get("name")),)


def members(selector: labels.Selector) -> labels.Selector:
    """The selector of all pods of the groups whose leaders a selector selects; another one as it is."""
    keys = {requirement.key for requirement in selector.requirements}
    if not {NAME, WORKER_INDEX} <= keys:
        return selector
    requirements = tuple(item for item in selector.requirements if item.key != WORKER_INDEX)
    return labels.Selector(requirements)

"""Replicas that are groups of pods: LeaderWorkerSet and what is made of it.

Its `/scale` selects leaders only, which are the replicas. Workers hold GPUs too, and some serve.
"""

from __future__ import annotations

from adapter.kube import labels

NAME = "leaderworkerset.sigs.k8s.io/name"
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""Labels of the pods of a group; the leader's index is 0."""


def members(selector: labels.Selector) -> labels.Selector:
    """The selector of all pods of the groups whose leaders a selector selects; another one as it is."""
    keys = {requirement.key for requirement in selector.requirements}
    if not {NAME, WORKER_INDEX} <= keys:
        return selector
    requirements = tuple(item for item in selector.requirements if item.key != WORKER_INDEX)
    return labels.Selector(requirements)

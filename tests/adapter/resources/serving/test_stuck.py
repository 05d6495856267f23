"""Pods that will not serve soon are told apart from those that start."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.kube import labels
from adapter.resources import pods

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}


def waiting(reason: str) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": reason}}}]}


@pytest.mark.parametrize(
    ("status", "unschedulable", "failing"),
    [
        ({"phase": "Pending", "conditions": [UNSCHEDULABLE]}, 1, 0),
        ({"phase": "Pending", "conditions": [GATED]}, 0, 0),
        (waiting("ContainerCreating"), 0, 0),
        (waiting("CrashLoopBackOff"), 0, 1),
        (waiting("ImagePullBackOff"), 0, 1),
        ({"initContainerStatuses": waiting("ErrImagePull")["containerStatuses"]}, 0, 1),
        ({"phase": "Failed"}, 0, 1),
        ({"phase": "Running", "containerStatuses": None, "conditions": None}, 0, 0),
    ],
)
def test_what_keeps_a_pod_from_serving(
    status: dict[str, Any], unschedulable: int, failing: int
) -> None:
    """By its conditions and the state of its containers; a pod that starts is neither."""
    pod = {"metadata": {"name": "p", "namespace": "n", "labels": {"app": "v"}}, "status": status}
    serving = pods.ByLabel([pods.trimmed(pod)]).serving("n", labels.parse("app=v"))
    assert (serving.unschedulable, serving.failing, serving.existing) == (unschedulable, failing, 1)
    assert serving.endpoints == ()

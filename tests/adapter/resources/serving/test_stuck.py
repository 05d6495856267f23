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


def ran(name: str, restarts: int, started: str) -> dict[str, Any]:
    """Status of a container that runs."""
    return {
        "name": name,
        "restartCount": restarts,
        "state": {"running": {"startedAt": started} if started else None},
    }


@pytest.mark.parametrize(
    ("containers", "at"),
    [
        ([ran("vllm", 2, "2026-11-28T10:00:05Z")], 1795860005.0),
        ([ran("vllm", 0, "2026-11-28T10:00:05Z")], None),
        ([ran("vllm", 1, "2026-11-28T10:00:05Z"), ran("exporter", 9, "2026-11-28T11:00:00Z")], 1795860005.0),
        ([ran("exporter", 9, "2026-11-28T11:00:00Z")], None),
        ([ran("vllm", 1, "")], None),
        ([ran("vllm", 1, "soon")], None),
    ],
)  # fmt: skip
def test_when_a_server_started_again(containers: list[dict[str, Any]], at: float | None) -> None:
    """By the status of the container that serves, of each of its endpoints; one that never did has none."""
    ports = [{"containerPort": 8000}, {"containerPort": 8001}]
    pod = {
        "metadata": {"name": "p", "namespace": "n", "labels": {"app": "v"}},
        "spec": {"containers": [{"name": "vllm", "ports": ports}, {"name": "exporter"}]},
        "status": {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": containers,
        },
    }
    serving = pods.ByLabel([pods.trimmed(pod)]).serving("n", labels.parse("app=v"))
    assert len(serving.endpoints) == 2
    assert serving.restarts == ({} if at is None else dict.fromkeys(serving.endpoints, at))
    assert serving.counts["restarts"] == serving.restarts


@pytest.mark.parametrize("gpus", [0, 1])
def test_of_several_servers_in_a_pod_no_start_is_that_of_an_endpoint(gpus: int) -> None:
    """Else the counters of one that fall were proven to begin anew by another one that crashes."""
    held = {"limits": {"nvidia.com/gpu": gpus}} if gpus else {}
    servers = [
        {"name": name, "resources": held, "ports": [{"containerPort": port}]}
        for name, port in (("a", 8000), ("b", 9000))
    ]
    pod = {
        "metadata": {"name": "p", "namespace": "n", "labels": {"app": "v"}},
        "spec": {"containers": servers},
        "status": {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [ran("a", 0, "2026-11-28T09:00:00Z"), ran("b", 7, "2026-11-28T10:00:05Z")],
        },
    }  # fmt: skip
    serving = pods.ByLabel([pods.trimmed(pod)]).serving("n", labels.parse("app=v"))
    assert serving.endpoints
    assert serving.restarts == {}

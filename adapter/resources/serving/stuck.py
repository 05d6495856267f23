"""Pods that will not serve soon: the scheduler has no node for them, or their containers fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNSCHEDULABLE, FAILING = "unschedulable", "failing"

_WAITING = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons of waiting containers that do not pass by themselves."""


def of_pod(status: Mapping[str, Any]) -> str:
    """What keeps a pod from serving, by its status: UNSCHEDULABLE, FAILING, or empty for nothing known."""
    for item in status.get("conditions") or ():
        if (
            item.get("type") == "PodScheduled"
            and item.get("status") == "False"
            and item.get("reason") == "Unschedulable"
        ):
            return UNSCHEDULABLE
    containers = (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    )
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _WAITING:
            return FAILING
    return FAILING if status.get("phase") == "Failed" else ""

"""Pods that will not serve soon: no node has room, or containers fail; and when these started again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
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


def restarted_at(status: Mapping[str, Any], servers: AbstractSet[str]) -> float | None:
    """When the container that serves last started again, Unix seconds; None where it did not.

    Nor where several serve: a start of one of them says nothing of the counters of another.
    """
    for item in status.get("containerStatuses") or ():
        if servers == {item.get("name")} and item.get("restartCount"):
            running = (item.get("state") or {}).get("running") or {}
            with contextlib.suppress(ValueError, OverflowError):
                return datetime.fromisoformat(str(running.get("startedAt"))).timestamp()
    return None

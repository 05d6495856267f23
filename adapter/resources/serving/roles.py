"""Roles of replicas that share a request: one computes the prompt, another one generates.

Replicas that only prefill have no inter-token latency of a request, and those that only decode have no time
to first token: each is sized by the target that it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adapter.planning import fleet
from adapter.resources.variant import VariantSource

LABELS = ("llm-d.ai/role", "disaggregatedset.x-k8s.io/role")
"""Labels of pods with their role, the first one that is there counts."""

PREFILL, DECODE = "prefill", "decode"


def of_pods(pods: Iterable[Mapping[str, Any]]) -> str:
    """The role that all these pods have; empty where they have none, differ, or serve whole requests."""
    roles = {
        next(
            (
                pod["metadata"]["labels"][label]
                for label in LABELS
                if label in pod["metadata"]["labels"]
            ),
            "",
        )
        for pod in pods
    }
    role = roles.pop() if len(roles) == 1 else ""
    return role if role in {PREFILL, DECODE} else ""


def targets(role: str, given: fleet.Targets) -> fleet.Targets:
    """The targets that replicas of a role decide; all where they have none of these."""
    if role == PREFILL and given.ttft_ms:
        return replace(given, itl_ms=0.0, tps=0.0)
    if role == DECODE and (given.itl_ms or given.tps):
        return replace(given, ttft_ms=0.0)
    return given


class RoleClasses:
    """Service classes of variants with a role, made of those that they name."""

    def __init__(self) -> None:
        self._classes: dict[str, fleet.ServiceClass] = {}

    @property
    def classes(self) -> tuple[fleet.ServiceClass, ...]:
        """All classes that were made."""
        return tuple(self._classes.values())

    def apply(self, source: VariantSource, classes: Iterable[fleet.ServiceClass]) -> VariantSource:
        """The variant in a class that has only the targets which its role decides."""
        own = targets(source.role, source.targets)
        given = next((item for item in classes if item.name == source.service_class), None)
        if own == source.targets or given is None:
            return source
        name = f"{source.service_class} ({source.role})"
        before = self._classes.get(name)
        of_role = {**(before.targets if before else {}), source.model: own}
        self._classes[name] = replace(given, name=name, targets=of_role)
        return replace(source, targets=own, service_class=name)


def text(role: str) -> str:
    """What a role means for the size, for conditions; empty without one."""
    return {
        PREFILL: "role prefill: sized by time to first token",
        DECODE: "role decode: sized by inter-token latency",
    }.get(role, "")

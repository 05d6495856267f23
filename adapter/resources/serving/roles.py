"""Roles of replicas that share a request: one computes the prompt, another one generates.

Replicas that only prefill have no inter-token latency of a request, and those that only decode have no time
to first token: each is sized by the target that it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        self._given: dict[str, fleet.ServiceClass] = {}
        self._targets: dict[str, dict[str, fleet.Targets]] = {}

    @property
    def classes(self) -> tuple[fleet.ServiceClass, ...]:
        """All classes that were made."""
        return tuple(
            replace(given, name=name, targets=self._targets[name])
            for name, given in self._given.items()
        )

    def apply(
        self, source: VariantSource, named: Callable[[str], fleet.ServiceClass | None]
    ) -> VariantSource:
        """The variant in a class that has only the targets which its role decides.

        Args:
            source: the variant.
            named: gives a service class by its name; None where there is none.

        """
        own = targets(source.role, source.targets)
        given = None if own == source.targets else named(source.service_class)
        if given is None:
            return source
        name = f"{source.service_class} ({source.role})"
        # Its targets are put together once: a copy for each variant would take quadratic time.
        self._given[name] = given
        self._targets.setdefault(name, {})[source.model] = own
        return replace(source, targets=own, service_class=name)


def text(role: str) -> str:
    """What a role means for the size, for conditions; empty without one."""
    return {
        PREFILL: "role prefill: sized by time to first token",
        DECODE: "role decode: sized by inter-token latency",
    }.get(role, "")

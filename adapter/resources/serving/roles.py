"""Roles of replicas that share a request: one computes the prompt, another one generates.

Replicas that only prefill have no inter-token latency of a request, and those that only decode have no time
to first token: each is sized by the target that it decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from adapter.planning import fleet
from adapter.resources.variant import VariantSource

if TYPE_CHECKING:
    from adapter.resources.pods import Serving

LABELS = (
    "llm-d.ai/role",
    "disaggregatedset.x-k8s.io/role",
    "modelserving.volcano.sh/role",
    "rbg.workloads.x-k8s.io/role-name",
    "rolebasedgroup.workloads.x-k8s.io/role",
    "nvidia.com/dynamo-sub-component-type",
    "role-name",
)
"""Labels of pods with their role, the first one that is there counts: of llm-d, DisaggregatedSet, kthena,
RoleBasedGroup, Dynamo and AIBrix. Names of roles are their owners', who call them after what they do."""

PREFILL, DECODE, _BOTH = "prefill", "decode", "both"


def of_pod(pod: Mapping[str, Any]) -> str:
    """The one part of requests that a pod does, by its label, else by its flags; empty for whole ones."""
    labelled = pod["metadata"]["labels"]
    name = next((labelled[label] for label in LABELS if label in labelled), "").lower()
    parts = [part for part in (PREFILL, DECODE) if part in name]
    if not parts and name != _BOTH:
        return str(pod.get("role") or "")
    return parts[0] if len(parts) == 1 else ""


def of_pods(pods: Iterable[Mapping[str, Any]]) -> str:
    """The role that all these pods have; empty where they have none, differ, or serve whole requests."""
    roles = {of_pod(pod) for pod in pods}
    return roles.pop() if len(roles) == 1 else ""


def paired(pods: Iterable[Mapping[str, Any]], serving: Serving) -> Serving:
    """Serving pods of one scale target, where some prefill for others of it: each request is at both."""
    known = {str(pod["metadata"]["name"]): of_pod(pod) for pod in pods}
    if not {PREFILL, DECODE} <= set(known.values()):
        return serving
    named = zip(serving.endpoints, serving.names, strict=True)
    return replace(serving, prefilling=frozenset(e for e, n in named if known[n] == PREFILL))


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


def text(source: VariantSource) -> str:
    """What the roles of a variant's replicas mean for the size, for conditions; empty without any."""
    if source.prefilling:
        return "replicas of prefill and decode pods: a request is at both, and counts once"
    return {
        PREFILL: "role prefill: sized by time to first token",
        DECODE: "role decode: sized by inter-token latency",
    }.get(source.role, "")

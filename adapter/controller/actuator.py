"""Scaling without an HPA: patches the scale subresource, and wakes variants that an HPA leaves at zero.

A VariantAutoscaling alone is no permission to scale what it names: its creator may have no rights on that. A
scale target is patched only where it carries the consent itself, or its namespace does.

A patch is fenced twice: by the resource version of the target, and by the number of transitions of the
Lease, with which the name of its field manager ends. The admission policy of the overlay `actuate` compares
that with the Lease, so that a patch of a former leader is refused whenever it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from adapter.controller.state import VariantState
from adapter.kube import advice
from adapter.kube.errors import ApiError, Conflict, Forbidden, NotFound
from adapter.kube.scale import Reference, Scales
from adapter.resources.annotations import ALLOW_SCALE

log = structlog.get_logger()

_ATTEMPTS = 2
"""Attempts of one patch, of which the second follows a change of the target meanwhile."""

MANAGER_PREFIX = "variant-adapter-"
"""Start of the field manager of patches, before the number of transitions of the Lease."""

_OVERLAY = "kubectl apply -k manifests/overlays/actuate"


@dataclass(frozen=True, slots=True)
class Unapplied:
    """Why a scale target was not patched.

    Attributes:
        reason: Reason of the condition TargetResolved.
        message: What is missing, and what to do.

    """

    reason: Literal["ScaleNotAllowed", "ScaleFailed"]
    message: str

    def __str__(self) -> str:
        """The message."""
        return self.message


class Actuator:
    """Sets the replicas of scale targets where no HPA does."""

    def __init__(
        self,
        scales: Scales,
        *,
        default: bool,
        leads: Callable[[], bool],
        transitions: Callable[[], int],
    ) -> None:
        """Make an actuator.

        Args:
            scales: scale subresources of the cluster.
            default: whether to patch for variants without the annotation llmd.ai/actuate.
            leads: whether this replica leads; others never patch.
            transitions: transitions of the Lease that this replica holds.

        """
        self._scales = scales
        self._default = default
        self._leads = leads
        self._transitions = transitions
        self._logged: dict[str, Unapplied] = {}

    async def act(
        self, states: Mapping[str, VariantState], waking: frozenset[str]
    ) -> dict[str, Unapplied]:
        """Patch the scale targets that differ; give what kept others from it, by variant key.

        Args:
            states: variants after a reconcile cycle.
            waking: keys of variants at zero that have waiting requests.

        """
        unapplied: dict[str, Unapplied] = {}
        for key, state in states.items():
            replicas = self._replicas(state, wake=key in waking)
            if replicas is None or not self._leads():
                continue
            source = state.source
            problem = await self._patch(source.namespace, source.reference, replicas)
            if problem is None:
                log.info(
                    "scale target patched",
                    variant=key,
                    target=str(source.reference),
                    replicas=replicas,
                    before=source.spec_replicas,
                )
                continue
            unapplied[key] = problem
            if self._logged.get(key) != problem:
                log.warning(
                    "scale target not patched; retrying at the next optimization cycle",
                    variant=key,
                    error=problem.message,
                )
        others = {key: why for key, why in self._logged.items() if key not in states}
        self._logged = others | unapplied
        return unapplied

    async def _patch(self, namespace: str, reference: Reference, replicas: int) -> Unapplied | None:
        """Patch one target that allows it; None where that was done."""
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                workload = await self._scales.workload(namespace, reference)
                if not allows(workload.annotations) and not await self._namespace_allows(namespace):
                    return _not_allowed(namespace, reference, replicas)
                if not self._leads():
                    return Unapplied("ScaleFailed", "the lease was lost before the patch")
                try:
                    # The version is that of the consent: a target that was replaced meanwhile has none.
                    await self._scales.write(
                        namespace,
                        reference,
                        replicas,
                        version=workload.version,
                        manager=f"{MANAGER_PREFIX}{self._transitions()}",
                    )
                except Conflict:
                    if attempt == _ATTEMPTS:
                        raise
                else:
                    return None
        except ApiError as error:
            what = f"{replicas} replicas wanted, but /scale of {reference} was not patched"
            if isinstance(error, Forbidden):
                return Unapplied("ScaleFailed", f"{what}: {error}; grant it: {_OVERLAY}")
            return Unapplied("ScaleFailed", f"{what}: {advice.explained(error)}")
        return None

    async def _namespace_allows(self, namespace: str) -> bool:
        try:
            return allows(await self._scales.namespace_annotations(namespace))
        except (Forbidden, NotFound):
            return False  # the message names both places

    def _replicas(self, state: VariantState, *, wake: bool) -> int | None:
        """Replicas to set; None where nothing has to be patched."""
        source = state.source
        if (
            source.advisory
            or state.desired is None
            or state.problem
            or state.desired == source.spec_replicas
        ):
            return None
        if source.spec_replicas == 0:
            # A target at zero stays there until requests arrive, as with an HPA.
            return max(state.desired, 1) if wake else None
        patches = self._default if source.actuate is None else source.actuate == "scale"
        return state.desired if patches else None


def allows(annotations: Mapping[str, object]) -> bool:
    """Whether annotations of a scale target or of a namespace consent to patches of `/scale`."""
    return annotations.get(ALLOW_SCALE) == "true"


def _not_allowed(namespace: str, reference: Reference, replicas: int) -> Unapplied:
    return Unapplied(
        "ScaleNotAllowed",
        f"{replicas} replicas wanted, but neither {reference} nor namespace {namespace} allows this adapter"
        f' to patch /scale; who may change one of them sets its annotation {ALLOW_SCALE} to "true", and an'
        f" administrator grants the right: {_OVERLAY}",
    )

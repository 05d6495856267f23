"""Scaling without an HPA: patches the scale subresource, and wakes variants that an HPA leaves at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from adapter.controller.state import VariantState
from adapter.kube import advice
from adapter.kube.errors import ApiError
from adapter.kube.scale import Scales

log = structlog.get_logger()


class Actuator:
    """Sets the replicas of scale targets where no HPA does."""

    def __init__(self, scales: Scales, *, default: bool, leads: Callable[[], bool]) -> None:
        """Make an actuator.

        Args:
            scales: scale subresources of the cluster.
            default: whether to patch for variants without the annotation llmd.ai/actuate.
            leads: whether this replica leads; others never patch.

        """
        self._scales = scales
        self._default = default
        self._leads = leads

    async def act(
        self, states: Mapping[str, VariantState], waking: frozenset[str]
    ) -> dict[str, str]:
        """Patch the scale targets that differ; give the errors by variant key.

        Args:
            states: variants after a reconcile cycle.
            waking: keys of variants at zero that have waiting requests.

        """
        failed: dict[str, str] = {}
        for key, state in states.items():
            replicas = self._replicas(state, wake=key in waking)
            if replicas is None or not self._leads():
                continue
            source = state.source
            try:
                await self._scales.write(source.namespace, source.reference, replicas)
            except ApiError as error:
                failed[key] = advice.explained(error)
                log.warning(
                    "scale target not patched; retrying at the next reconcile cycle",
                    variant=key,
                    error=failed[key],
                )
            else:
                log.info(
                    "scale target patched",
                    variant=key,
                    target=str(source.reference),
                    replicas=replicas,
                    before=source.spec_replicas,
                )
        return failed

    def _replicas(self, state: VariantState, *, wake: bool) -> int | None:
        """Replicas to set; None where nothing has to be patched."""
        source = state.source
        if state.desired is None or state.problem or state.desired == source.spec_replicas:
            return None
        if source.spec_replicas == 0:
            # A target at zero stays there until requests arrive, as with an HPA.
            return max(state.desired, 1) if wake else None
        patches = self._default if source.actuate is None else source.actuate
        return state.desired if patches else None

"""Patching `/scale`: for variants that have no HPA for it, and for those that an HPA would leave at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from adapter.controller.state import VariantState
from adapter.kube import advice
from adapter.kube.errors import ApiError
from adapter.kube.scale import Scales

log = structlog.get_logger()


class Actuator:
    """Brings scale targets to their targets where that is ours to do."""

    def __init__(self, scales: Scales, *, default: bool, leads: Callable[[], bool]) -> None:
        """`default`: whether to patch the targets of variants that do not say."""
        self._scales = scales
        self._default = default
        self._leads = leads

    async def act(
        self, states: Mapping[str, VariantState], waking: frozenset[str]
    ) -> dict[str, str]:
        """Patch what differs; gives why that failed, by variant key.

        Args:
            states: after a pass.
            waking: keys of variants at zero that somebody wants.

        """
        failed: dict[str, str] = {}
        for key, state in states.items():
            wanted = self._wanted(state, wake=key in waking)
            if wanted is None or not self._leads():
                continue
            source = state.source
            try:
                await self._scales.write(source.namespace, source.reference, wanted)
            except ApiError as error:
                failed[key] = advice.explained(error)
                log.warning("scale target not patched", variant=key, error=failed[key])
            else:
                log.info(
                    "scale target patched",
                    variant=key,
                    target=str(source.reference),
                    replicas=wanted,
                    before=source.wanted,
                )
        return failed

    def _wanted(self, state: VariantState, *, wake: bool) -> int | None:
        """Replicas to ask for; None where there is nothing for us to do."""
        source = state.source
        if state.desired is None or state.problem or state.desired == source.wanted:
            return None
        if source.wanted == 0:
            # Zero by hand means stop; an HPA leaves it alone too. Only traffic wakes.
            return max(state.desired, 1) if wake else None
        patches = self._default if source.actuate is None else source.actuate
        return state.desired if patches else None

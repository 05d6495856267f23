"""What KEDA is told of a variant, or why it is told nothing.

KEDA takes an error for "unknown": it keeps the replicas, or uses the ScaledObject's `fallback`. So a value
that is missing or too old is an error, and never 0, which would be an order to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapter.controller.loop import ControlLoop
from adapter.store import Changes

Answer = tuple[int, bool]
"""Desired replicas, and whether the scale target shall have any at all."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why there is no answer.

    Attributes:
        why: Reason with what to do about it.
        missing: Whether no such variant is in use.

    """

    why: str
    missing: bool = False


class Targets:
    """Answers for the variants of a control loop, on the leader and on its followers."""

    def __init__(self, loop: ControlLoop, *, readiness: Callable[[], str | None]) -> None:
        """Make it.

        Args:
            loop: control loop whose targets are told.
            readiness: what has not been read yet; None once the variants are known.

        """
        self._loop = loop
        self._readiness = readiness

    @property
    def changes(self) -> Changes:
        """Tells of new answers."""
        return self._loop.live.changes

    def answer(self, namespace: str, name: str) -> Answer | Unknown:
        """Desired replicas and activity of a variant.

        Zero replicas and inactivity are told only of a variant that was proven idle: of a valid target of 0,
        while no gateway has requests for it, and not while the load of replicas that it still has is unknown.
        """
        key = f"{namespace}/{name}"
        unread = self._readiness()
        state = self._loop.live.state(key)
        if unread is not None and state is None:
            return Unknown(f"the variants are not known yet: {unread}")
        if state is None:
            return self._missing(key)
        served = self._loop.live.served(key)
        if served is None:
            why = state.problem or "there is no decision yet"
            return Unknown(f"VariantAutoscaling {key} has no valid target: {why}")
        if key in self._loop.waking.variants:
            return max(served, 1), True
        if served == 0 and state.source.replicas > 0 and state.problem:
            return Unknown(f"VariantAutoscaling {key} is not known to be idle: {state.problem}")
        return served, served > 0

    def waking(self, namespace: str, name: str) -> bool:
        """Whether a variant at zero has requests at a gateway."""
        return f"{namespace}/{name}" in self._loop.waking.variants

    def _missing(self, key: str) -> Unknown:
        for refusal in self._loop.refused:
            if refusal.key == key:
                return Unknown(f"VariantAutoscaling {key} is not used: {refusal.message}")
        return Unknown(
            f"no VariantAutoscaling {key}; create it, or name another one of this namespace as `variant` in"
            " the trigger's metadata",
            missing=True,
        )

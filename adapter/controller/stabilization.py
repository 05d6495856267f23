"""Targets kept steady across passes, within the devices that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adapter.controller.state import VariantState
from adapter.planning import fleet, plan
from adapter.resources.inputs import Contents
from adapter.resources.variant import VariantSource
from optimizer.stabilization import Limits, Recommendation, stabilize

Steady = tuple[int, str]
"""Replicas, and why they are not those that were planned; empty where they are."""


class Steadying:
    """Remembers what was recommended of each variant."""

    def __init__(self) -> None:
        self._history: dict[str, tuple[str, tuple[Recommendation, ...]]] = {}

    def keep(self, keys: Iterable[str]) -> None:
        """Forget variants that are gone."""
        known = set(keys)
        self._history = {key: item for key, item in self._history.items() if key in known}

    def left(self, contents: Contents, held: Iterable[VariantSource]) -> Mapping[str, int] | None:
        """Devices that can be planned with: those of variants whose targets are held are not free."""
        if contents.capacity is None:
            return None
        free = dict(contents.capacity)
        for source in held:
            device, number = _devices(contents, source, source.accelerator)
            if device in free:
                free[device] = max(free[device] - number * max(source.replicas, source.wanted), 0)
        return free

    def steadied(
        self,
        decisions: Mapping[str, plan.Decision],
        before: Mapping[str, VariantState],
        *,
        contents: Contents,
        capacity: Mapping[str, int] | None,
        now: float,
        limits: Limits,
    ) -> dict[str, Steady]:
        """What to publish for each variant that was decided.

        Args:
            decisions: by variant key.
            before: states before this pass.
            contents: what accelerators and variants there are.
            capacity: devices that were planned with, by type; None: unlimited.
            now: monotonic seconds.
            limits: how targets may change.

        """
        found: dict[str, Steady] = {}
        for key, decision in decisions.items():
            state = before.get(key)
            if state is None:
                continue
            found[key] = self._one(state, decision, now=now, limits=limits)
        if capacity is not None:
            _give_back(found, decisions, contents, capacity)
        return found

    def _one(
        self, state: VariantState, decision: plan.Decision, *, now: float, limits: Limits
    ) -> Steady:
        candidate = decision.candidate
        accelerator, history = self._history.get(state.source.key, ("", ()))
        last = state.desired
        if last is not None and not history:
            # Of a leader before us nothing but its target is known: as if it had just been wanted.
            accelerator, history = state.accelerator, (Recommendation(now, last),)
        if candidate.accelerator != accelerator:
            # Replicas of another accelerator are another number.
            last, history = None, ()
        steady = stabilize(
            candidate.replicas,
            before=last,
            history=history,
            now=now,
            limits=limits,
            maximum=state.source.max_replicas,
        )
        self._history[state.source.key] = (candidate.accelerator, steady.history)
        return steady.replicas, steady.reason


def _give_back(
    found: dict[str, Steady],
    decisions: Mapping[str, plan.Decision],
    contents: Contents,
    capacity: Mapping[str, int],
) -> None:
    """Where devices are short nobody keeps more than was planned: others were promised it."""
    sources = {source.key: source for source in contents.variants}
    used: dict[str, int] = {}
    extra: dict[str, list[str]] = {}
    for key, (replicas, _) in found.items():
        source, candidate = sources.get(key), decisions[key].candidate
        if source is None:
            continue
        device, number = _devices(contents, source, candidate.accelerator)
        used[device] = used.get(device, 0) + number * replicas
        if replicas > candidate.replicas:
            extra.setdefault(device, []).append(key)
    for device, keys in extra.items():
        if used[device] <= capacity.get(device, 0):
            continue
        for key in keys:
            found[key] = (decisions[key].candidate.replicas, "devices are needed elsewhere")


def _devices(contents: Contents, source: VariantSource, accelerator: str) -> tuple[str, int]:
    """Device type of one replica on that accelerator, and how many it takes."""
    profile = next((p for p in source.profiles if p.accelerator == accelerator), None)
    unit: fleet.Accelerator | None = next(
        (item for item in contents.accelerators if item.name == accelerator), None
    )
    if profile is None or unit is None:
        return "", 0
    return unit.device_type, profile.accelerator_count * unit.multiplicity

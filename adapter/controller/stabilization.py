"""The stabilizer: targets that stay steady across reconcile cycles, within the devices that exist.

Per variant it applies the stabilization window and the step limits to what was planned. Over the fleet it
takes back what the window retains where other variants were planned on the same devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from adapter.planning import plan
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from optimizer import returns
from optimizer.problem import with_wider
from optimizer.returns import Returns
from optimizer.stabilization import (
    Recommendation,
    StabilizationLimits,
    Stabilized,
    stabilize,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stabilization:
    """Recommendations for one variant within its stabilization window.

    Attributes:
        accelerator: Accelerator that they count replicas of; empty before the first one.
        recommendations: Planned replicas with their monotonic times, oldest first.
        raised_at: Monotonic time of the last target that was higher than the one before; None before it.
        returns: How long load stayed away that fell and came back.

    """

    accelerator: str = ""
    recommendations: tuple[Recommendation, ...] = ()
    raised_at: float | None = None
    returns: Returns = field(default_factory=Returns)


@dataclass(frozen=True, slots=True, kw_only=True)
class StableTarget:
    """A target after stabilization.

    Attributes:
        replicas: Replicas to publish.
        reason: Why they are not those that were planned; empty where they are.
        stabilization: State for the next reconcile cycle.

    """

    replicas: int
    reason: str = ""
    stabilization: Stabilization = field(default_factory=Stabilization)


def apply(
    before: Stabilization,
    decision: plan.Decision,
    *,
    published: int | None,
    accelerator: str,
    maximum: int | None,
    now: float,
    limits: StabilizationLimits,
    present: int = 0,
    brief: bool = False,
    rising: bool = False,
    partial: bool = False,
    rate_rps: float | None = None,
) -> StableTarget:
    """The target of one variant, from what was planned.

    Args:
        before: Stabilization of the last cycle.
        decision: What was planned.
        published: Published replicas; None without a valid target.
        accelerator: Accelerator that they are of.
        maximum: Most replicas; None: any number.
        now: Monotonic seconds.
        limits: How targets may change.
        present: Replicas that the scale target asks for.
        brief: True where a queue asks for what was planned, not the arrivals alone.
        rising: True while the rate rises: an unproven trend asks for nothing, but keeps what is there.
        partial: True where a part of the load is known, so that no less than `published` was planned: that
            holds the target, but asks for nothing, and what the last cycle asked for counts on.
        rate_rps: Rate that it was planned for, without what works off a queue; None where that is not known.

    """
    candidate = decision.candidate
    published, history = _known(before, candidate.accelerator, published, present, accelerator, now)
    stable = stabilize(
        candidate.replicas,
        before=published,
        history=history,
        now=now,
        limits=_limits(before, limits, now),
        maximum=maximum,
        brief=brief,
        lasting=candidate.for_arrivals,
    )
    if rising and published is not None:
        # A queue that is still there has not been worked off, however long ago it asked for them.
        stable = _held(stable, published, () if brief else history)
    recommended = stable.history
    if partial and history and published is not None and candidate.replicas <= published:
        recommended = (*recommended[:-1], replace(history[-1], at=now))
    after = replace(before, accelerator=candidate.accelerator, recommendations=recommended)
    if published is not None and stable.replicas > published:
        after = replace(after, raised_at=now)
    if rate_rps is not None:
        # What is not known need not have fallen: pods that do not answer for a while are no return.
        loads = before.returns.loads[-1:] if partial else ()
        rate_rps = max((rate_rps, *(item.rate_rps for item in loads)))
        after = _with_load(after, rate_rps, window=limits.down_seconds)
    return StableTarget(replicas=stable.replicas, reason=stable.reason, stabilization=after)


def _held(stable: Stabilized, published: int, history: tuple[Recommendation, ...]) -> Stabilized:
    """What a rise keeps of the published replicas: of those that a queue asked for, what the arrivals did."""
    kept = published
    if any(item.brief and item.replicas >= published for item in history):
        known = (*history, *stable.history[-1:])
        kept = max(item.lasting if item.brief else item.replicas for item in known)
        kept = min(kept, published)
    if kept <= stable.replicas:
        return stable
    return replace(stable, replicas=kept, reason=f"held at {kept}: the rate rises")


def _limits(before: Stabilization, limits: StabilizationLimits, now: float) -> StabilizationLimits:
    """The limits with the windows that falls and returns of the load ask for.

    A far fall has its own only within a window after the rates have shown it, which they cannot just after a
    start, and while no load is remembered that came back.
    """
    holds = returns.holds(before.returns, now=now, window=limits.down_seconds)
    window = max((item.seconds for item in holds), default=limits.down_seconds)
    away_at = before.returns.away_at
    shown = away_at is not None and now - away_at <= limits.down_seconds
    far = shown and not returns.remembered(before.returns, now=now)
    fall = limits.fall_seconds if far else None
    return replace(limits, down_seconds=window, holds=holds, fall_seconds=fall)


def _known(  # noqa: PLR0917 - what `apply` is given
    before: Stabilization,
    planned_on: str,
    published: int | None,
    present: int,
    accelerator: str,
    now: float,
) -> tuple[int | None, tuple[Recommendation, ...]]:
    """Published replicas and recommendations before this cycle, of the accelerator that is planned now."""
    recommended_on, history = before.accelerator, before.recommendations
    if published is None and present and not history:
        # After a start nothing is known of the time before: what runs counts as asked for just now.
        published = present
    if published is not None and not history:
        # Of a former leader only its target is known: it counts as recommended just now.
        recommended_on, history = accelerator, (Recommendation(now, published),)
    if planned_on != recommended_on:
        # Replicas of another accelerator are another number.
        return None, ()
    return published, history


def _with_load(after: Stabilization, rate_rps: float, *, window: float) -> Stabilization:
    """The state with what the last recommendation says of falls and returns of the load."""
    latest = after.recommendations[-1]
    known = returns.seen(
        after.returns,
        rate_rps,
        latest.replicas,
        queued=latest.brief,
        lasting=latest.lasting,
        now=latest.at,
        window=window,
    )
    return replace(after, returns=known)


def release_devices(
    targets: Mapping[str, StableTarget],
    decisions: Mapping[str, plan.Decision],
    inputs: Inputs,
    capacity: Mapping[str, int],
) -> dict[str, StableTarget]:
    """Targets reduced to what was planned, where the stabilizer retains more than the devices allow.

    Args:
        targets: Stabilized targets by variant key.
        decisions: What was planned, by variant key.
        inputs: Accelerators and variants that exist.
        capacity: Devices that were planned with, by type.

    """
    sources = {source.key: source for source in inputs.variants}
    used: dict[str, int] = {}
    retained: dict[str, list[str]] = {}
    for key, target in targets.items():
        source, candidate = sources.get(key), decisions[key].candidate
        if source is None:
            continue
        device, number = devices(inputs, source, candidate.accelerator)
        for kind in with_wider(device, inputs.within):
            used[kind] = used.get(kind, 0) + number * target.replicas
            if target.replicas > candidate.replicas:
                retained.setdefault(kind, []).append(key)
    released = dict(targets)
    for device, keys in retained.items():
        if used[device] <= capacity.get(device, 0):
            continue
        for key in keys:
            released[key] = replace(
                targets[key],
                replicas=decisions[key].candidate.replicas,
                reason="devices are needed elsewhere",
            )
    return released


def free_capacity(inputs: Inputs, held: Iterable[VariantSource]) -> Mapping[str, int] | None:
    """Devices to plan with, by type; None: unlimited. Variants whose targets are held keep theirs.

    A replica that needs more devices than there are has none of them.
    """
    if inputs.capacity is None:
        return None
    free = dict(inputs.capacity)
    for source in held:
        device, number = devices(inputs, source, source.accelerator)
        if device in free and number <= inputs.capacity[device]:
            for kind in with_wider(device, inputs.within):
                free[kind] = max(free[kind] - number * _there(source), 0)
    return free


def _there(source: VariantSource) -> int:
    """Replicas that have devices or wait for them; a spec may ask for more, which a quota does not count."""
    asked = max(source.replicas, source.spec_replicas)
    return asked if source.existing is None else min(asked, source.existing)


def within_capacity(
    decisions: Mapping[str, plan.Decision],
    inputs: Inputs,
    capacity: Mapping[str, int] | None,
) -> tuple[dict[str, plan.Decision], Mapping[str, int] | None]:
    """Decisions of the saturation rule within the devices, and the devices that are left to plan with.

    Nobody knows how late their requests would be with less, so they come before what is planned.

    Args:
        decisions: What the rule says, by variant key.
        inputs: Accelerators and variants that exist.
        capacity: Devices that are free, by type; None: unlimited.

    """
    if capacity is None:
        return dict(decisions), None
    remaining, fitting = dict(capacity), dict(decisions)
    for source in inputs.variants:
        decision = decisions.get(source.key)
        if decision is None:
            continue
        device, number = devices(inputs, source, source.accelerator)
        if not number:
            continue
        needed = decision.candidate.replicas
        types = with_wider(device, inputs.within)
        given = min(needed, *(remaining.get(kind, 0) // number for kind in types))
        for kind in types:
            remaining[kind] = remaining.get(kind, 0) - given * number
        if given < needed:
            candidate = decision.candidate
            reason = f"{given} of {needed} replicas: {device} short; {decision.reason}"
            fitting[source.key] = replace(
                decision,
                candidate=candidate._replace(replicas=given, cost=candidate.cost * given / needed),
                served="partial" if given else "none",
                why=plan.Why(plan.Reasons(decision.explanation, reason)),
            )
    return fitting, remaining


def devices(inputs: Inputs, source: VariantSource, accelerator: str) -> tuple[str, int]:
    """Device type of one replica on that accelerator, and how many it takes."""
    units = source.units(accelerator)
    unit = inputs.accelerator_named.get(accelerator)
    if unit is None or not units:
        return "", 0
    device = source.narrowed.get(unit.device_type, unit.device_type)
    return device, units * unit.multiplicity

"""From the plan of a group to the targets of its variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapter.controller import demand
from adapter.controller.groups import demanded, transitions
from adapter.controller.groups.demanded import Cycle, ready
from adapter.controller.groups.planned import (
    SHORTEST_SAVING_SECONDS,
    PlannedGroup,
    asked,
    unit_cost,
)
from adapter.controller.groups.state import Demanded, GroupRecord, Worths
from adapter.controller.groups.transitions import Part, Step
from adapter.controller.stabilization import StableTarget
from adapter.controller.state import VariantRecord
from adapter.planning import plan as planning
from adapter.planning.groups import Floor, GroupDecision, Member, Routing
from adapter.resources.variant import VariantSource
from optimizer import returns
from optimizer.returns import Returns

MOVE_SECONDS = 60.0
"""Time for which a cheaper mix of variants must have been planned before load moves to it: what a replica
carries is an estimate from the last window, which changes from one to the next."""


def step(
    record: GroupRecord,
    item: PlannedGroup,
    plan: planning.Plan,
    records: Mapping[str, VariantRecord],
    cycle: Cycle,
) -> tuple[GroupRecord, dict[str, StableTarget]]:
    """The record with what was decided, and targets by variant key.

    Args:
        record: What is known of the group.
        item: What the planner got.
        plan: What was planned.
        records: Records of variants by key.
        cycle: What all groups share.

    """
    decision = plan.groups.get(item.state.name)
    decided = {
        key: plan.decisions[key]
        for key in item.variants
        if key in plan.decisions and key in records
    }
    if decision is None or decision.served == "none" or not decided:
        name = item.state.name
        why = plan.set_aside.get(f"group {name}") or plan.set_aside.get(name, "")
        why = why or (decision.reason if decision else "not planned")
        return replace(record, state=replace(item.state, decision=decision, problem=why)), {}
    costs = decision.marginal_costs
    parts = [
        _part(decided[key], item, records[key], per_thousand=costs.get(key, 0.0), cycle=cycle)
        for key in decided
    ]
    demand_rps, routing = decision.demand_rpm / 60.0, item.state.routing
    since = cycle.now if record.since is None else record.since
    carried = transitions.carries(parts, demand_rps=demand_rps, routing=routing)
    record = replace(record, worths=_worths(record, item, parts, cycle))
    move_since = _move_since(record, parts, cycle.now) if carried else None
    hurried = _hurries(record, item, cycle.now)
    left = 0.0 if hurried else _left(move_since, record, item, parts, cycle)
    stepped = _next(parts, left, demand_rps=demand_rps, routing=routing, lost=_lost(record))
    stepped = _settled(stepped, parts, since=since, records=records, cycle=cycle)
    stepped = _served_first(_steady(stepped, parts, item, cycle), parts, records)
    record = replace(
        _stepped(record, item, parts, stepped, decision=decision, cycle=cycle),
        demands=_demands(record, item, parts, decision=decision, cycle=cycle),
        returns=_returns(record, item, parts, decision=decision, cycle=cycle),
        since=since,
        carried=carried,
        move_since=move_since,
        hurried_at=cycle.now if hurried and move_since is not None else record.hurried_at,
        reconfigured=record.reconfigured and (move_since is not None or not _changed(record, item)),
    )
    return record, {
        key: _target(key, stepped, records[key], chosen.candidate.accelerator)
        for key, chosen in decided.items()
    }


def _left(
    move_since: float | None,
    record: GroupRecord,
    item: PlannedGroup,
    parts: Sequence[Part],
    cycle: Cycle,
) -> float:
    """Seconds until a move may begin that has been planned since then; 0 without one.

    A cycle at least where the plan would have been too small, but the time that it has been planned for
    counts: waiting anew, it may come only after load that the present replicas are short of.
    """
    if move_since is None:
        return 0.0
    left = max(move_since + MOVE_SECONDS - cycle.now, 0.0)
    return left if _lasts(record, item, parts) else max(left, cycle.settings.interval)


def _changed(record: GroupRecord, item: PlannedGroup) -> bool:
    """Whether people have changed what this plan depends on, which is no chance: load moves at once.

    Where they did after it was planned, the next one counts.
    """
    return record.reconfigured and record.configuration == item.record.configuration


def _hurries(record: GroupRecord, item: PlannedGroup, now: float) -> bool:
    """Whether load moves at once: not where it just has, for a tenant may change its bounds without end."""
    just_now = record.hurried_at is not None and now - record.hurried_at < MOVE_SECONDS
    return _changed(record, item) and not just_now


def _lost(record: GroupRecord) -> bool:
    """Whether replicas that a variant asked for do not come."""
    return any(limit.replicas is not None for limit in record.limits.values())


def _next(
    parts: Sequence[Part], left: float, *, demand_rps: float, routing: Routing, lost: bool
) -> Step:
    """The next step; `left`: seconds until a move of load between variants that carry it may begin.

    `lost`: whether replicas of a variant do not come, for which others were asked for in a hurry.
    What was given up and still serves stays where replicas that are ready are too few.
    """
    if left > 0:
        surplus_rps = demand_rps if lost else None
        stepped = transitions.unmoved(parts, left, demand_rps=surplus_rps, routing=routing)
    else:
        stepped = transitions.step(parts, demand_rps=demand_rps, routing=routing)
    return transitions.recalled(stepped, parts, demand_rps=demand_rps, routing=routing)


def _worths(
    record: GroupRecord, item: PlannedGroup, parts: Sequence[Part], cycle: Cycle
) -> tuple[Worths, ...]:
    """What replicas carried within the time in which a move has to pay for itself, with that of this cycle.

    Replicas that a queue asks for are counted by what waits, and say nothing of what one carries.
    """
    kept = tuple(each for each in record.worths if each.at > cycle.now - SHORTEST_SAVING_SECONDS)
    if item.need is None or item.need.in_flight > 0 or item.need.arrivals_rps <= 0:
        return kept
    return (*kept, Worths(cycle.now, {part.key: part.rate_rps for part in parts}))


def _move_since(record: GroupRecord, parts: Sequence[Part], now: float) -> float | None:
    """Since when the plan moves load between variants whose replicas carry it; None where it does not."""
    comes = any(part.planned > part.target for part in parts)
    if not comes or not any(part.planned < part.target for part in parts):
        return None
    return now if record.move_since is None else record.move_since


def _lasts(record: GroupRecord, item: PlannedGroup, parts: Sequence[Part]) -> bool:
    """Whether the plan carries the demand by every estimate of the time in which a move must pay for itself.

    A mix that would have been too small then, as replicas carried less, would have to be left again.
    """
    return transitions.carries_at(
        [each.rates_rps for each in record.worths],
        parts,
        demand_rps=0.0 if item.need is None else item.need.rate_rps,
        routing=item.state.routing,
    )


def _stepped(
    record: GroupRecord,
    item: PlannedGroup,
    parts: Sequence[Part],
    stepped: Step,
    *,
    decision: GroupDecision,
    cycle: Cycle,
) -> GroupRecord:
    """The record with what is said of the group, and when its replicas last changed."""
    raised = any(stepped.replicas[part.key] > part.target for part in parts)
    changed = any(stepped.replicas[part.key] != part.target for part in parts)
    state = replace(
        item.state,
        decision=decision,
        demand_rpm=decision.demand_rpm,
        notes=(*item.state.notes, *_held(item, decision)),
        targets=stepped.replicas,
        held=stepped.reasons,
    )
    return replace(
        record,
        state=state,
        raised_at=cycle.now if raised else record.raised_at,
        changed_at=cycle.now if changed else record.changed_at,
    )


def _demands(
    record: GroupRecord,
    item: PlannedGroup,
    parts: Sequence[Part],
    *,
    decision: GroupDecision,
    cycle: Cycle,
) -> tuple[Demanded, ...]:
    """What is held of the demands so far, with that of this cycle."""
    need, group = item.need, item.group
    if need is None or group is None or cycle.settings.limits.down_seconds <= 0:
        return record.demands
    planned = {part.key: part.planned for part in parts}
    carried = transitions.capacity(parts, planned, item.state.routing)
    # What is short of devices or at its maximum carries no more than its replicas do.
    part = min(need.rate_rps / carried, 1.0) if carried > 0 else 0.0
    # Replicas that work off a queue are not held: once it is gone, the arrivals do not take them.
    if need.in_flight > 0:
        part *= decision.arriving
    floor = Floor(replicas=planned, part=part, rate_rps=need.rate_rps - need.backlog_rps)
    return (*record.demands, Demanded(cycle.now, floor))


def _returns(
    record: GroupRecord,
    item: PlannedGroup,
    parts: Sequence[Part],
    *,
    decision: GroupDecision,
    cycle: Cycle,
) -> Returns:
    """What is known of falls and returns of the group's load after this cycle."""
    need = item.need
    if need is None:
        return record.returns
    planned = sum(part.planned for part in parts)
    windows = [demanded.window(cycle.sources[part.key], cycle.settings) for part in parts]
    return returns.seen(
        record.returns,
        need.arrivals_rps,
        planned,
        queued=need.in_flight > 0,
        lasting=math.ceil(decision.arriving * planned),
        alike=False,  # and what is held for the window is planned too
        now=cycle.now,
        window=max(windows),
    )


def _held(item: PlannedGroup, decision: GroupDecision) -> tuple[str, ...]:
    """Note that more is planned for than the demand of this cycle."""
    need = item.need
    if need is None or decision.demand_rpm <= 60.0 * need.rate_rps * 1.001:
        return ()
    return (f"held at {decision.demand_rpm:.4g} req/min by the stabilization window",)


def _steady(stepped: Step, parts: Sequence[Part], item: PlannedGroup, cycle: Cycle) -> Step:
    """The step by limited numbers at a time; without fewer replicas while the rate rises or after an outage.

    What an outage kept waiting reaches the pods a moment after these are ready, and is then theirs.
    """
    why, outage = "", item.record.outage
    if outage is not None and outage.ended is not None:
        why = "what an outage kept waiting is served first"
    elif item.need is not None and item.need.rising:
        why = "the rate rises"
    if why:
        replicas, reasons = dict(stepped.replicas), dict(stepped.reasons)
        for part in parts:
            maximum = cycle.sources[part.key].max_replicas
            most = part.target if maximum is None else min(part.target, maximum)
            if replicas[part.key] < most:
                replicas[part.key] = most
                reasons[part.key] = f"held at {most}: {why}"
        stepped = Step(replicas=replicas, reasons=reasons)
    limits = cycle.settings.limits
    return transitions.limited(stepped, parts, up=limits.step_up, down=limits.step_down)


def _served_first(
    stepped: Step, parts: Sequence[Part], records: Mapping[str, VariantRecord]
) -> Step:
    """The step without fewer replicas of a variant while requests queue at its pods.

    They would come back all at once, at the others' pods, where they count as a rise of the load too.
    """
    replicas, reasons = dict(stepped.replicas), dict(stepped.reasons)
    for part in parts:
        state = records[part.key].state
        if replicas[part.key] >= part.target or state.traffic is None:
            continue
        usual = demand.expected_waiting(state.traffic, state.decision, state.source.targets)
        waiting = state.traffic.waiting - state.traffic.waiting_elsewhere
        # A maximum that was lowered holds, whatever waits.
        maximum = state.source.max_replicas
        most = part.target if maximum is None else min(part.target, maximum)
        if replicas[part.key] >= most:
            continue
        if part.ready and demand.queues_up(waiting, ready=part.ready, expected=usual):
            replicas[part.key] = most
            reasons[part.key] = f"held at {most}: {waiting:.0f} requests wait at its pods"
    return Step(replicas=replicas, reasons=reasons)


def _target(key: str, stepped: Step, record: VariantRecord, accelerator: str) -> StableTarget:
    return StableTarget(
        replicas=stepped.replicas[key],
        reason=stepped.reasons.get(key, ""),
        stabilization=replace(record.stabilization, accelerator=accelerator),
    )


def _settled(
    stepped: Step,
    parts: Sequence[Part],
    *,
    since: float,
    records: Mapping[str, VariantRecord],
    cycle: Cycle,
) -> Step:
    """The step without fewer replicas while nothing is known of the demand of the last window."""
    replicas, reasons = dict(stepped.replicas), dict(stepped.reasons)
    for part in parts:
        window = demanded.window(records[part.key].source, cycle.settings)
        seconds = since + window - cycle.now
        if window > 0 and seconds > 0 and replicas[part.key] < part.target:
            replicas[part.key] = part.target
            reasons[part.key] = (
                f"held at {part.target} for {seconds:.0f} s more: the demand of the stabilization window is"
                " not known yet"
            )
    return Step(replicas=replicas, reasons=reasons)


def _part(
    decision: planning.Decision,
    item: PlannedGroup,
    record: VariantRecord,
    *,
    per_thousand: float,
    cycle: Cycle,
) -> Part:
    """One variant in the transition; `per_thousand`: cents per 1,000 requests of one replica more."""
    candidate, source = decision.candidate, record.source
    key = source.key
    cost = candidate.cost / candidate.replicas if candidate.replicas else 0.0
    rate = candidate.max_rate_rpm / 60.0
    if not candidate.replicas:
        cost = unit_cost(item.variants[key], cycle.costs)
        # Cents per hour over cents per 1,000 requests: thousands of requests per hour.
        rate = cost / per_thousand / 3.6 if per_thousand > 0 else 0.0
    present = record.state.accelerator or source.accelerator
    other = bool(candidate.accelerator) and bool(present) and candidate.accelerator != present
    member = Member() if item.group is None else item.group.members[key]
    return Part(
        key=key,
        # Replicas that do not come count for nothing, and still are the variant's least.
        planned=max(candidate.replicas, item.variants[key].min_replicas),
        # Replicas of another accelerator are another number.
        target=candidate.replicas if other else asked(record),
        ready=ready(source),
        rate_rps=rate,
        cost=cost,
        weight=member.weight,
        available=member.available,
        present=0 if other else _present(source),
    )


def _present(source: VariantSource) -> int:
    """Replicas that serve and that the scale target has not been asked to take away."""
    number = min(ready(source), source.spec_replicas)
    return number if source.max_replicas is None else min(number, source.max_replicas)

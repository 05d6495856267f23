"""From a group and its observed variants to what the planner gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from adapter.collector.traffic import Traffic
from adapter.controller import demand
from adapter.controller.cycle import group_attainment as attainment
from adapter.controller.groups import availability, demanded, pooling
from adapter.controller.groups.demanded import Cycle, Sized
from adapter.controller.groups.state import GroupRecord, GroupState
from adapter.controller.sizing import SizedVariant, load_of
from adapter.controller.state import VariantRecord
from adapter.planning import fleet
from adapter.planning.groups import Group, Member, Routing
from adapter.resources.model_groups.forming import ModelGroup
from adapter.resources.variant import VariantSource

SHORTEST_SAVING_SECONDS = 600.0
"""Time within which a shift of load must have paid for itself, where the last one is no longer ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """One group of a reconcile cycle before planning.

    Attributes:
        record: What is known of it, with what was observed in this cycle.
        group: Input of the planner; None where none of its variants can be planned.
        variants: Its planned variants by key, with their bounds as members.
        sized: Variants of it by key that are planned though none of their replicas serves.
        state: What is said of it, without the decision.
        need: Its demand; None where none of its variants can be planned.

    """

    record: GroupRecord
    group: Group | None
    variants: Mapping[str, fleet.Variant]
    sized: Mapping[str, SizedVariant] = field(default_factory=dict)
    state: GroupState
    need: Sized | None = None


@dataclass(frozen=True, slots=True)
class _Inside:
    source: VariantSource
    sized: SizedVariant
    variant: fleet.Variant
    record: VariantRecord


def routing_of(
    group: ModelGroup, sources: Mapping[str, VariantSource], default: fleet.Routing
) -> Routing:
    """How the gateway spreads requests over the pods of a group.

    Where its variants do not say it for the group, what they say of their own replicas counts: a Service
    gives every pod the same.
    """
    if group.routing is not None:
        return group.routing
    own = {source.routing or default for source in _deciding(group, sources)}
    return "least-loaded" if own == {"least-loaded"} else "round-robin"


def _deciding(group: ModelGroup, sources: Mapping[str, VariantSource]) -> list[VariantSource]:
    """The variants that speak for a group: those of its own namespace, not the guests."""
    there = [sources[key] for key in group.members if key in sources]
    return [source for source in there if source.namespace == group.namespace] or there


def plan_group(
    record: GroupRecord,
    group: ModelGroup,
    sized: Mapping[str, SizedVariant],
    records: Mapping[str, VariantRecord],
    cycle: Cycle,
) -> PlannedGroup:
    """What the planner gets of one group, with the variants that are sized in this cycle, by key."""
    record = demanded.observed(record, group, records, cycle)
    inside, outside = _members(group, sized, records, cycle)
    traffics, traffic = _traffics(inside, cycle)
    at = pooling.at_gateway(
        group,
        cycle.sources,
        rates=cycle.sizing.rates,
        parts=cycle.sizing.parts,
        waiting=cycle.sizing.gateway_demand,
    )
    serving = {key: demanded.ready(item.source) for key, item in inside.items()}
    state = _seen(record, group, serving=serving, traffics=traffics, at=at, cycle=cycle)
    state = replace(state, outside=outside)
    if not inside:
        return PlannedGroup(record=record, group=None, variants={}, state=state)
    known = not outside and all(item.sized.observation.complete for item in inside.values())
    record = _attained(record, inside, traffic if known else None, state.routing, cycle)
    need = _without(
        demanded.sized(
            record,
            [item.source for item in inside.values()],
            traffic,
            at,
            ordered=sum(_ordered(item) for item in inside.values()),
            partial=bool(outside),
            expected=_expected_waiting(inside),
            cycle=cycle,
        ),
        outside,
        records,
    )
    record = replace(record, demands=need.demands, traffic=demanded.lengths(record, traffic))
    notes = (*need.notes, *pooling.unlike(state.routing, state.spread))
    state = replace(
        state, demand_rpm=60.0 * need.rate_rps, feedback=record.feedback.factor, notes=notes
    )
    variants = _bounded(inside, idle=_idle(group, inside, at, cycle), need=need, cycle=cycle)
    return PlannedGroup(
        record=record,
        group=_asked(group, record, inside, need, routing=state.routing, cycle=cycle),
        variants=variants,
        sized={k: item.sized for k, item in inside.items() if item.sized is not sized[k]},
        state=state,
        need=need,
    )


def _expected_waiting(inside: Mapping[str, _Inside]) -> float:
    """Requests of all variants that were expected to wait for their first token at this load."""
    return sum(
        demand.expected_waiting(traffic, item.record.state.decision, item.source.targets)
        for item in inside.values()
        if (traffic := item.sized.observation.traffic) is not None
    )


def _attained(
    record: GroupRecord,
    inside: Mapping[str, _Inside],
    traffic: Traffic | None,
    routing: Routing,
    cycle: Cycle,
) -> GroupRecord:
    """The record with what misses of SLO targets ask for; no traffic where not all of it is known."""
    members = [
        attainment.Serving(item.record, _ordered(item), item.source.membership.weight)
        for item in inside.values()
    ]
    return attainment.with_feedback(record, members, traffic, routing, cycle)


def _asked(
    group: ModelGroup,
    record: GroupRecord,
    inside: Mapping[str, _Inside],
    need: Sized,
    *,
    routing: Routing,
    cycle: Cycle,
) -> Group:
    """The input of the planner."""
    return Group(
        name=group.name,
        # Over several namespaces, budgets count each variant in its own.
        namespace=group.namespace if len({key.partition("/")[0] for key in inside}) == 1 else "",
        model=group.model,
        service_class=group.service_class,
        variants=tuple(inside),
        traffic=_load(record, inside, need),
        routing=routing,
        members={key: _member(item, record, cycle) for key, item in inside.items()},
        interruptible_share=_interruptible_share(group, cycle),
        floors=tuple(item.floor for item in record.demands),
        hysteresis=_hysteresis(record, inside, cycle),
    )


def _hysteresis(record: GroupRecord, inside: Mapping[str, _Inside], cycle: Cycle) -> float:
    """Share of the cost of started replicas that a shift between variants must save.

    Both the old replicas and the new ones are paid for while these start, and the saving has to make up for
    that. What has lasted for some time is expected to last as long again, so that is the time it has for it.
    """
    startups = [demanded.startup(record, item.source, cycle.settings) for item in inside.values()]
    since = record.since if record.changed_at is None else record.changed_at
    lasted = 0.0 if since is None else cycle.now - since
    return max(startups) / max(lasted, SHORTEST_SAVING_SECONDS)


def _traffics(
    inside: Mapping[str, _Inside], cycle: Cycle
) -> tuple[dict[str, Traffic], Traffic | None]:
    """Traffic by variant key, and that of all together; None without any."""
    windows = {key: cycle.windows[key] for key in inside if key in cycle.windows}
    seen = {key: item.sized.observation.traffic for key, item in inside.items()}
    serving = {key for key, item in inside.items() if demanded.ready(item.source)}
    known = pooling.with_left(seen, windows, serving)
    pooled = pooling.pooled(known.values())
    return known, pooling.with_dispersions(pooled, list(windows.values()))


def _seen(
    record: GroupRecord,
    group: ModelGroup,
    *,
    serving: Mapping[str, int],
    traffics: Mapping[str, Traffic],
    at: pooling.AtGateway,
    cycle: Cycle,
) -> GroupState:
    """What is observed of a group."""
    traffic = pooling.pooled(traffics.values())
    seen = pooling.spread(traffics, serving, window_seconds=cycle.settings.collection.window)
    return GroupState(
        name=group.name,
        members=group.members,
        routing=routing_of(group, cycle.sources, cycle.settings.routing),
        spread=seen.routing,
        per_pod_rpm=seen.per_pod_rpm,
        observed_rpm=0.0 if traffic is None else 60.0 * traffic.arrival_rate_rps,
        gateway_rpm=None if at.rate_rps is None else 60.0 * at.rate_rps,
        waiting=at.waiting + (0.0 if traffic is None else traffic.waiting),
        unavailable=availability.notes(record.limits, now=cycle.now),
        waking=record.state.waking if record.state else "",
        interruptible_share=_interruptible_share(group, cycle),
    )


def _members(
    group: ModelGroup,
    sized: Mapping[str, SizedVariant],
    records: Mapping[str, VariantRecord],
    cycle: Cycle,
) -> tuple[dict[str, _Inside], dict[str, str]]:
    """Variants that can be planned, and why the others cannot."""
    inside: dict[str, _Inside] = {}
    outside: dict[str, str] = {}
    for key in group.members:
        item, source, record = sized.get(key), cycle.sources.get(key), records.get(key)
        if item is None or source is None or record is None:
            continue
        if item.variant is None and not demanded.ready(source) and not source.held:
            item = _without_replicas(item, source, record, cycle)
        if item.variant is None:
            why = item.observation.problem or "its profile is not known yet"
            outside[key] = f"planned without it: {why}"
        else:
            inside[key] = _Inside(source, item, item.variant, record)
    return inside, outside


def _without_replicas(
    item: SizedVariant, source: VariantSource, record: VariantRecord, cycle: Cycle
) -> SizedVariant:
    """A variant of which none serves yet, or any more: nothing is offered to it, and it can be planned."""
    seen = replace(item.observation, traffic=None, problem="", complete=True, note=_note(source))
    return cycle.sizing.size(record, source, seen)


def _note(source: VariantSource) -> str:
    return f"{source.spec_replicas} replicas, of which none is ready"


def _ordered(item: _Inside) -> int:
    asked = max(item.source.spec_replicas, item.record.state.desired or 0)
    return max(asked - item.source.gated - item.source.unschedulable, demanded.ready(item.source))


def _without(
    need: Sized, outside: Mapping[str, str], records: Mapping[str, VariantRecord]
) -> Sized:
    """The demand without the part of variants that serve, though their load is not known at the moment."""
    part = 0.0
    for key in outside:
        record = records.get(key)
        decision = None if record is None else record.state.decision
        if record is not None and decision is not None and demanded.ready(record.source) > 0:
            part += decision.share or 0.0
    if part <= 0:
        return need
    part = min(part, 1.0)
    note = f"{part:.0%} of it counts as carried by variants whose load is not known"
    left = 1.0 - part
    return replace(
        need,
        rate_rps=need.rate_rps * left,
        backlog_rps=need.backlog_rps * left,
        notes=(*need.notes, note),
    )


def _load(record: GroupRecord, inside: Mapping[str, _Inside], need: Sized) -> fleet.Load:
    """The demand with the lengths of its requests, as last seen where none are there."""
    # Each is too high somewhere: that of all at a step of the rate, that of one variant where little reaches
    # it, and what the gateway sends there comes in bursts.
    dispersion = max((item.variant.load.dispersion for item in inside.values()), default=1.0)
    dispersion = min(dispersion, demand.dispersion(record.trend))
    return replace(
        load_of(record.traffic, None, dispersion=dispersion, ordered=need.ordered),
        arrival_rate_rps=need.rate_rps,
        in_flight=need.in_flight,
        backlog_rps=need.backlog_rps,
        queued_at=need.queued_at,
        surge=need.surge,
    )


def _member(item: _Inside, record: GroupRecord, cycle: Cycle) -> Member:
    limit = record.limits.get(item.source.key, availability.NO_LIMIT)
    return Member(
        available=limit.most(cycle.now),
        unavailable_reason=limit.why,
        interruptible=item.source.interruptible,
        weight=item.source.membership.weight,
    )


def _interruptible_share(group: ModelGroup, cycle: Cycle) -> float:
    said = [
        source.interruptible_share
        for source in _deciding(group, cycle.sources)
        if source.interruptible_share is not None
    ]
    return min(said, default=cycle.settings.interruptible_share)


def _bounded(
    inside: Mapping[str, _Inside], *, idle: bool, need: Sized, cycle: Cycle
) -> dict[str, fleet.Variant]:
    """The variants with their least replicas as members, and what is asked for now as what they have."""
    least = {key: _least(item, cycle) for key, item in inside.items()}
    if not any(least.values()) and not idle and need.rate_rps <= 0:
        # Something must serve what may come: what serves or starts already, at the least cost.
        there = [key for key, item in inside.items() if demanded.ready(item.source) > 0]
        there = there or [key for key, item in inside.items() if item.source.spec_replicas > 0]
        if there:
            costs = {key: unit_cost(inside[key].variant, cycle.costs) for key in there}
            least[min(there, key=lambda key: (costs[key], key))] = 1
    return {
        key: replace(
            item.variant,
            min_replicas=least[key],
            current=replace(item.variant.current, replicas=asked(item.record)),
        )
        for key, item in inside.items()
    }


def asked(record: VariantRecord) -> int:
    """The desired replicas so far: the published target, else those of the scale target."""
    desired = record.state.desired
    return record.source.spec_replicas if desired is None else desired


def unit_cost(variant: fleet.Variant, costs: Mapping[str, float]) -> float:
    """Cost of one replica on its present accelerator, else on its cheapest; cents per hour."""
    units = {item.accelerator: item.accelerator_count for item in variant.profiles}
    own = variant.current.accelerator
    if own in units:
        return costs.get(own, 0.0) * units[own]
    return min((costs.get(name, 0.0) * count for name, count in units.items()), default=0.0)


def _least(item: _Inside, cycle: Cycle) -> int:
    """Least replicas of one member: it may rest at zero where it may go there, whatever the others do."""
    source, published = item.source, item.record.state.desired
    to_zero = cycle.settings.scale_to_zero
    if source.scale_to_zero is not None:
        to_zero = source.scale_to_zero
    least = source.min_replicas
    if least is None:
        least = 0 if to_zero else 1
    if source.key in cycle.sizing.to_wake:
        least = max(least, 1)
    if not item.sized.observation.complete and published is not None:
        # An incomplete load is a lower bound: the target may rise, not fall.
        most = published if source.max_replicas is None else min(published, source.max_replicas)
        least = max(least, most)
    return least


def _idle(
    group: ModelGroup, inside: Mapping[str, _Inside], at: pooling.AtGateway, cycle: Cycle
) -> bool:
    """Whether nothing was offered to the whole group for the retention of its variants."""
    if at.arrived or at.waiting > 0 or (at.rate_rps or 0.0) > 0 or len(inside) < len(group.members):
        return False
    for item in inside.values():
        source, seen = item.source, item.sized.observation
        if source.replicas == 0 and source.spec_replicas == 0:
            continue
        if not seen.complete or seen.traffic is None or not seen.traffic.idle:
            return False
        if seen.traffic.idle_seconds < (source.retention_seconds or cycle.settings.retention):
            return False
    return True

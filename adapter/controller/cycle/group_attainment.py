"""What misses of SLO targets by all pods of a group ask of its plan: one factor on its demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapter.collector.traffic import Traffic
from adapter.controller.estimates import feedback
from adapter.controller.groups import transitions
from adapter.controller.groups.demanded import Cycle, ready
from adapter.controller.groups.state import GroupRecord
from adapter.controller.groups.transitions import Part
from adapter.controller.state import VariantRecord
from adapter.planning.groups import Routing

SHORT = ("maximum", "unavailable")
"""What binds a group that has all replicas that it can have."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A variant of a group, with the replicas of it that serve or come."""

    record: VariantRecord
    ordered: int
    weight: float = 1.0


def with_feedback(
    record: GroupRecord,
    members: Sequence[Serving],
    traffic: Traffic | None,
    routing: Routing,
    cycle: Cycle,
) -> GroupRecord:
    """The record after this cycle's observation.

    Args:
        record: What is known of the group.
        members: Its variants.
        traffic: Their traffic together; None where not all of it is known.
        routing: How requests reach the pods.
        cycle: What all groups share.

    """
    if not cycle.settings.slo_feedback or not members:
        return replace(record, feedback=feedback.Feedback())
    serving = sum(ready(item.record.source) for item in members)
    missing = sum(max(item.ordered - ready(item.record.source), 0) for item in members)
    carried = _carried_rps(record, members, routing)
    after = feedback.observe(
        record.feedback,
        traffic,
        members[0].record.source.targets,
        feedback.Planned(
            ready=serving,
            ordered=serving + missing,
            rate_rps=carried / serving if serving else 0.0,
        ),
        window=cycle.settings.collection.window,
        now=cycle.now,
    )
    return replace(record, feedback=after)


def _carried_rps(record: GroupRecord, members: Sequence[Serving], routing: Routing) -> float:
    """What the ready replicas carry by the last plan; 0 where none says, or where it is not enough."""
    decision = None if record.state is None else record.state.decision
    if decision is None or decision.served != "full" or decision.binding in SHORT:
        return 0.0
    counts: Mapping[str, int] = {
        item.record.source.key: ready(item.record.source) for item in members
    }
    return transitions.capacity([_part(item) for item in members], counts, routing)


def _part(item: Serving) -> Part:
    decision = item.record.state.decision
    return Part(
        key=item.record.source.key,
        planned=0,
        target=0,
        ready=ready(item.record.source),
        rate_rps=0.0 if decision is None else decision.candidate.max_rate_rpm / 60.0,
        cost=0.0,
        weight=item.weight,
    )

"""Explanations of groups: the demand, who carries what at which marginal cost, what binds, what was next."""

from __future__ import annotations

from typing import Any

from adapter.controller.groups.state import GroupState
from adapter.controller.state import VariantState


def of_state(state: VariantState) -> dict[str, Any] | None:
    """The group of a variant as JSON; rates per minute, costs in cents per hour; None without a group."""
    group = state.group
    if group is None:
        return None
    document: dict[str, Any] = {
        "name": group.name,
        "routing": group.routing,
        "observedSpread": group.spread or None,
        "observedArrivalRatePerMinute": round(group.observed_rpm, 3),
        "gatewayArrivalRatePerMinute": _rounded(group.gateway_rpm),
        "waitingRequests": round(group.waiting, 3),
        "demandPerMinute": round(group.demand_rpm, 3),
        "sloFeedbackFactor": round(group.feedback, 4),
        "notes": list(group.notes),
        "waking": group.waking or None,
        "interruptibleShareLimit": round(group.interruptible_share, 4),
        "problem": group.problem,
        "members": {key: _member(group, key) for key in group.members},
    }
    decision = group.decision
    if decision is not None:
        document |= {
            "cost": round(decision.cost, 3),
            "capacityPerMinute": round(decision.capacity_rpm, 3),
            "served": decision.served,
            "binding": decision.binding,
            "runnerUp": decision.runner_up or None,
            "cutBy": [str(item) for item in decision.cut_by],
            "reason": decision.reason,
        }
    own = state.decision
    document["share"] = None if own is None else _rounded(own.share, 4)
    return document


def _member(group: GroupState, key: str) -> dict[str, Any]:
    decision = group.decision
    return {
        "replicas": group.targets.get(key),
        "share": None if decision is None else _rounded(decision.shares.get(key), 4),
        "centsPerThousandRequests": (
            None if decision is None else _rounded(decision.marginal_costs.get(key), 4)
        ),
        "observedPerPodPerMinute": _rounded(group.per_pod_rpm.get(key)),
        "unavailable": group.unavailable.get(key),
        "held": group.held.get(key) or group.outside.get(key),
    }


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)

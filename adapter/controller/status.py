"""`.status` of a VariantAutoscaling after a reconcile cycle: pure functions, so that statuses compare."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapter.controller import tuning
from adapter.controller.actuator import Unapplied
from adapter.controller.estimates import stored
from adapter.controller.groups import status as group_status
from adapter.controller.groups.status import WITHIN_BUDGET
from adapter.controller.history import decisions
from adapter.controller.state import VariantState
from adapter.resources.inputs import InvalidVariant
from adapter.resources.serving import roles
from adapter.resources.stored_status import CONFIGURATION, GATEWAYS
from adapter.resources.variant import VariantSource

Status = Mapping[str, Any]

LEARNED = "learnedStepTimes"
"""Field of what was learned, from which a new leader goes on."""

ADVISORY = "advisory, not published"
"""Beginning of the message of a target that no autoscaler reads."""

HISTORY = "history"
"""Field of the last decisions, which outlive a change of leaders."""

LEADER = "leaderTransitions"
"""Field of the transitions of the Lease that the writer holds: an admission policy refuses older ones."""

NEWER = (LEARNED, HISTORY, LEADER, "group")
"""Fields that the CRD of an older version does not have."""

ACCURATE = "ProfileAccurate"
"""Type of the condition that predictions are right; absent until they once were wrong."""

OWN = frozenset(
    {
        "TargetResolved",
        "MetricsAvailable",
        "OptimizationReady",
        CONFIGURATION,
        GATEWAYS,
        WITHIN_BUDGET,
        ACCURATE,
    }
)
"""Types of our conditions. Those of other controllers are theirs, and no reason to write: server-side apply
leaves them as they are.
"""

_VOLATILE = ("itlAverage", "ttftAverage", "load")
"""Fields of currentAlloc that differ at every cycle; they alone are no reason to write."""


def of_state(
    state: VariantState, before: Status, *, now: float, unapplied: Unapplied | None = None
) -> dict[str, Any]:
    """The status of a variant that is used.

    Args:
        state: the variant after a reconcile cycle.
        before: current status of the object; conditions that stay keep its transition times.
        now: Unix time.
        unapplied: what kept the scale target from being patched; None where nothing did.

    """
    source, current = state.source, _current(state)
    status: dict[str, Any] = {
        "observedGeneration": _generation(source),
        "currentAlloc": current,
        "actuation": {"applied": _applied(state, unapplied)},
        "conditions": [
            _condition(item, before, now=now, generation=source.generation)
            for item in _conditions(state, unapplied)
        ],
    }
    if source.warnings or CONFIGURATION in conditions(before):
        message = "; ".join(source.warnings) or "everything that it is configured by can be used"
        reason = "PartlyUnusable" if source.warnings else "ConfigurationUsed"
        item = (CONFIGURATION, not source.warnings, reason, message)
        status["conditions"].append(_condition(item, before, now=now, generation=source.generation))
    status["conditions"] += _gateways(state, before, now=now)
    if state.desired is not None:
        status["desiredOptimizedAlloc"] = {
            "lastRunTime": _stamp(state.decided_at),
            "accelerator": state.accelerator,
            "numReplicas": state.desired,
        }
        if service_class := class_of_target(source):
            status["desiredOptimizedAlloc"]["serviceClass"] = service_class
        if state.max_batch:
            status["desiredOptimizedAlloc"]["maxBatch"] = state.max_batch
    group = group_status.of_state(state)
    if group is not None:
        status["group"] = group
    status["conditions"] += _within_budget(state, before, now=now)
    accuracy = _accuracy(state, before, now=now)
    if accuracy is not None:
        status["conditions"].append(accuracy)
    learned = stored.text(source.model, tuning.to_store(state.tuned), _learned(before))
    if learned:
        status[LEARNED] = learned
    if state.history:
        status[HISTORY] = decisions.of_status(state.history)
    return status


def _generation(source: VariantSource) -> int:
    """Generation of the decision: that of a variant that is held is older than a change of its spec.

    Else a change that was made while it was held would count as none after the next reading.
    """
    last = source.published.generation if source.held and source.published is not None else None
    return source.generation if last is None else last


def class_of_target(source: VariantSource) -> str:
    """Service class that a variant's target is for: of one that is held, that of its last decision."""
    return source.service_class or (source.published.service_class if source.published else "")


def _current(state: VariantState) -> dict[str, Any]:
    """Replicas and load now."""
    source, traffic = state.source, state.traffic
    profile = next((p for p in source.profiles if p.accelerator == source.accelerator), None)
    current: dict[str, Any] = {"numReplicas": source.replicas}
    if source.accelerator:
        current["accelerator"] = source.accelerator
    if profile is not None:
        current["maxBatch"] = profile.max_batch
    if traffic is not None:
        current["load"] = {
            "arrivalRate": f"{60.0 * traffic.arrival_rate_rps:.2f}",
            "avgInputTokens": f"{traffic.input_tokens or 0.0:.2f}",
            "avgOutputTokens": f"{traffic.output_tokens or 0.0:.2f}",
        }
        current["itlAverage"] = f"{traffic.itl_ms or 0.0:.2f}"
        current["ttftAverage"] = f"{traffic.ttft_ms or 0.0:.2f}"
    if state.decision is not None:
        current["variantCost"] = f"{state.decision.current_cost:.2f}"
    return current


def _gateways(state: VariantState, before: Status, *, now: float) -> list[Mapping[str, Any]]:
    """The condition that gateways can be read, where one cannot be or could not."""
    last = conditions(before).get(GATEWAYS)
    seen = state.observation
    if seen is None:
        return [] if last is None else [last]
    if last is None and not seen.gateway_problem:
        return []
    item = (GATEWAYS, True, "GatewaysRead", "every gateway of its namespace can be read")
    if seen.gateway_problem:
        message = f"{seen.gateway_problem}; what waits there is not known, and wakes nothing"
        item = (GATEWAYS, False, "GatewayUnreadable", message)
    return [_condition(item, before, now=now, generation=state.source.generation)]


def _within_budget(state: VariantState, before: Status, *, now: float) -> list[Mapping[str, Any]]:
    """The condition WithinBudget where a ceiling cuts or cut the variant."""
    last = conditions(before).get(WITHIN_BUDGET)
    if state.decision is None:
        # Another replica decided: what it said of budgets stays.
        return [] if last is None else [last]
    condition = group_status.budget_condition(state, cut_before=last is not None)
    if condition is None:
        return []
    return [_condition(condition, before, now=now, generation=state.source.generation)]


def _applied(state: VariantState, unapplied: Unapplied | None) -> bool:
    return unapplied is None and state.desired is not None and not state.source.advisory


def _learned(status: Status) -> str:
    text = status.get(LEARNED)
    return text if isinstance(text, str) else ""


def _accuracy(state: VariantState, before: Status, *, now: float) -> Mapping[str, Any] | None:
    """The condition ProfileAccurate; the one before while nothing is known, as after a change of leaders."""
    last = conditions(before).get(ACCURATE)
    tuned = state.tuned.get(state.source.accelerator)
    drift = None if tuned is None else tuned.drift
    if drift is None or (last is None and not drift.active):
        return last
    reason = "PredictionDrift" if drift.active else "PredictionsRight"
    item = (ACCURATE, not drift.active, reason, drift.message)
    return _condition(item, before, now=now, generation=state.source.generation)


def _conditions(
    state: VariantState, unapplied: Unapplied | None
) -> list[tuple[str, bool, str, str]]:
    """Type, status, reason and message of all conditions."""
    source = state.source
    replicas = f"{source.reference}: {source.replicas} of {source.spec_replicas} replicas"
    if role := roles.text(source):
        replicas = f"{replicas}; {role}"
    measured = state.metrics == "MetricsFound"
    good = state.outcome in {"OptimizationSucceeded", "CapacityShort", "SaturationRule"}
    resolved = ("TargetResolved", True, "TargetFound", replicas)
    if source.mismatch:
        resolved = ("TargetResolved", False, "HPATargetMismatch", source.mismatch)
    if source.ambiguity:
        resolved = ("TargetResolved", False, "AmbiguousHPAs", source.ambiguity)
    if unapplied is not None:
        resolved = ("TargetResolved", False, unapplied.reason, unapplied.message)
    return [
        resolved,
        (
            "MetricsAvailable",
            measured,
            state.metrics,
            _metrics_source(state) if measured else _metrics_problem(state),
        ),
        ("OptimizationReady", good, state.outcome, _decided(state) if good else _undecided(state)),
    ]


def _decided(state: VariantState) -> str:
    """The reason of a target, that nothing reads it where it only advises, and GPUs that it cannot use."""
    reason = f"{ADVISORY}: {state.reason}" if state.source.advisory else state.reason
    short = state.outcome == "CapacityShort" and state.source.closed
    return f"{reason}; {state.source.closed}" if short else reason


def _undecided(state: VariantState) -> str:
    """Why there is no target, and, where its GPUs are short, those that it cannot use."""
    source, problem = state.source, state.problem
    short = source.device and f"{source.device} short" in problem and source.closed
    return f"{problem}; {source.closed}" if short else problem


def _metrics_source(state: VariantState) -> str:
    seen = state.observation
    if seen is None or not seen.origin:
        return "metrics are fresh"
    how = f", attributed by {seen.how}" if seen.how not in {"", "pod"} else ""
    part = f"; {seen.note}" if seen.note else ""
    return f"metrics are fresh ({seen.origin}{how}){part}"


def _metrics_problem(state: VariantState) -> str:
    seen = state.observation
    return (seen.problem if seen else "") or state.problem or (seen.note if seen else "")


def of_refusal(refusal: InvalidVariant, before: Status, *, now: float) -> dict[str, Any]:
    """The status of a VariantAutoscaling that is not used: no target, and the reason."""
    about_target = refusal.reason.startswith("Target")
    conditions: list[tuple[str, bool | None, str, str]] = [
        ("TargetResolved", False, refusal.reason, refusal.message)
        if about_target
        else ("TargetResolved", None, refusal.reason, "not evaluated"),
        ("MetricsAvailable", None, refusal.reason, "not evaluated"),
        ("OptimizationReady", False, refusal.reason, refusal.message),
    ]
    kept = {name: before[name] for name in (LEARNED, HISTORY) if before.get(name)}
    return {
        **kept,
        "observedGeneration": refusal.generation,
        "actuation": {"applied": False},
        "conditions": [
            _condition(item, before, now=now, generation=refusal.generation) for item in conditions
        ],
    }


def differs(before: Status, after: Status, *, refresh_seconds: float, now: float) -> bool:
    """Whether a status has to be written: for a change that people act upon, or an old target."""
    if _lasting(before) != _lasting(after):
        return True
    decided_at = decided(before)
    return decided_at is not None and (
        now - decided_at >= refresh_seconds and decided(after) != decided_at
    )


def alike(one: Status, other: Status) -> bool:
    """Whether two statuses say the same, and of the same moment, to those who act upon them."""
    return decided(one) == decided(other) and _lasting(one) == _lasting(other)


def decided(status: Status) -> float | None:
    """Unix time of the target in a status."""
    text = (status.get("desiredOptimizedAlloc") or {}).get("lastRunTime")
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def conditions(status: Status) -> dict[str, Mapping[str, Any]]:
    """Conditions by type."""
    return {str(item.get("type")): item for item in status.get("conditions") or ()}


def _lasting(status: Status) -> Any:
    """What of a status is worth a write when it changes."""
    lasting = {name: value for name, value in status.items() if value is not None}
    lasting.pop(LEADER, None)
    current = lasting.get("currentAlloc") or {}
    lasting["currentAlloc"] = {k: v for k, v in current.items() if k not in _VOLATILE}
    desired = lasting.get("desiredOptimizedAlloc") or {}
    lasting["desiredOptimizedAlloc"] = {k: v for k, v in desired.items() if k != "lastRunTime"}
    group = lasting.get("group") or {}
    lasting["group"] = {k: v for k, v in group.items() if k != "share"}
    # The message of a good condition has numbers of the load in it; they alone are no reason to write.
    lasting["conditions"] = {
        name: (
            item.get("status"),
            item.get("reason"),
            "" if item.get("status") == "True" else item.get("message"),
        )
        for name, item in conditions(status).items()
        if name in OWN
    }
    return lasting


def _condition(
    item: tuple[str, bool | None, str, str], before: Status, *, now: float, generation: int
) -> dict[str, Any]:
    kind, good, reason, message = item
    status = {True: "True", False: "False", None: "Unknown"}[good]
    last = conditions(before).get(kind) or {}
    same = last.get("status") == status and last.get("lastTransitionTime")
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message[:32768],
        "observedGeneration": generation,
        "lastTransitionTime": last["lastTransitionTime"] if same else _stamp(now),
    }


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

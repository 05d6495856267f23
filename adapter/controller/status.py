"""`.status` of a VariantAutoscaling, from what a pass found: pure, so that it can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from adapter.controller.state import VariantState
from adapter.resources.inputs import Refusal

Status = Mapping[str, Any]

_VOLATILE = ("itlAverage", "ttftAverage", "load")
"""Of currentAlloc: differs at every pass, and goes along with what is written anyhow."""


def of_state(state: VariantState, before: Status, *, now: float, applied: bool) -> dict[str, Any]:
    """The status of a variant that was looked at.

    Args:
        state: after a pass.
        before: the status that the object has; times of conditions that stay are taken from it.
        now: Unix time.
        applied: whether the target was published, or the scale target patched.

    """
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
    target = f"{source.reference}: {source.replicas} of {source.wanted} replicas"
    good = state.outcome in {"OptimizationSucceeded", "CapacityShort"}
    conditions = [
        ("TargetResolved", not source.mismatch, "HPATargetMismatch", source.mismatch)
        if source.mismatch
        else ("TargetResolved", True, "TargetFound", target),
        (
            "MetricsAvailable",
            state.metrics == "MetricsFound",
            state.metrics,
            _fresh(state) if state.metrics == "MetricsFound" else _wrong(state),
        ),
        ("OptimizationReady", good, state.outcome, state.reason if good else state.problem),
    ]
    found: dict[str, Any] = {
        "observedGeneration": source.generation,
        "currentAlloc": current,
        "actuation": {"applied": applied},
        "conditions": [
            _condition(item, before, now=now, generation=source.generation) for item in conditions
        ],
    }
    if state.desired is not None:
        found["desiredOptimizedAlloc"] = {
            "lastRunTime": _stamp(state.decided_at),
            "accelerator": state.accelerator,
            "numReplicas": state.desired,
        }
        if state.max_batch:
            found["desiredOptimizedAlloc"]["maxBatch"] = state.max_batch
    return found


def _fresh(state: VariantState) -> str:
    seen = state.observation
    if seen is None or not seen.origin:
        return "metrics are fresh"
    how = f", attributed by {seen.how}" if seen.how not in {"", "pod"} else ""
    return f"metrics are fresh ({seen.origin}{how})"


def _wrong(state: VariantState) -> str:
    return (state.observation.problem if state.observation else "") or state.problem


def of_refusal(refusal: Refusal, before: Status, *, now: float) -> dict[str, Any]:
    """The status of a variant that is left out: no target, and why."""
    about_target = refusal.reason.startswith("Target")
    conditions: list[tuple[str, bool | None, str, str]] = [
        ("TargetResolved", False, refusal.reason, refusal.message)
        if about_target
        else ("TargetResolved", None, refusal.reason, "not looked at"),
        ("MetricsAvailable", None, refusal.reason, "not looked at"),
        ("OptimizationReady", False, refusal.reason, refusal.message),
    ]
    return {
        "observedGeneration": refusal.generation,
        "actuation": {"applied": False},
        "conditions": [
            _condition(item, before, now=now, generation=refusal.generation) for item in conditions
        ],
    }


def differs(before: Status, after: Status, *, refresh_seconds: float, now: float) -> bool:
    """Whether it is worth a write: something that people act upon, or a target that grows old."""
    if _lasting(before) != _lasting(after):
        return True
    decided_at = decided(before)
    return decided_at is not None and (
        now - decided_at >= refresh_seconds and decided(after) != decided_at
    )


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
    found = {name: value for name, value in status.items() if value is not None}
    current = found.get("currentAlloc") or {}
    found["currentAlloc"] = {k: v for k, v in current.items() if k not in _VOLATILE}
    desired = found.get("desiredOptimizedAlloc") or {}
    found["desiredOptimizedAlloc"] = {k: v for k, v in desired.items() if k != "lastRunTime"}
    # A reason has numbers of the load in it: its text alone is not worth a write while it is good.
    found["conditions"] = {
        name: (
            item.get("status"),
            item.get("reason"),
            "" if item.get("status") == "True" else item.get("message"),
        )
        for name, item in conditions(status).items()
    }
    return found


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

"""Why a variant has its target: inputs with their ages, what binds, what was next, what holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The command `explain` only prints documents; the states would load the whole model with them.
    from adapter.controller.state import VariantState
    from adapter.resources.inputs import Refusal


def of_state(state: VariantState, *, now: float) -> dict[str, Any]:
    """One variant as JSON; ages in seconds, costs in cents per hour."""
    source, traffic, decision = state.source, state.traffic, state.decision
    found: dict[str, Any] = {
        "namespace": source.namespace,
        "name": source.name,
        "model": source.model,
        "serviceClass": source.service_class,
        "scaleTarget": str(source.reference),
        "currentReplicas": source.replicas,
        "wantedReplicas": source.wanted,
        "accelerator": source.accelerator,
        "endpoints": list(source.endpoints),
        "desiredReplicas": state.desired,
        "desiredAccelerator": state.accelerator,
        "reason": state.reason,
        "notes": list(state.notes),
        "metrics": state.metrics,
        "outcome": state.outcome,
        "problem": state.problem,
        "heldBackBy": held_back(state),
        "bounds": {"minReplicas": source.min_replicas, "maxReplicas": source.max_replicas},
        "targets": {
            "ttftMilliseconds": source.targets.ttft_ms or None,
            "itlMilliseconds": source.targets.itl_ms or None,
            "tokensPerSecond": source.targets.tps or None,
            "percentile": source.targets.percentile,
        },
    }
    if state.decided_at:
        found["decidedSecondsAgo"] = round(now - state.decided_at, 1)
    if traffic is not None:
        found["load"] = {
            "arrivalRatePerMinute": round(60.0 * traffic.arrival_rate_rps, 3),
            "inputTokens": traffic.input_tokens,
            "outputTokens": traffic.output_tokens,
            "ttftMilliseconds": traffic.ttft_ms,
            "itlMilliseconds": traffic.itl_ms,
            "idle": traffic.idle,
            "idleSeconds": round(traffic.idle_seconds, 1),
            "longArrivalRatePerMinute": round(60.0 * traffic.long_rate_rps, 3),
            "runningRequests": traffic.running,
            "waitingRequests": traffic.waiting,
            "kvCacheUsage": traffic.kv_cache,
            "observedSecondsAgo": round(now - state.observed_at, 1) if state.observed_at else None,
        }
    if state.observation is not None:
        found["metricsSource"] = state.observation.origin
        found["metricsAttributedBy"] = state.observation.how
        found["complete"] = state.observation.complete
    if decision is not None:
        explanation, candidate = decision.explanation, decision.candidate
        found["decision"] = {
            "replicas": candidate.replicas,
            "accelerator": candidate.accelerator,
            "maxBatch": candidate.max_batch,
            "cost": candidate.cost,
            "predictedTtftMilliseconds": candidate.ttft_ms,
            "predictedItlMilliseconds": candidate.itl_ms,
            "arrivalRatePerMinute": round(60.0 * decision.arrival_rate_rps, 3),
            "binding": explanation.binding,
            "sized": explanation.sized,
            "runnerUp": decision.runner_up or None,
            "shortages": [str(shortage) for shortage in explanation.shortages],
            "served": decision.served,
        }
    return found


def of_refusal(refusal: Refusal) -> dict[str, Any]:
    """One that is left out."""
    return {
        "namespace": refusal.namespace,
        "name": refusal.name,
        "outcome": refusal.reason,
        "problem": refusal.message,
    }


def held_back(state: VariantState) -> list[str]:
    """What keeps the replicas from following the target, each with its fix."""
    source, scaler, desired = state.source, state.source.scaler, state.desired
    reasons = [source.mismatch] if source.mismatch else []
    if desired is None or desired == source.replicas:
        return reasons
    if source.wanted == desired:
        return [
            *reasons,
            f"{source.reference} was scaled; {source.replicas} replicas are there yet",
        ]
    if source.wanted == 0:
        return [*reasons, f"{source.reference} is at zero: traffic at the gateway would wake it"]
    if source.actuate:
        return reasons
    if scaler is None:
        return [
            *reasons,
            f"no HorizontalPodAutoscaler scales {source.reference}; make one, or set --actuate=scale",
        ]
    name = f"HorizontalPodAutoscaler {scaler.name}"
    if not scaler.reads(source.name):
        reasons.append(f"{name} does not read our metric with variant_name={source.name}")
    direction = "scaleUp" if desired > source.replicas else "scaleDown"
    tolerance = scaler.ignores(source.replicas, desired)
    if tolerance is not None:
        reasons.append(
            f"{name} ignores changes of at most {tolerance:.0%};"
            f" set spec.behavior.{direction}.tolerance: 0"
        )
    seconds = scaler.up_seconds if direction == "scaleUp" else scaler.down_seconds
    if seconds:
        reasons.append(
            f"{name} waits up to {seconds} s (behavior.{direction}.stabilizationWindowSeconds)"
        )
    return reasons


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    said = [f"{found['namespace']}/{found['name']}"]

    def add(name: str, value: object) -> None:
        if value not in (None, "", []):
            said.append(f"  {name:<14}{value}")

    add("model", found.get("model"))
    add("class", found.get("serviceClass"))
    add("scales", found.get("scaleTarget"))
    if "currentReplicas" in found:
        add("current", f"{found['currentReplicas']} x {found['accelerator'] or '?'}")
        desired = found["desiredReplicas"]
        age = found.get("decidedSecondsAgo")
        add(
            "target",
            "none"
            if desired is None
            else f"{desired} x {found['desiredAccelerator'] or '?'}"
            + (f", decided {age:.0f} s ago" if age is not None else ""),
        )
    add("reason", found.get("reason"))
    add("problem", found.get("problem"))
    load = found.get("load")
    if load is not None:
        add("load", _load(load))
        add("metrics", _source(found, load))
        add("observed", _latencies(load))
    decision = found.get("decision")
    if decision is not None:
        add("bound by", decision["binding"])
        add(
            "predicted",
            f"TTFT {decision['predictedTtftMilliseconds']:.0f} ms,"
            f" ITL {decision['predictedItlMilliseconds']:.1f} ms, {decision['cost']:g} cents/h",
        )
        add("next best", decision["runnerUp"])
        for shortage in decision["shortages"]:
            add("short", shortage)
    for reason in found.get("heldBackBy") or ():
        add("held back", reason)
    return said


def _load(load: Mapping[str, Any]) -> str:
    text = f"{load['arrivalRatePerMinute']:g} req/min"
    if load["outputTokens"]:
        text += f", {load['inputTokens'] or 0:.0f} tokens in, {load['outputTokens']:.0f} out"
    if load["observedSecondsAgo"] is not None:
        text += f", seen {load['observedSecondsAgo']:.0f} s ago"
    return text


def _source(found: Mapping[str, Any], load: Mapping[str, Any]) -> str:
    """Where the numbers come from, and what is there now."""
    text = f"{found['metrics']} by {found.get('metricsSource') or 'nobody'}"
    how = found.get("metricsAttributedBy")
    if how and how != "pod":
        text += f" (attributed by {how})"
    text += f"; {load['runningRequests']:g} running, {load['waitingRequests']:g} waiting"
    cache = load["kvCacheUsage"]
    return text if cache is None else f"{text}, KV cache {cache:.0%}"


def _latencies(load: Mapping[str, Any]) -> str:
    shown = (("TTFT", load["ttftMilliseconds"]), ("ITL", load["itlMilliseconds"]))
    return ", ".join(f"{name} {value:.1f} ms" for name, value in shown if value is not None)

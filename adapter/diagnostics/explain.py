"""Explanations of targets: inputs with their ages, binding SLO, runner-up, and what delays the scaling."""

from __future__ import annotations

from typing import Any

from adapter.collector.traffic import Traffic
from adapter.controller import tuning
from adapter.controller.estimates import lengths, prior
from adapter.controller.history import decisions
from adapter.controller.state import VariantState, labels_of
from adapter.diagnostics import groups, latencies
from adapter.planning import fleet, plan
from adapter.resources import hpa
from adapter.resources.annotations import ACTUATE
from adapter.resources.inputs import InvalidVariant
from analyzer.step_times import StepTimes


def of_state(state: VariantState, *, now: float) -> dict[str, Any]:
    """Explain one variant as JSON; ages in seconds, costs in cents per hour."""
    source, traffic, decision = state.source, state.traffic, state.decision
    document: dict[str, Any] = {
        "namespace": source.namespace,
        "name": source.name,
        "model": source.model,
        "serviceClass": source.service_class,
        "scaleTarget": str(source.reference),
        "currentReplicas": source.replicas,
        "specReplicas": source.spec_replicas,
        "readyReplicas": source.ready,
        "accelerator": source.accelerator,
        "endpoints": list(source.endpoints),
        # KEDA's metrics-api can read the former: advice has a name of its own here too.
        "desiredReplicas": None if source.advisory else state.desired,
        "advisedReplicas": state.desired if source.advisory else None,
        "desiredAccelerator": state.accelerator,
        "reason": state.reason,
        "notes": list(state.notes),
        "profileSource": state.profile_source or None,
        "metrics": state.metrics,
        "outcome": state.outcome,
        "problem": state.problem,
        "drift": _drift(state),
        "configuration": list(source.warnings),
        "heldBackBy": held_back(state),
        "advisory": source.advisory,
        "interruptible": source.interruptible,
        "history": decisions.shown(state.history),
        "bounds": {"minReplicas": source.min_replicas, "maxReplicas": source.max_replicas},
        "targets": {
            "ttftMilliseconds": source.targets.ttft_ms or None,
            "itlMilliseconds": source.targets.itl_ms or None,
            "tokensPerSecond": source.targets.tps or None,
            "percentile": source.targets.percentile,
        },
    }
    used = next((p for p in source.profiles if p.accelerator == state.accelerator), None)
    if used is not None:
        document["profile"] = _profile(used)
    elif state.profile_source in {"estimated", "learned"}:
        document["profile"] = _learned(state)
    if state.decided_at:
        document["decidedSecondsAgo"] = round(now - state.decided_at, 1)
    if traffic is not None:
        age = round(now - state.observed_at, 1) if state.observed_at else None
        document["load"] = {**_load(traffic), "observedSecondsAgo": age}
        origin = "" if state.observation is None else state.observation.origin
        document["latencies"] = latencies.document(traffic, source.targets, origin)
    document |= _observed(state)
    if decision is not None:
        document["decision"] = _decision(decision)
        document["targetCost"] = round(state.cost, 6)
    if (group := groups.of_state(state)) is not None:
        document["group"] = group
    return document


def _observed(state: VariantState) -> dict[str, Any]:
    """Where its load comes from, and what the gateway knows beside; nothing before the first observation."""
    seen = state.observation
    if seen is None:
        return {}
    return {
        "metricsSource": seen.origin,
        "metricsAttributedBy": seen.how,
        "metricsNote": seen.note or None,
        "complete": seen.complete,
        "atGateway": seen.gateway_problem or seen.gateway or None,
    }


def _drift(state: VariantState) -> str | None:
    """What predictions and observations say of each other while they are apart; None while they agree."""
    item = state.tuned.get(state.source.accelerator)
    if item is None or item.drift is None or not item.drift.active:
        return None
    return item.drift.message


def _profile(profile: fleet.Profile) -> dict[str, Any]:
    """Form of a given profile, and the lengths that it was measured at; 0 where they are not given."""
    if isinstance(profile.latency, StepTimes):
        return {"form": "step times"}
    return {
        "form": "decode and prefill times",
        "atInputTokens": profile.at_input_tokens,
        "atOutputTokens": profile.at_tokens,
    }


def _learned(state: VariantState) -> dict[str, Any]:
    """Step times of a variant without a profile, and how certain they are."""
    item = state.tuned.get(state.source.accelerator)
    document: dict[str, Any] = {
        "form": "step times",
        "estimate": prior.of_source(state.source).described or None,
    }
    if item is not None:
        document["windows"] = item.tuner.accepted
        document["confidence"] = round(item.tuner.confidence, 3)
        document["stepTimesMilliseconds"] = {
            name: float(f"{value:.4g}") for name, value in tuning.parameters(item.tuner).items()
        }
    return document


def _load(traffic: Traffic) -> dict[str, Any]:
    used = lengths.of_traffic(traffic)
    return {
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
        "queueGrowthPerMinute": round(60.0 * traffic.waiting_growth_rps, 3),
        "kvCacheUsage": traffic.kv_cache,
        "kvCacheTokens": traffic.kv_tokens,
        "preemptionsPerMinute": _rounded(traffic.preemptions_rps, 60.0),
        "inputTokensVariation": _rounded(traffic.input_cv),
        "outputTokensVariation": _rounded(traffic.output_cv),
        "usedVariation": [round(used.input_cv, 3), round(used.output_cv, 3)],
        "variationSource": _variation_source(traffic),
        "cachedInputTokens": _rounded(traffic.cached_tokens),
    }


def _variation_source(traffic: Traffic) -> str:
    """Whether the variation of lengths that sizing uses was measured."""
    known = (traffic.input_cv is not None, traffic.output_cv is not None)
    if all(known):
        return "measured"
    return "partly measured" if any(known) else "default"


def _rounded(value: float | None, factor: float = 1.0) -> float | None:
    return None if value is None else round(factor * value, 3)


def _decision(decision: plan.Decision) -> dict[str, Any]:
    explanation, candidate = decision.explanation, decision.candidate
    return {
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
        "cutBy": [str(item) for item in decision.cut_by],
    }


def of_refusal(refusal: InvalidVariant) -> dict[str, Any]:
    """Explain a VariantAutoscaling that is not used."""
    return {
        "namespace": refusal.namespace,
        "name": refusal.name,
        "outcome": refusal.reason,
        "problem": refusal.message,
    }


def held_back(state: VariantState) -> list[str]:
    """Why the replicas do not follow the target yet, each reason with its fix."""
    source, scaler, desired = state.source, state.source.scaler, state.desired
    reasons = list(filter(None, (source.ambiguity, source.mismatch)))
    if desired is None or desired == source.replicas:
        return reasons
    if source.gated:
        reasons.append(
            f"{source.gated} pods of {source.reference} wait for their scheduling gate, as of a Kueue queue"
            " without quota"
        )
    if source.spec_replicas == desired:
        return [
            *reasons,
            f"{source.reference} was scaled; {source.replicas} replicas exist so far",
        ]
    if source.spec_replicas == 0:
        return [
            *reasons,
            f"{source.reference} is at zero and stays there until requests arrive at the gateway",
        ]
    if source.advisory:
        reasons.append(f"it only advises ({ACTUATE} or --actuate is none): nothing is published")
    if source.advisory or source.actuate == "scale":
        return reasons
    if scaler is None:
        return [
            *reasons,
            f"no HorizontalPodAutoscaler scales {source.reference}; create one, or set --actuate=scale",
        ]
    return [*reasons, *_held_by_hpa(state, scaler, desired)]


def _held_by_hpa(state: VariantState, scaler: hpa.Scaler, desired: int) -> list[str]:
    """Why an HPA does not follow the target, or not at once."""
    source, name = state.source, str(scaler)
    reasons = []
    served = labels_of(source, state.accelerator)
    if scaler.by_prometheus and not scaler.readings:
        pass  # its query is in the ScaledObject alone
    elif not scaler.reads(served):
        why = "; ".join(f"{item.metric}: {item.why_not(served)}" for item in scaler.readings)
        reasons.append(
            f"{name} does not read the adapter's metric with variant_name={source.name}"
            + (f": {why}" if why else "")
        )
    if scaler.others and (scaler.readings or scaler.by_keda) and desired < source.replicas:
        reasons.append(
            f"{name} also reads {', '.join(scaler.others)}, and follows the largest of all"
        )
    direction = "scaleUp" if desired > source.replicas else "scaleDown"
    if scaler.up_disabled if direction == "scaleUp" else scaler.down_disabled:
        reasons.append(f"{name} never does so: behavior.{direction}.selectPolicy is Disabled")
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
    policy = scaler.slowed(source.replicas, desired)
    if policy is not None:
        verb = "adds" if direction == "scaleUp" else "removes"
        reasons.append(
            f"{name} {verb} at most {policy.most(source.replicas)} in {policy.seconds} s"
            f" (behavior.{direction}.policies)"
        )
    return reasons

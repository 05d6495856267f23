"""From a fleet to a plan: the pure step that asks the analyzer and then the optimizer.

For every variant and accelerator the analyzer says what one replica carries; that makes the candidates
among which the optimizer chooses. A variant that cannot be planned is set aside with its reason and
never stops the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from adapter import fleet as fleets
from analyzer import capacity, queueing
from analyzer.errors import AnalyzerError
from optimizer import problem, unlimited

REPLICA_ROUNDING = 1e-9
"""Relative excess of load over capacity that does not call for another replica: float noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The chosen candidate of one variant, with the load it was chosen for.

    Attributes:
        runner_up: the next-best candidate's accelerator and cost, in words; empty if there is none.

    """

    candidate: problem.Candidate
    arrival_rate_rps: float
    runner_up: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Decisions by variant name, and why the others have none."""

    decisions: Mapping[str, Decision]
    set_aside: Mapping[str, str] = field(default_factory=dict)


def plan(fleet: fleets.Fleet) -> Plan:
    """Decide accelerator, replicas and max batch of every variant at least cost."""
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    problems: list[problem.Variant] = []
    set_aside: dict[str, str] = {}
    for variant in fleet.variants:
        candidates, refusals = _candidates(variant, accelerators, classes)
        if not candidates:
            set_aside[variant.name] = "; ".join(refusals)
            continue
        problems.append(
            problem.Variant(
                name=variant.name,
                current=_current(variant, accelerators),
                candidates=tuple(candidates),
            )
        )
    chosen = unlimited.solve(problems)
    rates = {variant.name: variant.load.arrival_rate_rps for variant in fleet.variants}
    decisions = {
        item.name: Decision(
            candidate=chosen[item.name],
            arrival_rate_rps=rates[item.name],
            runner_up=_runner_up(item),
        )
        for item in problems
    }
    return Plan(decisions=decisions, set_aside=set_aside)


def _candidates(
    variant: fleets.Variant,
    accelerators: Mapping[str, fleets.Accelerator],
    classes: Mapping[str, fleets.ServiceClass],
) -> tuple[list[problem.Candidate], list[str]]:
    service_class = classes.get(variant.service_class)
    targets = service_class.targets.get(variant.model) if service_class else None
    if targets is None:
        return [], [
            f"service class {variant.service_class!r} has no targets for model {variant.model!r}"
        ]
    profiles = variant.profiles
    if variant.keep_accelerator and variant.current.accelerator:
        profiles = tuple(p for p in profiles if p.accelerator == variant.current.accelerator)
        if not profiles:
            return [], [
                f"told to keep accelerator {variant.current.accelerator!r}, which has no profile"
            ]
    candidates: list[problem.Candidate] = []
    refusals: list[str] = []
    for profile in profiles:
        accelerator = accelerators.get(profile.accelerator)
        if accelerator is None:
            refusals.append(f"{profile.accelerator}: no cost in accelerator-unit-costs")
            continue
        try:
            outcome = _candidate(variant, profile, accelerator, targets)
        except AnalyzerError as error:
            outcome = str(error)
        if isinstance(outcome, str):
            refusals.append(f"{profile.accelerator}: {outcome}")
        else:
            candidates.append(outcome)
    return candidates, refusals


def _candidate(
    variant: fleets.Variant,
    profile: fleets.Profile,
    accelerator: fleets.Accelerator,
    targets: fleets.Targets,
) -> problem.Candidate | str:
    """One candidate, or why there is none."""
    load = variant.load
    output_tokens = max(load.output_tokens, 1.0)
    max_batch = _max_batch(variant, profile, output_tokens)
    replica = queueing.Replica(
        alpha_ms=profile.alpha_ms,
        beta_ms=profile.beta_ms,
        gamma_ms=profile.gamma_ms,
        delta_ms=profile.delta_ms,
        input_tokens=load.input_tokens,
        output_tokens=output_tokens,
        max_batch=max_batch,
        max_queue=queueing.MAX_QUEUE_TO_BATCH * max_batch,
    )
    sized = capacity.size(replica, ttft_ms=targets.ttft_ms, itl_ms=targets.itl_ms)
    if isinstance(sized, capacity.Unreachable):
        return str(sized)
    # A tokens-per-second target is a floor under the rate to serve, never a replacement of it.
    rate_rps = max(load.arrival_rate_rps, targets.tps / output_tokens)
    wanted = math.ceil(rate_rps / sized.rate_rps * (1 - REPLICA_ROUNDING))
    replicas = max(wanted, variant.min_replicas)
    reason = f"{sized.binding} bounds a replica to {sized.rate_rps * 60:.2f} req/min"
    if wanted < variant.min_replicas:
        reason = f"minimum of {variant.min_replicas} replicas"
    if variant.max_replicas is not None and replicas > variant.max_replicas:
        reason = f"{replicas} replicas wanted, but the maximum is {variant.max_replicas}; " + reason
        replicas = variant.max_replicas
    if replicas > 0 and rate_rps > 0:
        steady = queueing.analyze(replica, rate_rps / replicas)
        itl_ms, ttft_ms = steady.itl_ms, steady.ttft_ms
    else:
        itl_ms, ttft_ms = replica.decode_ms(1.0), replica.prefill_ms(1.0)
    return problem.Candidate(
        accelerator=profile.accelerator if replicas else "",
        replicas=replicas,
        max_batch=max_batch,
        cost=_cost(accelerator, profile, replicas),
        itl_ms=itl_ms,
        ttft_ms=ttft_ms,
        max_rate_rpm=sized.rate_rps * 60,
        reason=reason,
    )


def _max_batch(variant: fleets.Variant, profile: fleets.Profile, output_tokens: float) -> int:
    if variant.max_batch:
        return variant.max_batch
    if profile.at_tokens:
        return max(int(profile.max_batch * profile.at_tokens / output_tokens), 1)
    return max(profile.max_batch, 1)


def _cost(accelerator: fleets.Accelerator, profile: fleets.Profile, replicas: int) -> float:
    return accelerator.unit_cost * profile.accelerator_count * replicas


def _current(
    variant: fleets.Variant, accelerators: Mapping[str, fleets.Accelerator]
) -> problem.Current:
    current = variant.current
    accelerator = accelerators.get(current.accelerator)
    profile = next((p for p in variant.profiles if p.accelerator == current.accelerator), None)
    cost = _cost(accelerator, profile, current.replicas) if accelerator and profile else 0.0
    return problem.Current(accelerator=current.accelerator, replicas=current.replicas, cost=cost)


def _runner_up(variant: problem.Variant) -> str:
    others = unlimited.ranked(variant)[1:]
    if not others:
        return ""
    best = others[0]
    return f"{best.replicas} x {best.accelerator or 'nothing'} at {best.cost:g} cents/h"

"""From a fleet to a plan: the pure step that calls the analyzer and then the optimizer.

For every variant and accelerator the analyzer says what one replica carries; that makes the candidates
among which the optimizer chooses. A variant that cannot be planned is set aside with its reason and
never stops the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from optimizer import problem, solvers
from optimizer.explain import Explanation, explain
from optimizer.problem import Served, Termination

_EMPTY = problem.Candidate(
    accelerator="", replicas=0, max_batch=0, cost=0.0, itl_ms=0.0, ttft_ms=0.0, max_rate_rpm=0.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Decision for one variant, with the load that it was made for.

    Attributes:
        candidate: chosen candidate, with the replicas, cost and latencies that it is given.
        value: cost change plus transition penalty, cents per hour.
        served: full, partial or none of the load.
        explanation: reasons as data.
        reason: reasons in one sentence.
        current_cost: cost of the current replicas, cents per hour.

    """

    candidate: problem.Candidate
    value: float
    served: Served
    arrival_rate_rps: float
    explanation: Explanation
    reason: str
    current_cost: float = 0.0

    @property
    def runner_up(self) -> str:
        """The next-best candidate in words; empty if there is none."""
        runner_up = self.explanation.runner_up
        return "" if runner_up is None else str(runner_up)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Decisions of one planning step.

    Attributes:
        total_cost: cost of all decisions, cents per hour.
        gap: relative distance to the bound; None where none is known.

    """

    decisions: Mapping[str, Decision]
    set_aside: Mapping[str, str] = field(default_factory=dict)
    solver: str = ""
    termination: Termination = "optimal"
    gap: float | None = None
    total_cost: float = 0.0


def plan(fleet: fleets.Fleet) -> Plan:
    """Decide accelerator, replicas and max batch of every variant at least cost.

    Raises:
        InvalidProblemError: capacity or settings have no meaning.

    """
    given, set_aside = _problem(fleet)
    solution = solvers.solve(given, fleet.settings.solver)
    reasons = explain(given, solution)
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    variants = {variant.name: variant for variant in fleet.variants}
    decisions = {}
    for item in given.variants:
        variant = variants[item.name]
        targets = classes[variant.service_class].targets[variant.model]
        got = solution.allocations[item.name]
        decision = _decision(variant, targets, got, reasons[item.name])
        decisions[item.name] = replace(decision, current_cost=item.current.cost)
    return Plan(
        decisions=decisions,
        set_aside=set_aside,
        solver=solution.solver,
        termination=solution.termination,
        gap=solution.gap,
        total_cost=solution.total_cost,
    )


def _problem(fleet: fleets.Fleet) -> tuple[problem.Problem, dict[str, str]]:
    """What the optimizer gets, and why some variants are not in it."""
    settings = fleet.settings
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    choices = candidates.choices(fleet)
    variants: list[problem.VariantCandidates] = []
    set_aside: dict[str, str] = {}
    for variant in fleet.variants:
        choice = choices[variant.name]
        if not choice.candidates:
            set_aside[variant.name] = "; ".join(choice.refusals) or "no profile to choose from"
            continue
        variants.append(
            problem.VariantCandidates(
                name=variant.name,
                priority=classes[variant.service_class].priority,
                current=candidates.current(variant, accelerators),
                candidates=tuple(choice.candidates),
            )
        )
    given = problem.Problem(
        variants=tuple(variants),
        capacity=fleet.capacity,
        policy=settings.policy,
        delayed_best_effort=settings.delayed_best_effort,
        transition_factor=settings.transition_factor,
        time_limit_s=settings.time_limit_s,
        gap=settings.gap,
    )
    wrong = {error.variant: error.problem for error in solvers.errors_of(given) if error.variant}
    set_aside.update(wrong)
    kept = tuple(variant for variant in given.variants if variant.name not in wrong)
    return replace(given, variants=kept), set_aside


def _decision(
    variant: fleets.Variant,
    targets: fleets.Targets,
    got: problem.Allocation,
    explanation: Explanation,
) -> Decision:
    short = "; ".join(str(shortage) for shortage in explanation.shortages)
    chosen = got.candidate
    if chosen is None:
        chosen, reason = _EMPTY, f"not served: {short}"
    elif got.served == "full":
        reason = "; ".join(part for part in (chosen.reason, short) if part)
    else:
        steady = candidates.performance(variant, chosen, targets, got.replicas)
        reason = (
            f"{got.replicas} of {chosen.replicas} replicas: TTFT {steady.ttft_ms:.0f} ms,"
            f" ITL {steady.itl_ms:.1f} ms, {steady.blocking:.0%} of requests turned away; {short}"
        )
        chosen = replace(
            chosen,
            replicas=got.replicas,
            cost=got.cost,
            itl_ms=steady.itl_ms,
            ttft_ms=steady.ttft_ms,
        )
    return Decision(
        candidate=chosen,
        value=got.value,
        served=got.served,
        arrival_rate_rps=variant.load.arrival_rate_rps,
        explanation=explanation,
        reason=reason,
    )

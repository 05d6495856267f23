"""From a fleet to a plan: the pure step that calls the analyzer and then the optimizer.

For every variant and accelerator the analyzer says what one replica carries; that makes the candidates
among which the optimizer chooses. A variant that cannot be planned is set aside with its reason and
never stops the others.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from adapter.planning.groups import Ceiling, GroupDecision
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
        notes: what to know about the profile, such as that the traffic has left its lengths.
        group: group whose demand it shares; empty where it is on its own.
        share: its part of the group's demand, 0 to 1; None without a group.
        cut_by: ceilings that kept it from what it needs.

    """

    candidate: problem.Candidate
    value: float
    served: Served
    arrival_rate_rps: float
    explanation: Explanation
    reason: str
    current_cost: float = 0.0
    notes: tuple[str, ...] = ()
    group: str = ""
    share: float | None = None
    cut_by: tuple[Ceiling, ...] = ()

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
        groups: decisions of groups by name; those that could not be planned are in `set_aside`.
        ceilings: ceilings of budgets and what the plan takes of them.

    """

    decisions: Mapping[str, Decision]
    set_aside: Mapping[str, str] = field(default_factory=dict)
    solver: str = ""
    termination: Termination = "optimal"
    gap: float | None = None
    total_cost: float = 0.0
    groups: Mapping[str, GroupDecision] = field(default_factory=dict)
    ceilings: tuple[Ceiling, ...] = ()


def plan(fleet: fleets.Fleet) -> Plan:
    """Decide accelerator, replicas and max batch of every variant at least cost.

    Raises:
        InvalidProblemError: capacity or settings have no meaning.

    """
    with _collection_paused():
        return _placed(fleet) if fleet.groups or fleet.budgets else _independent(fleet)


@contextlib.contextmanager
def _collection_paused() -> Iterator[None]:
    """Keep the garbage collector from walking a large fleet again and again while it grows.

    A plan makes objects without cycles; of 10,000 variants a quarter of the time went to looking for some.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _independent(fleet: fleets.Fleet) -> Plan:
    """Plan of a fleet without groups and budgets."""
    sized = candidates.Candidates(fleet)
    given, set_aside = _problem(fleet, sized)
    solution = solvers.solve_sound(given, fleet.settings.solver)
    rows = {
        item.name: _row(sized.by_variant[item.name], got.candidate)
        for item in given.variants
        if (got := solution.allocations[item.name]).candidate is not None
    }
    decisions = _decisions(fleet, sized, given, solution, rows=rows, rates_rps={})
    return _plan(decisions, set_aside, solution)


def _placed(fleet: fleets.Fleet) -> Plan:
    """Plan of a fleet with groups or budgets."""
    # Loaded where it is needed: fleets without groups do not wait for it.
    from adapter.planning.joint import plan as joints  # noqa: PLC0415

    sized, joint = joints.place(fleet)
    decisions = _decisions(
        fleet, sized, joint.given, joint.solution, rows=joint.rows, rates_rps=joint.rates_rps
    )
    mixed = {group.name for group in fleet.groups if group.length_classes}
    for name, decision in decisions.items():
        group, cut = joint.owners.get(name, ""), joint.cut_by.get(name, ())
        share = joint.shares.get(name)
        changes: dict[str, Any] = {"group": group, "share": share, "cut_by": cut}
        reason = decision.reason
        if group:
            served = joint.groups[group].served
            changes["arrival_rate_rps"] = joint.groups[group].demand_rpm / 60.0 * (share or 0.0)
            changes["served"] = served
            if group in mixed:
                # A replica is bound by no one of them, nor by a request of their mean lengths.
                rate = decision.candidate.max_rate_rpm
                reason = f"its mix of length classes bounds a replica to {rate:.2f} req/min"
                changes["explanation"] = replace(decision.explanation, sized=reason)
            if not decision.candidate.replicas:
                reason = ""
            elif served != "full":
                chosen = decision.candidate
                reason = f"TTFT {chosen.ttft_ms:.0f} ms, ITL {chosen.itl_ms:.1f} ms; {reason}"
            reason = "; ".join(filter(None, (f"carries {share:.0%} of group {group}", reason)))
        reason = "; ".join([reason, *(str(item) for item in cut)])
        decisions[name] = replace(decision, reason=reason, **changes)
    plan_ = _plan(decisions, dict(joint.set_aside), joint.solution)
    return replace(plan_, groups=joint.groups, ceilings=joint.ceilings)


def _plan(
    decisions: Mapping[str, Decision], set_aside: Mapping[str, str], solution: problem.Solution
) -> Plan:
    return Plan(
        decisions=decisions,
        set_aside=set_aside,
        solver=solution.solver,
        termination=solution.termination,
        gap=solution.gap,
        total_cost=solution.total_cost,
    )


def _decisions(
    fleet: fleets.Fleet,
    sized: candidates.Candidates,
    given: problem.Problem,
    solution: problem.Solution,
    *,
    rows: Mapping[str, int],
    rates_rps: Mapping[int, float],
) -> dict[str, Decision]:
    """Decisions with their latencies and reasons, of the variants that `rows` has a candidate of."""
    rates = {variant.name: variant.load.arrival_rate_rps for variant in fleet.variants}
    chosen = [
        (item.name, solution.allocations[item.name], rows[item.name])
        for item in given.variants
        if solution.allocations[item.name].candidate is not None
    ]
    reasons = {name: sized.reason(row) for name, _, row in chosen}
    explanations = explain(given, solution, reasons)
    steady = sized.steady(
        [row for _, _, row in chosen], [got.replicas for _, got, _ in chosen], rates_rps
    )
    latencies = dict(
        zip(
            (name for name, _, _ in chosen),
            zip(
                steady.ttft_ms.tolist(),
                steady.itl_ms.tolist(),
                steady.blocking.tolist(),
                strict=True,
            ),
            strict=True,
        )
    )
    notes = {name: sized.notes(row) for name, _, row in chosen}
    return {
        item.name: _decision(
            solution.allocations[item.name],
            latencies.get(item.name),
            explanations[item.name],
            arrival_rate_rps=rates[item.name],
            current_cost=item.current.cost,
            notes=notes.get(item.name, ()),
        )
        for item in given.variants
    }


def _row(choices: candidates.Choices, chosen: problem.Candidate | None) -> int:
    """Row of the candidate that was chosen."""
    for row, candidate in zip(choices.rows, choices.candidates, strict=True):
        if candidate is chosen:
            return row
    raise LookupError(chosen)


def _problem(
    fleet: fleets.Fleet, sized: candidates.Candidates
) -> tuple[problem.Problem, dict[str, str]]:
    """What the optimizer gets, with nothing wrong in it, and why some variants are not in it.

    Raises:
        InvalidProblemError: capacity or settings have no meaning.

    """
    settings = fleet.settings
    accelerators = {accelerator.name: accelerator for accelerator in fleet.accelerators}
    classes = {service_class.name: service_class for service_class in fleet.service_classes}
    variants: list[problem.VariantCandidates] = []
    set_aside: dict[str, str] = {}
    for variant in fleet.variants:
        choice = sized.by_variant[variant.name]
        if not choice.candidates:
            set_aside[variant.name] = (
                "; ".join(map(str, choice.unusable)) or "no profile to choose from"
            )
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
        within=fleet.within,
        policy=settings.policy,
        delayed_best_effort=settings.delayed_best_effort,
        transition_factor=settings.transition_factor,
        time_limit_s=settings.time_limit_s,
        gap=settings.gap,
    )
    wrong: dict[str, str] = {}
    for error in solvers.errors_of(given):
        if not error.variant:
            raise error
        wrong[error.variant] = error.problem
    set_aside.update(wrong)
    if wrong:
        planned = tuple(variant for variant in given.variants if variant.name not in wrong)
        given = replace(given, variants=planned)
    return given, set_aside


def _decision(
    got: problem.Allocation,
    latencies: tuple[float, float, float] | None,
    explanation: Explanation,
    *,
    arrival_rate_rps: float,
    current_cost: float,
    notes: tuple[str, ...],
) -> Decision:
    short = "; ".join(map(str, explanation.shortages))
    given = got.candidate
    if given is None or latencies is None:
        chosen, reason = _EMPTY, f"not served: {short}" if short else "not served"
    else:
        ttft, itl, blocking = latencies
        sized = explanation.sized
        reason = f"{sized}; {short}" if sized and short else sized or short
        if got.served != "full":
            reason = (
                f"{got.replicas} of {given.replicas} replicas: TTFT {ttft:.0f} ms,"
                f" ITL {itl:.1f} ms, {blocking:.0%} of requests turned away"
            )
            reason = "; ".join(part for part in (reason, short) if part)
        chosen = problem.Candidate(
            accelerator=given.accelerator,
            replicas=got.replicas,
            max_batch=given.max_batch,
            cost=got.cost,
            itl_ms=itl,
            ttft_ms=ttft,
            max_rate_rpm=given.max_rate_rpm,
            reason=explanation.sized,
            device_type=given.device_type,
            devices=given.devices,
            binding=given.binding,
            for_arrivals=min(given.for_arrivals, got.replicas),
        )
    return Decision(
        candidate=chosen,
        value=got.value,
        served=got.served,
        arrival_rate_rps=arrival_rate_rps,
        explanation=explanation,
        reason=reason,
        current_cost=current_cost,
        notes=notes,
    )

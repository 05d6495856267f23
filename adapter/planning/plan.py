"""From a fleet to a plan: the pure step that calls the analyzer and then the optimizer.

For every variant and accelerator the analyzer says what one replica carries; that makes the candidates
among which the optimizer chooses. A variant that cannot be planned is set aside with its reason and
never stops the others.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from adapter.planning import candidates
from adapter.planning import fleet as fleets
from adapter.planning.groups import Ceiling, GroupDecision
from optimizer import problem, solvers
from optimizer.explain import Explainer, Explanation
from optimizer.problem import Served, Termination

_EMPTY = problem.Candidate(
    accelerator="", replicas=0, max_batch=0, cost=0.0, itl_ms=0.0, ttft_ms=0.0, max_rate_rpm=0.0
)


class Reasons(NamedTuple):
    """Reasons of a decision, as data and in one sentence."""

    explanation: Explanation
    reason: str


class Why:
    """Why a decision is as it is: found out when it is first read, as of a large plan little is.

    What is compared and what goes to another process are the reasons.
    """

    __slots__ = ("_reasons",)

    def __init__(self, reasons: Reasons | Callable[[], Reasons]) -> None:
        """Reasons, or what finds them out."""
        self._reasons = reasons

    @property
    def reasons(self) -> Reasons:
        """The reasons; from then on nothing is kept of what they were found out from."""
        if not isinstance(self._reasons, Reasons):
            self._reasons = self._reasons()
        return self._reasons

    def __eq__(self, other: object) -> bool:
        """Whether the reasons are the same."""
        return self.reasons == other.reasons if isinstance(other, Why) else NotImplemented

    def __hash__(self) -> int:
        """Hash of the reasons, which equal ones share."""
        return hash(self.reasons)

    def __repr__(self) -> str:
        """The reasons."""
        return f"Why({self.reasons!r})"

    def __reduce__(self) -> tuple[type[Why], tuple[Reasons]]:
        """The reasons, for another process."""
        return Why, (self.reasons,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Decision for one variant, with the load that it was made for.

    Attributes:
        candidate: chosen candidate, with the replicas, cost and latencies that it is given; its reason is
            left to `explanation.sized`.
        value: cost change plus transition penalty, cents per hour.
        served: full, partial or none of the load.
        why: its reasons.
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
    why: Why
    current_cost: float = 0.0
    notes: tuple[str, ...] = ()
    group: str = ""
    share: float | None = None
    cut_by: tuple[Ceiling, ...] = ()

    @property
    def explanation(self) -> Explanation:
        """Reasons as data."""
        return self.why.reasons.explanation

    @property
    def reason(self) -> str:
        """Reasons in one sentence."""
        return self.why.reasons.reason

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
    with collection_paused():
        return _placed(fleet) if fleet.groups or fleet.budgets else _independent(fleet)


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
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
        explanation, reason = decision.why.reasons
        if group:
            served = joint.groups[group].served
            changes["arrival_rate_rps"] = joint.groups[group].demand_rpm / 60.0 * (share or 0.0)
            changes["served"] = served
            if group in mixed:
                # A replica is bound by no one of them, nor by a request of their mean lengths.
                rate = decision.candidate.max_rate_rpm
                reason = f"its mix of length classes bounds a replica to {rate:.2f} req/min"
                explanation = replace(explanation, sized=reason)
            if not decision.candidate.replicas:
                reason = ""
            elif served != "full":
                chosen = decision.candidate
                reason = f"TTFT {chosen.ttft_ms:.0f} ms, ITL {chosen.itl_ms:.1f} ms; {reason}"
            reason = "; ".join(filter(None, (f"carries {share:.0%} of group {group}", reason)))
        reason = "; ".join([reason, *(str(item) for item in cut)])
        decisions[name] = replace(decision, why=Why(Reasons(explanation, reason)), **changes)
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
    """Decisions with their latencies, of the variants that `rows` has a candidate of."""
    rates = {variant.name: variant.load.arrival_rate_rps for variant in fleet.variants}
    chosen = [
        (item.name, got.replicas, rows[item.name])
        for item in given.variants
        if (got := solution.allocations[item.name]).candidate is not None
    ]
    steady = sized.steady(
        [row for _, _, row in chosen], [replicas for _, replicas, _ in chosen], rates_rps
    )
    columns = steady.ttft_ms.tolist(), steady.itl_ms.tolist(), steady.blocking.tolist()
    latencies = {name: each for (name, _, _), *each in zip(chosen, *columns, strict=True)}
    reasoning = _Reasoning(sized, rows, latencies, Explainer(given, solution), solution)
    return {
        item.name: Decision(
            candidate=_chosen(got, latencies.get(item.name)),
            value=got.value,
            served=got.served,
            arrival_rate_rps=rates[item.name],
            why=Why(partial(reasoning.reasons, item)),
            current_cost=item.current.cost,
            notes=sized.notes(rows[item.name]) if got.candidate is not None else (),
        )
        for item in given.variants
        for got in (solution.allocations[item.name],)
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


def _chosen(got: problem.Allocation, latencies: Sequence[float] | None) -> problem.Candidate:
    """What was chosen, with what it is given."""
    given = got.candidate
    if given is None or latencies is None:
        return _EMPTY
    ttft, itl, _ = latencies
    return problem.Candidate(
        accelerator=given.accelerator,
        replicas=got.replicas,
        max_batch=given.max_batch,
        cost=got.cost,
        itl_ms=itl,
        ttft_ms=ttft,
        max_rate_rpm=given.max_rate_rpm,
        device_type=given.device_type,
        devices=given.devices,
        binding=given.binding,
        for_arrivals=min(given.for_arrivals, got.replicas),
    )


@dataclass(frozen=True, slots=True)
class _Reasoning:
    """What the reasons of a plan's decisions are found out from."""

    sized: candidates.Candidates
    rows: Mapping[str, int]
    latencies: Mapping[str, Sequence[float]]
    explainer: Explainer
    solution: problem.Solution

    def reasons(self, variant: problem.VariantCandidates) -> Reasons:
        """Reasons of one variant's decision."""
        name = variant.name
        got, latencies = self.solution.allocations[name], self.latencies.get(name)
        given = got.candidate
        explanation = self.explainer.explain(
            variant, "" if given is None else self.sized.reason(self.rows[name])
        )
        short = "; ".join(map(str, explanation.shortages))
        if given is None or latencies is None:
            return Reasons(explanation, f"not served: {short}" if short else "not served")
        said = explanation.sized
        if got.served != "full":
            ttft, itl, blocking = latencies
            said = (
                f"{got.replicas} of {given.replicas} replicas: TTFT {ttft:.0f} ms,"
                f" ITL {itl:.1f} ms, {blocking:.0%} of requests turned away"
            )
        return Reasons(explanation, "; ".join(filter(None, (said, short))))

"""From a fleet to a plan: the pure step that asks the analyzer and then the optimizer.

For every variant and accelerator the analyzer says what one replica carries; that makes the candidates
among which the optimizer chooses. A variant that cannot be planned is set aside with its reason and
never stops the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapter import candidates
from adapter import fleet as fleets
from optimizer import problem, unlimited


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
    choices = candidates.choices(fleet)
    problems: list[problem.Variant] = []
    set_aside: dict[str, str] = {}
    for variant in fleet.variants:
        choice = choices[variant.name]
        if not choice.candidates:
            set_aside[variant.name] = "; ".join(choice.refusals)
            continue
        problems.append(
            problem.Variant(
                name=variant.name,
                current=candidates.current(variant, accelerators),
                candidates=tuple(choice.candidates),
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


def _runner_up(variant: problem.Variant) -> str:
    others = unlimited.ranked(variant)[1:]
    if not others:
        return ""
    best = others[0]
    return f"{best.replicas} x {best.accelerator or 'nothing'} at {best.cost:g} cents/h"

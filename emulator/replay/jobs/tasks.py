"""One job of a comparison: a policy's replay, or a search that makes a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from emulator.replay import clairvoyant
from emulator.replay.choices import names
from emulator.replay.choices.names import Choice
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import ScalingPolicy
from emulator.replay.results import PolicyResult
from emulator.replay.rivals import catalog, informed
from emulator.replay.running import ReportTime, Run, run

WITHIN_TARGET = clairvoyant.WITHIN_TARGET

Report = Callable[[str, float], None]
"""Receives the name of the policy in progress and the replays that are done, with parts of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One job.

    Attributes:
        name: Name for messages, unique in a comparison.
        choices: Policies whose results it gives, in order.
        replays: Replays that it takes at most.

    """

    name: str
    choices: tuple[Choice, ...]
    replays: int


def tasks(choices: Sequence[Choice]) -> tuple[Task, ...]:
    """Jobs that give the results of all choices; static and clairvoyant are one, as they share a search."""
    jobs = []
    searched = tuple(item for item in choices if item.policy in {"static", "clairvoyant"})
    for choice in choices:
        if choice in searched:
            if choice is searched[0]:
                steps = clairvoyant.SEARCH_STEPS
                steps += any(item.policy == "static" for item in searched)
                jobs.append(Task(name="clairvoyant", choices=searched, replays=steps))
        elif choice.policy == informed.NAME:
            number = len(informed.FACTORS) * len(informed.HOLDS)
            jobs.append(Task(name=choice.name, choices=(choice,), replays=number))
        else:
            jobs.append(Task(name=choice.name, choices=(choice,), replays=1))
    return tuple(jobs)


def execute(
    given: Run, task: Task, report: Report = lambda _name, _done: None
) -> tuple[PolicyResult, ...]:
    """Run one job; its results are in the order of its choices.

    Args:
        given: Scenario and traffic.
        task: The job.
        report: Receives the progress, at the end `task.replays`.

    """

    def reporter(name: str, before: int) -> ReportTime:
        return lambda at: report(name, before + min(at / given.seconds, 1.0))

    if task.name == "clairvoyant":
        results = _bounds(given, task, reporter)
    elif task.choices[0].policy == informed.NAME:
        results = {informed.NAME: _informed(given, reporter)}
    else:
        choice = task.choices[0]
        made = run(given, names.maker(given.scenario, choice), reporter(choice.name, 0))
        results = {choice.policy: made}
    report(task.choices[-1].name, float(task.replays))
    return tuple(_named(results[choice.policy], choice) for choice in task.choices)


def _named(result: PolicyResult, choice: Choice) -> PolicyResult:
    return replace(result, policy=choice.name, family=choice.family, settings=choice.shown)


def _bounds(
    given: Run, task: Task, reporter: Callable[[str, int], ReportTime]
) -> dict[str, PolicyResult]:
    bound, factor = clairvoyant.search(given, lambda index: reporter("clairvoyant", index))
    results = {"clairvoyant": bound}
    if any(choice.policy == "static" for choice in task.choices):
        make = clairvoyant.peak(given, factor)
        results["static"] = run(given, make, reporter("static", clairvoyant.SEARCH_STEPS))
    return results


def _informed(given: Run, reporter: Callable[[str, int], ReportTime]) -> PolicyResult:
    """The cheapest of the informed policies that meets the SLO; where none does, the one that keeps most."""
    capacity = catalog.capacity(given.scenario, given.traffic)
    rates = {name: item.rate_rps for name, item in capacity.items()}
    in_service = {name: item.in_service for name, item in capacity.items()}
    needed = {
        variant.name: [
            float(rate) * clairvoyant.share_of(given.scenario, rates, variant) / rates[variant.name]
            for rate in clairvoyant.windowed_rates(given.traffic[variant.model])
        ]
        for variant in given.scenario.variants
    }

    def maker(factor: float, hold: float) -> Callable[[ReplayCluster], ScalingPolicy]:
        return lambda cluster: informed.Informed(
            cluster,
            factor=factor,
            hold=hold,
            needed=needed,
            bin_seconds=clairvoyant.BIN_SECONDS,
            in_service=in_service,
        )

    best: PolicyResult | None = None
    pairs = [(factor, hold) for hold in informed.HOLDS for factor in informed.FACTORS]
    for number, (factor, hold) in enumerate(pairs):
        result = run(given, maker(factor, hold), reporter(informed.NAME, number))
        if best is None or _rank(result) > _rank(best):
            best = replace(result, notes=(f"rate x {factor:g}, kept for {hold:g} s",))
    if best is None:
        raise AssertionError  # there is a first pair
    return best


def _rank(result: PolicyResult) -> tuple[bool, float, float]:
    meets = result.within >= WITHIN_TARGET
    return meets, -result.cost_cents if meets else result.within, -math.inf if meets else 0.0

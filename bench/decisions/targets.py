"""Targets of `decision_quality.py`, each with what the replays of its part of the suite measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.decisions import suite
from bench.decisions.suite import Done
from emulator.replay import tables
from emulator.replay.frontier import curves
from emulator.replay.frontier.curves import Beside
from emulator.replay.results import PolicyResult
from emulator.replay.scoring import duration

OURS = "ours"
HELD_SHARE = 0.9
"""Part of the time after the warm-up for which a number of replicas must be there to count as held: arrivals
that are many by chance add one for some minutes."""
BEHIND_POINTS = 0.5
"""Points by which a rival may keep more at our cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One row of the table of targets.

    Attributes:
        text: The target.
        measured: What was measured.
        met: Whether the target is met; None where nothing could be measured.

    """

    text: str
    measured: str
    met: bool | None


def targets(done: Sequence[Done]) -> list[Target]:
    """Every target with what was measured."""
    measured: list[Target] = []
    for group, measure in (
        ("public", _public), ("stationary", _stationary), ("drift", _drift), ("wrong", _wrong),
        ("none", _none), ("suite", _suite), ("llm-d", _llm_d),
    ):  # fmt: skip
        members = [item for item in done if item.case.group == group]
        if members:
            measured += measure(members)
    return measured


def plain_point(item: Done) -> Beside:
    """The default setting of ours beside the rivals."""
    comparisons = curves.frontier(item.comparison.results).beside
    return next(beside for beside in comparisons if beside.point.policy == OURS)


def points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _public(done: Sequence[Done]) -> list[Target]:
    ahead = {item.case.name: plain_point(item).ahead for item in done}
    worst = min(ahead, key=lambda name: ahead[name])
    within = sum(value >= -BEHIND_POINTS / 100 for value in ahead.values())
    every = [b.ahead for item in done for b in curves.frontier(item.comparison.results).beside]
    return [
        Target(
            text="public traces x start-up: at our cost no swept rival keeps more than"
            f" {BEHIND_POINTS} points more",
            measured=f"{within} of {len(ahead)}; worst {points(ahead[worst])} points ({worst})",
            met=within == len(ahead),
        ),
        Target(
            text="aim: every point of ours on or above the rivals' frontier",
            measured=f"{sum(value >= 0 for value in every)} of {len(every)} points",
            met=all(value >= 0 for value in every),
        ),
    ]


def _stationary(done: Sequence[Done]) -> list[Target]:
    limits = _limits(done)
    within = [item.of(OURS).within for item in limits.values()]
    # At lower rates the same whole number of replicas has room to spare, and keeps more than was asked for.
    said = "; ".join(
        f"{number} replicas at {item.case.name}: {tables.percent(item.of(OURS).within)}"
        for (number, _), item in sorted(limits.items())
    )
    return [
        Target(
            text="stationary traffic, p99 asked for: 98.5 to 99.5 % within at the largest replayed rates"
            f" at which {HELD_SHARE:.0%} of the time as few replicas are held",
            measured=f"{said or 'held at none'}; {len(done)} replays{_beside_bound(done)}",
            met=bool(within) and min(within) >= 0.985 and max(within) <= 0.995,
        )
    ]


def _limits(done: Sequence[Done]) -> dict[tuple[int, str], Done]:
    """The replay of the largest rate at which so many replicas are held, by their number and the seed."""
    limits: dict[tuple[int, str], Done] = {}
    largest = dict[str, Done]()
    for item in sorted(done, key=_stationary_rate):
        (curve,) = item.of(OURS).curves.values()
        end = duration({model: given.trace for model, given in item.case.traffic.items()})
        counted = (curve.seconds >= item.comparison.warm_up_seconds) & (curve.seconds < end)
        numbers, samples = np.unique(curve.created[counted], return_counts=True)
        _, _, seed = item.case.name.rpartition(" ")
        largest[seed] = item
        if samples.max() >= HELD_SHARE * samples.sum():
            limits[int(numbers[samples.argmax()]), seed] = item
    # What is held at the largest rate of all may be held beyond it.
    return {key: item for key, item in limits.items() if item is not largest[key[1]]}


def _stationary_rate(item: Done) -> float:
    return float(item.case.name.partition(" ")[0])


def _beside_bound(done: Sequence[Done]) -> str:
    """What the clairvoyant keeps, as a clause, with our cost over its; empty where it was not replayed."""
    bounds = [item.comparison.bound for item in done]
    within = [bound.within for bound in bounds if bound is not None]
    if not within:
        return ""
    return (
        f"; the clairvoyant keeps {_span(within)}, {tables.percent(statistics.fmean(within))} on average;"
        f" ours cost {_cost_ratio(done):.2f} x its replicas"
    )


def _cost_ratio(done: Sequence[Done]) -> float:
    """Cost of ours over the clairvoyant's in all replays together, so that rounding averages out."""
    bounds = [item.comparison.bound for item in done]
    if not done or None in bounds:
        return math.nan
    ours = sum(item.of(OURS).cost_cents for item in done)
    return ours / sum(bound.cost_cents for bound in bounds if bound is not None)


def tuned(item: Done) -> PolicyResult:
    """The cheapest in-flight rule that keeps 99 %, or the one that keeps most."""
    rules = [result for result in item.comparison.results if result.family == "in-flight"]
    (best,) = curves.best_of_each(rules, tables.GOAL)
    return best


def _span(shares: Sequence[float]) -> str:
    return f"{tables.percent(min(shares))} to {tables.percent(max(shares))}"


def _drift(done: Sequence[Done]) -> list[Target]:
    lost = [0.99 - item.of(OURS).within for item in done]
    return [
        Target(
            text="input/output ratio doubled within 20 minutes: at most 1 point lost",
            measured=f"{points(-max(lost))} points to 99 %",
            met=max(lost) <= 0.01,
        )
    ]


def _wrong(done: Sequence[Done]) -> list[Target]:
    said, met = [], True
    for item in done:
        ours, rule = item.of(OURS), tuned(item)
        cost = ours.cost_cents / rule.cost_cents
        said.append(
            f"{item.case.name}: {tables.percent(ours.within)} at {cost:.2f} x {rule.policy}"
            f" ({tables.percent(rule.within)})"
        )
        met = met and ours.within >= 0.98 and cost <= 1.05
    return [
        Target(
            text="all profile parameters 30 % wrong: at most 1 point lost at 1.05 x the cost of a"
            " tuned in-flight rule",
            measured="; ".join(said),
            met=met,
        )
    ]


def _none(done: Sequence[Done]) -> list[Target]:
    drifts = []
    for item in done:
        first, rest = _split(item, 1200.0)
        drifts.append(
            Target(
                text="no profile: at most 3 points lost in the first 20 minutes, none after",
                measured=f"{tables.percent(first)} in the first 20 minutes, {tables.percent(rest)} after",
                met=first >= 0.96 and rest >= 0.99,
            )
        )
    return drifts


def _split(item: Done, at: float) -> tuple[float, float]:
    """Shares of 15 s samples, weighed by their arrivals, whose p95 latencies are within: before and after."""
    result = item.of(OURS)
    model = item.case.scenario.models[0]
    shares = []
    for before in (True, False):
        good = all_requests = 0.0
        for curve in result.curves.values():
            chosen = (curve.seconds < at) == before
            chosen &= curve.seconds >= item.comparison.warm_up_seconds
            weight = np.nan_to_num(curve.offered_rpm)
            with np.errstate(invalid="ignore"):
                bad = (curve.ttft_p95_ms > model.slo.ttft) | (curve.itl_p95_ms > model.slo.itl)
            good += float(np.sum(weight[chosen & ~bad]))
            all_requests += float(np.sum(weight[chosen]))
        shares.append(good / all_requests if all_requests else 1.0)
    return shares[0], shares[1]


def _suite(done: Sequence[Done]) -> list[Target]:
    def named(*kinds: str) -> list[Done]:
        return [item for item in done if item.case.name.rpartition(" ")[0] in kinds]

    def range_of(items: Iterable[Done]) -> str:
        return "; ".join(
            f"{tables.percent(item.of(OURS).within)} at {item.of(OURS).gpu_hours:.2f}"
            for item in items
        )

    flash, step, mmpp = named("flash-crowd"), named("step-3x"), named("mmpp")
    steady = [item for item in done if item.case.name.split(" ")[0] in suite.STEADY]
    asked = [_asked_seconds(item) for item in flash]
    kept = [item.of(OURS).within for item in steady]
    steady_ratio = _cost_ratio(steady)
    return [
        Target(
            text="flash crowds: at least 91 % at most 4.0 GPU-hours, full size asked for within 45 s",
            measured=f"{range_of(flash)} GPU-hours; asked for after {', '.join(f'{s:.0f}' for s in asked)} s",
            met=all(i.of(OURS).within >= 0.91 and i.of(OURS).gpu_hours <= 4.0 for i in flash)
            and all(seconds <= 45 for seconds in asked),
        ),
        Target(
            text="3x steps: at least 95 % at most 4.5 GPU-hours",
            measured=f"{range_of(step)} GPU-hours",
            met=all(i.of(OURS).within >= 0.95 and i.of(OURS).gpu_hours <= 4.5 for i in step),
        ),
        Target(
            text="mmpp: no worse than 93.07 % (seed 101) and 95.13 % (seed 102)",
            measured=f"{range_of(mmpp)} GPU-hours",
            met=all(
                i.of(OURS).within >= (0.9307 if i.case.name.endswith("101") else 0.9513) for i in mmpp
            ),
        ),
        Target(
            text="steady traffic: at least 99 % at most 1.12 x the clairvoyant's cost",
            measured=f"{_span(kept)} in {len(kept)} replays, at {steady_ratio:.2f} x in all together",
            met=min(kept) >= 0.99 and steady_ratio <= 1.12,
        ),
    ]  # fmt: skip


def _asked_seconds(item: Done) -> float:
    """Seconds from the beginning of the flash crowd until as many replicas are wanted as the bound has."""
    (curve,) = item.of(OURS).curves.values()
    (bound,) = item.of("clairvoyant").curves.values()
    full = curve.desired >= np.nanmax(bound.desired)
    after = curve.seconds[full & (curve.seconds >= suite.FLASH_START)]
    return float(after[0] - suite.FLASH_START) if len(after) else math.inf


def _llm_d(done: Sequence[Done]) -> list[Target]:
    replicas = [_replicas(item, OURS) for item in done]
    within = [item.of(OURS).within for item in done]
    theirs = [item.of("slo-aware") for item in done]
    return [
        Target(
            text="llm-d's ramp: at least 99 % at most 5.6 replicas on average (published: 95.8 % at 5.93)",
            measured=f"{_span(within)} at {min(replicas):.2f} to"
            f" {max(replicas):.2f} in {len(done)} seeds; its slo-aware law here"
            f" {tables.percent(statistics.median(item.within for item in theirs))} at"
            f" {statistics.median(_replicas(item, 'slo-aware') for item in done):.2f}",
            met=all(share >= 0.99 for share in within) and max(replicas) <= 5.6,
        )
    ]


def _replicas(item: Done, policy: str) -> float:
    """Mean number of replicas that serve or start while requests arrive, not while the last ones finish."""
    seconds = duration({model: given.trace for model, given in item.case.traffic.items()})
    (curve,) = item.of(policy).curves.values()
    return float(np.nanmean(curve.created[curve.seconds < seconds]))

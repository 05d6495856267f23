"""One immutable record per variant, its transitions (follow, publish, hold), and the series served for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from typing import Literal

import structlog

from adapter.collector.observation import Metrics, Observation
from adapter.collector.traffic import Traffic
from adapter.controller import tuning
from adapter.controller.demand.work import Work
from adapter.controller.estimates.feedback import Feedback
from adapter.controller.groups.state import GroupState
from adapter.controller.stabilization import Stabilization, StableTarget
from adapter.controller.tuning import ProfileSource, TunedProfile, TuningSettings
from adapter.kube import quantity
from adapter.planning import plan
from adapter.resources import hpa
from adapter.resources.stored_status import Decided, Published
from adapter.resources.variant import VariantSource
from adapter.store import CURRENT, DESIRED, RATIO, Series
from analyzer import forecast

log = structlog.get_logger()

SATURATION = "saturation"
"""What binds the replicas of a variant that the saturation rule decides for."""

Outcome = Literal[
    "OptimizationSucceeded",
    "OptimizationFailed",
    "MetricsUnavailable",
    "CapacityShort",
    "SaturationRule",
    "InvalidConfiguration",
]
"""Reasons of the condition OptimizationReady: those of the workload-variant-autoscaler, CapacityShort, and
SaturationRule where no profile is known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantState:
    """One variant after a reconcile cycle: for its status, telemetry and explanations.

    Attributes:
        source: The variant as its objects describe it.
        observation: Its load in the last cycle; None before the first one.
        desired: Published replicas; None while there is no valid target.
        accelerator: Accelerator that `desired` counts replicas of.
        max_batch: Largest batch of the chosen candidate; 0 where it is not known.
        reason: Why the target is what it is.
        notes: Why the target differs from what the observed rate needs, a clause each.
        problem: Why the last cycle made no new target, or from which part of the load it did.
        metrics: Reason of the condition MetricsAvailable.
        outcome: Reason of the condition OptimizationReady.
        observed_at: Unix time of the traffic.
        decided_at: Unix time of the decision that is served.
        cost: Cost of the desired replicas, cents per hour.
        profile_source: Where the decision's numbers come from; empty before the first decision.
        decision: Last decision of this process; None where another replica decides.
        tuned: Tuners of its profiles, by accelerator.
        feedback: What its misses of SLO targets ask of its plan.
        group: Its group after the last cycle; None where it is alone.
        scaled_up: Number of decisions of this process for more replicas than before.
        scaled_down: Number of decisions of this process for fewer replicas than before.
        history: Last decisions, oldest first.

    """

    source: VariantSource
    observation: Observation | None = None
    desired: int | None = None
    accelerator: str = ""
    max_batch: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    metrics: Metrics = "MetricsMissing"
    outcome: Outcome = "MetricsUnavailable"
    observed_at: float = 0.0
    decided_at: float = 0.0
    cost: float = 0.0
    profile_source: ProfileSource | Literal[""] = ""
    decision: plan.Decision | None = None
    tuned: tuning.Tuned = field(default_factory=dict)
    feedback: Feedback = field(default_factory=Feedback)
    group: GroupState | None = None
    scaled_up: int = 0
    scaled_down: int = 0
    history: tuple[Decided, ...] = ()

    @property
    def traffic(self) -> Traffic | None:
        """Its traffic; None while it is not known."""
        return None if self.observation is None else self.observation.traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRecord:
    """All that the control loop knows of one variant.

    Attributes:
        state: Its state after the last reconcile cycle.
        series: Served items; empty without a valid target.
        trend: Trend of its arrival rate; None before the first observation.
        work: Trend of its rate times the size of its requests; None before sizes are known.
        stabilization: Recommendations within its stabilization window.
        followed: Target of another replica that is served, from `.status`; None where this one decided.
        tuned: Tuners of its profiles, by accelerator.
        new: Whether its status held no target when it was first seen, until its load is known for a while.

    """

    state: VariantState
    series: tuple[Series, ...] = ()
    trend: forecast.State | None = None
    work: Work | None = None
    stabilization: Stabilization = field(default_factory=Stabilization)
    tuned: Mapping[str, TunedProfile] = field(default_factory=dict)
    followed: Published | None = None
    new: bool = False

    @property
    def served(self) -> tuple[Series, ...]:
        """Items that are published: none of a variant that only advises, which still has its target."""
        return () if self.state.source.advisory else self.series

    @property
    def source(self) -> VariantSource:
        """The variant as its objects describe it now."""
        return self.state.source


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a transition happens; Unix times in seconds.

    Attributes:
        now: Time of the transition.
        valid_seconds: Real seconds that a target stays valid.
        observed_at: Time of the oldest metrics of the load.

    """

    now: float
    valid_seconds: float
    observed_at: float = 0.0


def of_source(
    before: VariantRecord | None, source: VariantSource, settings: TuningSettings
) -> VariantRecord:
    """The record with new objects: a first one, or the last one with what still applies of it."""
    if before is None:
        state = VariantState(source=source, problem="waiting for the first metrics")
        return VariantRecord(state=state, new=source.published is None)
    same = before.state.source == source
    return replace(
        before,
        state=before.state if same else replace(before.state, source=source),
        tuned=tuning.retain(before.tuned, source, settings),
    )


def follow(record: VariantRecord, moment: Moment, *, leading: bool) -> VariantRecord:
    """Serve the target that `.status` holds, for as long as it is valid.

    Others than the adapter may write a status: its time counts as no later than now, and its replicas stay
    within the variant's bounds, or near the last known number where there are none. A replica that does not
    lead withdraws its own target where there is no such one; a leader keeps its own.
    """
    source, published = record.source, record.source.published
    decided_at = 0.0 if published is None else min(published.decided_at, moment.now)
    if published is not None and published == record.followed:
        # A time in the future counts from when it was first seen, not anew at every reading.
        decided_at = record.state.decided_at
    valid_until = decided_at + moment.valid_seconds
    if published is None or valid_until <= moment.now:
        if leading:
            return record
        state = VariantState(source=source, problem="its status holds no valid target")
        return replace(record, state=state, series=(), tuned={}, followed=published)
    replicas = _plausible(published.replicas, record)
    problem = ""
    if leading:
        problem = f"no decision of this leader yet; {_continued(replicas, decided_at)}"
    state = replace(
        record.state,
        desired=replicas,
        accelerator=published.accelerator or source.accelerator,
        decided_at=decided_at,
        problem=problem,
    )
    # What another replica learns meanwhile is in .status, where this one finds it when it leads.
    tuned = record.tuned if leading else {}
    series = series_of(state, valid_until=valid_until)
    return replace(record, state=state, series=series, tuned=tuned, followed=published, new=False)


def _plausible(replicas: int, record: VariantRecord) -> int:
    """A target that `.status` holds, within the bounds of the variant.

    Without one above it is the most that an HPA by default does in one step: twice as many, or four more.
    """
    source = record.source
    most = source.max_replicas
    if most is None:
        decided = 0 if record.followed is not None else record.state.desired or 0
        last = max(source.replicas, source.spec_replicas, decided)
        most = max(2 * last, last + 4)
    return max(min(replicas, most), source.min_replicas or 0)


def _continued(replicas: int | None, decided_at: float) -> str:
    """Clause that says that a target is an old one."""
    at = datetime.fromtimestamp(decided_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"only continues the target of {replicas} replicas that .status held, of {at}"


def publish(
    record: VariantRecord,
    observation: Observation,
    decision: plan.Decision,
    target: StableTarget,
    moment: Moment,
    *,
    notes: tuple[str, ...],
) -> VariantRecord:
    """Serve a new target.

    An incomplete load is a lower bound: it may raise the target; else the last one is held, and not renewed.

    Args:
        record: Before this cycle.
        observation: Load that was planned for.
        decision: What was planned.
        target: The same after stabilization.
        moment: When, and for how long.
        notes: Why the rate that was sized for differs from what its pods show.

    """
    before, source, candidate = record.state, record.source, decision.candidate
    profile_source = _profile_source(source, decision, record.tuned)
    replicas = target.replicas
    if observation.problem and (before.desired is None or replicas <= before.desired):
        return hold(record, observation, observation.problem, moment)
    last = replicas if before.desired is None else before.desired
    notes = (*notes, target.reason) if target.reason else notes
    state = VariantState(
        source=source,
        observation=observation,
        desired=replicas,
        accelerator=candidate.accelerator or source.accelerator,
        max_batch=candidate.max_batch,
        reason="; ".join((decision.reason, *notes)),
        notes=notes,
        problem=observation.problem,
        metrics=observation.metrics,
        outcome=_outcome(decision, profile_source),
        profile_source=profile_source,
        observed_at=moment.observed_at,
        decided_at=moment.now,
        cost=candidate.cost * (replicas / candidate.replicas if candidate.replicas else 1.0),
        decision=decision,
        tuned=record.tuned,
        feedback=before.feedback,
        scaled_up=before.scaled_up + (replicas > last),
        scaled_down=before.scaled_down + (replicas < last),
    )
    _log_target(before, state, decision)
    series = series_of(state, valid_until=moment.now + moment.valid_seconds)
    return replace(record, state=state, series=series, followed=None)


def _log_target(before: VariantState, state: VariantState, decision: plan.Decision) -> None:
    """Log a target that is not the one before, and a profile that is used outside its lengths."""
    if before.desired != state.desired or before.problem:
        log.info(
            "target decided; advising it"
            if state.source.advisory
            else "target decided; publishing it",
            variant=state.source.key,
            replicas=state.desired,
            before=before.desired,
            current=state.source.replicas,
            accelerator=decision.candidate.accelerator,
            profile=state.profile_source,
            arrival_rate_rpm=round(decision.arrival_rate_rps * 60, 2),
            reason=state.reason,
            runner_up=decision.runner_up,
        )
    if decision.notes and (before.decision is None or not before.decision.notes):
        log.warning(
            "profile used outside what it was measured for; targets may be wrong until it is replaced",
            variant=state.source.key,
            accelerator=decision.candidate.accelerator,
            notes=decision.notes,
        )


def _profile_source(
    source: VariantSource, decision: plan.Decision, tuned: tuning.Tuned
) -> ProfileSource:
    if decision.explanation.binding == SATURATION:
        return "saturation"
    return tuning.profile_source(
        tuned, source, decision.candidate.accelerator or source.accelerator
    )


def _outcome(decision: plan.Decision, profile_source: ProfileSource) -> Outcome:
    if decision.served != "full":
        return "CapacityShort"
    return "SaturationRule" if profile_source == "saturation" else "OptimizationSucceeded"


def hold(
    record: VariantRecord, observation: Observation, why: str, moment: Moment
) -> VariantRecord:
    """Keep serving the last target until its time to live ends; `why` says what keeps it from a new one."""
    before, series = record.state, record.series
    if observation.heard and observation.problem and before.desired is not None:
        # A pod that is silent while others are heard does not take the target away.
        series = series_of(before, valid_until=moment.now + moment.valid_seconds)
    if series and record.followed is not None:
        why = f"{why}; {_continued(before.desired, before.decided_at)}"
    expired = bool(series) and (series[0].valid_until or math.inf) <= moment.now
    if series and not expired and record.source.held:
        before = replace(before, decided_at=moment.now)
        series = series_of(before, valid_until=moment.now + moment.valid_seconds)
    if expired:
        log.warning(
            "target expired; withdrawn until there is a new one",
            variant=record.source.key,
            target=before.desired,
            why=why,
        )
    elif before.problem != why:
        log.warning(
            "no target can be decided; none is served"
            if before.desired is None
            else "no new target; holding the last one until it expires",
            variant=record.source.key,
            target=before.desired,
            why=why,
        )
    outcome: Outcome = "MetricsUnavailable" if observation.problem else "OptimizationFailed"
    state = replace(
        before,
        observation=observation,
        problem=why,
        metrics=observation.metrics,
        outcome="InvalidConfiguration" if record.source.held else outcome,
        observed_at=moment.observed_at,
        tuned=record.tuned,
        desired=None if expired else before.desired,
    )
    return replace(record, state=state, series=() if expired else series)


def series_of(state: VariantState, *, valid_until: float) -> tuple[Series, ...]:
    """The served items of a variant: one per metric name, old and new; none without a target."""
    if state.desired is None:
        return ()
    source = state.source
    labels = labels_of(source, state.accelerator)  # one object: it is encoded once for all of them
    ratio = _ratio(state.desired, source.replicas)
    values = {DESIRED: Decimal(state.desired), CURRENT: Decimal(source.replicas), RATIO: ratio}
    return tuple(
        Series(
            metric=name,
            namespace=source.namespace,
            labels=labels,
            value=quantity.canonical(str(value)),
            decided_at=state.decided_at,
            valid_until=valid_until,
        )
        for metric, value in values.items()
        for name in (metric, metric.replace("inferno_", "wva_"))
    )


def labels_of(source: VariantSource, accelerator: str) -> Mapping[str, str]:
    """Labels of a variant's series, as the workload-variant-autoscaler names them."""
    return hpa.served_labels(
        namespace=source.namespace, name=source.name, model=source.model, accelerator=accelerator
    )


def _ratio(desired: int, current: int) -> Decimal:
    """Desired over current replicas, in thousandths, rounded up; the desired count from zero."""
    if current == 0:
        return Decimal(desired)
    return (Decimal(desired) / Decimal(current)).quantize(Decimal("0.001"), rounding=ROUND_CEILING)

"""Sizing: from the observed load of a variant to its part of the fleet that is planned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from adapter.collector import gateway
from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.collector.traffic import Traffic
from adapter.controller import demand, tuning
from adapter.controller.demand import Queue, SizingRate, backlog
from adapter.controller.demand.rates import GROWTH_LIMIT
from adapter.controller.estimates import prior
from adapter.controller.estimates.feedback import Feedback
from adapter.controller.estimates.lengths import smoothed, smoothing_note
from adapter.controller.estimates.prior import DEFAULT_BATCHED_TOKENS
from adapter.controller.settings import LoopSettings
from adapter.controller.state import SATURATION, VariantRecord
from adapter.planning import fleet, plan
from adapter.planning.groups import Budget, Group
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.settings.control import DEFAULT_STARTUP_SECONDS
from analyzer import saturation_rule
from analyzer.step_times import EngineLimits
from optimizer import problem
from optimizer.explain import Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedVariant:
    """One variant of a reconcile cycle before planning.

    Attributes:
        observation: Its load.
        rate: Arrival rate that it is sized for; None without traffic.
        variant: Input of the planner; None where the load or a usable profile is not known.
        saturation: Decision of the saturation rule, which holds where the planner makes none; None where a
            profile of the variant's accelerator is given.
        length_notes: Lengths that it is sized for, where these are not those of its last window.
        profile_notes: What to know about the profile, a clause each, such as its drift.

    """

    observation: Observation
    rate: SizingRate | None = None
    variant: fleet.Variant | None = None
    saturation: plan.Decision | None = None
    length_notes: tuple[str, ...] = ()
    profile_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Why rate and lengths differ from what pods show, and what to know of the profile, a clause each."""
        rate_notes = () if self.rate is None else self.rate.notes
        return (*rate_notes, *self.length_notes, *self.profile_notes)

    @property
    def known(self) -> bool:
        """Whether there is something to decide with."""
        return self.variant is not None or self.saturation is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What all variants of one reconcile cycle share.

    Attributes:
        settings: Settings of the control loop.
        rates: Requests per second at the gateways.
        parts: Each variant's part of them, by variant key.
        costs: Cost of one unit of each accelerator, cents per hour, for the saturation rule.
        gateway_demand: Requests that wait at the gateways or arrived there.
        to_wake: Keys of variants at zero replicas to start.
        now: Monotonic seconds.

    """

    settings: LoopSettings
    rates: Rates
    parts: Mapping[str, float]
    costs: Mapping[str, float]
    gateway_demand: Mapping[gateway.ModelKey, gateway.Demand]
    to_wake: frozenset[str]
    now: float

    def tune(
        self, record: VariantRecord, source: VariantSource, observation: Observation
    ) -> tuning.Tuned:
        """The variant's tuners after this cycle's observation; only a complete one counts."""
        tuned = tuning.restored(record.tuned, source, self.settings.tuning)
        if observation.traffic is None or not (observation.usable and observation.complete):
            return tuned
        return tuning.observe(
            tuned, source, observation.traffic, settings=self.settings.tuning, now=self.now
        )

    def size(
        self, record: VariantRecord, source: VariantSource, observation: Observation
    ) -> SizedVariant:
        """One variant with its load.

        Args:
            record: What is known of it.
            source: Its objects as they were when it was observed.
            observation: Its load.

        """
        traffic = observation.traffic
        if not observation.usable:
            return SizedVariant(observation=observation)
        rate = None if traffic is None else self._rate(record, source, traffic)
        minimum = self._minimum(source, observation, record.state.desired)
        saturation = None
        if unprofiled := prior.unprofiled(source):
            saturation = self._saturated(source, traffic, rate, minimum)
        # A learned profile says nothing before the lengths of requests are known.
        usable = not unprofiled or (traffic is not None and traffic.output_tokens is not None)
        given = tuning.profiles(record.tuned, source) if usable else source.profiles
        profiles = with_live_cache(given, source, traffic)
        if not profiles:
            return SizedVariant(observation=observation, saturation=saturation)
        keep = source.keep_accelerator
        variant = fleet.Variant(
            name=source.key,
            model=source.model,
            service_class=source.service_class,
            profiles=profiles,
            load=load_of(
                traffic,
                rate,
                dispersion=demand.dispersion(record.trend),
                ordered=ordered_replicas(source, record.state.desired),
            ),
            current=fleet.CurrentAllocation(
                accelerator=source.accelerator, replicas=source.replicas
            ),
            min_replicas=minimum,
            max_replicas=source.max_replicas,
            keep_accelerator=self.settings.keep_accelerator if keep is None else keep,
            routing=source.routing or self.settings.routing,
            narrowed=source.narrowed,
        )
        return SizedVariant(
            observation=observation,
            rate=rate,
            variant=variant,
            saturation=saturation,
            length_notes=() if traffic is None else smoothing_note(traffic),
            profile_notes=tuning.notes(record.tuned, source),
        )

    def _rate(self, record: VariantRecord, source: VariantSource, traffic: Traffic) -> SizingRate:
        rate = demand.sizing_rate(
            source,
            traffic,
            gateway_rps=self.parts.get(source.key),
            trend=record.trend,
            work=record.work,
            queue=self._queue(record, source, traffic),
            settings=self.settings.rates,
            window_seconds=self.settings.collection.window,
            interval_seconds=self.settings.interval,
            now=self.now,
        )
        return _with_feedback(rate, record.state.feedback)

    def _queue(self, record: VariantRecord, source: VariantSource, traffic: Traffic) -> Queue:
        """The variant's queue, with the replicas that serve it or were asked for."""
        start = source.startup_seconds or self.settings.rates.startup_seconds
        start = (start or DEFAULT_STARTUP_SECONDS) + self.settings.interval
        raised_at = record.stabilization.raised_at
        loading = start if raised_at is None else start - (self.now - raised_at)
        seen = 0.25 * self.settings.collection.window
        return Queue(
            running=traffic.running,
            waiting=traffic.waiting,
            served_rps=backlog.served_rps(traffic),
            most_rps=backlog.most_rps(traffic, record.state.decision, source.ready),
            queued_at=traffic.queued_at,
            elsewhere=traffic.waiting_elsewhere,
            expected=demand.expected_waiting(traffic, record.state.decision, source.targets),
            growth_rps=_queue_growth(traffic, seen),
            seen_seconds=seen,
            ready=source.ready,
            ordered=ordered_replicas(source, record.state.desired),
            start_seconds=start,
            loading_seconds=min(max(loading, self.settings.interval), start),
            late=loading < 0,
        )

    def _saturated(
        self, source: VariantSource, traffic: Traffic | None, rate: SizingRate | None, minimum: int
    ) -> plan.Decision:
        """What the saturation rule says of a variant, within its bounds."""
        targets, replicas = source.targets, minimum
        reason = "no requests" if minimum == 0 else "the load is not known"
        # Only a variant that is proven idle has a minimum of 0.
        if traffic is not None and minimum > 0:
            saturation = saturation_rule.replicas_needed(
                saturation_rule.Signals(
                    replicas=source.ready,
                    running=traffic.running,
                    waiting=traffic.waiting + self._at_gateway(source),
                    arrival_rate_rps=traffic.arrival_rate_rps,
                    kv_usage=traffic.kv_cache,
                    growth=_growth(traffic, rate),
                    itl_ms=traffic.itl_ms,
                    ttft_ms=traffic.ttft_ms,
                    itl_target_ms=targets.itl_ms,
                    ttft_target_ms=targets.ttft_ms,
                )
            )
            replicas, reason = max(saturation.replicas, minimum), saturation.reason
        if source.max_replicas is not None and replicas > source.max_replicas:
            reason = (
                f"{replicas} replicas needed, but the maximum is {source.max_replicas}; {reason}"
            )
            replicas = source.max_replicas
        cost = self.costs.get(source.accelerator, 0.0) * (source.units(source.accelerator) or 1)
        explanation = Explanation(binding=SATURATION, sized=reason, runner_up=None, shortages=())
        return plan.Decision(
            candidate=problem.Candidate(
                accelerator=source.accelerator if replicas else "",
                replicas=replicas,
                max_batch=0,
                cost=cost * replicas,
                itl_ms=(traffic.itl_ms if traffic else None) or 0.0,
                ttft_ms=(traffic.ttft_ms if traffic else None) or 0.0,
                max_rate_rpm=0.0,
                reason=reason,
                binding=SATURATION,
            ),
            value=0.0,
            served="full",
            arrival_rate_rps=rate.rate_rps if rate else 0.0,
            why=plan.Why(plan.Reasons(explanation, f"saturation rule (no profile): {reason}")),
            current_cost=cost * source.replicas,
        )

    def _at_gateway(self, source: VariantSource) -> float:
        """The variant's part of the requests that wait at the gateways."""
        waiting = gateway.of_model(self.gateway_demand, source.namespace, source.model)
        model_key = self.rates.key(source.namespace, source.model)
        if waiting is None or model_key is None or self.rates.rps[model_key] <= 0:
            return 0.0
        return waiting.waiting * self.parts.get(source.key, 0.0) / self.rates.rps[model_key]

    def _minimum(
        self, source: VariantSource, observation: Observation, published: int | None
    ) -> int:
        """Least replicas: zero only for a variant that is proven idle and may go there."""
        to_zero = self.settings.scale_to_zero
        if source.scale_to_zero is not None:
            to_zero = source.scale_to_zero
        minimum = source.min_replicas
        if minimum is None:
            minimum = 0 if to_zero else 1
        if source.key in self.to_wake or not self._idle(source, observation):
            minimum = max(minimum, 1)
        if not observation.complete and published is not None:
            # An incomplete load is a lower bound: the target may rise, not fall.
            most = published
            if source.max_replicas is not None:
                most = min(published, source.max_replicas)
            minimum = max(minimum, most)
        return minimum

    def _idle(self, source: VariantSource, observation: Observation) -> bool:
        """Whether it is at zero, or was idle for its retention, at its pods and at the gateways."""
        if source.replicas == 0 and source.spec_replicas == 0:
            return True
        traffic = observation.traffic
        if not observation.complete or traffic is None or not traffic.idle:
            return False
        waiting = gateway.of_model(self.gateway_demand, source.namespace, source.model)
        model_key = self.rates.key(source.namespace, source.model)
        if (waiting is not None and waiting.any) or (
            model_key is not None and self.rates.rps[model_key] > 0
        ):
            return False
        return traffic.idle_seconds >= (source.retention_seconds or self.settings.retention)


def _with_feedback(rate: SizingRate, feedback: Feedback) -> SizingRate:
    """The rate with the factor that the variant's misses of its targets ask for."""
    if not feedback.note:
        return rate
    by, said = feedback.factor, (*rate.notes, feedback.note)
    return replace(rate, rate_rps=by * rate.rate_rps, backlog_rps=by * rate.backlog_rps, notes=said)


def _queue_growth(traffic: Traffic, seconds: float) -> float:
    """Growth of the queues over the last seconds that is not chance, requests per second."""
    rate = traffic.recent[0][1] if traffic.recent else traffic.arrival_rate_rps
    return backlog.certain_growth(traffic.waiting_growth_rps, rate_rps=rate, seconds=seconds)


def _growth(traffic: Traffic, rate: SizingRate | None) -> float:
    """The rate that is sized for over the observed one, at least 1."""
    if rate is None or traffic.arrival_rate_rps <= 0:
        return 1.0
    return min(max(rate.rate_rps / traffic.arrival_rate_rps, 1.0), GROWTH_LIMIT)


def load_of(
    traffic: Traffic | None, rate: SizingRate | None, *, dispersion: float, ordered: int
) -> fleet.Load:
    """The load that a variant is planned for."""
    if traffic is None:
        return fleet.Load(
            arrival_rate_rps=0.0, input_tokens=0.0, output_tokens=1.0, dispersion=dispersion
        )
    lengths = smoothed(traffic)
    return fleet.Load(
        arrival_rate_rps=rate.rate_rps if rate else 0.0,
        in_flight=rate.in_flight if rate else 0.0,
        backlog_rps=rate.backlog_rps if rate else 0.0,
        queued_at=rate.queued_at if rate else 0,
        surge=rate is not None and rate.surge,
        drained=rate is not None and rate.drained,
        ordered=ordered,
        input_tokens=lengths.input_tokens + lengths.cached_tokens,
        output_tokens=lengths.output_tokens,
        dispersion=dispersion,
        input_cv=lengths.input_cv,
        output_cv=lengths.output_cv,
        cached_tokens=lengths.cached_tokens,
        short_answers=lengths.short_answers,
    )


def with_live_cache(
    profiles: Iterable[fleet.Profile], source: VariantSource, traffic: Traffic | None
) -> tuple[fleet.Profile, ...]:
    """The profiles, with the KV cache that the pods have on the accelerator that they run on.

    What the smallest pod reports overrules the profile.
    """
    profiles = tuple(profiles)
    if traffic is None or traffic.kv_tokens is None or traffic.kv_tokens < 1:
        return profiles
    return tuple(
        replace(profile, limits=_with_cache(profile, int(traffic.kv_tokens)))
        if profile.accelerator == source.accelerator
        else profile
        for profile in profiles
    )


def _with_cache(profile: fleet.Profile, tokens: int) -> EngineLimits | None:
    if profile.limits is not None:
        return replace(profile.limits, kv_tokens=tokens)
    if not profile.max_batch:
        return None
    return EngineLimits(
        max_num_seqs=profile.max_batch,
        max_num_batched_tokens=max(DEFAULT_BATCHED_TOKENS, 2 * profile.max_batch),
        kv_tokens=tokens,
    )


def ordered_replicas(source: VariantSource, desired: int | None) -> int:
    """Replicas that serve or come; pods that a scheduling gate holds come when somebody else says so."""
    asked = max(source.spec_replicas, desired or 0)
    return max(asked - source.gated, len(source.endpoints))


def fleet_of(
    inputs: Inputs,
    variants: Iterable[fleet.Variant],
    *,
    capacity: Mapping[str, int] | None,
    settings: LoopSettings,
    groups: tuple[Group, ...] = (),
    budgets: tuple[Budget, ...] = (),
) -> fleet.Fleet:
    """The planner's input.

    Args:
        inputs: Accelerators and service classes that exist.
        variants: Those whose load is known.
        capacity: Devices to plan with, by type; None: unlimited.
        settings: Settings of the control loop.
        groups: Groups of these variants.
        budgets: Ceilings for them.

    """
    return fleet.Fleet(
        accelerators=inputs.accelerators,
        service_classes=inputs.service_classes,
        variants=tuple(variants),
        capacity=capacity,
        within=inputs.within,
        settings=settings.planning,
        groups=groups,
        budgets=budgets,
    )

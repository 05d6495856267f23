"""Profiles that follow observed latencies, or are learned from them: a tuner per variant and accelerator.

Once per window, a variant's traffic is one observation of its current accelerator's profile. Windows do not
overlap, so observations are independent; profiles of other accelerators stay as they were written. Where the
accelerator has no profile, step times are learned from a prior, and used once they are certain enough. A
profile that may not be changed is compared with what is observed all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from adapter.collector.traffic import Traffic
from adapter.controller.estimates import drift as drifts
from adapter.controller.estimates import lengths, prior, stored, windows
from adapter.controller.estimates.drift import Drift
from adapter.controller.estimates.prior import DEFAULT_BATCHED_TOKENS, DEFAULT_NUM_SEQS
from adapter.controller.estimates.stored import Stored
from adapter.planning import fleet, step_model
from adapter.resources.variant import VariantSource
from analyzer import tuner
from analyzer.engine import learning
from analyzer.errors import InvalidParameterError
from analyzer.latency import LatencyParameters
from analyzer.step_times import Lengths

log = structlog.get_logger()

Estimate = tuner.State | learning.State
"""Estimate of decode and prefill times, or of step times."""

ProfileSource = Literal["given", "estimated", "learned", "saturation"]
"""Where a decision's numbers come from: a profile that was given, an estimate of the catalog, what was
learned from the pods, or the saturation rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedProfile:
    """The tuner of one profile.

    Attributes:
        profile: Profile as it was written, or the prior's; a rewritten one starts over.
        tuner: Estimates so far.
        observed_at: Monotonic seconds of the last observation.
        model: Model that it is of.
        gpus: GPUs of one replica; None where they are not known.
        applied: Whether sizing uses the estimates; otherwise they are only compared.
        drift: Whether prediction and observation have parted; None while that is not known.
        first_lengths: Lengths of the first window, for a profile that does not say those of its measurement.
        lengths: Lengths of the last window.
        replicas: Replicas in the last cycle.
        same_since: Monotonic seconds since when they are as many.

    """

    profile: fleet.Profile
    tuner: Estimate
    observed_at: float
    model: str = ""
    gpus: int | None = None
    applied: bool = True
    drift: Drift | None = None
    first_lengths: Lengths | None = None
    lengths: Lengths | None = None
    replicas: int = 0
    same_since: float = -math.inf

    @property
    def lengths_left(self) -> str:
        """Clause that traffic has left the lengths of a profile that does not say its own, or empty."""
        if self.first_lengths is None or self.lengths is None:
            return ""
        return lengths.lengths_changed(self.profile, self.first_lengths, self.lengths)


Tuned = Mapping[str, TunedProfile]
"""Tuners of one variant by accelerator; empty before the first observation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSettings:
    """How profiles are tuned.

    Attributes:
        enabled: Whether decode and prefill times of variants without a setting of their own are tuned where
            the lengths of their measurement are not given.
        window_seconds: Least time between two observations of one variant.
        routing: Routing of requests to the replicas of variants that do not say theirs.

    """

    enabled: bool
    window_seconds: float
    routing: fleet.Routing = "random"

    def apply_to(self, source: VariantSource, profile: fleet.Profile) -> bool:
        """Whether this profile is tuned: step times are, given or converted; the annotation overrides.

        Decode and prefill times without lengths are by the setting. Without a profile there is nothing that
        could be left as it is.
        """
        if profile not in source.profiles:
            return True
        if source.tune is None:
            return self.enabled or step_model.step_times(profile) is not None
        return source.tune


def retain(tuned: Tuned, source: VariantSource, settings: TuningSettings) -> Tuned:
    """The tuners that still apply: of profiles that were not rewritten, of the same model and replicas."""
    return {name: item for name, item in tuned.items() if _applies(item, source, settings)}


def _applies(item: TunedProfile, source: VariantSource, settings: TuningSettings) -> bool:
    accelerator = item.profile.accelerator
    given = next((p for p in source.profiles if p.accelerator == accelerator), None)
    if given is not None:
        return given == item.profile and item.applied == settings.apply_to(source, given)
    if (
        accelerator != source.accelerator
        or item.model != source.model
        or not prior.unprofiled(source)
    ):
        return False
    return source.gpus is None or item.gpus is None or source.gpus == item.gpus


def restored(tuned: Tuned, source: VariantSource, settings: TuningSettings) -> Tuned:
    """The tuners with what an earlier leader learned, where there are none yet."""
    if not source.stored or tuned:
        return tuned
    restored_tuners: dict[str, TunedProfile] = {}
    for name, item in stored.parse(source.stored, source.model).items():
        given = next((p for p in source.profiles if p.accelerator == name), None)
        profile = (
            prior.current_profile(source) if given is None and name == source.accelerator else given
        )
        if profile is None or not settings.apply_to(source, profile):
            continue
        if given is not None and not stored.learned_from(item.state, given):
            continue
        one = TunedProfile(
            profile=profile,
            tuner=item.state,
            observed_at=-math.inf,
            model=source.model,
            gpus=item.gpus,
        )
        if _applies(one, source, settings):
            restored_tuners[name] = one
    if restored_tuners:
        log.info(
            "learned parameters read from .status; learning goes on from them",
            variant=source.key,
            accelerators=sorted(restored_tuners),
        )
    return restored_tuners


def to_store(tuned: Tuned) -> Mapping[str, Stored]:
    """What of the tuners a new leader needs: estimates that sizing uses."""
    applied = {name: item for name, item in tuned.items() if item.applied}
    return {name: Stored(state=item.tuner, gpus=item.gpus) for name, item in applied.items()}


def observe(
    tuned: Tuned, source: VariantSource, traffic: Traffic, *, settings: TuningSettings, now: float
) -> Tuned:
    """The tuners after a window of traffic, at most one per window; `now` in monotonic seconds."""
    profile = prior.current_profile(source)
    # Pods that only Prometheus knows have no endpoint.
    replicas = source.ready
    if profile is None or profile.max_batch < 1 or not replicas:
        return tuned
    if traffic.idle or traffic.output_tokens is None:
        return tuned
    window = settings.window_seconds
    before = tuned.get(profile.accelerator) or _first(source, profile, settings)
    if before is None:
        return tuned
    if before.replicas != replicas:
        since = now if before.replicas else -math.inf
        before = replace(before, replicas=replicas, same_since=since)
        tuned = {**tuned, profile.accelerator: before}
    if now - max(before.observed_at, before.same_since) < window or not windows.steady(
        traffic, window
    ):
        return tuned
    now_lengths = lengths.of_traffic(traffic)
    shared = (source.routing or settings.routing) == "least-loaded"
    update = _update(before, traffic, replicas=replicas, shared=shared, window=window)
    if before.applied:
        _log_update(source, before, update)
    item = replace(
        before,
        tuner=update.state,
        observed_at=now,
        gpus=before.gpus if source.gpus is None else source.gpus,
        drift=drifts.after(
            before.drift,
            update.state,
            drifts.Observed(itl_ms=traffic.itl_ms, ttft_ms=traffic.ttft_ms),
            accelerator=profile.accelerator,
            now=now,
        ),
        first_lengths=before.first_lengths or now_lengths,
        lengths=now_lengths,
    )
    _log_item(source, before, item)
    return {**tuned, profile.accelerator: item}


def _first(
    source: VariantSource, profile: fleet.Profile, settings: TuningSettings
) -> TunedProfile | None:
    """The tuner before the first observation; None of a profile that takes no time."""
    steps = step_model.step_times(profile)
    given = profile in source.profiles
    try:
        if steps is not None and given:
            seed: Estimate = learning.start(steps)
        elif steps is not None:
            error = prior.of_source(source).error
            seed = learning.start(steps, error=error) if error else learning.start()
        else:
            assert isinstance(profile.latency, LatencyParameters)  # noqa: S101 - others are step times
            seed = tuner.start(profile.latency)
    except InvalidParameterError:
        return None
    return TunedProfile(
        profile=profile,
        tuner=seed,
        observed_at=-math.inf,
        model=source.model,
        gpus=source.gpus,
        applied=settings.apply_to(source, profile),
    )


def _update(
    item: TunedProfile, traffic: Traffic, *, replicas: int, shared: bool, window: float
) -> tuner.Update | learning.Update:
    state, profile = item.tuner, item.profile
    rate = traffic.arrival_rate_rps / replicas
    requests = traffic.arrival_rate_rps * window
    if isinstance(state, tuner.State):
        latency = tuner.LatencyObservation(
            rate_rps=rate,
            input_tokens=traffic.input_tokens or 0.0,
            output_tokens=traffic.output_tokens or 0.0,
            max_batch=profile.max_batch,
            itl_ms=traffic.itl_ms,
            ttft_ms=traffic.ttft_ms,
            requests=requests,
        )
        if not item.applied:
            return tuner.Update(state=tuner.compare(state, latency), outcome="off")
        return tuner.update(state, latency)
    # What waits for a slot in the batch, or for room in the KV cache, says nothing of prefill. A queue that
    # was there when the window began is in its TTFT even if it has been worked off since.
    growth = traffic.queue_growth_rps
    waited = max(traffic.waiting, traffic.waiting - growth * window)
    queued = waited > max(0.25 * traffic.running, replicas)
    if queued:
        # Latencies come from what was begun: less than arrived while the queue grew, else more.
        rate = max(rate - growth / replicas, 0.0)
    limits = profile.limits
    seen = learning.StepObservation(
        rate_rps=rate,
        lengths=lengths.of_traffic(traffic),
        itl_ms=traffic.itl_ms or 0.0,
        ttft_ms=None if queued or windows.cache_was_full(traffic) else traffic.ttft_ms,
        requests=requests,
        budget=limits.max_num_batched_tokens if limits else DEFAULT_BATCHED_TOKENS,
        sharing=replicas if shared else 1,
    )
    if not item.applied:
        return learning.Update(state=learning.compare(state, seen), outcome="off")
    return learning.update(state, seen)


def _log_update(
    source: VariantSource, before: TunedProfile, update: tuner.Update | learning.Update
) -> None:
    if update.outcome != "outlier" and before.tuner.usable == update.state.usable:
        return
    if update.outcome == "outlier":
        event = "tuning observation rejected as an outlier; estimates unchanged"
    elif update.state.usable:
        event = "profile tuned; sizing uses the estimates"
    else:
        event = "estimates no longer certain enough; sizing goes on without them"
    log.info(
        event,
        variant=source.key,
        accelerator=before.profile.accelerator,
        **{name: round(value, 6) for name, value in parameters(update.state).items()},
        confidence=round(update.state.confidence, 3),
        surprise=round(update.surprise, 2),
    )


def _log_item(source: VariantSource, before: TunedProfile, item: TunedProfile) -> None:
    """Log drift that begins or ends, and lengths that a profile without them has left."""
    was = before.drift is not None and before.drift.active
    if item.drift is not None and item.drift.active != was:
        event = "prediction and observation agree again"
        if item.drift.active:
            event = "prediction and observation differ; tuning corrects what it may, or the profile is wrong"
        log.warning(
            event,
            variant=source.key,
            accelerator=item.profile.accelerator,
            problem=item.drift.message,
        )
    change = item.lengths_left
    if change and not before.lengths_left:
        log.warning(
            "profile used outside its first lengths; targets may be wrong until it says its own",
            variant=source.key,
            accelerator=item.profile.accelerator,
            notes=(change,),
        )


def parameters(state: Estimate) -> Mapping[str, float]:
    """Estimates by name, milliseconds."""
    names: tuple[str, ...] = ("alpha", "beta", "gamma", "delta")
    if isinstance(state, learning.State):
        names = tuple(name.removesuffix("_ms") for name in learning.PARAMETERS)
    return dict(zip(names, state.parameters, strict=True))


def notes(tuned: Tuned, source: VariantSource) -> tuple[str, ...]:
    """What to know about the numbers of the current accelerator, a clause each."""
    item = tuned.get(source.accelerator)
    if item is None:
        return ()
    clauses = []
    if item.drift is not None and item.drift.active:
        clauses.append(item.drift.message)
    if item.lengths_left:
        clauses.append(item.lengths_left)
    if prior.unprofiled(source) and isinstance(item.tuner, learning.State) and item.tuner.local:
        clauses.append(
            f"learned from one load only: certain up to {item.tuner.largest_batch:.3g} requests at a time"
            f" in each replica, assumed up to {learning.NEAR:g} times as many, unknown beyond"
        )
    elif prior.unprofiled(source) and item.tuner.usable and not _proven(item.tuner):
        clauses.append(
            f"step times estimated until they are learned ({prior.of_source(source).described})"
        )
    return tuple(clauses)


def profile_source(tuned: Tuned, source: VariantSource, accelerator: str) -> ProfileSource:
    """Where the numbers come from that the planner has of an accelerator."""
    if any(profile.accelerator == accelerator for profile in source.profiles):
        return "given"
    item = tuned.get(accelerator)
    return "learned" if item is None or _proven(item.tuner) else "estimated"


def _proven(state: Estimate) -> bool:
    return state.proven or state.local if isinstance(state, learning.State) else state.usable


def profiles(tuned: Tuned, source: VariantSource) -> tuple[fleet.Profile, ...]:
    """The variant's profiles with the estimates where they are usable, and what was learned without one."""
    usable = [_profile(tuned.get(item.accelerator), item) for item in source.profiles]
    learned = tuned.get(source.accelerator)
    if prior.unprofiled(source) and learned is not None and learned.tuner.usable:
        units = source.units(source.accelerator) or 1
        usable.append(replace(_learned(learned), accelerator_count=units))
    return tuple(usable)


def _profile(tuned: TunedProfile | None, profile: fleet.Profile) -> fleet.Profile:
    if tuned is None or not tuned.applied or not tuned.tuner.usable:
        return profile
    return replace(profile, latency=tuned.tuner.latency)


def _learned(learned: TunedProfile) -> fleet.Profile:
    """A learned profile, limited to the batches for which it is known to hold."""
    profile, state = learned.profile, learned.tuner
    assert profile.limits is not None  # noqa: S101 - one that is learned has them
    most = state.most_requests if isinstance(state, learning.State) else math.inf
    batch = int(max(math.ceil(min(most, DEFAULT_NUM_SEQS)), 4))
    return replace(
        profile,
        latency=state.latency,
        limits=replace(profile.limits, max_num_seqs=batch),
        max_batch=batch,
    )

"""Profiles that follow observed latencies, or are learned from them: a tuner per variant and accelerator.

Once per window, a variant's traffic is one observation of its current accelerator's profile. Windows do not
overlap, so observations are independent; profiles of other accelerators stay as they were written. Where no
profile is given, step times are learned from a prior, and used once they are certain enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from adapter.collector.traffic import Traffic
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer import tuner
from analyzer.engine import learning
from analyzer.step_times import EngineLimits, Lengths, StepTimes

log = structlog.get_logger()

Estimate = tuner.State | learning.State
"""Estimate of decode and prefill times, or of step times."""

DEFAULT_INPUT_CV = 1.0
DEFAULT_OUTPUT_CV = 0.8
"""Variation of lengths where pods do not show it, about that of public traces of chats."""

DEFAULT_BATCHED_TOKENS = 2048
"""Token budget of a step where no profile says it: the smallest default of vLLM's servers."""

DEFAULT_NUM_SEQS = 256
"""Largest batch where no profile says it: the default of vLLM's servers."""

DRIFT = 0.25
"""Error of the predicted ITL from which a given profile is said to be wrong."""

_SEEN_BATCHES = 2.0
"""Learned step times are used up to that many times the largest batch that was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedProfile:
    """The tuner of one profile.

    Attributes:
        profile: Profile as it was written; a rewritten one starts over.
        tuner: Estimates so far.
        observed_at: Monotonic seconds of the last observation.

    """

    profile: fleet.Profile
    tuner: Estimate
    observed_at: float


Tuned = Mapping[str, TunedProfile]
"""Tuners of one variant by accelerator; empty where it is not tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSettings:
    """How profiles are tuned.

    Attributes:
        enabled: Whether decode and prefill times of variants without a setting of their own are tuned.
        window_seconds: Least time between two observations of one variant.

    """

    enabled: bool
    window_seconds: float

    def apply_to(self, source: VariantSource, profile: fleet.Profile) -> bool:
        """Whether this profile is tuned: step times are, others by the setting; the annotation overrides.

        Without a profile there is nothing that could be left as it is.
        """
        if source.tune is None or not source.profiles:
            return self.enabled or isinstance(profile.latency, StepTimes)
        return source.tune


def _unknown(source: VariantSource) -> tuple[fleet.Profile, ...]:
    """The profile that is learned for a variant without one; the prior of an unknown model."""
    if source.profiles or not source.accelerator:
        return ()
    return (
        fleet.Profile(
            accelerator=source.accelerator,
            latency=learning.PRIOR,
            limits=EngineLimits(
                max_num_seqs=DEFAULT_NUM_SEQS, max_num_batched_tokens=DEFAULT_BATCHED_TOKENS
            ),
            max_batch=DEFAULT_NUM_SEQS,
        ),
    )


def retain(tuned: Tuned, source: VariantSource, settings: TuningSettings) -> Tuned:
    """The tuners that still apply: of profiles that were not rewritten, of a variant that is tuned."""
    written = {
        profile.accelerator: profile
        for profile in source.profiles or _unknown(source)
        if settings.apply_to(source, profile)
    }
    return {name: item for name, item in tuned.items() if written.get(name) == item.profile}


def observe(
    tuned: Tuned, source: VariantSource, traffic: Traffic, *, settings: TuningSettings, now: float
) -> Tuned:
    """The tuners after a window of traffic, at most one per window; `now` in monotonic seconds."""
    written = source.profiles or _unknown(source)
    profile = next((p for p in written if p.accelerator == source.accelerator), None)
    if profile is None or profile.max_batch < 1 or not settings.apply_to(source, profile):
        return tuned
    if traffic.idle or not source.endpoints or traffic.output_tokens is None:
        return tuned
    window = settings.window_seconds
    before = tuned.get(profile.accelerator)
    if before is None:
        seed = _seed(profile, given=bool(source.profiles))
        before = TunedProfile(profile=profile, tuner=seed, observed_at=-window)
    if now - before.observed_at < window:
        return tuned
    update = _update(before.tuner, profile, traffic, replicas=len(source.endpoints), window=window)
    _log_update(source, profile, before.tuner, update)
    after = {
        **tuned,
        profile.accelerator: replace(before, tuner=update.state, observed_at=now),
    }
    said = drift(after, source)
    if said and not drift(tuned, source):
        log.warning(
            "prediction and observation differ; tuning corrects it, or the profile is of another server",
            variant=source.key,
            accelerator=profile.accelerator,
            problem=said,
        )
    return after


def _seed(profile: fleet.Profile, *, given: bool) -> Estimate:
    if isinstance(profile.latency, StepTimes):
        return learning.start(profile.latency if given else None)
    return tuner.start(profile.latency)


def _update(
    state: Estimate, profile: fleet.Profile, traffic: Traffic, *, replicas: int, window: float
) -> tuner.Update | learning.Update:
    rate = traffic.arrival_rate_rps / replicas
    requests = traffic.arrival_rate_rps * window
    output_tokens = traffic.output_tokens or 0.0
    if isinstance(state, tuner.State):
        return tuner.update(
            state,
            tuner.LatencyObservation(
                rate_rps=rate,
                input_tokens=traffic.input_tokens or 0.0,
                output_tokens=output_tokens,
                max_batch=profile.max_batch,
                itl_ms=traffic.itl_ms,
                ttft_ms=traffic.ttft_ms,
                requests=requests,
            ),
        )
    # What waits for a place in the batch says nothing of prefill, and is not served yet.
    queued = traffic.waiting > max(0.25 * traffic.running, replicas)
    if queued:
        rate = max(rate - max(traffic.waiting_growth_rps, 0.0) / replicas, 0.0)
    limits = profile.limits
    return learning.update(
        state,
        learning.StepObservation(
            rate_rps=rate,
            lengths=lengths(traffic),
            itl_ms=traffic.itl_ms or 0.0,
            ttft_ms=None if queued else traffic.ttft_ms,
            requests=requests,
            budget=limits.max_num_batched_tokens if limits else DEFAULT_BATCHED_TOKENS,
        ),
    )


def lengths(traffic: Traffic) -> Lengths:
    """Lengths of the requests that are there now, by the defaults where pods do not show them."""
    cached = min(traffic.cached_tokens or 0.0, traffic.input_tokens or 0.0)
    return Lengths(
        input_tokens=(traffic.input_tokens or 0.0) - cached,
        output_tokens=traffic.output_tokens or 1.0,
        input_cv=DEFAULT_INPUT_CV if traffic.input_cv is None else traffic.input_cv,
        output_cv=DEFAULT_OUTPUT_CV if traffic.output_cv is None else traffic.output_cv,
        cached_tokens=cached,
    )


def _log_update(
    source: VariantSource,
    profile: fleet.Profile,
    before: Estimate,
    update: tuner.Update | learning.Update,
) -> None:
    if update.outcome != "outlier" and before.usable == update.state.usable:
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
        accelerator=profile.accelerator,
        **{name: round(value, 6) for name, value in parameters(update.state).items()},
        confidence=round(update.state.confidence, 3),
        surprise=round(update.surprise, 2),
    )


def parameters(state: Estimate) -> Mapping[str, float]:
    """Estimates by name, milliseconds."""
    names: tuple[str, ...] = ("alpha", "beta", "gamma", "delta")
    if isinstance(state, learning.State):
        names = tuple(name.removesuffix("_ms") for name in learning.PARAMETERS)
    return dict(zip(names, state.parameters, strict=True))


def drift(tuned: Tuned, source: VariantSource) -> str:
    """Clause that says that the observed ITL differs from the predicted one; empty where it does not."""
    item = tuned.get(source.accelerator)
    if item is None or not source.profiles or abs(item.tuner.itl_error) < DRIFT:
        return ""
    error = item.tuner.itl_error
    side = "above" if error > 0 else "below"
    return (
        f"observed ITL is {abs(error):.0%} {side} what the profile of {source.accelerator} predicts"
    )


def profiles(tuned: Tuned, source: VariantSource) -> tuple[fleet.Profile, ...]:
    """The variant's profiles, with the estimates where they are usable; none while one is being learned."""
    if source.profiles:
        return tuple(_profile(tuned.get(item.accelerator), item) for item in source.profiles)
    learned = tuned.get(source.accelerator)
    if learned is None or not learned.tuner.usable:
        return ()
    return (_learned(learned),)


def _profile(tuned: TunedProfile | None, profile: fleet.Profile) -> fleet.Profile:
    if tuned is None or not tuned.tuner.usable:
        return profile
    return replace(profile, latency=tuned.tuner.latency)


def _learned(learned: TunedProfile) -> fleet.Profile:
    """A learned profile, limited to twice the observed batch, beyond which it is not known to hold."""
    profile, state = learned.profile, learned.tuner
    assert profile.limits is not None  # noqa: S101 - one that is learned has them
    seen = state.largest_batch if isinstance(state, learning.State) else math.inf
    batch = int(min(max(math.ceil(_SEEN_BATCHES * seen), 4), DEFAULT_NUM_SEQS))
    return replace(
        profile,
        latency=state.latency,
        limits=replace(profile.limits, max_num_seqs=batch),
        max_batch=batch,
    )

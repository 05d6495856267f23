"""Profiles that follow the observed latencies: one tuner per variant and accelerator.

Once per window, a variant's traffic is one observation of its current accelerator's profile. Windows do not
overlap, so observations are independent; profiles of other accelerators stay as they were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import structlog

from adapter.collector.traffic import Traffic
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer import tuner
from analyzer.step_times import StepTimes

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedProfile:
    """The tuner of one profile.

    Attributes:
        profile: Profile as it was written; a rewritten one starts over.
        tuner: Estimates so far.
        observed_at: Monotonic seconds of the last observation.

    """

    profile: fleet.Profile
    tuner: tuner.State
    observed_at: float


Tuned = Mapping[str, TunedProfile]
"""Tuners of one variant by accelerator; empty where it is not tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSettings:
    """How profiles are tuned.

    Attributes:
        enabled: Whether variants without a setting of their own are tuned.
        window_seconds: Least time between two observations of one variant.

    """

    enabled: bool
    window_seconds: float

    def apply_to(self, source: VariantSource) -> bool:
        """Whether this variant is tuned; its annotation overrides the setting."""
        return self.enabled if source.tune is None else source.tune


def retain(tuned: Tuned, source: VariantSource, settings: TuningSettings) -> Tuned:
    """The tuners that still apply: of profiles that were not rewritten, of a variant that is tuned."""
    if not settings.apply_to(source):
        return {}
    written = {profile.accelerator: profile for profile in source.profiles}
    return {name: item for name, item in tuned.items() if written.get(name) == item.profile}


def observe(
    tuned: Tuned, source: VariantSource, traffic: Traffic, *, settings: TuningSettings, now: float
) -> Tuned:
    """The tuners after a window of traffic, at most one per window; `now` in monotonic seconds."""
    profile = next((p for p in source.profiles if p.accelerator == source.accelerator), None)
    if not settings.apply_to(source) or profile is None or profile.max_batch < 1:
        return tuned
    if isinstance(profile.latency, StepTimes):
        return tuned
    if traffic.idle or not source.endpoints or traffic.output_tokens is None:
        return tuned
    window = settings.window_seconds
    before = tuned.get(profile.accelerator)
    if before is None:
        before = TunedProfile(
            profile=profile, tuner=tuner.start(profile.latency), observed_at=-window
        )
    if now - before.observed_at < window:
        return tuned
    update = tuner.update(
        before.tuner,
        tuner.LatencyObservation(
            rate_rps=traffic.arrival_rate_rps / len(source.endpoints),
            input_tokens=traffic.input_tokens or 0.0,
            output_tokens=traffic.output_tokens,
            max_batch=profile.max_batch,
            itl_ms=traffic.itl_ms,
            ttft_ms=traffic.ttft_ms,
            requests=traffic.arrival_rate_rps * window,
        ),
    )
    _log_update(source, profile, before.tuner, update)
    return {
        **tuned,
        profile.accelerator: replace(before, tuner=update.state, observed_at=now),
    }


def _log_update(
    source: VariantSource, profile: fleet.Profile, before: tuner.State, update: tuner.Update
) -> None:
    if update.outcome != "outlier" and (before.usable or not update.state.usable):
        return
    alpha, beta, gamma, delta = (round(value, 6) for value in update.state.parameters)
    log.info(
        "profile tuned; sizing uses the estimates"
        if update.outcome == "accepted"
        else "tuning observation rejected as an outlier; estimates unchanged",
        variant=source.key,
        accelerator=profile.accelerator,
        alpha=alpha,
        beta=beta,
        gamma=gamma,
        delta=delta,
        confidence=round(update.state.confidence, 3),
        surprise=round(update.surprise, 2),
    )


def profiles(tuned: Tuned, source: VariantSource) -> tuple[fleet.Profile, ...]:
    """The variant's profiles, with the estimates where they are usable."""
    return tuple(_profile(tuned.get(item.accelerator), item) for item in source.profiles)


def _profile(tuned: TunedProfile | None, profile: fleet.Profile) -> fleet.Profile:
    if tuned is None or not tuned.tuner.usable:
        return profile
    return replace(profile, latency=tuned.tuner.latency)

"""Profiles that follow what their variants show: one tuner per variant and accelerator.

Once a window, a variant's traffic is one observation of its current accelerator's profile. Windows do not
overlap, so observations are independent; other accelerators' profiles stay as they were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from adapter.collector.traffic import Traffic
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer import tuner

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tuned:
    profile: fleet.Profile
    state: tuner.State
    observed_at: float


class Tuning:
    """What has been learned of every variant; for variants that are not to be tuned, nothing."""

    def __init__(self, *, window_seconds: float, default: bool) -> None:
        self._window = window_seconds
        self._default = default
        self._tuned: dict[tuple[str, str], _Tuned] = {}

    @property
    def states(self) -> Mapping[tuple[str, str], tuner.State]:
        """Tuners by variant key and accelerator."""
        return {key: item.state for key, item in self._tuned.items()}

    def keep(self, sources: Iterable[VariantSource]) -> None:
        """Forget variants that are gone or no longer tuned, and profiles that were rewritten."""
        wanted = {
            (source.key, profile.accelerator): profile
            for source in sources
            if self.enabled(source)
            for profile in source.profiles
        }
        self._tuned = {
            key: item for key, item in self._tuned.items() if wanted.get(key) == item.profile
        }

    def enabled(self, source: VariantSource) -> bool:
        """Whether this variant is tuned: its own word, else the setting."""
        return self._default if source.tune is None else source.tune

    def observe(self, source: VariantSource, traffic: Traffic, *, now: float) -> None:
        """Learn from a window of traffic, at most once a window; `now` in monotonic seconds."""
        profile = next((p for p in source.profiles if p.accelerator == source.accelerator), None)
        if not self.enabled(source) or profile is None or profile.max_batch < 1:
            return
        if traffic.idle or not source.endpoints or traffic.output_tokens is None:
            return
        key = (source.key, profile.accelerator)
        before = self._tuned.get(key)
        if before is None:
            before = _Tuned(profile=profile, state=_start(profile), observed_at=-self._window)
        if now - before.observed_at < self._window:
            return
        rate = traffic.arrival_rate_rps / len(source.endpoints)
        seen = tuner.update(
            before.state,
            tuner.Observation(
                rate_rps=rate,
                input_tokens=traffic.input_tokens or 0.0,
                output_tokens=traffic.output_tokens,
                max_batch=profile.max_batch,
                itl_ms=traffic.itl_ms,
                ttft_ms=traffic.ttft_ms,
                requests=traffic.arrival_rate_rps * self._window,
            ),
        )
        self._tuned[key] = replace(before, state=seen.state, observed_at=now)
        if seen.outcome == "outlier" or (seen.state.usable and not before.state.usable):
            alpha, beta, gamma, delta = (round(value, 6) for value in seen.state.parameters)
            log.info(
                "profile tuned"
                if seen.outcome == "accepted"
                else "observation refused as an outlier",
                variant=source.key,
                accelerator=profile.accelerator,
                alpha=alpha,
                beta=beta,
                gamma=gamma,
                delta=delta,
                confidence=round(seen.state.confidence, 3),
                surprise=round(seen.surprise, 2),
            )

    def profiles(self, source: VariantSource) -> tuple[fleet.Profile, ...]:
        """The variant's profiles, tuned where enough was learned."""
        return tuple(self._profile(source, profile) for profile in source.profiles)

    def _profile(self, source: VariantSource, profile: fleet.Profile) -> fleet.Profile:
        tuned = self._tuned.get((source.key, profile.accelerator))
        if tuned is None or not tuned.state.usable:
            return profile
        return replace(profile, latency=tuned.state.latency)


def _start(profile: fleet.Profile) -> tuner.State:
    return tuner.start(profile.latency)

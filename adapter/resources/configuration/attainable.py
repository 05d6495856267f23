"""SLO targets that one request alone breaks: known from profile and target, before any traffic comes."""

from __future__ import annotations

from collections.abc import Sequence

from adapter.planning import fleet
from analyzer.step_times import StepTimes


def problem(profiles: Sequence[fleet.Profile], targets: fleet.Targets) -> str:
    """Targets that no profile keeps even for one request of one token; empty where one keeps them all."""
    if not profiles:
        return ""
    broken = [_broken(profile, targets) for profile in profiles]
    if not all(broken):
        return ""
    return (
        f"service level cannot be met even by one request alone: {'; '.join(broken)}; raise the target, or"
        " give a profile of a faster accelerator"
    )


def _broken(profile: fleet.Profile, targets: fleet.Targets) -> str:
    ttft_ms, itl_ms = _alone(profile)
    pairs = (("slo-tpot", targets.itl_ms, itl_ms), ("slo-ttft", targets.ttft_ms, ttft_ms))
    broken = [
        f"{name} is {target:g} ms, and {profile.accelerator} takes {least:g} ms"
        for name, target, least in pairs
        if 0 < target < least
    ]
    return ", ".join(broken)


def _alone(profile: fleet.Profile) -> tuple[float, float]:
    """Least TTFT and ITL of one request, milliseconds: one token, nothing else in the engine."""
    times = profile.latency
    if isinstance(times, StepTimes):
        step = times.base_ms + times.per_request_ms + times.per_sqrt_request_ms
        prompt = times.per_prompt_ms + times.per_prefill_token_ms
        return step + prompt, step + times.per_context_token_ms
    return times.gamma_ms + times.delta_ms, times.alpha_ms + times.beta_ms

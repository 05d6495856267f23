"""SLO targets that one request alone breaks, and times in another unit: known before any traffic comes."""

from __future__ import annotations

from collections.abc import Sequence

from adapter.planning import fleet
from analyzer.latency import LEAST_STEP_MS, unit_problem
from analyzer.step_times import StepTimes


def warnings(profiles: Sequence[fleet.Profile], targets: fleet.Targets) -> tuple[str, ...]:
    """What a variant says of its profiles and targets; the unit before what follows from it."""
    text = _seconds(profiles, targets) or problem(profiles, targets)
    return (text,) if text else ()


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


def _seconds(profiles: Sequence[fleet.Profile], targets: fleet.Targets) -> str:
    """Profile or target that seems to be in seconds; empty without one.

    Taken for milliseconds, one replica would seem to serve anything, or none anything.
    """
    if 0 < targets.itl_ms < LEAST_STEP_MS:
        return (
            f"slo-tpot is {targets.itl_ms:g} ms, which no server keeps; times are in ms: multiply seconds by"
            " 1000"
        )
    for profile in profiles:
        times = profile.latency
        if isinstance(times, StepTimes):
            text = unit_problem(times.base_ms, times.per_request_ms, times.per_sqrt_request_ms)
        else:
            text = unit_problem(times.alpha_ms, times.beta_ms)
        if text:
            return f"profile of {profile.accelerator}: {text}"
    return ""


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

"""The profile that the policies plan with, which may differ from what the engine does."""

from __future__ import annotations

from adapter import errors
from adapter.planning import fleet
from analyzer.errors import FitError
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from emulator.replay.replicas import benchmark
from emulator.replay.replicas.specs import (
    Limits,
    LinearProfile,
    OtherEngine,
    ProfileSteps,
    StepMs,
    StepProfile,
    VariantSpec,
    VllmEngine,
)


def profile_of(variant: VariantSpec) -> fleet.Profile | None:
    """The profile that the scenario gives, or that a benchmark of the engine gives; None where there is none.

    Raises:
        FitError: The benchmark does not determine step times.

    """
    given = variant.profile
    if isinstance(given, LinearProfile):
        return _linear(variant, given)
    engine = variant.served_by
    if isinstance(given, StepProfile):
        assumed = given.engine or engine
        return _steps(variant, _step_times(given.step_parms), _limits(assumed))
    return _fitted(variant) if given == "fit" else None


def truth_of(variant: VariantSpec) -> fleet.Profile:
    """The profile of the engine itself, for policies that know it; that of an engine by name is fitted."""
    engine = variant.served_by
    if isinstance(engine, VllmEngine):
        return _steps(variant, _step_times(engine.step_ms), _limits(engine))
    if isinstance(engine, ProfileSteps) and engine.parms is not None:
        return _linear(variant, engine.parms)
    return _fitted(variant)


def known_or_true(variant: VariantSpec) -> fleet.Profile:
    """The planner's profile, or the engine's own: for policies that cannot do without one."""
    return profile_of(variant) or truth_of(variant)


def _fitted(variant: VariantSpec) -> fleet.Profile:
    engine = variant.served_by
    return _steps(variant, benchmark.fitted(engine).fit.step_times, _limits(engine))


def check_profile(variant: VariantSpec) -> None:
    """Raise InputError, with the field, where the variant has no profile that can be planned with."""
    try:
        profile_of(variant)
    except (FitError, ValueError) as error:
        raise errors.InputError(f"variants.{variant.name}.profile: {error}") from error


def description(variant: VariantSpec) -> str:
    """The profile in a few words."""
    profile = profile_of(variant)
    if profile is None:
        return "no profile"
    latency = profile.latency
    if isinstance(latency, StepTimes):
        how = "fitted steps of" if variant.profile == "fit" else "steps of"
        return f"{how} {_step_text(latency)}"
    return (
        f"alpha {latency.alpha_ms:g}, beta {latency.beta_ms:g}, gamma {latency.gamma_ms:g},"
        f" delta {latency.delta_ms:g} ms, batch {profile.max_batch}"
    )


def engine_description(variant: VariantSpec) -> str:
    """The engine in a few words; empty where it runs with the profile."""
    engine = variant.engine or variant.served_by
    if isinstance(engine, VllmEngine):
        return (
            f"vllm with steps of {_step_text(_step_times(engine.step_ms))}, at most"
            f" {engine.max_num_seqs} requests, {engine.max_num_batched_tokens} tokens a step,"
            f" {engine.kv_tokens} KV tokens"
        )
    if isinstance(engine, OtherEngine):
        return engine.kind
    own = engine.parms
    if own is None:
        return ""
    return (
        f"alpha {own.alpha:g}, beta {own.beta:g}, gamma {own.gamma:g}, delta {own.delta:g} ms,"
        f" batch {own.max_batch_size}"
    )


def _step_text(times: StepTimes) -> str:
    rare = (
        (times.per_sqrt_request_ms, "per square root of the requests"),
        (times.per_prompt_ms, "per prompt"),
    )
    return (
        f"{times.base_ms:.4g} + {times.per_request_ms:.4g} per request"
        f" + {times.per_prefill_token_ms:.4g} per prompt token"
        f" + {times.per_context_token_ms:.4g} per context token"
        + "".join(f" + {value:.4g} {name}" for value, name in rare if value)
        + " ms"
    )


def _linear(variant: VariantSpec, given: LinearProfile) -> fleet.Profile:
    return fleet.Profile(
        accelerator=variant.accelerator,
        accelerator_count=variant.devices,
        max_batch=given.max_batch_size,
        at_tokens=given.at_tokens,
        at_input_tokens=given.at_input_tokens,
        latency=LatencyParameters(
            alpha_ms=given.alpha,
            beta_ms=given.beta,
            gamma_ms=given.gamma,
            delta_ms=given.delta,
        ),
    )


def _steps(variant: VariantSpec, times: StepTimes, limits: EngineLimits) -> fleet.Profile:
    return fleet.Profile(
        accelerator=variant.accelerator,
        accelerator_count=variant.devices,
        max_batch=limits.max_num_seqs,
        latency=times,
        limits=limits,
    )


def _step_times(given: StepMs) -> StepTimes:
    return StepTimes(
        base_ms=given.base,
        per_request_ms=given.per_request,
        per_prefill_token_ms=given.per_prefill_token,
        per_context_token_ms=given.per_context_token,
        per_sqrt_request_ms=given.per_sqrt_request,
        per_prompt_ms=given.per_prompt,
    )


def _limits(assumed: Limits | VllmEngine | ProfileSteps | OtherEngine) -> EngineLimits:
    """What an operator knows of an engine: its own settings, and the size of its KV cache."""
    if isinstance(assumed, Limits):
        return EngineLimits(
            max_num_seqs=assumed.max_num_seqs,
            max_num_batched_tokens=assumed.max_num_batched_tokens,
            kv_tokens=assumed.kv_tokens,
        )
    most = assumed.factory()().max_requests
    if isinstance(assumed, OtherEngine):
        return EngineLimits(
            max_num_seqs=most,
            max_num_batched_tokens=max(assumed.max_num_batched_tokens, most),
            kv_tokens=assumed.kv_tokens,
        )
    return EngineLimits(max_num_seqs=most, max_num_batched_tokens=max(8192, most))

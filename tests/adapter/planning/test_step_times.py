"""Plans of profiles that hold step times, and of those that are converted to them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.step_model import MOST_SHARING
from analyzer.engine.columns import Engine, Engines
from analyzer.engine.sizing import size_engines
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, Lengths, StepTimes

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "replica" / "capacity.json").read_text()
)
STEPS = StepTimes(
    base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
)
LIMITS = EngineLimits(max_num_seqs=64, max_num_batched_tokens=2048, kv_tokens=432_000)
PROFILE = fleet.Profile(accelerator="H100", latency=STEPS, limits=LIMITS)
LOAD = fleet.Load(
    arrival_rate_rps=20.0, input_tokens=512, output_tokens=128, input_cv=0.9, output_cv=0.65
)
LINEAR = fleet.Profile(
    accelerator="H100",
    latency=LatencyParameters(alpha_ms=6.8, beta_ms=0.23, gamma_ms=7.0, delta_ms=0.04),
    limits=LIMITS,
    at_input_tokens=512,
    at_tokens=128,
)


def planned(
    profile: fleet.Profile = PROFILE,
    load: fleet.Load = LOAD,
    targets: fleet.Targets | None = None,
    capacity: int | None = None,
    margin: float | None = None,
    **fields: Any,
) -> planning.Plan:
    variant = fleet.Variant(
        name="ns/v", model="m", service_class="Premium", profiles=(profile,), load=load,
        current=fleet.CurrentAllocation(accelerator="H100", replicas=1), **fields,
    )  # fmt: skip
    level = targets or fleet.Targets(ttft_ms=1000.0, itl_ms=25.0)
    return planning.plan(
        fleet.Fleet(
            accelerators=(fleet.Accelerator(name="H100", device_type="H100", unit_cost=60),),
            service_classes=(fleet.ServiceClass(name="Premium", priority=1, targets={"m": level}),),
            variants=(variant,),
            capacity=None if capacity is None else {"H100": capacity},
            settings=fleet.Settings(policy="RoundRobin").with_margin(margin),
        )
    )


def decision(*args: Any, **fields: Any) -> planning.Decision:
    return planned(*args, **fields).decisions["ns/v"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_replicas_carry_what_the_real_scheduler_carries(case: dict[str, Any]) -> None:
    """What a replica is given is within -12 and +3 % of what one driven by vLLM's scheduler holds."""
    base, request, prefill, context = case["step_ms"]
    profile = fleet.Profile(
        accelerator="H100",
        latency=StepTimes(
            base_ms=base, per_request_ms=request,
            per_prefill_token_ms=prefill, per_context_token_ms=context,
        ),
        limits=EngineLimits(
            max_num_seqs=case["max_num_seqs"],
            max_num_batched_tokens=case["max_num_batched_tokens"],
            kv_tokens=16 * case["kv_blocks"],
        ),
    )  # fmt: skip
    load = fleet.Load(
        arrival_rate_rps=100.0,
        input_tokens=case["mean_input"], output_tokens=case["mean_output"],
        input_cv=case["cv_input"], output_cv=case["cv_output"],
    )  # fmt: skip
    decided = decision(profile, load, fleet.Targets(ttft_ms=case["ttft"], itl_ms=case["itl"]))
    holds, fails = case["max_rate_rps"]["mean"]
    rate = decided.candidate.max_rate_rpm / 60
    assert rate >= 0.88 * holds
    assert rate <= 1.03 * fails
    assert decided.candidate.replicas == pytest.approx(100.0 / rate, abs=1)
    assert decided.candidate.ttft_ms <= case["ttft"]
    assert decided.candidate.itl_ms <= case["itl"]


def test_the_kv_cache_is_the_reason_where_it_binds() -> None:
    """Long prompts fill the cache; the reason names how many requests of what length it holds."""
    long = dataclasses.replace(LOAD, input_tokens=8000, output_tokens=500, arrival_rate_rps=3.0)
    small = dataclasses.replace(PROFILE, limits=dataclasses.replace(LIMITS, kv_tokens=60_000))
    decided = decision(small, long, fleet.Targets(ttft_ms=60_000.0, itl_ms=500.0))
    candidate, sized = decided.candidate, decided.explanation.sized
    assert candidate.binding == "kv"
    assert candidate.max_batch < 10
    assert sized.startswith(f"bound by KV cache: {candidate.max_batch} requests of 8,3")


def test_cached_prompt_tokens_cost_no_prefill() -> None:
    """Half of the prompt from the prefix cache raises what a replica carries."""
    cached = dataclasses.replace(LOAD, cached_tokens=256)
    tight = fleet.Targets(ttft_ms=100.0, itl_ms=14.0)
    plain, less = (decision(load=load, targets=tight).candidate for load in (LOAD, cached))
    assert less.max_rate_rpm > 1.2 * plain.max_rate_rpm


def test_what_is_wrong_is_refused_with_its_field_and_stops_nobody() -> None:
    """A KV cache that holds no request, and a target that cannot be met."""
    tiny = dataclasses.replace(PROFILE, limits=dataclasses.replace(LIMITS, kv_tokens=600))
    assert (
        planned(tiny)
        .set_aside["ns/v"]
        .startswith("H100: kv_tokens: 600 tokens do not hold one request")
    )
    assert (
        "ITL target 5 ms cannot be met"
        in planned(targets=fleet.Targets(itl_ms=5.0)).set_aside["ns/v"]
    )


def test_times_with_their_lengths_are_converted_and_noted() -> None:
    """At the lengths of the measurement all is quiet; away from them the capacity follows, with a note."""
    near = decision(LINEAR)
    far_load = dataclasses.replace(LOAD, input_tokens=2048, output_tokens=130)
    far = decision(LINEAR, far_load)
    assert near.notes == ()
    assert far.notes[0].startswith(
        "profile was measured at 512/128 tokens, traffic has 2048/130: its times are converted"
    )
    true = decision(PROFILE, far_load).candidate.max_rate_rpm
    assert far.candidate.max_rate_rpm == pytest.approx(true, rel=0.15)
    assert near.candidate.max_rate_rpm > 2 * far.candidate.max_rate_rpm


def test_times_without_their_lengths_hold_as_they_are() -> None:
    """Nothing is known to convert them by: the published formulas answer, and a half-given pair is noted."""
    plain = dataclasses.replace(LINEAR, at_input_tokens=0, limits=None, max_batch=64)
    both = dataclasses.replace(plain, limits=LIMITS)
    assert decision(plain).candidate.max_rate_rpm == decision(both).candidate.max_rate_rpm
    assert decision(dataclasses.replace(plain, at_tokens=0)).notes == ()
    (note,) = decision(plain).notes
    assert note.startswith("profile gives atTokens without atInputTokens")


def test_part_of_the_replicas_is_overloaded_with_finite_numbers() -> None:
    """A replica that does not keep up shows the wait of a full queue, and what it turns away."""
    decided = decision(load=dataclasses.replace(LOAD, arrival_rate_rps=100.0), capacity=2)
    assert decided.served == "partial"
    assert 1000 < decided.candidate.ttft_ms < 1e7
    turned_away = re.search(r"(\d+)% of requests turned away", decided.reason)
    assert turned_away is not None
    assert 40 < int(turned_away[1]) < 70


def test_a_load_aware_gateway_takes_nothing_off_means() -> None:
    """Where targets bound means, replicas are sized one by one behind it, and the reason says so."""
    busy = dataclasses.replace(LOAD, arrival_rate_rps=100.0)
    alone, shared = decision(load=busy), decision(load=busy, routing="least-loaded")
    assert shared.candidate.replicas == alone.candidate.replicas > 1
    assert shared.reason.endswith("the gain of the least-loaded gateway is not counted")


STRICT = fleet.Targets(ttft_ms=1000.0, itl_ms=15.0, percentile=0.99)


def replicas(rate_rps: float, dispersion: float = 1.0, **fields: Any) -> int:
    """Replicas for a rate with a p99 of the ITL."""
    load = dataclasses.replace(LOAD, arrival_rate_rps=rate_rps, dispersion=dispersion)
    return decision(load=load, targets=STRICT, **fields).candidate.replicas


def test_a_load_aware_gateway_makes_the_itl_steadier() -> None:
    """Percentiles of the ITL need fewer replicas behind it, never more, and one has nothing to share."""
    rates = [2.0, 5.0, *range(10, 200, 10)]
    alone = [replicas(rate) for rate in rates]
    shared = [replicas(rate, routing="least-loaded") for rate in rates]
    assert all(few <= many for few, many in zip(shared, alone, strict=True))
    assert shared == sorted(shared)
    assert shared[0] == alone[0] == 1
    assert shared[-1] <= 0.95 * alone[-1]
    busy = dataclasses.replace(LOAD, arrival_rate_rps=100.0)
    reason = decision(load=busy, targets=STRICT, routing="least-loaded").reason
    assert reason.endswith("have a steadier ITL, and serve more together")


def test_bursts_meet_all_replicas_at_once() -> None:
    """Arrivals in bursts leave less of what replicas gain by each other, and at last nothing."""
    needed = [
        replicas(190.0, dispersion, routing="least-loaded") for dispersion in (1.0, 4.0, 1000.0)
    ]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1] == replicas(190.0)


def test_fewest_replicas_together_are_enough() -> None:
    """They hold the rate together, and one fewer do not: by what one among so many holds."""
    lengths = Lengths(input_tokens=512, output_tokens=128, input_cv=0.9, output_cv=0.65)
    engine = Engines.of([Engine(step_times=STEPS, limits=LIMITS, lengths=lengths)])

    def hold(count: int) -> float:
        some = engine.take(np.zeros(1, dtype=np.intp), np.array([float(min(count, MOST_SHARING))]))
        sized = size_engines(some, ttft_ms=1000.0, itl_ms=15.0, percentile=0.99)
        return count * float(sized.rate_rps[0])

    for rate in (30.0, 60.0, 100.0, 150.0):
        count = replicas(rate, routing="least-loaded")
        assert hold(count - 1) < rate <= hold(count)


def test_a_batch_of_the_variants_own_overrides_the_engines() -> None:
    """max_batch bounds the requests in service."""
    assert decision(max_batch=4).candidate.max_batch == 4


def test_a_variant_without_load_gets_its_minimum() -> None:
    """Nothing to meet a target for."""
    idle = dataclasses.replace(LOAD, arrival_rate_rps=0.0)
    assert decision(load=idle, min_replicas=2).candidate.replicas == 2
    assert decision(load=idle, min_replicas=0).candidate.cost == 0


@pytest.mark.parametrize("routing", ["random", "least-loaded"])
@pytest.mark.parametrize("profile", [PROFILE, LINEAR], ids=["steps", "converted"])
def test_a_margin_that_is_given_holds_for_step_times_too(
    profile: fleet.Profile, routing: fleet.Routing
) -> None:
    """Without one they keep 5 % free, not the 10 % of alpha and beta; 0 keeps none."""
    rates = {
        margin: planned(profile, margin=margin, routing=routing)
        .decisions["ns/v"]
        .candidate.max_rate_rpm
        for margin in (None, 0.0, 0.05, 0.1, 0.5)
    }
    assert rates[None] == rates[0.05]
    for margin in (0.05, 0.1, 0.5):
        assert rates[margin] == pytest.approx(rates[0.0] * (1.0 - margin))


def test_a_tokens_per_second_target_keeps_the_default_margin() -> None:
    """It asks for nothing but stability."""
    targets = fleet.Targets(tps=1000.0)
    rates = [
        planned(targets=targets, margin=margin).decisions["ns/v"].candidate.max_rate_rpm
        for margin in (None, 0.0, 0.5)
    ]
    assert rates[0] == rates[1] > 1.5 * rates[2]


def test_short_answers_take_more_replicas_for_the_same_percentile() -> None:
    """Shares of short answers reach the replica model; the gateway that knows loads needs fewer of them."""
    targets = fleet.Targets(ttft_ms=5000.0, itl_ms=40.0, percentile=0.99)
    plain = dataclasses.replace(LOAD, input_tokens=4000, arrival_rate_rps=5.0)
    short = dataclasses.replace(plain, short_answers=(0.0, 0.08, 0.1, 0.12))
    one, more = (decision(load=load, targets=targets).candidate.replicas for load in (plain, short))
    aware = decision(load=short, targets=targets, routing="least-loaded").candidate.replicas
    assert more > 1.2 * one
    assert aware < more

"""Arrivals in bursts: how much of them meets within the time that a request is there."""

from __future__ import annotations

import pytest

from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from tests.analyzer.engine.test_sharing import within

LENGTHS = Lengths(input_tokens=2000, output_tokens=28, input_cv=1.0, output_cv=1.0)
RATE_RPS = 48.0


def replicas(*, dispersion: float, seconds: float, output_tokens: float = 28) -> int:
    """Planned behind a least-loaded gateway, with that dispersion in windows of so many seconds."""
    load = fleet.Load(
        arrival_rate_rps=RATE_RPS, input_tokens=2000, output_tokens=output_tokens, input_cv=1.0,
        output_cv=1.0, dispersion=dispersion,
    )  # fmt: skip
    profile = fleet.Profile(
        accelerator="H100",
        latency=StepTimes(
            base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
        ),
        limits=EngineLimits(max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=432_000),
    )
    variant = fleet.Variant(
        name="v", model="m", service_class="Premium", load=load, routing="least-loaded", profiles=(profile,),
        current=fleet.CurrentAllocation(accelerator="H100", replicas=1),
    )  # fmt: skip
    targets = fleet.Targets(ttft_ms=2000.0, itl_ms=50.0, percentile=0.99)
    snapshot = fleet.Fleet(
        accelerators=(fleet.Accelerator(name="H100", device_type="H100", unit_cost=60),),
        service_classes=(fleet.ServiceClass(name="Premium", priority=1, targets={"m": targets}),),
        variants=(variant,),
        capacity=None,
        settings=fleet.Settings(dispersion_seconds=seconds),
    )
    return planning.plan(snapshot).decisions["v"].candidate.replicas


def test_a_rate_that_changes_within_a_minute_is_no_burst_to_requests_of_a_second() -> None:
    """Replicas that take turns gain nearly all of it; one that holds for any length takes their gain away."""
    steady = replicas(dispersion=1.0, seconds=15.0)
    changing = replicas(dispersion=9.0, seconds=15.0)
    assert steady <= changing < 0.8 * replicas(dispersion=9.0, seconds=0.0)
    assert within(LENGTHS, changing, RATE_RPS, 50.0) >= 0.99


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_bursts_as_long_as_requests_count_in_full(seconds: float) -> None:
    """Answers of 400 tokens take longer than the windows."""
    fewest = replicas(dispersion=1.0, seconds=seconds, output_tokens=400)
    assert replicas(dispersion=9.0, seconds=seconds, output_tokens=400) == replicas(
        dispersion=9.0, seconds=0.0, output_tokens=400
    )
    assert replicas(dispersion=9.0, seconds=seconds, output_tokens=400) > fewest


def test_the_control_loop_says_how_long_its_windows_are() -> None:
    """Arrivals are counted from one scrape to the next."""
    settings = LoopSettings()
    assert settings.planning.dispersion_seconds == settings.collection.interval > 0

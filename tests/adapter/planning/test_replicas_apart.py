"""Long prompts and short answers behind a load-aware gateway: as many replicas as there are requests."""

from __future__ import annotations

import itertools
import math

import pytest

from adapter.planning import fleet
from adapter.planning import plan as planning
from analyzer.routing.apart import MEETINGS, replicas_apart
from analyzer.step_times import EngineLimits, Lengths, StepTimes
from tests.analyzer.engine.test_sharing import within

STEPS = StepTimes(
    base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
)
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=432_000)
LONG = fleet.Load(
    arrival_rate_rps=3.33, input_tokens=20_000, output_tokens=60, input_cv=0.94, output_cv=1.6
)
CHAT = fleet.Load(
    arrival_rate_rps=40.0, input_tokens=1000, output_tokens=220, input_cv=1.0, output_cv=0.7
)


def decided(
    load: fleet.Load, *, routing: fleet.Routing, percentile: float | None = 0.99, itl: float = 50.0
) -> planning.Decision:
    variant = fleet.Variant(
        name="v", model="m", service_class="Premium", load=load, routing=routing,
        profiles=(fleet.Profile(accelerator="H100", latency=STEPS, limits=LIMITS),),
        current=fleet.CurrentAllocation(accelerator="H100", replicas=1),
    )  # fmt: skip
    targets = fleet.Targets(ttft_ms=20_000.0, itl_ms=itl, percentile=percentile)
    snapshot = fleet.Fleet(
        accelerators=(fleet.Accelerator(name="H100", device_type="H100", unit_cost=60),),
        service_classes=(fleet.ServiceClass(name="Premium", priority=1, targets={"m": targets}),),
        variants=(variant,),
        capacity=None,
        settings=fleet.Settings(),
    )
    return planning.plan(snapshot).decisions["v"]


def test_a_replica_for_each_request_keeps_the_percentile() -> None:
    """Where random arrivals would take 60 replicas or more, a dozen keep 99 % on simulated engines."""
    one = decided(LONG, routing="least-loaded")
    replicas = one.candidate.replicas
    assert replicas <= 15
    assert "compute nearly every request alone" in one.reason
    assert decided(LONG, routing="random").candidate.replicas > 4 * replicas
    lengths = Lengths(input_tokens=20_000, output_tokens=60, input_cv=0.94, output_cv=1.6)
    assert within(lengths, replicas, 3.33, 50.0) >= 0.99


def test_bursts_take_more() -> None:
    """In proportion to their dispersion, and never more than what random arrivals need."""
    numbers = []
    for dispersion in (1.0, 2.0, 4.0, 9.0):
        load = fleet.Load(
            arrival_rate_rps=3.33, input_tokens=20_000, output_tokens=60, input_cv=0.94, output_cv=1.6,
            dispersion=dispersion,
        )  # fmt: skip
        numbers.append(decided(load, routing="least-loaded").candidate.replicas)
    assert all(more > fewer for fewer, more in itertools.pairwise(numbers))


def test_batches_are_planned_as_before() -> None:
    """Where a replica serves many at a time, means, and targets that one alone misses: no such bound."""
    chat = decided(CHAT, routing="least-loaded", itl=25.0)
    at_once = 40.0 * (0.04 + 220 * 0.007)
    assert chat.candidate.replicas < at_once
    assert "alone" not in chat.reason
    means = decided(LONG, routing="least-loaded", percentile=None)
    assert (
        means.candidate.replicas
        == decided(LONG, routing="random", percentile=None).candidate.replicas
    )


@pytest.mark.parametrize("mean", [0.2, 4.3, 60.0])
@pytest.mark.parametrize("share", [0.1, 0.01])
def test_the_fewest_replicas_that_are_rarely_all_taken(mean: float, share: float) -> None:
    """By the Poisson distribution of the requests that are there."""

    def taken(number: int) -> float:
        logs = (k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(number, 400))
        return math.fsum(map(math.exp, logs))

    number = replicas_apart(mean, share)
    assert number is not None
    assert MEETINGS * taken(number) <= share
    assert number == 1 or MEETINGS * taken(number - 1) > share


def test_no_number_keeps_what_is_missed_alone() -> None:
    """Nor is one searched for a fleet of thousands."""
    assert replicas_apart(4.0, 0.0) is None
    assert replicas_apart(4.0, -0.2) is None
    assert replicas_apart(5000.0, 0.01) is None
    assert replicas_apart(0.0, 0.01) == 1

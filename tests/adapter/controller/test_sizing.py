"""What a reconcile cycle tells the planner of a variant's load and of its engines."""

from __future__ import annotations

import dataclasses

import pytest

from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.collector.traffic import Traffic
from adapter.controller.estimates import lengths, prior
from adapter.controller.estimates.feedback import Feedback
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, Sizing
from adapter.controller.stabilization import Stabilization
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes

STEPS = fleet.Profile(
    accelerator="H100",
    latency=StepTimes(
        base_ms=7.0, per_request_ms=0.05, per_prefill_token_ms=0.04, per_context_token_ms=4e-5
    ),
    limits=EngineLimits(max_num_seqs=64, max_num_batched_tokens=4096, kv_tokens=432_000),
    max_batch=64,
)
LINES = fleet.Profile(
    accelerator="A100", latency=LatencyParameters(alpha_ms=10.0, beta_ms=0.5), max_batch=16
)
SOURCE = VariantSource(
    namespace="ns",
    name="v",
    model="m",
    service_class="Premium",
    profiles=(STEPS, LINES),
    targets=fleet.Targets(itl_ms=24),
    accelerator="H100",
    endpoints=("http://127.0.0.1:1",),
    replicas=1,
)
TRAFFIC = Traffic(
    arrival_rate_rps=2.0,
    input_tokens=500.0,
    output_tokens=100.0,
    ttft_ms=50.0,
    itl_ms=9.0,
    idle=False,
)


def sized(source: VariantSource, traffic: Traffic) -> fleet.Variant:
    """The planner's input for that traffic."""
    variant = cycle_of(source, traffic).variant
    assert variant is not None
    return variant


def cycle_of(
    source: VariantSource,
    traffic: Traffic,
    feedback: Feedback | None = None,
    raised_at: float | None = None,
) -> SizedVariant:
    """The variant in a cycle at 0 s with that traffic."""
    cycle = Sizing(
        settings=LoopSettings(),
        rates=Rates(rps={}),
        parts={},
        costs={},
        gateway_demand={},
        to_wake=frozenset(),
        now=0.0,
    )
    state = VariantState(source=source, feedback=feedback or Feedback())
    record = VariantRecord(state=state, stabilization=Stabilization(raised_at=raised_at))
    return cycle.size(record, source, Observation(traffic=traffic))


def test_observed_lengths_are_planned_for() -> None:
    """Variation and cache hits of the pods reach the planner; means stay the whole prompt's."""
    seen = dataclasses.replace(TRAFFIC, input_cv=0.4, output_cv=0.0, cached_tokens=120.0)
    load = sized(SOURCE, seen).load
    assert (load.input_tokens, load.cached_tokens) == (500.0, 120.0)
    assert (load.input_cv, load.output_cv) == (0.4, 0.0)


def test_lengths_that_nobody_shows_vary_by_the_default() -> None:
    """Prometheus and old servers: the documented variation, no cache hits."""
    load = sized(SOURCE, TRAFFIC).load
    assert (load.input_cv, load.output_cv) == (lengths.DEFAULT_INPUT_CV, lengths.DEFAULT_OUTPUT_CV)
    assert load.cached_tokens == 0


def test_live_cache_overrules_the_profile() -> None:
    """What pods report is of the accelerator that they run on; other profiles stay as they were written."""
    first, second = sized(SOURCE, dataclasses.replace(TRAFFIC, kv_tokens=30_000.0)).profiles
    assert first.limits == EngineLimits(
        max_num_seqs=64, max_num_batched_tokens=4096, kv_tokens=30_000
    )
    assert second == LINES
    assert sized(SOURCE, TRAFFIC).profiles == SOURCE.profiles


def test_live_cache_fills_a_profile_without_limits() -> None:
    """The rest of the limits follows from the batch size; without one there is nothing to fill."""
    on_a100 = dataclasses.replace(SOURCE, accelerator="A100")
    seen = dataclasses.replace(TRAFFIC, kv_tokens=30_000.0)
    assert sized(on_a100, seen).profiles[1].limits == EngineLimits(
        max_num_seqs=16, max_num_batched_tokens=prior.DEFAULT_BATCHED_TOKENS, kv_tokens=30_000
    )
    bare = dataclasses.replace(on_a100, profiles=(dataclasses.replace(LINES, max_batch=0),))
    assert sized(bare, seen).profiles == bare.profiles


@pytest.mark.parametrize("tokens", [0.0, 0.5])
def test_a_cache_without_tokens_is_no_measurement(tokens: float) -> None:
    """An engine that is still starting may report none."""
    assert sized(SOURCE, dataclasses.replace(TRAFFIC, kv_tokens=tokens)).profiles == SOURCE.profiles


def test_the_factor_of_missed_targets_is_on_the_arrivals_and_on_their_queue() -> None:
    """Else a part of what works off the queue would count as arrivals, which fall once it is gone."""
    queued = dataclasses.replace(TRAFFIC, running=60.0, waiting=40.0)
    once = cycle_of(SOURCE, queued).rate
    more = cycle_of(SOURCE, queued, Feedback(factor=1.5, cause="requests miss")).rate
    assert once is not None
    assert more is not None
    assert once.backlog_rps > 0
    arrivals = once.rate_rps - once.backlog_rps
    assert more.rate_rps - more.backlog_rps == pytest.approx(1.5 * arrivals)


@pytest.mark.parametrize(
    ("raised_at", "drained"),
    [
        pytest.param(None, False, id="nobody-knows-when-they-come"),
        pytest.param(-100.0, True, id="they-come-before-others"),
        pytest.param(-1000.0, False, id="they-should-have-come"),
    ],
)
def test_a_queue_counts_on_no_replica_that_does_not_come(
    raised_at: float | None, *, drained: bool
) -> None:
    """One replica serves what arrives and keeps its queue; the second may be pending for ever."""
    source = dataclasses.replace(SOURCE, replicas=2, spec_replicas=2, startup_seconds=180.0)
    queued = dataclasses.replace(TRAFFIC, running=2.0, waiting=40.0)
    rate = cycle_of(source, queued, raised_at=raised_at).rate
    assert rate is not None
    assert rate.drained is drained

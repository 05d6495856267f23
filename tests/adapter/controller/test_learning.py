"""Step times in the control loop: learned where no profile is given, corrected where one is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapter.collector.gateway import Demand, Rates
from adapter.collector.observation import Observation
from adapter.collector.traffic import Traffic
from adapter.controller import state as states
from adapter.controller import telemetry, tuning
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, Sizing
from adapter.controller.state import VariantRecord, VariantState
from adapter.controller.tuning import Tuned, TuningSettings
from adapter.planning import fleet, plan
from adapter.resources.variant import VariantSource
from analyzer.engine import learning, sizing
from analyzer.engine.columns import Engine
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, Lengths, StepTimes

TRUE = StepTimes(
    base_ms=22.0, per_request_ms=0.12, per_prefill_token_ms=0.067, per_context_token_ms=1e-4
)
LIMITS = EngineLimits(max_num_seqs=256, max_num_batched_tokens=2048)
SETTINGS = TuningSettings(enabled=False, window_seconds=60)
PROFILE = fleet.Profile(accelerator="H100", latency=TRUE, limits=LIMITS, max_batch=256)
BARE = VariantSource(
    namespace="ns",
    name="v",
    model="m",
    service_class="Premium",
    profiles=(),
    targets=fleet.Targets(itl_ms=50, ttft_ms=2000),
    accelerator="H100",
    endpoints=("http://127.0.0.1:1", "http://127.0.0.1:2"),
    replicas=2,
)


def traffic(rate_rps: float) -> Traffic:
    """What two replicas that are TRUE show together; a quarter of the prompts is served by the cache."""
    lengths = Lengths(
        input_tokens=600, output_tokens=128, input_cv=1.0, output_cv=0.8, cached_tokens=200
    )
    seen = sizing.analyze_engine(
        Engine(step_times=TRUE, limits=LIMITS, lengths=lengths), rate_rps / 2
    )
    return Traffic(
        arrival_rate_rps=rate_rps,
        input_tokens=800,
        output_tokens=128,
        cached_tokens=200,
        ttft_ms=seen.ttft_ms,
        itl_ms=seen.itl_ms,
        idle=False,
        running=seen.in_service * 2,
        kv_cache=0.4,
        kv_tokens=400_000,
    )


def tuned(source: VariantSource, *, windows: int) -> Tuned:
    """Tuners after that many windows of changing load."""
    tuners: Tuned = {}
    rng = np.random.default_rng(4)
    for window in range(windows):
        now = 60.0 * window
        tuners = tuning.observe(
            tuners, source, traffic(rng.uniform(2, 12)), settings=SETTINGS, now=now
        )
    return tuning.retain(tuners, source, SETTINGS)


def sized(source: VariantSource, tuners: Tuned, rate_rps: float) -> SizedVariant:
    """What one reconcile cycle makes of the load."""
    cycle = Sizing(
        settings=LoopSettings(),
        rates=Rates(rps={}),
        parts={},
        costs={"H100": 400.0},
        gateway_demand={},
        to_wake=frozenset(),
        now=0.0,
    )
    record = VariantRecord(state=VariantState(source=source), tuned=tuners)
    return cycle.size(record, source, Observation(traffic=traffic(rate_rps)))


def planned(item: SizedVariant) -> plan.Decision:
    """The planner's decision."""
    assert item.variant is not None
    service = fleet.ServiceClass(name="Premium", priority=1, targets={"m": BARE.targets})
    unit = fleet.Accelerator(name="H100", device_type="H100", unit_cost=400.0)
    fleet_plan = plan.plan(
        fleet.Fleet(accelerators=(unit,), service_classes=(service,), variants=(item.variant,))
    )
    assert not fleet_plan.set_aside
    return fleet_plan.decisions["ns/v"]


def test_the_rule_decides_until_the_profile_is_learned() -> None:
    """First there is nothing to plan with; then what was learned plans as the truth would."""
    first = sized(BARE, tuned(BARE, windows=3), 20.0)
    assert first.variant is None
    assert first.saturation is not None
    later = sized(BARE, tuned(BARE, windows=15), 20.0)
    assert later.saturation is not None
    decision = planned(later)
    assert states._profile_source(BARE, decision, tuned(BARE, windows=15)) == "learned"
    true = dataclasses.replace(BARE, profiles=(PROFILE,))
    right = planned(sized(true, {}, 20.0))
    assert states._profile_source(true, right, {}) == "given"
    assert decision.candidate.replicas == pytest.approx(right.candidate.replicas, abs=1)


def test_a_constant_load_is_planned_near_what_was_seen() -> None:
    """A load that never moved is served by as many replicas as the truth asks for; a note names the limit."""
    learned: Tuned = {}
    sources = []
    for window in range(14):
        learned = tuning.observe(learned, BARE, traffic(16.0), settings=SETTINGS, now=60.0 * window)
        sources.append(
            tuning.profile_source(learned, BARE, "H100") if learned["H100"].tuner.usable else ""
        )
    assert sources.index("learned") == learning.LOCAL_WINDOWS - 1
    assert set(sources) == {"", "learned"}
    (note,) = tuning.notes(learned, BARE)
    assert note.startswith("learned from one load only: certain up to ")
    truth = dataclasses.replace(BARE, profiles=(PROFILE,))
    right = planned(sized(truth, {}, 16.0)).candidate.replicas
    assert planned(sized(BARE, learned, 16.0)).candidate.replicas == pytest.approx(right, abs=1)
    # Much more load is not promised to few replicas.
    assert (
        planned(sized(BARE, learned, 64.0)).candidate.replicas
        >= planned(sized(truth, {}, 64.0)).candidate.replicas
    )


def test_a_learned_profile_ends_at_twice_the_batch_that_was_seen() -> None:
    """Nobody knows where a server turns: the batch is bounded, and the KV cache is the live one."""
    item = sized(BARE, tuned(BARE, windows=15), 20.0)
    assert item.variant is not None
    (profile,) = item.variant.profiles
    assert profile.limits is not None
    assert profile.max_batch == profile.limits.max_num_seqs < 256
    assert profile.limits.kv_tokens == 400_000


def test_before_lengths_are_known_the_rule_decides() -> None:
    """A learned profile needs lengths; after a pause none may be known."""
    tuners = tuned(BARE, windows=15)
    cycle = sized(BARE, tuners, 20.0)
    assert cycle.variant is not None
    silent = dataclasses.replace(traffic(2.0), output_tokens=None, input_tokens=None)
    record = VariantRecord(state=VariantState(source=BARE), tuned=tuners)
    settings = LoopSettings()
    bare = Sizing(
        settings=settings, rates=Rates(rps={}), parts={}, costs={}, gateway_demand={},
        to_wake=frozenset(), now=0.0,
    ).size(record, BARE, Observation(traffic=silent))  # fmt: skip
    assert bare.variant is None
    assert bare.saturation is not None


def test_a_profile_that_is_given_later_ends_the_learning() -> None:
    """Its own tuner starts at what was written."""
    tuners = tuned(BARE, windows=15)
    given = dataclasses.replace(BARE, profiles=(PROFILE,))
    assert tuning.retain(tuners, given, SETTINGS) == {}


def test_step_times_are_tuned_unless_the_annotation_says_no() -> None:
    """30 % off everywhere: after ten windows the prediction is right; `tune: false` leaves it alone."""
    wrong = dataclasses.replace(
        PROFILE,
        latency=StepTimes(
            base_ms=0.7 * TRUE.base_ms,
            per_request_ms=0.7 * TRUE.per_request_ms,
            per_prefill_token_ms=0.7 * TRUE.per_prefill_token_ms,
            per_context_token_ms=0.7 * TRUE.per_context_token_ms,
        ),
    )
    source = dataclasses.replace(BARE, profiles=(wrong,))
    tuners = tuned(source, windows=10)
    (profile,) = tuning.profiles(tuners, source)
    assert isinstance(profile.latency, StepTimes)
    assert profile.latency.base_ms == pytest.approx(TRUE.base_ms, rel=0.1)
    assert abs(tuners["H100"].tuner.itl_error) < 0.05
    fixed = dataclasses.replace(source, tune=False)
    assert tuning.profiles(tuned(fixed, windows=10), fixed) == (wrong,)


def test_a_profile_of_another_server_is_said_to_be_wrong() -> None:
    """Latencies four times what the profile says cannot be tuned away: the decision's notes say so."""
    other = dataclasses.replace(
        PROFILE,
        latency=StepTimes(
            base_ms=5.0, per_request_ms=0.02, per_prefill_token_ms=0.01, per_context_token_ms=0.0
        ),
    )
    source = dataclasses.replace(BARE, profiles=(other,))
    tuners = tuned(source, windows=12)
    (note,) = [note for note in sized(source, tuners, 4.0).notes if "predicted" in note]
    assert "ITL observed" in note
    assert "the profile of H100 is not that of these servers" in note
    right = dataclasses.replace(BARE, profiles=(PROFILE,))
    assert tuning.notes(tuned(right, windows=12), right) == ()


LLAMA = dataclasses.replace(
    BARE,
    model="meta-llama/Llama-3.3-70B-Instruct-FP8",
    gpus=2,
)
"""A model whose catalog entry on two H100 is near TRUE."""


def test_the_catalog_is_used_until_the_profile_is_learned() -> None:
    """The rule decides the first windows, then the confirmed estimate, marked; then what was learned."""
    steady = dataclasses.replace(traffic(6.0), recent=())
    tuners: Tuned = {}
    sources = []
    for window in range(12):
        now = 60.0 * window
        # The load does not move at first, so nothing is learned of its own.
        seen = steady if window < 6 else traffic(2.0 + window)
        tuners = tuning.observe(tuners, LLAMA, seen, settings=SETTINGS, now=now)
        usable = bool(tuning.profiles(tuners, LLAMA))
        sources.append(tuning.profile_source(tuners, LLAMA, "H100") if usable else "saturation")
        if usable and sources[-1] == "estimated":
            (note,) = tuning.notes(tuners, LLAMA)
            assert "estimated until they are learned (catalog: " in note
    assert sources[0] == "saturation"
    assert "estimated" in sources
    assert sources[-1] == "learned"
    assert sources == sorted(sources, key=["saturation", "estimated", "learned"].index)


def test_an_estimate_is_not_bounded_by_the_batch_that_was_seen() -> None:
    """It knows how the step grows with the batch; its KV cache is the catalog's until pods show theirs."""
    tuners: Tuned = {}
    for window in range(4):
        tuners = tuning.observe(tuners, LLAMA, traffic(6.0), settings=SETTINGS, now=60.0 * window)
    (profile,) = tuning.profiles(tuners, LLAMA)
    assert profile.max_batch == 256
    assert profile.limits is not None
    assert profile.limits.kv_tokens


def test_a_row_for_another_accelerator_leaves_this_one_to_the_rule() -> None:
    """The profile has no row for the accelerator that runs: the rule decides, then what is learned."""
    row = dataclasses.replace(PROFILE, accelerator="A100")
    source = dataclasses.replace(BARE, profiles=(row,), device="H100", keep_accelerator=True)
    first = sized(source, {}, 20.0)
    assert first.saturation is not None
    assert first.variant is not None
    assert [item.accelerator for item in first.variant.profiles] == ["A100"]
    later = sized(source, tuned(source, windows=15), 20.0)
    assert later.variant is not None
    assert [item.accelerator for item in later.variant.profiles] == ["A100", "H100"]


def test_pods_that_only_prometheus_knows_teach_too() -> None:
    """Without endpoints the scale target's replicas share the load."""
    source = dataclasses.replace(BARE, endpoints=())
    with_endpoints, without = (tuned(one, windows=6)["H100"].tuner for one in (BARE, source))
    assert without.parameters == with_endpoints.parameters
    assert tuned(dataclasses.replace(source, replicas=0), windows=6) == {}


def test_converted_profiles_are_tuned_by_default() -> None:
    """Alpha to delta with their lengths are step times: 30 % off is right after ten windows anyhow."""
    # What a benchmark of TRUE at these lengths measures.
    interference = TRUE.per_prefill_token_ms * 800 / 128
    alpha = TRUE.base_ms - interference
    beta = TRUE.per_request_ms + TRUE.per_context_token_ms * (800 + 128 / 2) + interference
    wrong = fleet.Profile(
        accelerator="H100",
        latency=LatencyParameters(
            alpha_ms=0.7 * alpha,
            beta_ms=0.7 * beta,
            gamma_ms=0.7 * TRUE.base_ms,
            delta_ms=0.7 * TRUE.per_prefill_token_ms,
        ),
        max_batch=256,
        at_tokens=128,
        at_input_tokens=800,
    )
    source = dataclasses.replace(BARE, profiles=(wrong,))
    tuners = tuned(source, windows=10)
    (profile,) = tuning.profiles(tuners, source)
    assert isinstance(profile.latency, StepTimes)
    assert profile.latency.base_ms == pytest.approx(TRUE.base_ms, rel=0.1)
    bare = dataclasses.replace(source, profiles=(dataclasses.replace(wrong, at_input_tokens=0),))
    assert tuning.profiles(tuned(bare, windows=10), bare) == bare.profiles
    assert tuned(bare, windows=10)["H100"].tuner.itl_error > 0.2


def test_a_change_of_load_or_replicas_is_no_observation() -> None:
    """Latencies of a window in which the rate jumped, or replicas came, belong to neither state."""
    tuners = tuning.observe({}, BARE, traffic(4.0), settings=SETTINGS, now=0.0)
    jumped = dataclasses.replace(traffic(8.0), recent=((15.0, 16.0),))
    assert tuning.observe(tuners, BARE, jumped, settings=SETTINGS, now=60.0) == tuners
    more = dataclasses.replace(BARE, endpoints=(*BARE.endpoints, "http://127.0.0.1:3"))
    tuners = tuning.observe(tuners, more, traffic(4.0), settings=SETTINGS, now=70.0)
    assert tuners["H100"].tuner.accepted == 1
    tuners = tuning.observe(tuners, more, traffic(4.0), settings=SETTINGS, now=130.0)
    assert tuners["H100"].tuner.accepted + tuners["H100"].tuner.outliers == 2


@pytest.mark.parametrize("growth", [-3.0, 3.0])
def test_latencies_under_a_queue_come_from_what_was_begun(growth: float) -> None:
    """While a queue is worked off more prompts are computed than arrive, and fewer while it grows."""
    source = dataclasses.replace(BARE, profiles=(PROFILE,))
    tuners: Tuned = {}
    for window in range(10):
        begun = 8.0 + 0.4 * window
        queued = dataclasses.replace(
            traffic(begun), arrival_rate_rps=begun + growth, queue_growth_rps=growth, waiting=250.0
        )
        tuners = tuning.observe(tuners, source, queued, settings=SETTINGS, now=60.0 * window)
    tuner = tuners["H100"].tuner
    assert isinstance(tuner, learning.State)
    assert tuner.accepted >= 9
    assert tuner.latency.per_prefill_token_ms == pytest.approx(TRUE.per_prefill_token_ms, rel=0.05)


def test_a_burst_within_a_window_is_no_observation() -> None:
    """Its latencies are most of the mean, and the mean rate is far below its rate."""
    tuners = tuning.observe({}, BARE, traffic(4.0), settings=SETTINGS, now=0.0)
    calm = dataclasses.replace(traffic(6.0), itl_samples=((30.0, 900.0), (40.0, 1100.0)))
    assert tuning.observe(tuners, BARE, calm, settings=SETTINGS, now=60.0) != tuners
    burst = dataclasses.replace(calm, itl_samples=((30.0, 900.0), (200.0, 1100.0)))
    assert tuning.observe(tuners, BARE, burst, settings=SETTINGS, now=60.0) == tuners


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"accelerator": "A100"}, {"gpus": 4}, {"profiles": (PROFILE,)}],
    ids=str,
)
def test_another_server_starts_over(change: dict[str, object]) -> None:
    """Another model, accelerator, number of GPUs, or a profile: what was learned is of something else."""
    source = dataclasses.replace(BARE, gpus=2)
    tuners = tuned(source, windows=6)
    assert tuning.retain(tuners, source, SETTINGS) == tuners
    assert tuning.retain(tuners, dataclasses.replace(source, gpus=None), SETTINGS) == tuners
    other = dataclasses.replace(source, **change)  # type: ignore[arg-type] # fields by name
    assert tuning.retain(tuners, other, SETTINGS) == {}


def test_telemetry_has_step_times_and_errors() -> None:
    """Parameters by their names, and how far prediction and observation are apart."""
    registry = CollectorRegistry()
    state = tuned(BARE, windows=6)["H100"].tuner
    registry.register(telemetry.VariantCollector(dict, lambda: {("ns/v", "H100"): state}))
    text = generate_latest(registry).decode()
    assert 'parameter="per_context_token"' in text
    line = 'variant_adapter_prediction_error_ratio{accelerator_type="H100",metric="itl"'
    assert line in text


def test_requests_held_back_at_the_gateway_are_a_queue() -> None:
    """A gateway that admits no more than replicas hold keeps the queue: the variant's part of it counts."""
    key = ("ns", "m")
    cycle = Sizing(
        settings=LoopSettings(),
        rates=Rates(rps={key: 8.0}),
        parts={"ns/v": 4.0},
        costs={"H100": 400.0},
        gateway_demand={key: Demand(waiting=60.0)},
        to_wake=frozenset(),
        now=0.0,
    )
    seen = dataclasses.replace(traffic(4.0), running=60.0)
    sized = cycle.size(
        VariantRecord(state=VariantState(source=BARE)), BARE, Observation(traffic=seen)
    )
    assert sized.saturation is not None
    assert "30 requests wait while 60 run" in sized.saturation.reason
    assert sized.saturation.candidate.replicas == 3
    assert sized.saturation.candidate.cost == 1200.0


@pytest.mark.parametrize("full", [{"preemptions_rps": 0.1}, {"kv_cache": 0.99}])
def test_a_wait_for_the_cache_is_no_time_of_prefill(full: dict[str, float]) -> None:
    """Nobody waits any more, but the mean TTFT of the window is still ten times as long."""
    source = dataclasses.replace(BARE, profiles=(PROFILE,))
    tuners: Tuned = {}
    for window in range(10):
        load = traffic(8.0 + 0.4 * window)
        late = dataclasses.replace(load, ttft_ms=10.0 * (load.ttft_ms or 0.0), **full)  # type: ignore[arg-type] # by name
        tuners = tuning.observe(tuners, source, late, settings=SETTINGS, now=60.0 * window)
    tuner = tuners["H100"].tuner
    assert isinstance(tuner, learning.State)
    assert tuner.accepted >= 9
    assert tuner.latency.per_prefill_token_ms == pytest.approx(TRUE.per_prefill_token_ms, rel=0.05)

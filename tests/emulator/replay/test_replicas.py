"""Engines, profiles and start-up times of a scenario's variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from adapter import cli
from adapter.errors import InputError
from analyzer.errors import FitError
from analyzer.latency import LatencyParameters
from analyzer.step_times import EngineLimits, StepTimes
from emulator.engines.profile import ProfileEngine
from emulator.engines.protocol import VirtualEngine
from emulator.engines.runs import serve_closed_loop
from emulator.replay import compare, scenario
from emulator.replay.cluster import ReplayCluster, pod_metrics
from emulator.replay.replicas import benchmark
from emulator.replay.replicas.planner import (
    description,
    engine_description,
    known_or_true,
    profile_of,
    truth_of,
)
from emulator.replay.replicas.specs import (
    LinearProfile,
    StepMs,
    VariantSpec,
    VllmEngine,
    engine_profile,
)
from tests.emulator.replay.small_scenarios import PROFILE, generated, one_model
from tests.emulator.replay.vllm_scenarios import ENGINE, LINEAR, read_variant, variant, vllm

SAMPLE = Path(__file__).parents[3] / "manifests/samples/replay/vllm.yaml"


def own_engine() -> VirtualEngine:
    """A factory that a scenario can name."""
    return ProfileEngine(engine_profile(LinearProfile.model_validate(PROFILE)))


def test_sample() -> None:
    """The sample names an engine, a fit and a distribution of start-up times."""
    (chat,) = scenario.read(SAMPLE).variants
    assert isinstance(chat.engine, VllmEngine)
    assert (chat.engine.limits.kv_blocks, chat.engine.step_ms.per_prefill_token) == (27_000, 0.04)
    assert (chat.profile, chat.startup, chat.startup_time.sigma) == ("fit", 180.0, 0.2)
    assert chat.startup_time.p95 == pytest.approx(250, abs=1)


def test_a_fit_finds_the_engines_step_times() -> None:
    """The benchmark of an engine determines all its step times; the rows beyond its KV cache are left out."""
    spec = read_variant(profile="fit")
    profile = profile_of(spec)
    assert profile is not None
    times = profile.latency
    assert isinstance(times, StepTimes)
    assert times.base_ms == pytest.approx(7, rel=0.02)
    assert times.per_request_ms == pytest.approx(0.05, rel=0.1)
    assert times.per_prefill_token_ms == pytest.approx(0.04, rel=0.05)
    assert times.per_context_token_ms == pytest.approx(4e-5, rel=0.15)
    assert profile.limits == EngineLimits(
        max_num_seqs=256, max_num_batched_tokens=8192, kv_tokens=432_000
    )
    benchmarked = benchmark.fitted(spec.served_by)
    assert benchmarked is benchmark.fitted(read_variant(profile="fit", name="other").served_by)
    assert benchmarked.fit.undetermined == ()
    held = benchmarked.rows.concurrency * benchmarked.rows.context_tokens
    saturated = [item.row for item in benchmarked.fit.saturated]
    assert saturated == [row for row in range(benchmarked.rows.size) if held[row] > 500_000]


def test_a_fit_of_a_small_batch_invents_no_cost_of_a_prompt() -> None:
    """A dozen rows of an engine with few requests in service give its step times, and no fifth one.

    Closed loops deviate from the form by a percent; a cost of a prompt whatever its length that explains this
    took a third from the capacity.
    """
    engine = {"kind": "vllm", "maxNumSeqs": 16, "maxNumBatchedTokens": 2048, "kvTokens": 60_000}
    step = {"base": 20.58, "perRequest": 0.33, "perPrefillToken": 0.1}
    times = benchmark.fitted(
        read_variant(engine=engine | {"stepMs": step}).served_by
    ).fit.step_times
    assert times.per_prompt_ms == 0
    assert times.base_ms == pytest.approx(20.58, rel=0.01)
    assert times.per_request_ms == pytest.approx(0.33, rel=0.1)
    assert times.per_prefill_token_ms == pytest.approx(0.1, rel=0.15)


def test_profiles_given() -> None:
    """Parameters of either form are taken as they are; a step profile may have limits of its own."""
    linear = known_or_true(read_variant(profile=LINEAR | {"atTokens": 128, "atInputTokens": 512}))
    assert linear.latency == LatencyParameters(alpha_ms=7, beta_ms=0.1, gamma_ms=15)
    assert (linear.max_batch, linear.at_tokens, linear.at_input_tokens) == (128, 128, 512)
    steps: dict[str, Any] = {"stepParms": {"base": 9, "perPrefillToken": 0.1}}
    assumed = known_or_true(read_variant(profile=steps))
    assert assumed.latency == StepTimes(
        base_ms=9, per_request_ms=0, per_prefill_token_ms=0.1, per_context_token_ms=0
    )
    assert assumed.limits is not None
    assert assumed.limits.kv_tokens == 432_000
    other = known_or_true(read_variant(profile=steps | {"engine": {"maxNumSeqs": 64}}))
    assert other.limits == EngineLimits(max_num_seqs=64, max_num_batched_tokens=8192)
    assert other.max_batch == 64


def test_all_six_step_times_are_carried() -> None:
    """A profile with perPrompt and perSqrtRequest is served as it is, and policies plan with it."""
    all_six = {
        "base": 9,
        "perRequest": 0.1,
        "perPrefillToken": 0.05,
        "perContextToken": 1e-5,
        "perSqrtRequest": 1.2,
        "perPrompt": 4,
    }
    given: dict[str, Any] = {"stepParms": all_six}
    spec = read_variant(engine=None, profile=given)
    times = StepTimes(
        base_ms=9,
        per_request_ms=0.1,
        per_prefill_token_ms=0.05,
        per_context_token_ms=1e-5,
        per_sqrt_request_ms=1.2,
        per_prompt_ms=4,
    )
    assert known_or_true(spec).latency == truth_of(spec).latency == times
    assert truth_of(read_variant(engine=ENGINE | {"stepMs": all_six})).latency == times
    (served,) = serve_closed_loop(
        spec.served_by.factory()(), concurrency=1, input_tokens=[100], output_tokens=[2]
    )
    assert served.first_token_ms == pytest.approx(9 + 0.1 + 1.2 + 100 * 0.05 + 100 * 1e-5 + 4)
    assert served.last_token_ms - served.first_token_ms == pytest.approx(10.3 + 101 * 1e-5)
    assert "4 per prompt" in description(spec)
    assert "1.2 per square root of the requests" in engine_description(spec)


def test_the_default_engine() -> None:
    """Without an engine replicas schedule as vLLM does, with the step times that the profile gives."""
    bare = {key: value for key, value in variant().items() if key != "engine"}
    linear = LINEAR | {"beta": 0.3, "delta": 0.05}
    plain = VariantSpec.model_validate(bare | {"profile": linear}).served_by
    assert isinstance(plain, VllmEngine)
    assert plain.step_ms == StepMs(base=7, per_request=0.3, per_prefill_token=0.05)
    assert (plain.max_num_seqs, plain.max_num_batched_tokens) == (128, 8192)
    assert plain.kv_tokens == 128 * 16_384
    lengths = {"atTokens": 100, "atInputTokens": 400}
    known = VariantSpec.model_validate(bare | {"profile": linear | lengths}).served_by
    assert isinstance(known, VllmEngine)
    assert known.step_ms.per_request == pytest.approx(0.3 - 0.05 * 400 / 100)
    steps = {
        "stepParms": {"base": 9, "perPrefillToken": 0.1},
        "engine": {"maxNumSeqs": 64, "kvTokens": 5000},
    }
    own = VariantSpec.model_validate(bare | {"profile": steps}).served_by
    assert isinstance(own, VllmEngine)
    assert own.step_ms == StepMs(base=9, per_prefill_token=0.1)
    assert (own.max_num_seqs, own.kv_tokens) == (64, 5000)
    for word in ("fit", "none"):
        with pytest.raises(ValidationError, match=f"engine: is missing; with profile {word}"):
            VariantSpec.model_validate(bare | {"profile": word})


def test_an_engine_by_name() -> None:
    """`module:factory` serves, and its benchmark is that of its own batch and step times."""
    name = f"{__name__}:own_engine"
    spec = read_variant(engine={"kind": name}, profile=PROFILE)
    cluster = ReplayCluster(
        one_model(variants=[variant(engine={"kind": name}, profile=PROFILE)]),
        {"m": generated(duration_seconds=60, rate_rpm=60).trace},
    )
    own = ReplayCluster(one_model(), cluster.traffic)
    for item in (cluster, own):
        item.advance(120)
    assert cluster.fleet.results().finish_ms.tolist() == own.fleet.results().finish_ms.tolist()
    rows = benchmark.fitted(spec.served_by).rows
    assert max(rows.concurrency) == 4  # of 1, 4, 16, ... those within its batch of 8


def test_a_planner_with_wrong_parameters() -> None:
    """The engine of a profile may have parameters of its own, of which the policies do not know."""
    spec = read_variant(engine={"kind": "profile", "parms": PROFILE}, profile=LINEAR)
    assert known_or_true(spec).latency == LatencyParameters(alpha_ms=7, beta_ms=0.1, gamma_ms=15)
    served = spec.served_by
    assert served.factory()().max_requests == 8


def test_start_up_times_reach_the_page() -> None:
    """Each replica's page says when its process started: as long before it was ready as it took."""
    cluster = ReplayCluster(
        vllm(startup={"median": "60s", "sigma": 0.5, "seed": 3}),
        {"m": generated(duration_seconds=300, rate_rpm=6).trace},
    )
    cluster.advance(10)
    cluster.scale("chat", 5)
    cluster.advance(300)
    started = [pod_metrics(item).started_at for item in cluster.ready("chat")]
    assert started[2:] == pytest.approx([10.0] * 3)
    taken = [item.started_seconds - 10 for item in cluster.ready("chat")[2:]]
    assert len(set(taken)) == 3
    assert all(15 < seconds < 240 for seconds in taken)


def step(**fields: Any) -> dict[str, Any]:
    return {"engine": ENGINE | {"stepMs": ENGINE["stepMs"] | fields}}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (step(base=0), "engine.stepMs.base: must be > 0"),
        (step(perRequest=-1), "engine.stepMs.perRequest: must be >= 0"),
        (step(perContextToken=float("inf")), "engine.stepMs.perContextToken: must be a finite"),
        ({"engine": ENGINE | {"kvTokens": 8}}, "engine.kvTokens: must be >= "),
        ({"engine": ENGINE | {"maxNumBatchedTokens": 128}},
         "engine.maxNumBatchedTokens: must be >= maxNumSeqs (256)"),
        ({"engine": {"kind": "vllm", "maxNumSeqs": 4, "kvTokens": 64}}, "engine.stepMs: is missing"),
        ({"engine": {"kind": "sglang"}},
         "engine.kind: must be vllm, profile or module:factory, not 'sglang'"),
        ({"engine": {"kind": "nowhere:engine"}}, "engine.kind: engine: cannot import 'nowhere'"),
        ({"engine": {"kind": "math:engine"}}, "engine.kind: engine: module 'math' has no"),
        ({"engine": {"kind": "profile"}, "profile": "fit"}, ": engine.parms: is missing"),
        ({"profile": "guess"}, "profile: must be 'fit' or 'none'"),
        ({"profile": {"stepParms": {"perRequest": 1}}}, "profile.stepParms.base: is missing"),
        ({"profile": LINEAR | {"alpha": -1}}, "profile.alpha: must be > 0"),
        ({"startup": {"sigma": 1}}, "startup.median: is missing"),
        ({"startup": {"median": "60s", "sigma": -1}}, "startup.sigma: must be >= "),
        ({"startup": {"median": "soon"}}, "startup.median: must be a duration"),
    ],
)  # fmt: skip
def test_errors_name_the_field(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """A wrong engine, profile or start-up is refused with file, field and what would be right."""
    document = yaml.safe_load(SAMPLE.read_text())
    document["variants"][0].update(fields)
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError) as caught:
        scenario.read(path)
    dot = "" if said.startswith(":") else "."
    assert str(caught.value).startswith(f"{path}: variants.0{dot}{said}")
    assert "<" not in str(caught.value)


def test_a_request_beyond_the_cache() -> None:
    """A trace with a request that no engine can hold is refused with its number and the field to raise."""
    replay_scenario = vllm(engine=ENGINE | {"kvTokens": 160, "maxNumSeqs": 4})
    spec = {
        "kind": "poisson", "duration_seconds": 60, "rate_rpm": 60,
        "tokens": {"input": {"mean": 900}, "output": {"mean": 10}},
    }  # fmt: skip
    document = replay_scenario.model_dump(by_alias=True)
    document["models"][0]["trace"] = spec
    offered = scenario.Scenario.model_validate(document)
    with pytest.raises(
        InputError, match=r"request \d+ has 900 input and 10 output tokens, more than"
    ):
        scenario.traffic(offered, None, base=Path())


def test_a_benchmark_that_does_not_fit() -> None:
    """An engine that holds no request of the benchmark cannot be fitted, and the error says so."""
    tiny = read_variant(engine=ENGINE | {"kvTokens": 160, "maxNumSeqs": 4}, profile="fit")
    with pytest.raises(FitError, match="its KV cache holds no request of the benchmark"):
        profile_of(tiny)


def test_the_command_names_the_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit that fails ends the command with one line that names the field, before anything is replayed."""
    document = yaml.safe_load(SAMPLE.read_text())
    document["variants"][0]["engine"] |= {"kvTokens": 800, "maxNumSeqs": 4}
    document["models"][0]["trace"] = {
        "kind": "poisson",
        "duration_seconds": 400,
        "rate_rpm": 60,
        "tokens": {"input": {"mean": 100}, "output": {"mean": 10}},
    }
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump(document))
    assert cli.main(["replay", "--scenario", str(path), "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("variant-adapter replay: variants.chat.profile: benchmark of the")


def test_the_page_of_a_vllm_engine() -> None:
    """Lengths have their moments, preemptions and KV tokens are there; that of a profile has none."""
    trace = generated(duration_seconds=120, rate_rpm=300).trace
    cluster, other = (
        ReplayCluster(replay_scenario, {"m": trace}) for replay_scenario in (vllm(), one_model())
    )
    for item in (cluster, other):
        item.advance(120)
    (page, _) = (pod_metrics(item, kv_tokens=432_000) for item in cluster.ready("chat"))
    assert page.input_moments is not None
    lengths = page.input_moments
    total, squares, count = lengths.total, lengths.squares, lengths.count
    assert count == page.finished > 200
    # Estimated from buckets, of a mean of 128 and a coefficient of variation of 0.8.
    assert total / count == pytest.approx(128, rel=0.15)
    assert squares * count / total**2 - 1 == pytest.approx(0.64, rel=0.4)
    assert (page.preemptions, page.kv_tokens) == (0, 432_000)
    assert page.cached_tokens[0] == 0
    assert page.cached_tokens[1] >= page.prompt_tokens[0]
    plain = pod_metrics(other.ready("chat")[0])
    assert (plain.input_moments, plain.output_moments, plain.preemptions) == (None, None, None)
    assert plain.cached_tokens == (0.0, 0.0)


def test_the_bound_knows_the_engine() -> None:
    """Policies that know the future also know the engine's step times, whatever the planner believes."""
    wrong = read_variant(profile={"stepParms": {"base": 70}})
    assert truth_of(wrong).latency == StepTimes(
        base_ms=7,
        per_request_ms=0.05,
        per_prefill_token_ms=0.04,
        per_context_token_ms=4e-5,
    )
    assert truth_of(read_variant(engine={"kind": "profile", "parms": PROFILE})).max_batch == 8


def test_without_a_profile_ours_learns() -> None:
    """Ours serves a load that one replica cannot with a fleet of the right size, and no backlog stays."""
    replay_scenario = vllm(profile="none", replicas=1, startup="20s")
    assert profile_of(replay_scenario.variants[0]) is None
    tokens = {"input": {"mean": 1000, "cv": 0.8, "max": 8000}, "output": {"mean": 220, "cv": 0.6}}
    offered = generated(duration_seconds=1500, rate_rpm=1200, tokens=tokens)
    comparison = compare.compare(replay_scenario, {"m": offered}, ("ours",))
    (ours,) = comparison.results
    assert "no profile" in comparison.facts["chat"]
    curve = ours.curves["chat"]
    # One serves about 10 requests per second within the targets, and 20 arrive.
    assert 2 <= curve.ready[-10] <= 5
    assert curve.waiting[-10] < 10


def test_the_reference_needs_a_profile() -> None:
    """Where the planner has none, the reference plans with the engine's own."""
    spec = read_variant(profile="none")
    assert known_or_true(spec) == truth_of(spec)

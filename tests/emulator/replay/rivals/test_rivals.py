"""Rivals in a replay: what they see, and at which pace they scale."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.replay import OF_GROUPS, compare, running
from emulator.replay.choices import names
from emulator.replay.cluster import ReplayCluster
from emulator.replay.results import PolicyResult
from emulator.replay.rivals import catalog, llmd
from emulator.replay.rivals.kpa import Kpa
from emulator.replay.rivals.llmd import SloAware, TokenAware
from emulator.replay.rivals.wva import with_targets
from emulator.replay.running import Run
from tests.emulator.replay.small_scenarios import generated, one_model
from tests.emulator.replay.vllm_scenarios import vllm


def result(policy: str) -> PolicyResult:
    offered = generated(kind="step", levels=[[180, 60], [300, 500], [240, 60]])
    (outcome,) = compare.compare(one_model(), {"m": offered}, (policy,)).results
    return outcome


def test_kpa_is_there_within_seconds() -> None:
    """A burst is answered within the panic window, far above the first HPA sync's doubling."""
    created = result("kpa@4").curves["chat"].created
    at = 15.0 * np.arange(len(created))
    assert created[at == 180][0] <= 3
    assert created[(at > 180) & (at <= 225)].max() >= 6


def test_slo_aware_goes_down_one_pod_in_two_minutes() -> None:
    """The guide's HPA: never more than one replica less within two minutes, and none within three."""
    scaled = result("slo-aware").curves["chat"].created
    drops = np.flatnonzero(np.diff(scaled) < 0)
    assert scaled.max() > scaled[0]
    assert all(np.diff(scaled)[drops] == -1)
    assert all(np.diff(drops) * 15 >= 120)


def test_slo_aware_reads_first_tokens_before_the_end() -> None:
    """TTFT of requests that still generate is known: on engines of vLLM too."""
    trace = generated(kind="constant", duration_seconds=60, rate_rpm=600,
                      tokens={"input": {"mean": 500}, "output": {"mean": 2000}}).trace  # fmt: skip
    cluster = ReplayCluster(vllm(), {"m": trace})
    cluster.fleet.keep_latencies()
    cluster.advance(8.0)
    ttft, itl = cluster.fleet.take_latencies("chat")
    assert len(ttft) > 50
    assert all(0 < value < 500 for value in ttft)
    assert itl == []
    assert cluster.fleet.take_latencies("chat") == ([], [])


def test_token_aware_counts_prompts_in_flight() -> None:
    """Prompt tokens of all requests in service and waiting, over the speed of a full prefill step."""
    trace = generated(kind="constant", duration_seconds=120, rate_rpm=1200,
                      tokens={"input": {"mean": 4000}, "output": {"mean": 300}}).trace  # fmt: skip
    replay_scenario = vllm()
    cluster = ReplayCluster(replay_scenario, {"m": trace})
    policy = TokenAware(cluster, seconds=1.0)
    cluster.advance(20.0)
    (timer,) = policy.timers()
    timer.action()
    tokens = cluster.fleet.prompt_tokens("chat")
    assert tokens == 4000 * sum(i.running + i.waiting for i in cluster.ready("chat"))
    speed = llmd.prefill_speed(replay_scenario.variants[0], 4000.0)
    assert speed == pytest.approx(1000 * 8192 / (7 + 0.05 + 0.04 * 8192))
    kv = sum(item.kv_cache for item in cluster.ready("chat"))
    assert policy.items("chat") == [str(max(-(-tokens // speed), -(-kv // 0.8))).split(".")[0]]


def test_wva_is_told_other_targets() -> None:
    """A factor multiplies both targets of the rule, not those that requests are judged by."""
    scenario = one_model()
    told = with_targets(scenario, 0.5).models[0].slo
    assert (told.ttft, told.itl) == (250.0, 12.0)
    strict, plain = (result(name) for name in ("wva@0.95", "wva"))
    assert (plain.policy, strict.policy) == ("wva", "wva@0.95")
    assert strict.gpu_hours > plain.gpu_hours
    assert plain.classes[0].itl_target_ms == strict.classes[0].itl_target_ms == 24


def test_dynamo_changes_one_worker_at_a_time() -> None:
    """Each change is by one, and the next waits until the started worker is ready."""
    curves = result("dynamo@0.5").curves["chat"]
    ups = np.flatnonzero(np.diff(curves.created) > 0)
    assert len(ups) > 2
    assert all(np.diff(curves.created)[ups] == 1)
    assert all(np.diff(ups) * 15 >= 60)


def test_without_foresight_sees_the_backlog() -> None:
    """It keeps more than what an HPA on the queue keeps, and needs no less than its start-up times."""
    offered = generated(kind="step", levels=[[180, 60], [300, 500], [120, 60]])
    comparison = compare.compare(one_model(), {"m": offered}, ("without-foresight", "queue@2"))
    informed, queue = comparison.results
    assert informed.within > queue.within
    assert informed.within < 1.0
    assert informed.notes[0].startswith("rate x ")


def test_grids_fit_the_replica() -> None:
    """Default thresholds are shares of what one replica carries; every one is a policy by its name."""
    scenario = one_model()
    traffic = {"m": generated(duration_seconds=300, rate_rpm=120).trace}
    known = catalog.capacity(scenario, traffic)
    assert 1.0 < known["chat"].rate_rps < 2.0
    assert 5 < known["chat"].in_service <= 8
    for rival in catalog.RIVALS:
        points = catalog.grid(rival, known)
        assert len(points) >= 3
        assert all(catalog.parse(point) is not None for point in points)
    assert catalog.grid("in-flight", known)[-1] in {"in-flight@6", "in-flight@7", "in-flight@8"}


def test_groups_and_sweeps() -> None:
    """`rivals` is every rival at its thresholds, each once; a bare name is its published threshold."""
    scenario = one_model()
    traffic = {"m": generated(duration_seconds=300, rate_rpm=120).trace}
    every = names.choices(scenario, traffic, ("rivals", "slo-aware@0.55", "kpa@4"))
    assert {choice.family for choice in every} == set(catalog.RIVALS) - set(OF_GROUPS)
    assert len({choice.name for choice in every}) == len(every)
    assert [choice.name for choice in every].count("slo-aware") == 1
    bare = names.choices(scenario, traffic, ("slo-aware", "dynamo", "wva", "token-aware"))
    assert [choice.shown["threshold"] for choice in bare] == [0.55, 1.0, 1.0, 2.0]
    assert [choice.family for choice in names.choices(scenario, traffic, ("kpa",))] == [
        "kpa"
    ] * len(catalog.grid("kpa", catalog.capacity(scenario, traffic)))


def test_kpa_counts_requests_without_a_pod() -> None:
    """Requests that wait for a first replica are seen, as by the activator."""
    trace = generated(duration_seconds=120, rate_rpm=120).trace
    cluster = ReplayCluster(one_model(), {"m": trace})
    cluster.scale("chat", 0)
    cluster.advance(30.0)
    assert cluster.queued_share("chat") > 20
    policy = Kpa(cluster, target=4.0)
    policy.timers()[0].action()
    assert policy.desired("chat") > 5
    given = Run(scenario=one_model(), traffic={"m": trace}, steps={})
    assert running.run(given, SloAware).policy == "slo-aware"

"""HPAs on one metric per pod, with the threshold in the policy's name."""

from __future__ import annotations

import pytest

from emulator.replay import POLICIES, compare
from emulator.replay.choices import names
from emulator.replay.cluster import ReplayCluster
from emulator.replay.policies import Threshold
from emulator.replay.results import PolicyResult
from emulator.replay.rivals import catalog
from tests.emulator.replay.small_scenarios import generated, one_model
from tests.emulator.replay.vllm_scenarios import ENGINE, vllm


def scraped(metric: str, threshold: float) -> tuple[Threshold, ReplayCluster]:
    """A policy after two minutes of constant load on two replicas, scraped every 15 s."""
    trace = generated(kind="constant", duration_seconds=300, rate_rpm=240).trace
    cluster = ReplayCluster(vllm(engine=ENGINE | {"maxNumSeqs": 2}), {"m": trace})
    policy = Threshold(cluster, metric=metric, threshold=threshold)
    (timer,) = policy.timers()
    for moment in range(15, 121, 15):
        cluster.advance(moment)
        timer.action()
    return policy, cluster


def test_gauges() -> None:
    """Each reads the sum of its metric over the ready pods, and has the threshold as its target."""
    for metric, threshold in (("in-flight", 8), ("queue", 0.5), ("kv", 0.75)):
        policy, cluster = scraped(metric, threshold)
        ready = cluster.ready("chat")
        expected = {
            "in-flight": sum(item.running + item.waiting for item in ready),
            "queue": sum(item.waiting for item in ready),
            "kv": sum(item.kv_cache for item in ready),
        }[metric]
        assert expected > 0
        assert policy.items("chat") == [f"{expected:.3f}"]
        assert policy.target() == f"{threshold:g}"
        assert policy.name == f"{metric}@{threshold:g}"


def test_rate() -> None:
    """The rate is that of the requests of the last minute, four a second."""
    policy, _ = scraped("rps", 0.75)
    (rate,) = policy.items("chat")
    assert float(rate) == pytest.approx(4.0, abs=0.05)
    assert policy.target() == "0.75"


def test_names() -> None:
    """A threshold above 0 follows a known metric and an @."""
    assert catalog.parse("in-flight@8") == ("in-flight", 8.0)
    assert catalog.parse("kv@0.8") == ("kv", 0.8)
    for wrong in (
        "in-flight@",
        "cpu@8",
        "kv@0",
        "kv@-1",
        "kv@nan",
        "kv@inf",
        "@8",
        "8",
    ):
        assert catalog.parse(wrong) is None
        assert not names.is_known(wrong)
    assert all(names.is_known(name) for name in (*POLICIES, "queue@2", "rps@1e1"))


def results(*names: str) -> list[PolicyResult]:
    offered = generated(kind="step", levels=[[300, 60], [300, 400]])
    return list(compare.compare(one_model(), {"m": offered}, names).results)


def test_a_lower_threshold_costs_more_and_keeps_more() -> None:
    """Several thresholds of one metric are policies of their own, in the order given."""
    high, low = results("in-flight@7", "in-flight@3")
    assert (high.policy, low.policy) == ("in-flight@7", "in-flight@3")
    assert low.gpu_hours > high.gpu_hours
    assert low.within > high.within

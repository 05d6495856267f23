"""Scenarios in which variants of one model share its demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emulator.replay import BOUNDS, POLICIES, clairvoyant, compare, scenario
from emulator.replay.choices import names
from emulator.replay.choices.names import Choice
from emulator.replay.groups import mixes
from emulator.replay.running import Run
from emulator.replay.scenario import Scenario
from tests.emulator.replay.small_scenarios import PROFILE, generated

FAST = {"alpha": 8.2, "beta": 0.16, "gamma": 2.1, "delta": 0.04, "maxBatchSize": 24}


def two(*, fast: dict[str, Any] | None = None, **fields: Any) -> Scenario:
    """A model on a small GPU and on one that is four times as fast for twice the price."""
    variants = [
        {"name": "small", "accelerator": "A100", "profile": PROFILE},
        {"name": "fast", "accelerator": "H100", "profile": FAST} | (fast or {}),
    ]
    common = {"model": "m", "engine": {"kind": "profile"}, "minReplicas": 0, "startup": 60}
    document: dict[str, Any] = {
        "accelerators": {"A100": {"cost": 40}, "H100": {"cost": 80}},
        "models": [{"model": "m", "slo": {"ttft": 500, "itl": 24}}],
        "variants": [common | item for item in variants],
        "warmUp": 60,
    }
    return Scenario.model_validate(document | fields)


STEP = {"kind": "step", "levels": [[120, 120], [300, 900]]}


def test_variants_of_one_model_are_a_group() -> None:
    """As in the adapter, several variants of a model share its demand unless they are kept apart."""
    assert [item.name for item in two().groups["m"]] == ["small", "fast"]
    apart = two(models=[{"model": "m", "slo": {"ttft": 500, "itl": 24}, "group": False}])
    assert apart.groups == {}


def test_ours_is_cheaper_than_each_alone() -> None:
    """Placed together, a demand costs less than where each variant follows what its own pods are offered."""
    comparison = compare.compare(two(), {"m": generated(**STEP)}, ("ours", "per-variant"))
    ours, alone = comparison.results
    assert ours.cost_cents < 0.9 * alone.cost_cents
    assert ours.within > alone.within - 0.01
    # The small variant is given up for the fast one; alone, it grows with its share.
    assert ours.curves["small"].created[-1] <= 1
    assert alone.curves["small"].created[-1] > 1


def test_a_group_kept_apart_is_the_rule_per_variant() -> None:
    """`group: false` and the policy per-variant decide the same."""
    offered = {"m": generated(kind="step", levels=[[300, 300]])}
    apart = two(models=[{"model": "m", "slo": {"ttft": 500, "itl": 24}, "group": False}])
    (one,) = compare.compare(apart, offered, ("ours",)).results
    (other,) = compare.compare(two(), offered, ("per-variant",)).results
    assert one.cost_cents == other.cost_cents
    assert one.classes == other.classes


@pytest.mark.parametrize("routing", ["least-loaded", "round-robin"])
def test_a_lost_variant_is_replaced_within_a_start(routing: str) -> None:
    """What is evicted and finds no node is replaced by the other one a cycle and a start-up later."""
    replay_scenario = two(fast={"unschedulable": {"from": 300, "evict": True}}, routing=routing)
    offered = {"m": generated(kind="step", levels=[[660, 300]])}
    (ours,) = compare.compare(replay_scenario, offered, ("ours",)).results
    seconds, small, fast = (
        ours.curves["small"].seconds,
        ours.curves["small"].ready,
        ours.curves["fast"].ready,
    )
    assert fast[seconds < 300].max() >= 1
    assert fast[seconds > 315].max() == 0
    recovered = seconds >= 300 + 30 + 60 + 15 + 15  # cycle, start-up, HPA, sample
    assert small[recovered].min() >= 3
    assert ours.curves["small"].waiting[-1] < 10


def test_evicted_replicas_come_back() -> None:
    """Replicas wait without cost while no node takes them, and start when one does."""
    gone = {"unschedulable": {"from": 120, "to": 240, "evict": True}, "minReplicas": 1}
    replay_scenario = two(fast=gone)
    offered = {"m": generated(kind="step", levels=[[420, 120]])}
    (static,) = compare.compare(replay_scenario, offered, ("static",)).results
    seconds, fast = static.curves["fast"].seconds, static.curves["fast"].ready
    assert fast[seconds < 120].min() == 1
    assert fast[(seconds > 135) & (seconds < 300)].max() == 0
    assert fast[seconds > 315].min() == 1
    # Evicted replicas finish what they serve, and then hold no GPU.
    assert static.curves["fast"].cost_cents[-1] < 80 * (540 - 110) / 3600


def test_mix_costs_no_more_than_one_variant() -> None:
    """The planner's mix for a known rate is never dearer than what a single variant needs for it."""
    given = two()
    known = mixes.Mixes(given, "m", generated(**STEP).trace)
    costs = {"small": 40, "fast": 80}
    for rate in (0.5, 2.0, 7.0, 21.0):
        together = known.mix(rate, ["small", "fast"])
        for alone, cost in costs.items():
            one = known.mix(rate, [alone])
            assert one[alone] == sum(one.values()) > 0
            assert sum(costs[n] * k for n, k in together.items()) <= cost * one[alone]


def test_clairvoyant_keeps_the_slo_for_less() -> None:
    """The bound of a group follows the planner's mixes on the true rate, with replicas ready in time."""
    given, offered = two(), generated(kind="step", levels=[[120, 120], [120, 1200], [60, 120]])
    comparison = compare.compare(given, {"m": offered}, ("static", "clairvoyant"))
    static, bound = comparison.results
    assert bound.within >= clairvoyant.WITHIN_TARGET
    assert bound.cost_cents < static.cost_cents
    # The step comes at 120 s, a start takes 60 s, and the rate is that of a window of 75 s.
    created = bound.curves["fast"].created + bound.curves["small"].created
    assert created[bound.curves["fast"].seconds <= 60].max() > 2


def test_clairvoyant_leaves_out_what_is_gone() -> None:
    """The bound counts on no variant in the time in which no node takes it."""
    given = two(fast={"unschedulable": {"from": 300, "to": 480}})
    trace = generated(kind="step", levels=[[780, 300]]).trace
    run = Run(scenario=given, traffic={"m": trace}, steps={})
    table = clairvoyant.schedules(run, clairvoyant.replica_capacity(given, run.traffic), 1.0)

    def at(name: str, seconds: float) -> int:
        return [number for begin, number in table[name] if begin <= seconds][-1]

    assert at("fast", 200) > 0
    assert at("fast", 400) == 0
    assert at("small", 400) > 1
    assert at("fast", 700) > 0


def test_filled_valleys() -> None:
    """Valleys up to a length are filled, longer ones and the ends stay."""
    rates = np.array([1.0, 5, 2, 5, 1, 1, 1, 4])
    assert mixes.filled(rates, 0).tolist() == rates.tolist()
    assert mixes.filled(rates, 1).tolist() == [1, 5, 5, 5, 1, 1, 1, 4]
    assert mixes.filled(rates, 3).tolist() == [1, 5, 5, 5, 4, 4, 4, 4]


def test_rivals_of_groups() -> None:
    """`rivals` has the rules for several variants where a model has several."""
    traffic = {"m": generated(duration_seconds=300, rate_rpm=120).trace}
    families = [choice.family for choice in names.choices(two(), traffic, ("rivals",))]
    assert {"per-variant", "cost-aware", "expansion"} <= set(families)
    points = names.choices(two(), traffic, ("cost-aware", "expansion@4"))
    assert [item.name for item in points] == ["cost-aware", "expansion@4"]


def test_rivals_place_the_demand() -> None:
    """Both greedy rules leave the dearer variant per request, or per replica, for the other."""
    offered = {"m": generated(kind="step", levels=[[420, 600]])}
    comparison = compare.compare(two(), offered, ("cost-aware@0.5", "expansion@4"))
    aware, expansion = comparison.results
    assert aware.curves["fast"].created[-1] > aware.curves["small"].created[-1]
    assert expansion.curves["small"].created[-1] > expansion.curves["fast"].created[-1]


def test_sample() -> None:
    """The sample has three variants of one model behind one gateway."""
    from tests.emulator.replay.test_scenario import REPLAYS  # noqa: PLC0415 - only the sample needs it

    sample = scenario.read(REPLAYS / "groups.yaml")
    assert {item.accelerator for item in sample.groups["llama-8b"]} == {"A100", "H100", "L40S"}
    makers = {
        name: names.maker(sample, Choice(name=name, family=name, policy=name))
        for name in POLICIES
        if name not in BOUNDS
    }
    assert {"ours", "reference", "hpa-queue"} <= makers.keys()


def test_what_waits_for_replacements_is_served_soon_after_they_come() -> None:
    """All replicas go at once; those that replace them are enough for what arrived until they were ready."""
    given = two(fast={"unschedulable": {"from": 300, "evict": True}})
    offered = {"m": generated(kind="step", levels=[[660, 300]])}
    (ours,) = compare.compare(given, offered, ("ours",)).results
    small, fast = ours.curves["small"], ours.curves["fast"]
    starting = (small.seconds > 315) & (small.seconds <= 360)
    assert small.ready[starting].max() == fast.ready[starting].max() == 0
    assert small.waiting[starting].max() > 250
    assert small.waiting[small.seconds >= 420].max() < 10  # 30 s after they are ready

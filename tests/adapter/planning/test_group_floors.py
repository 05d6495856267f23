"""Demands of a moment ago that a group is still planned for: in terms of the replicas that carried them."""

from __future__ import annotations

from dataclasses import replace

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Floor, Group, Routing
from analyzer.latency import LatencyParameters

LOAD = fleet.Load(arrival_rate_rps=5.0, input_tokens=512.0, output_tokens=128.0)
TARGETS = fleet.Targets(itl_ms=40.0, ttft_ms=500.0)


def variant(name: str, replicas: int, *, slow: float = 1.0) -> fleet.Variant:
    latency = LatencyParameters(
        alpha_ms=8.0 * slow, beta_ms=0.16 * slow, gamma_ms=2.0 * slow, delta_ms=0.04 * slow
    )
    profile = fleet.Profile(accelerator=name, latency=latency, max_batch=16)
    return fleet.Variant(
        name=name, model="m", service_class="c", profiles=(profile,), load=LOAD,
        current=fleet.CurrentAllocation(accelerator=name, replicas=replicas), min_replicas=0,
        keep_accelerator=True,
    )  # fmt: skip


def planned(
    load: fleet.Load,
    *floors: Floor,
    alone: bool = False,
    routing: Routing = "least-loaded",
    of_pods: fleet.Routing = "random",
    most: int | None = None,
) -> planning.Plan:
    """Two variants of which `fast` is the better buy, with these floors."""
    both = (variant("fast", 2), variant("slow", 0, slow=2.0))[: 1 if alone else 2]
    variants = tuple(replace(item, routing=of_pods, max_replicas=most) for item in both)
    group = Group(
        name="g", model="m", service_class="c", variants=tuple(item.name for item in variants),
        traffic=load, floors=floors, routing=routing,
    )  # fmt: skip
    return planning.plan(
        fleet.Fleet(
            accelerators=(
                fleet.Accelerator(name="fast", device_type="F", unit_cost=80.0),
                fleet.Accelerator(name="slow", device_type="S", unit_cost=60.0),
            ),
            service_classes=(fleet.ServiceClass(name="c", priority=1, targets={"m": TARGETS}),),
            variants=variants,
            groups=(group,),
        )
    )


def fast(plan: planning.Plan) -> int:
    return plan.decisions["fast"].candidate.replicas


def test_replicas_are_held_whatever_the_requests_have_become() -> None:
    """Requests of half the length: the replicas that carried the old ones stay, and no rate says so."""
    before = planned(replace(LOAD, arrival_rate_rps=20.0))
    number = fast(before)
    assert number > 2
    part = 1200.0 / before.groups["g"].capacity_rpm
    floor = Floor(replicas={"fast": number, "slow": 0}, part=part, rate_rps=20.0)
    short = replace(LOAD, input_tokens=256.0, output_tokens=64.0)
    assert fast(planned(short)) < number
    held = planned(short, floor)
    assert fast(held) == number
    assert held.groups["g"].demand_rpm > 1200.0
    # The other way round: longer requests at a lower rate do not ask for the old rate of them.
    long = replace(LOAD, arrival_rate_rps=2.0, output_tokens=256.0)
    assert fast(planned(long, floor)) == number


def test_a_lower_floor_changes_nothing() -> None:
    """What is needed now is more than what was needed: the floor does not count."""
    floor = Floor(replicas={"fast": 1}, part=0.1, rate_rps=1.0)
    assert planned(LOAD, floor).groups == planned(LOAD).groups


def test_replicas_of_a_variant_that_left_the_group_do_not_count() -> None:
    """What it carried is no longer this group's; its replicas say nothing of those that are left."""
    floor = Floor(replicas={"slow": 30}, part=1.0, rate_rps=60.0)
    assert fast(planned(LOAD, floor, alone=True)) == fast(planned(LOAD, alone=True))


def test_a_variant_that_can_no_longer_serve_leaves_its_rate() -> None:
    """Requests so long that a variant meets no target: what it carried is held as a rate."""
    long = replace(LOAD, input_tokens=7000.0)
    now = planned(long)
    assert "slow" in now.set_aside
    floor = Floor(replicas={"slow": 30}, part=1.0, rate_rps=20.0)
    assert planned(long, floor).groups["g"].demand_rpm == 1200.0


def test_a_weighted_group_with_a_variant_at_zero_holds_its_rate() -> None:
    """One variant has no replicas for its weight: the demand of then is held all the same."""
    floor = Floor(replicas={"fast": 3, "slow": 0}, part=0.0, rate_rps=20.0)
    assert planned(LOAD, floor, routing="weights").groups["g"].demand_rpm == 1200.0

"""A queue of a group counts by what each of its variants carries, not in numbers of unlike replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Group, GroupDecision, Member
from tests.adapter.planning.test_group_floors import LOAD, TARGETS, variant

WAITING = replace(LOAD, arrival_rate_rps=20.0, in_flight=400.0, backlog_rps=2.0)


def planned(
    load: fleet.Load, *, ordered: tuple[int, int] = (0, 0), queued: tuple[int, int] = (0, 0)
) -> GroupDecision:
    """A fast and a slow variant: replicas ordered of each, and replicas full of their own queues."""
    variants = tuple(
        replace(item, routing="least-loaded")
        for item in (variant("fast", 0), variant("slow", 0, slow=4.0))
    )
    members = {
        item.name: Member(ordered=there, queued=full)
        for item, there, full in zip(variants, ordered, queued, strict=True)
    }
    group = Group(
        name="g", model="m", service_class="c", variants=("fast", "slow"), traffic=load,
        members=members,
    )  # fmt: skip
    plan = planning.plan(
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
    return plan.groups["g"]


def test_what_was_ordered_counts_by_what_it_carries() -> None:
    """Ten fast replicas on their way suffice for what waits; ten slow ones do not carry the arrivals."""
    without = planned(replace(WAITING, in_flight=0.0))
    assert planned(WAITING, ordered=(10, 0)).cost == without.cost
    assert planned(WAITING, ordered=(0, 10)).cost > without.cost


@pytest.mark.parametrize("ordered", [(1, 0), (0, 1), (1, 1)])
def test_too_few_replicas_ask_for_those_that_serve_at_once(ordered: tuple[int, int]) -> None:
    """Where any replica can serve what waits, all of it is to be in service at once."""
    without = planned(replace(WAITING, in_flight=0.0))
    assert planned(WAITING, ordered=ordered).cost > 1.5 * without.cost


def test_a_slow_replica_that_is_full_is_not_worth_a_fast_one() -> None:
    """Others take the arrivals from full replicas, and nothing of their queues."""
    anywhere = planned(WAITING, ordered=(1, 1)).cost
    at_slow = planned(WAITING, ordered=(1, 1), queued=(0, 3)).cost
    at_fast = planned(WAITING, ordered=(1, 1), queued=(3, 0)).cost
    assert at_slow < at_fast < anywhere

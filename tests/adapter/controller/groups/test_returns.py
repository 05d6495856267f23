"""A group keeps replicas for load that falls and comes back; its bursts are those of all its pods."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.controller.groups import demanded, planned, stepping
from adapter.controller.groups.demanded import MOST_DEMANDS, NO_TRAFFIC, Cycle
from adapter.controller.groups.planned import PlannedGroup
from adapter.controller.groups.pooling import AtGateway
from adapter.controller.groups.state import Demanded, GroupRecord, GroupState
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, Sizing
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.planning.groups import Floor, Group, GroupDecision
from adapter.resources.model_groups import forming
from analyzer import forecast
from tests.adapter.controller.groups.test_transitions import part
from tests.adapter.resources.model_groups.test_forming import source

SOURCES = [source(f"a/{name}") for name in "xy"]
DECISION = GroupDecision(
    cost=0.0, demand_rpm=0.0, capacity_rpm=0.0, binding="itl", served="full", shares={}, marginal_costs={}
)  # fmt: skip
STATE = GroupState(name="a/m@c", members=("a/x", "a/y"), routing="least-loaded")


def cycle(now: float) -> Cycle:
    sizing = Sizing(
        settings=LoopSettings(), rates=Rates(), parts={}, costs={}, gateway_demand={},
        to_wake=frozenset(), now=now,
    )  # fmt: skip
    return Cycle(sizing=sizing, sources={item.key: item for item in SOURCES}, windows={})


def after(record: GroupRecord, rate_rps: float, now: float) -> GroupRecord:
    """The record one cycle later, where a replica is planned for each request per second."""
    traffic = replace(NO_TRAFFIC, arrival_rate_rps=rate_rps, idle=False)
    need = demanded.sized(
        record, SOURCES, traffic, AtGateway(), ordered=1, partial=False, cycle=cycle(now)
    )
    number = math.ceil(max([rate_rps, *(item.floor.rate_rps for item in need.demands)]))
    item = PlannedGroup(record=record, group=None, variants={}, state=STATE, need=need)
    parts = [part("a/x", number, number), part("a/y", 0, 0)]
    floor = Floor(replicas={"a/x": number}, part=1.0, rate_rps=rate_rps)
    return replace(
        record,
        demands=(*need.demands, Demanded(now, floor)),
        returns=stepping._returns(record, item, parts, decision=DECISION, cycle=cycle(now)),
    )


def test_load_that_comes_back_is_waited_for() -> None:
    """10 requests per second go for 200 s, longer than the window, and return; next time they are held."""
    record, held = GroupRecord(), []
    window = demanded.window(SOURCES[0], LoopSettings())
    assert window < 200
    for number in range(80):
        now = 10.0 * number
        busy = now % 300.0 < 100.0
        record = after(record, 10.0 if busy else 0.1, now)
        if now % 300.0 == 290.0:
            held.append(any(item.floor.rate_rps == 10.0 for item in record.demands))
    assert held == [False, True]


def test_a_long_hold_keeps_the_largest_demands() -> None:
    """After 1,000 cycles at most 64 demands are kept, the largest among them."""
    floor = Floor(replicas={"a/x": 1}, part=1.0, rate_rps=1.0)
    demands = tuple(Demanded(float(at), floor) for at in range(1000))
    peak = Demanded(500.5, replace(floor, rate_rps=9.0))
    kept = demanded._within(
        (*demands[:501], peak, *demands[501:]), window=2e3, now=1e3, partial=False
    )
    assert peak in kept
    assert len(kept) <= MOST_DEMANDS
    assert kept == tuple(sorted(kept, key=lambda item: item.at))


def test_no_more_is_held_than_replicas_carried() -> None:
    """Two replicas at their maximum carry 2 of 12 per second: what they carry later is no sixfold demand."""
    item = demanded.Sized(
        rate_rps=12.0, arrivals_rps=12.0, in_flight=0.0, ordered=2, rising=False, notes=(), demands=()
    )  # fmt: skip
    (group,) = forming.form(SOURCES).groups
    load = fleet.Load(arrival_rate_rps=12.0, input_tokens=1.0, output_tokens=1.0)
    asked = Group(name="a/m@c", model="m", service_class="c", variants=group.members, traffic=load)
    short = PlannedGroup(record=GroupRecord(), group=asked, variants={}, state=STATE, need=item)
    parts = [part("a/x", 2, 2), part("a/y", 0, 0)]
    (kept,) = stepping._demands(GroupRecord(), short, parts, decision=DECISION, cycle=cycle(0.0))
    assert kept.floor.part == 1.0
    assert kept.floor.rate_rps == 12.0


@pytest.mark.parametrize(("in_flight", "part_held"), [(9.0, 0.25), (0.0, 1.0)])
def test_replicas_for_a_queue_are_not_held(in_flight: float, part_held: float) -> None:
    """Of 8 replicas the arrivals take 2: the other 6 go with the queue. Falls are measured by the 2 too."""
    item = demanded.Sized(
        rate_rps=8.0, arrivals_rps=2.0, in_flight=in_flight, ordered=2, rising=False, notes=(), demands=(),
        backlog_rps=6.0,
    )  # fmt: skip
    (group,) = forming.form(SOURCES).groups
    load = fleet.Load(arrival_rate_rps=8.0, input_tokens=1.0, output_tokens=1.0)
    asked = Group(name="a/m@c", model="m", service_class="c", variants=group.members, traffic=load)
    queued = PlannedGroup(record=GroupRecord(), group=asked, variants={}, state=STATE, need=item)
    parts, decision = [part("a/x", 8, 2), part("a/y", 0, 0)], replace(DECISION, arriving=0.25)
    given = (GroupRecord(), queued, parts)
    (kept,) = stepping._demands(*given, decision=decision, cycle=cycle(0.0))
    assert kept.floor.part == part_held
    assert kept.floor.rate_rps == 2.0
    (load_seen,) = stepping._returns(*given, decision=decision, cycle=cycle(0.0)).loads
    assert load_seen.replicas == (2 if in_flight else 8)


@pytest.mark.parametrize(("of_variants", "step"), [(6.0, 1.0), (1.0, 4.0)])
def test_bursts_are_those_of_the_whole_group(of_variants: float, step: float) -> None:
    """Load that moves between variants is no burst of the group, and a step of its rate is none of them."""
    (group,) = forming.form(SOURCES).groups
    trend, chance = None, random.Random(7)  # noqa: S311 - repeatable noise
    for number in range(60):
        mean = 10.0 * (step if number > 50 else 1.0)
        rate = mean + chance.gauss(0.0, math.sqrt(mean / 30.0))
        trend = forecast.update(trend, rate, at=30.0 * number)
    traffic = replace(NO_TRAFFIC, arrival_rate_rps=5.0, input_tokens=100.0, output_tokens=100.0)
    load = fleet.Load(
        arrival_rate_rps=5.0, input_tokens=100.0, output_tokens=100.0, dispersion=of_variants
    )
    current = fleet.CurrentAllocation(accelerator="", replicas=1)
    sized = {
        item.key: SizedVariant(
            observation=Observation(traffic=traffic),
            variant=fleet.Variant(
                name=item.key, model="m", service_class="c", profiles=(), load=load, current=current
            ),
        )
        for item in SOURCES
    }
    records = {item.key: VariantRecord(state=VariantState(source=item)) for item in SOURCES}
    made = planned.plan_group(GroupRecord(trend=trend), group, sized, records, cycle(1800.0))
    assert made.group is not None
    assert made.group.traffic.dispersion < 1.5

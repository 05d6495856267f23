"""Requests that wait at the pods of a group ask for no replicas that would find nothing to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.observation import Observation
from adapter.controller.groups import demanded, planned
from adapter.controller.groups.demanded import NO_TRAFFIC
from adapter.controller.groups.pooling import AtGateway
from adapter.controller.groups.state import GroupRecord
from adapter.controller.sizing import SizedVariant
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.planning.groups import Group
from adapter.resources.model_groups import forming
from tests.adapter.controller.groups.test_returns import SOURCES, cycle
from tests.adapter.planning import test_group_floors as planner

QUEUED = replace(
    NO_TRAFFIC,
    arrival_rate_rps=5.0,
    input_tokens=512.0,
    output_tokens=128.0,
    running=30.0,
    waiting=60.0,
    queued_at=2,
    idle=False,
)


def asked() -> Group:
    """What the planner gets of a group of two variants, each with such a queue."""
    (group,) = forming.form(SOURCES).groups
    load = fleet.Load(arrival_rate_rps=5.0, input_tokens=512.0, output_tokens=128.0)
    current = fleet.CurrentAllocation(accelerator="", replicas=1)
    sized = {
        item.key: SizedVariant(
            observation=Observation(traffic=QUEUED),
            variant=fleet.Variant(
                name=item.key, model="m", service_class="c", profiles=(), load=load, current=current
            ),
        )
        for item in SOURCES
    }
    records = {item.key: VariantRecord(state=VariantState(source=item)) for item in SOURCES}
    made = planned.plan_group(GroupRecord(), group, sized, records, cycle(0.0))
    assert made.group is not None
    return made.group


def test_the_planner_knows_the_queue_of_a_group() -> None:
    """Two pods of each variant have one: its part of the rate, and where it waits, are in the load."""
    load = asked().traffic
    assert load.queued_at == 4
    assert load.in_flight == 180.0
    # 120 requests within 60 s, beside 10 per second that arrive and what is usually kept free of these.
    assert 1.5 / 12.0 < load.backlog_rps / load.arrival_rate_rps < 2.0 / 12.0


@pytest.mark.parametrize(("elsewhere", "at_gateway"), [(1.0, 0.0), (0.0, 1.0)])
def test_what_no_pod_has_any_replica_can_serve(elsewhere: float, at_gateway: float) -> None:
    """Held by a picker or a gateway, requests reach the replicas that are to come."""
    need = demanded.sized(
        GroupRecord(), SOURCES, replace(QUEUED, waiting_elsewhere=elsewhere),
        AtGateway(waiting=at_gateway), ordered=1, partial=False, cycle=cycle(0.0),
    )  # fmt: skip
    assert need.in_flight > 0
    assert need.queued_at == 0


def test_full_pods_work_off_their_queues_beside_others_for_the_arrivals() -> None:
    """300 in flight at 3 pods: half as many again as the arrivals take, and the 3; at no pod: for all 300."""
    load = replace(planner.LOAD, arrival_rate_rps=25.0)
    calm = planner.fast(planner.planned(load, of_pods="least-loaded"))
    queued = replace(load, in_flight=300.0, ordered=2, backlog_rps=0.5, queued_at=3)
    most = 1.5 * calm + 1 + 3
    assert planner.fast(planner.planned(queued, of_pods="least-loaded")) <= most
    anywhere = planner.planned(replace(queued, queued_at=0), of_pods="least-loaded")
    assert planner.fast(anywhere) > most
    # The arrivals take as many of them as they do without a queue.
    arriving = anywhere.groups["g"].arriving
    assert arriving * planner.fast(anywhere) == pytest.approx(calm, abs=1.0)
    assert planner.planned(load, of_pods="least-loaded").groups["g"].arriving == 1.0


def test_what_arrives_takes_its_replicas_where_the_queue_gets_less_than_it_asks_for() -> None:
    """A queue asks for dozens, the maximum is 10: of these the arrivals need as many as without the queue."""
    load = replace(planner.LOAD, arrival_rate_rps=25.0)
    calm = planner.fast(planner.planned(load, alone=True))
    queued = replace(load, arrival_rate_rps=30.0, in_flight=600.0, ordered=2, backlog_rps=5.0)
    assert planner.fast(planner.planned(queued, alone=True)) > 20
    short = planner.planned(queued, alone=True, most=10)
    assert planner.fast(short) == 10
    assert short.groups["g"].arriving * 10 == pytest.approx(calm, abs=1.0)

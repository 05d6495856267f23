"""Load moves between variants that carry it only where that stays cheaper for some time."""

from __future__ import annotations

from dataclasses import replace

from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.controller.groups import demanded, stepping
from adapter.controller.groups.availability import Outage
from adapter.controller.groups.demanded import NO_TRAFFIC, Cycle
from adapter.controller.groups.planned import PlannedGroup
from adapter.controller.groups.pooling import AtGateway
from adapter.controller.groups.state import GroupRecord, GroupState
from adapter.controller.groups.transitions import Step
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.controller.state import VariantRecord, VariantState
from tests.adapter.controller.groups.test_transitions import part
from tests.adapter.resources.model_groups.test_forming import source


def cycle(now: float) -> Cycle:
    sizing = Sizing(
        settings=LoopSettings(), rates=Rates(), parts={}, costs={}, gateway_demand={},
        to_wake=frozenset(), now=now,
    )  # fmt: skip
    return Cycle(sizing=sizing, sources={})


def test_a_move_counts_from_its_first_plan() -> None:
    """Another mix is planned at 10 s and still at 40 s; more replicas, or fewer, alone are no move."""
    move = [part("a", 0, 2), part("b", 2, 0)]
    first = stepping._move_since(GroupRecord(), move, cycle(10.0))
    assert first == 10.0
    assert stepping._move_since(GroupRecord(move_since=first), move, cycle(40.0)) == 10.0
    for parts in ([part("a", 3, 2), part("b", 0, 0)], [part("a", 1, 2), part("b", 0, 0)]):
        assert stepping._move_since(GroupRecord(move_since=first), parts, cycle(40.0)) is None


def test_until_then_what_there_is_stays() -> None:
    """Neither the old replicas go nor new ones come, and both variants say why."""
    step = stepping._unmoved([part("a", 0, 2), part("b", 2, 0), part("c", 1, 1)], 20.0)
    assert step.replicas == {"a": 2, "b": 0, "c": 1}
    assert step.reasons.keys() == {"a", "b"}
    assert "moves between variants in 20 s" in step.reasons["a"]


def test_a_queue_that_is_worked_off_soon_asks_for_nothing() -> None:
    """84 requests, 6 fewer each second, are gone before a new replica is ready; a steady queue is not."""
    queued = replace(NO_TRAFFIC, arrival_rate_rps=10.0, running=60.0, waiting=84.0, idle=False)
    for growth, in_flight in ((-6.0, 0.0), (0.0, 144.0)):
        need = demanded.sized(
            GroupRecord(), [source("a/x")], replace(queued, waiting_growth_rps=growth), AtGateway(),
            ordered=1, partial=False, cycle=cycle(100.0),
        )  # fmt: skip
        assert need.in_flight == in_flight


def test_requests_that_were_expected_to_wait_are_no_backlog() -> None:
    """Long prompts keep 84 of a steady load waiting; where few are expected to, that is a queue."""
    queued = replace(NO_TRAFFIC, arrival_rate_rps=10.0, running=60.0, waiting=84.0, idle=False)
    for expected, backlog in ((80.0, 0.0), (8.0, 144.0)):
        need = demanded.sized(
            GroupRecord(), [source("a/x")], queued, AtGateway(),
            ordered=1, partial=False, expected=expected, cycle=cycle(100.0),
        )  # fmt: skip
        assert need.in_flight == backlog


def test_replicas_stay_while_requests_queue_at_their_pods() -> None:
    """40 that wait at two pods are served there; one at each is what any busy engine has."""
    state = VariantState(source=source("a/x"))
    step = Step(replicas={"a/x": 0}, reasons={})
    for waiting, elsewhere, kept in ((40.0, 0.0, 2), (2.0, 0.0, 0), (40.0, 39.0, 0)):
        traffic = replace(NO_TRAFFIC, waiting=waiting, waiting_elsewhere=elsewhere, idle=False)
        seen = Observation(traffic=traffic, metrics="MetricsFound")
        record = VariantRecord(state=replace(state, observation=seen))
        after = stepping._served_first(step, [part("a/x", 0, 2)], {"a/x": record})
        assert after.replicas == {"a/x": kept}
        assert bool(after.reasons) == bool(kept)


def test_a_lowered_maximum_holds_while_requests_queue() -> None:
    """Two replicas, of which the maximum now allows one: it is kept for the 40 that wait, the other not."""
    state = VariantState(source=replace(source("a/x"), max_replicas=1))
    traffic = replace(NO_TRAFFIC, waiting=40.0, idle=False)
    seen = Observation(traffic=traffic, metrics="MetricsFound")
    record = VariantRecord(state=replace(state, observation=seen))
    step = Step(replicas={"a/x": 0}, reasons={})
    after = stepping._served_first(step, [part("a/x", 0, 2)], {"a/x": record})
    assert after.replicas == {"a/x": 1}


def test_replicas_stay_after_an_outage_whose_requests_have_not_reached_them_yet() -> None:
    """Of seven that came five are planned: seven serve what waited, and go once the outage is forgotten.

    While nothing serves, what is no longer asked for goes; a maximum that was lowered holds.
    """
    out = Outage(100.0, 10.0)
    step = Step(replicas={"a/x": 5}, reasons={})
    state = GroupState(name="g", members=("a/x",), routing="least-loaded")
    for outage, maximum, kept in (
        (replace(out, ended=230.0), None, 7),
        (replace(out, ended=230.0), 6, 6),
        (out, None, 5),
        (None, None, 5),
    ):
        item = PlannedGroup(record=GroupRecord(outage=outage), group=None, variants={}, state=state)
        at = replace(cycle(235.0), sources={"a/x": replace(source("a/x"), max_replicas=maximum)})
        after = stepping._steady(step, [part("a/x", 5, 7)], item, at)
        assert after.replicas == {"a/x": kept}
        assert bool(after.reasons) == (kept > 5)

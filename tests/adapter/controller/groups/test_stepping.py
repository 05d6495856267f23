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
from adapter.controller.groups.state import GroupRecord, GroupState, Worths
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
    return Cycle(sizing=sizing, sources={}, windows={})


def planned_group(need_rps: float) -> PlannedGroup:
    state = GroupState(name="g", members=("a", "b"), routing="least-loaded")
    need = demanded.Sized(
        rate_rps=need_rps, arrivals_rps=need_rps, in_flight=0.0, ordered=2, rising=False, notes=(),
        demands=(),
    )  # fmt: skip
    return PlannedGroup(record=GroupRecord(), group=None, variants={}, state=state, need=need)


def test_a_move_counts_from_its_first_plan() -> None:
    """Another mix is planned at 10 s and still at 40 s; more replicas, or fewer, alone are no move."""
    move = [part("a", 0, 2), part("b", 2, 0)]
    first = stepping._move_since(GroupRecord(), move, 10.0)
    assert first == 10.0
    record = GroupRecord(move_since=first)
    assert stepping._move_since(record, move, 40.0) == 10.0
    for parts in ([part("a", 3, 2), part("b", 0, 0)], [part("a", 1, 2), part("b", 0, 0)]):
        assert stepping._move_since(record, parts, 40.0) is None


def test_what_is_changed_again_and_again_moves_load_no_more_often() -> None:
    """Bounds that a tenant changes in each cycle had all load of its group move each time."""
    item, moved = planned_group(2.0), list[float]()
    record = GroupRecord()
    for now in range(0, 300, 10):
        record = replace(record, reconfigured=True)
        if stepping._hurries(record, item, float(now)):
            moved.append(float(now))
            record = replace(record, hurried_at=float(now))
    assert moved == [0.0, 60.0, 120.0, 180.0, 240.0]


def test_a_mix_that_was_too_small_a_moment_ago_is_no_move() -> None:
    """Prompts are short now, and one fast and one slow replica carry the 12; ten minutes ago they carried 8.

    A mix that carried the demand then too may come, and one that carried no less than what there is.
    """
    now = [part("fast", 1, 2, rate_rps=9.0), part("slow", 1, 0, rate_rps=3.0)]
    for then, need, lasts in (
        ({"fast": 6.0, "slow": 2.0}, 12.0, False),
        ({"fast": 9.5, "slow": 2.5}, 12.0, True),
        ({"fast": 6.0, "slow": 2.0}, 8.0, True),
        ({"fast": 4.0, "slow": 4.0}, 12.0, True),
    ):
        record = GroupRecord(worths=(Worths(50.0, then),))
        later = cycle(110.0)
        left = stepping._left(40.0, record, planned_group(need), now, later)
        assert left == (0.0 if lasts else later.settings.interval)


def test_a_mix_that_was_too_small_is_planned_all_the_same() -> None:
    """Planned since 40 s; in the next cycle it carries what is left of the demand, and need not wait anew."""
    parts = [part("fast", 1, 2, rate_rps=9.0), part("slow", 1, 0, rate_rps=3.0)]
    record = GroupRecord(worths=(Worths(50.0, {"fast": 6.0, "slow": 2.0}),))
    assert stepping._left(40.0, record, planned_group(12.0), parts, cycle(41.0)) == 59.0
    since = stepping._move_since(replace(record, move_since=40.0), parts, 110.0)
    assert since == 40.0
    assert stepping._left(since, record, planned_group(8.0), parts, cycle(110.0)) == 0.0


def test_a_plan_that_is_short_waits_for_no_better_estimate() -> None:
    """Three slow replicas are all that may be had: they carry 15 of 18, by the estimate of this cycle too."""
    parts, item = (
        [part("fast", 0, 2, rate_rps=10.0), part("slow", 3, 0, rate_rps=5.0)],
        planned_group(18.0),
    )
    record = GroupRecord()
    record = replace(record, worths=stepping._worths(record, item, parts, cycle(110.0)))
    assert stepping._left(40.0, record, item, parts, cycle(110.0)) == 0.0


def test_what_replicas_carried_is_remembered_while_a_move_pays_for_itself() -> None:
    """Ten minutes; what a queue asks for is no estimate of what a replica carries."""
    record = GroupRecord(worths=(Worths(100.0, {"a": 1.0}), Worths(400.0, {"a": 2.0})))
    parts, item = [part("a", 2, 2, rate_rps=3.0)], planned_group(6.0)
    kept = stepping._worths(record, item, parts, cycle(700.0))
    assert [each.rates_rps["a"] for each in kept] == [2.0, 3.0]
    assert item.need is not None
    queued = replace(item, need=replace(item.need, in_flight=50.0))
    assert stepping._worths(record, queued, parts, cycle(700.0)) == record.worths[1:]


def test_until_then_what_there_is_stays() -> None:
    """Neither the old replicas go nor new ones come, and both variants say why."""
    parts = [part("a", 0, 2), part("b", 2, 0), part("c", 1, 1)]
    step = stepping._next(parts, 20.0, demand_rps=3.0, routing="least-loaded", lost=True)
    assert step.replicas == {"a": 2, "b": 0, "c": 1}
    assert step.reasons.keys() == {"a", "b"}
    assert "moves between variants in 20 s" in step.reasons["a"]


def test_what_the_others_carry_the_demand_without_goes_before_a_move() -> None:
    """Sixteen came for a queue that is gone, and six carry what comes: two of another kind would, for less.

    Those six stay until load moves, and all sixteen while the six do not serve yet, nothing is offered, or
    all variants have the replicas that they asked for.
    """
    for ready, demand, left in ((16, 6.0, 6), (5, 6.0, 16), (16, 0.0, 16), (16, 20.0, 16)):
        parts = [part("slow", 0, 16, ready), part("fast", 2, 0, rate_rps=4.0, cost=15.0)]
        for lost, kept in ((True, left), (False, 16)):
            step = stepping._next(parts, 20.0, demand_rps=demand, routing="least-loaded", lost=lost)
            assert step.replicas == {"slow": kept, "fast": 0}


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

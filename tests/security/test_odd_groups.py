"""One odd group against all, whatever its numbers; a guest of a group against its host."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from adapter.controller.groups import keeper, stepping
from adapter.controller.groups.state import GroupRecord, Worths
from adapter.controller.settings import LoopSettings
from adapter.planning import plan as planning
from adapter.planning.groups import Group, Member
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from adapter.resources.model_groups.membership import GROUP, GROUP_NAMESPACES, ROUTING, Membership
from adapter.resources.variant import VariantSource
from tests.adapter.controller.groups.test_stepping import cycle, planned_group
from tests.adapter.controller.groups.test_transitions import part
from tests.adapter.resources.model_groups.test_forming import source
from tests.security.test_planning_worker import of

LOAD = of("a").variants[0].load

HOST = [source(f"a/{name}", {GROUP: "g", GROUP_NAMESPACES: "b"}) for name in "xy"]
GUEST = source("b/z", {GROUP: "a/g", ROUTING: "weights"})


@pytest.mark.parametrize(
    "odd",
    [
        {"traffic": replace(LOAD, arrival_rate_rps=math.nan)},
        {"traffic": replace(LOAD, arrival_rate_rps=math.inf)},
        {"traffic": replace(LOAD, arrival_rate_rps=-1.0)},
        {"traffic": replace(LOAD, in_flight=math.inf)},
        {"traffic": replace(LOAD, input_tokens=math.nan)},
        {"interruptible_share": math.nan},
        {"interruptible_share": -1.0},
        {"routing": "weights", "members": {name: Member(weight=0.0) for name in ("n/a", "n/b")}},
        {"routing": "weights", "members": {"n/a": Member(weight=math.nan)}},
        {"routing": "random"},
        {"variants": ("n/a", "n/a", "n/b")},
        {"variants": ("n/a", "n/none")},
    ],
    ids=str,
)
def test_an_odd_group_is_set_aside_and_the_others_are_planned(odd: dict[str, Any]) -> None:
    """It says what is wrong with it, and nothing is raised."""
    group = Group(name="n/g", model="m", service_class="c", variants=("n/a", "n/b"), traffic=LOAD)
    plan = planning.plan(replace(of("a", "b", "z"), groups=(replace(group, **odd),)))
    assert plan.decisions["n/z"].served == "full"
    assert "n/g" in plan.set_aside


class NamespaceSet(frozenset[str]):
    """Namespaces that a variant lets in, and how often somebody looked for one in them."""

    looks = 0

    def __contains__(self, item: object) -> bool:
        NamespaceSet.looks += 1
        return super().__contains__(item)


def test_guests_are_not_compared_with_each_variant_of_their_host() -> None:
    """Of two namespaces of one tenant, 4,000 variants each took 2.5 s of everybody's join."""
    guest = Membership(namespace="t", name="g")
    host = replace(guest, admits=NamespaceSet({"u"}))
    hosts = [replace(source(f"t/h{number}"), membership=host) for number in range(40)]
    guests = [replace(source(f"u/g{number}"), membership=guest) for number in range(40)]
    formed = forming.form([*hosts, *guests])
    assert not any("admits" in text for text in formed.problems.values())
    assert NamespaceSet.looks <= len(hosts) + len(guests)


def _objects(*guests: VariantSource) -> Inputs:
    sources = [*HOST, *guests]
    return Inputs(variants=tuple(sources), groups=forming.form(sources).groups)


def _known(groups: keeper.Groups) -> GroupRecord:
    return groups._records["a/g"]


@pytest.mark.parametrize("other", [(), (replace(GUEST, max_replicas=7),)])
def test_a_guest_that_toggles_delays_no_move_of_its_host(other: tuple[VariantSource, ...]) -> None:
    """Each change had the move wait its 60 s anew, and a move to the guest was the one that may hurry."""
    groups, settings = keeper.Groups(), LoopSettings()
    groups.apply_inputs(_objects(GUEST), settings)
    worths = Worths(5.0, {"a/x": 2.0, "a/y": 1.0, "b/z": 9.0})
    groups._records["a/g"] = replace(
        _known(groups), since=0.0, hurried_at=40.0, move_since=30.0, worths=(worths,)
    )
    move, item = [part("a/x", 0, 2), part("a/y", 2, 0)], planned_group(1.0)
    waits = []
    for number in range(6):
        now = 50.0 + 10.0 * number
        groups.apply_inputs(_objects(*((GUEST,) if number % 2 else other)), settings)
        record = _known(groups)
        since = stepping._move_since(record, move, now)
        waits.append(stepping._left(since, record, item, move, cycle(now)))
        groups._records["a/g"] = replace(record, move_since=since)
    assert waits == [40.0, 30.0, 20.0, 10.0, 0.0, 0.0]
    # What the guest carried is of the time before its change; what the host's did still counts.
    assert [item.rates_rps for item in _known(groups).worths] == [{"a/x": 2.0, "a/y": 1.0}]


def test_what_the_host_changes_has_its_move_wait_anew() -> None:
    """A change of its own is one of what replicas must serve."""
    groups, settings = keeper.Groups(), LoopSettings()
    groups.apply_inputs(_objects(GUEST), settings)
    worths = (Worths(5.0, {"a/x": 2.0}),)
    groups._records["a/g"] = replace(_known(groups), since=0.0, move_since=30.0, worths=worths)
    changed = [replace(HOST[0], max_replicas=3), HOST[1], GUEST]
    groups.apply_inputs(
        Inputs(variants=tuple(changed), groups=forming.form(changed).groups), settings
    )
    assert (_known(groups).move_since, _known(groups).worths) == (None, ())

"""One odd group against all: whatever its numbers, the variants beside it are planned in the same plan."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from adapter.planning import plan as planning
from adapter.planning.groups import Group, Member
from adapter.resources.model_groups import forming
from adapter.resources.model_groups.membership import Membership
from tests.adapter.resources.model_groups.test_forming import source
from tests.security.test_planning_worker import of

LOAD = of("a").variants[0].load


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

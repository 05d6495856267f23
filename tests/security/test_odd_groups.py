"""One odd group against all: whatever its numbers, the variants beside it are planned in the same plan."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from adapter.planning import plan as planning
from adapter.planning.groups import Group, Member
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

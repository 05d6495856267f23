"""One odd group against all: an error of whatever kind in one leaves the others planned."""

from __future__ import annotations

from typing import Any

import pytest

from adapter.collector.gateway import Rates
from adapter.controller.groups import planned, stepping
from adapter.controller.groups.demanded import Cycle
from adapter.controller.groups.keeper import GroupPlan, Groups
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import Group
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups.forming import ModelGroup

SETTINGS = LoopSettings()
CYCLE = Cycle(
    sizing=Sizing(
        settings=SETTINGS, rates=Rates(), parts={}, costs={}, gateway_demand={}, to_wake=frozenset(),
        now=0.0,
    ),
    sources={},
)  # fmt: skip


def failed(what: str, name: str, error: Exception) -> str:
    """Wording of what failed."""
    return f"{name}: {what} ({type(error).__name__})"


def group(name: str) -> ModelGroup:
    return ModelGroup(
        name=name, namespace="n", model="m", service_class="c", members=("n/x", "n/y"), named=True
    )


def test_a_group_that_nobody_foresaw_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its demand is pooled, and while it steps, the cycle goes on; it says what failed."""
    groups = Groups()
    groups.apply_inputs(Inputs(groups=(group("n/odd"), group("n/sound"))), SETTINGS)
    before = groups.plan({}, {}, CYCLE, failed=failed)
    assert list(before.planned) == ["n/odd", "n/sound"]
    plan_group = planned.plan_group

    def plan_one(record: Any, item: ModelGroup, *rest: Any) -> planned.PlannedGroup:
        if item.name == "n/odd":
            raise ZeroDivisionError
        return plan_group(record, item, *rest)

    monkeypatch.setattr(planned, "plan_group", plan_one)
    assert list(groups.plan({}, {}, CYCLE, failed=failed).planned) == ["n/sound"]
    assert "ZeroDivisionError" in groups.states["n/odd"].problem
    assert not groups.states["n/sound"].problem

    def step(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stepping, "step", step)
    with_inputs = GroupPlan(
        planned={
            name: planned.PlannedGroup(
                record=item.record, group=_any_group(name), variants={}, state=item.state
            )
            for name, item in before.planned.items()
        }
    )
    assert groups.step(with_inputs, planning.Plan(decisions={}), {}, CYCLE, failed=failed) == {}


def _any_group(name: str) -> Group:
    load = fleet.Load(arrival_rate_rps=1.0, input_tokens=1.0, output_tokens=1.0)
    return Group(name=name, model="m", service_class="c", variants=("n/x", "n/y"), traffic=load)

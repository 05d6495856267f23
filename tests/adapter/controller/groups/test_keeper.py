"""A group that cannot be pooled is its own problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from adapter.collector.gateway import Rates
from adapter.controller.groups import keeper
from adapter.controller.groups.demanded import Cycle
from adapter.controller.groups.keeper import GroupPlan, Groups
from adapter.controller.groups.state import Configuration, GroupRecord, Worths
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.planning.groups import Budget, Ceiling
from adapter.planning.plan import Plan
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from adapter.resources.variant import VariantSource
from tests.adapter.resources.model_groups.test_forming import source


def _cycle(sources: Iterable[VariantSource] = ()) -> Cycle:
    sizing = Sizing(
        settings=LoopSettings(), rates=Rates(), parts={}, costs={}, gateway_demand={},
        to_wake=frozenset(), now=0.0,
    )  # fmt: skip
    return Cycle(sizing=sizing, sources={item.key: item for item in sources}, windows={})


def test_an_error_in_one_group_leaves_the_others() -> None:
    """Its variants are planned by their own loads in this cycle; nothing is raised."""
    sources = [source(f"{namespace}/{name}") for namespace in "ab" for name in "xy"]
    inputs = Inputs(variants=tuple(sources), groups=forming.form(sources).groups)
    groups = Groups()
    groups.apply_inputs(inputs, LoopSettings())
    cycle = _cycle(sources)
    broken: dict[str, Any] = dict.fromkeys(("a/x", "a/y"), object())
    group_plan = groups.plan({}, broken, cycle)
    assert group_plan.planned.keys() == {"b/m@c"}


def test_ceilings_are_those_of_the_plan_that_was_stepped_to() -> None:
    """Nobody assigns them from outside."""
    ceilings = (Ceiling(name="capacity H100", limit=8.0, used=6.0, unit="devices"),)
    groups = Groups()
    assert groups.step(GroupPlan(), Plan(decisions={}, ceilings=ceilings), {}, _cycle()) == {}
    assert groups.ceilings == ceilings


SOURCES = (source("a/x"), source("a/y"))
OWN = [item.key for item in SOURCES]
INPUTS = Inputs(variants=SOURCES, groups=forming.form(SOURCES).groups)
CLASS = fleet.ServiceClass(name=SOURCES[0].service_class, priority=1, targets={})
BUDGET = Budget(name="all", scope="installation", cost=90.0)


def _configuration(inputs: Inputs, settings: LoopSettings) -> Configuration:
    """What people have set for the group of these objects."""
    (group,) = INPUTS.groups
    return keeper._configuration(
        group, {item.key: item for item in inputs.variants}, inputs, settings
    )


def _after(
    since: float | None, variants: Iterable[VariantSource], settings: LoopSettings, **more: Any
) -> GroupRecord:
    """The record after other objects and settings."""
    before = keeper._configured(GroupRecord(), _configuration(INPUTS, LoopSettings()), OWN)
    before = replace(before, since=since, move_since=5.0, worths=(Worths(5.0, {"a/x": 1.0}),))
    inputs = replace(INPUTS, variants=tuple(variants), **more)
    return keeper._configured(before, _configuration(inputs, settings), OWN)


@pytest.mark.parametrize(
    ("variant", "settings", "more"),
    [
        ({"max_replicas": 3}, {}, {}),
        ({"targets": fleet.Targets(itl_ms=9.0)}, {}, {}),
        ({}, {"policy": "None"}, {}),
        ({}, {"budgets": (BUDGET,)}, {}),
        ({}, {}, {"service_classes": (CLASS,)}),
    ],
)
def test_what_people_change_is_known(variant: Any, settings: Any, more: Any) -> None:
    """Bounds, targets, policy, budgets and priorities; what replicas carried is of the time before."""
    variants = (replace(SOURCES[0], **variant), SOURCES[1])
    record = _after(0.0, variants, LoopSettings(**settings), **more)
    assert record.reconfigured
    assert (record.worths, record.move_since) == ((), None)


def test_what_changes_by_itself_is_nothing_that_people_change() -> None:
    """Pods and replicas of a variant, other variants, and the first objects of a process."""
    moved = replace(SOURCES[0], replicas=7, spec_replicas=7, pods=("x-1",), startup_seconds=9.0)
    record = _after(0.0, (moved, SOURCES[1], source("b/z")), LoopSettings())
    assert not record.reconfigured
    assert record.worths
    changed = (replace(SOURCES[0], max_replicas=3), SOURCES[1])
    assert not _after(None, changed, LoopSettings()).reconfigured


def test_gpus_that_pods_show_are_nothing_that_people_change() -> None:
    """The first pod says how many GPUs the price of a variant is for; another price is people's."""
    own = fleet.Accelerator(name="unknown@40", device_type="unknown", unit_cost=40.0)
    shown = replace(own, name="8xH100@40", device_type="H100", multiplicity=8)
    known = [
        _configuration(
            replace(INPUTS, variants=(replace(SOURCES[0], own_accelerator=item), SOURCES[1])),
            LoopSettings(),
        )
        for item in (own, shown, replace(own, unit_cost=41.0))
    ]
    assert known[0] == known[1] != known[2]


def test_a_new_leader_moves_no_load_for_what_was_changed_before() -> None:
    """Another replica has decided since: a move waits as after a start."""
    groups = Groups()
    groups.apply_inputs(INPUTS, LoopSettings())
    groups._records = {
        name: replace(item, since=1.0, move_since=2.0) for name, item in groups._records.items()
    }
    changed = replace(INPUTS, variants=(replace(SOURCES[0], max_replicas=3), SOURCES[1]))
    groups.apply_inputs(changed, LoopSettings())
    groups.forget()
    (record,) = groups._records.values()
    assert (record.since, record.move_since, record.reconfigured) == (None, None, False)


@pytest.mark.parametrize("new", [True, False])
def test_a_group_without_ready_pods_is_as_new_as_its_variants(*, new: bool) -> None:
    """The adapter was restarted while none was ready: the rates were of a group that it knew nothing of."""
    groups = Groups()
    groups.apply_inputs(INPUTS, LoopSettings())
    sources = [replace(item, pods_known=True) for item in SOURCES]
    records = {
        item.key: VariantRecord(state=VariantState(source=item), new=new) for item in sources
    }
    groups.record_rates([("a/x", 2.0, 30.0)], records)
    (record,) = groups._records.values()
    assert record.trend is not None
    assert record.trend.new == new

"""A group that cannot be pooled is its own problem."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from adapter.collector.gateway import Rates
from adapter.controller.groups.demanded import Cycle
from adapter.controller.groups.keeper import GroupPlan, Groups
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.planning.groups import Ceiling
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
    return Cycle(sizing=sizing, sources={item.key: item for item in sources})


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

"""A group that cannot be pooled is its own problem."""

from __future__ import annotations

from typing import Any

from adapter.collector.gateway import Rates
from adapter.controller.groups.demanded import Cycle
from adapter.controller.groups.keeper import Groups
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import Sizing
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from tests.adapter.resources.model_groups.test_forming import source


def test_an_error_in_one_group_leaves_the_others() -> None:
    """Its variants are planned by their own loads in this cycle; nothing is raised."""
    sources = [source(f"{namespace}/{name}") for namespace in "ab" for name in "xy"]
    inputs = Inputs(variants=tuple(sources), groups=forming.form(sources).groups)
    groups = Groups()
    groups.apply_inputs(inputs, LoopSettings())
    sizing = Sizing(
        settings=LoopSettings(), rates=Rates(), parts={}, costs={}, gateway_demand={},
        to_wake=frozenset(), now=0.0,
    )  # fmt: skip
    cycle = Cycle(sizing=sizing, sources={item.key: item for item in sources})
    broken: dict[str, Any] = dict.fromkeys(("a/x", "a/y"), object())
    group_plan = groups.plan({}, broken, cycle)
    assert group_plan.planned.keys() == {"b/m@c"}

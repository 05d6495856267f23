"""A group that cannot be pooled is its own problem."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from adapter.collector.gateway import Rates
from adapter.collector.observation import Observation
from adapter.controller.groups import planned
from adapter.controller.groups.demanded import NO_TRAFFIC, Cycle
from adapter.controller.groups.keeper import Groups
from adapter.controller.groups.state import GroupRecord
from adapter.controller.settings import LoopSettings
from adapter.controller.sizing import SizedVariant, Sizing
from adapter.controller.state import VariantRecord, VariantState
from adapter.planning import fleet
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from adapter.resources.variant import VariantSource
from analyzer import forecast
from tests.adapter.resources.model_groups.test_forming import source


def cycle_of(sources: Sequence[VariantSource]) -> Cycle:
    """A reconcile cycle with the default settings."""
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
    cycle = cycle_of(sources)
    broken: dict[str, Any] = dict.fromkeys(("a/x", "a/y"), object())
    group_plan = groups.plan({}, broken, cycle)
    assert group_plan.planned.keys() == {"b/m@c"}


def test_load_that_moves_between_variants_is_no_burst() -> None:
    """A group's arrivals vary as those of all its pods together do, however much each variant's do."""
    sources = [source(f"a/{name}") for name in "xy"]
    (group,) = forming.form(sources).groups
    trend = None
    chance = random.Random(7)  # noqa: S311 - repeatable noise
    for cycle_number in range(60):
        rate = 10.0 + chance.gauss(0.0, math.sqrt(10.0 / 30.0))
        trend = forecast.update(trend, rate, at=30.0 * cycle_number)
    traffic = replace(NO_TRAFFIC, arrival_rate_rps=5.0, input_tokens=100.0, output_tokens=100.0)
    bursts = fleet.Load(
        arrival_rate_rps=5.0, input_tokens=100.0, output_tokens=100.0, dispersion=6.0
    )
    sized = {
        item.key: SizedVariant(
            observation=Observation(traffic=traffic),
            variant=fleet.Variant(
                name=item.key,
                model="m",
                service_class="c",
                profiles=(),
                load=bursts,
                current=fleet.CurrentAllocation(accelerator="", replicas=1),
            ),
        )
        for item in sources
    }
    planned_group = planned.plan_group(
        GroupRecord(trend=trend),
        group,
        sized,
        {item.key: VariantRecord(state=VariantState(source=item)) for item in sources},
        cycle_of(sources),
    )
    assert planned_group.group is not None
    assert planned_group.group.traffic.dispersion < 1.5

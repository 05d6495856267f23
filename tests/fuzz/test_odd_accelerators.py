"""Variants whose accelerators, devices or classes are none that there are: others have what they had."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiohttp
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter.collector.collector import CollectionSettings, Collector
from adapter.controller import stabilization
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as plans
from adapter.planning.groups import Budget
from adapter.resources.inputs import Inputs
from adapter.resources.model_groups import forming
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore
from analyzer.latency import LatencyParameters
from tests.adapter.resources.model_groups.test_forming import source
from tests.fakes.virtual_time import ManualClock

NAMES = ("", "a", "b", "nowhere", "9999xa@1", "*")
BUDGETS = (
    Budget(name="all", scope="installation", devices_by_type={"a": 8, "gone": 1}),
    Budget(name="each", scope="namespace", subject="*", devices=8),
    Budget(name="classes", scope="class", subject="*", cost=100.0),
)
"""Ceilings of every kind."""

names = st.sampled_from(NAMES)
numbers = st.sampled_from([0, 1, 7, 10**9])


def profile(accelerator: str) -> fleet.Profile:
    latency = LatencyParameters(alpha_ms=8.0, beta_ms=0.1, gamma_ms=5.0, delta_ms=0.01)
    return fleet.Profile(accelerator=accelerator, latency=latency, max_batch=8)


@st.composite
def odd(draw: st.DrawFn, number: int) -> VariantSource:
    """A variant of another tenant, each of whose values may be none that there is."""
    own = fleet.Accelerator(name=draw(names), device_type=draw(names), unit_cost=1.0)
    return replace(
        source(f"{draw(st.sampled_from(['t', 'm']))}/odd{number}"),
        model=draw(names),
        service_class=draw(names),
        accelerator=draw(names),
        profiles=tuple(map(profile, draw(st.sets(names, max_size=2)))),
        own_accelerator=own if draw(st.booleans()) else None,
        narrowed={draw(names): draw(names)},
        device=draw(names),
        held=draw(st.sampled_from(["", "its row is gone"])),
        replicas=draw(numbers),
        spec_replicas=draw(numbers),
        existing=draw(st.sampled_from([None, 0, 3])),
        min_replicas=draw(st.sampled_from([None, 0, 10**6])),
        gpus=draw(st.sampled_from([None, 0, 8])),
        interruptible=draw(st.booleans()),
    )


def inputs(*variants: VariantSource) -> Inputs:
    rows = tuple(fleet.Accelerator(name=name, device_type=name, unit_cost=1.0) for name in "ab")
    own = tuple(item.own_accelerator for item in variants if item.own_accelerator is not None)
    level = {"m": fleet.Targets(itl_ms=24.0)}
    return Inputs(
        accelerators=(*rows, *own),
        service_classes=(fleet.ServiceClass(name="c", priority=1, targets=level),),
        variants=variants,
        groups=forming.form(variants).groups,
        capacity={"a": 8, "part": 4},
        within={"part": ("a",)},
    )


async def cycles(known: Inputs) -> tuple[int, dict[str, tuple[object, ...]]]:
    """Cycles that failed in two of them, and what was decided of each variant."""
    clock = ManualClock()

    async def planned(snapshot: fleet.Fleet) -> plans.Plan:
        return plans.plan(snapshot)

    async with aiohttp.ClientSession() as session:
        loop = ControlLoop(
            collector=Collector(session=session, clock=clock, settings=CollectionSettings()),
            store=TargetStore(), clock=clock, planner=planned,
            settings=LoopSettings(budgets=BUDGETS),
        )  # fmt: skip
        loop.apply_inputs(known)
        for _ in range(2):
            await loop.scrape()
            await loop.reconcile()
        return loop.failures, {
            key: (item.desired, item.outcome, item.problem) for key, item in loop.states.items()
        }


HONEST = replace(
    source("m/v"), accelerator="a", profiles=(profile("a"),), narrowed={"a": "part"}, existing=1
)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_odd_accelerators_fail_no_cycle(data: st.DataObject) -> None:
    """A held variant with an accelerator that nobody knows ended every cycle under `limited`."""
    others = [data.draw(odd(number)) for number in range(data.draw(st.integers(1, 4)))]
    known, alone = inputs(HONEST, *others), inputs(HONEST)
    failures, decided = asyncio.run(cycles(known))
    assert failures == 0
    assert decided[HONEST.key] == asyncio.run(cycles(alone))[1][HONEST.key]
    # Those without a pod hold nothing.
    gone = [replace(item, existing=0) for item in others]
    assert stabilization.free_capacity(known, gone) == known.capacity

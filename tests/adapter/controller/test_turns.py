"""Work on all variants leaves everything else its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from adapter.collector.collector import Collector
from adapter.collector.model_servers import PodMetrics
from adapter.controller import reconciler, status_writer
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.controller.status_writer import StatusWriter
from adapter.kube.client import Cluster
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs, InvalidVariant
from adapter.resources.variant import VariantSource
from adapter.store import Series, TargetStore
from analyzer.latency import LatencyParameters
from tests.fakes.virtual_time import ManualClock

MANY = 300

pytestmark = pytest.mark.virtual_time


async def test_statuses_of_many_variants_are_built_a_few_at_a_time() -> None:
    """Between two turns of the event loop at most as many statuses as are written at a time."""
    turns, built = [0], []

    def watched(key: str) -> Mapping[str, Any] | None:
        built.append((turns[0], key))
        return None  # it is gone, so that nothing is awaited

    async def turn() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    writer = StatusWriter(
        object.__new__(Cluster),
        identity="a",
        watched=watched,
        leads=lambda: True,
        refresh_seconds=60.0,
    )
    turning = asyncio.create_task(turn())
    refused = [
        InvalidVariant(
            namespace="team-a", name=f"v{n}", reason="InvalidConfiguration", message="no model"
        )
        for n in range(MANY)
    ]
    await writer.write({}, tuple(refused))
    turning.cancel()
    assert len(built) == MANY
    per_turn = [sum(at == number for at, _ in built) for number in range(turns[0] + 1)]
    assert max(per_turn) <= status_writer.CONCURRENCY


class Turns(TargetStore):
    """Counts the variants of which something new is published, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.published: list[int] = []
        self.order: list[str] = []
        self._last: dict[str, tuple[Series, ...]] = {}

    def _replace(self, groups: Mapping[str, tuple[Series, ...]]) -> bool:
        self.published.append(sum(self._last.get(key) != items for key, items in groups.items()))
        self.order += [key for key, items in groups.items() if self._last.get(key) != items]
        self._last.update(groups)
        return super()._replace(groups)


async def test_targets_of_many_variants_are_published_a_few_at_a_time() -> None:
    """A cycle that decides for all of them never encodes more than `PUBLISHED_AT_ONCE` in one turn.

    The one variant of a namespace whose name comes last is among the first.
    """
    targets = fleet.Targets(itl_ms=50.0, ttft_ms=500.0)
    profile = fleet.Profile(
        accelerator="A100", max_batch=8,
        latency=LatencyParameters(alpha_ms=20.0, beta_ms=0.4, gamma_ms=5.0, delta_ms=0.01),
    )  # fmt: skip
    sources = tuple(
        VariantSource(
            namespace="n" if number else "z", name=f"v{number}", model="m", service_class="c",
            profiles=(profile,), targets=targets, accelerator="A100", replicas=1, spec_replicas=1,
            endpoints=(f"sim://{number}",), pods_known=True,
        )
        for number in reversed(range(MANY))
    )  # fmt: skip

    async def plan(snapshot: fleet.Fleet) -> planning.Plan:
        return planning.plan(snapshot)

    settings, clock, store = LoopSettings(), ManualClock(), Turns()
    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=clock, settings=settings.collection)
        loop = ControlLoop(
            collector=collector, store=store, clock=clock, planner=plan, settings=settings
        )
        loop.apply_inputs(
            Inputs(
                accelerators=(fleet.Accelerator(name="A100", device_type="A100", unit_cost=40),),
                service_classes=(fleet.ServiceClass(name="c", priority=1, targets={"m": targets}),),
                variants=sources,
            )
        )
        for done in (100, 115):
            for source in sources:
                page = PodMetrics(
                    finished=done, running=1.0, waiting=0.0, prompt_tokens=(128.0 * done, done),
                    generation_tokens=(178.0 * done, done), ttft=(0.1 * done, done),
                    itl=(4.0 * done, 177 * done),
                )  # fmt: skip
                collector.add(
                    source.key, source.endpoints[0], page, now=clock.monotonic(), source="direct"
                )
            loop.record_scrape()
            clock.at += 15.0
        await loop.reconcile()
    assert sum(store.published) >= MANY
    assert max(store.published) <= reconciler.PUBLISHED_AT_ONCE
    served = store.answer("n", "wva_desired_replicas", None, now=clock.time())
    assert len(served) == MANY - 1
    assert store.order.index("z/v0") < reconciler.PUBLISHED_AT_ONCE

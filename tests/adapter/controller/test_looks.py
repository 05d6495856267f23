"""Looks at some variants between two scrape cycles, in virtual time."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.collector.pod_scraper import LOOK_SECONDS
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources.inputs import Inputs
from adapter.resources.variant import VariantSource
from adapter.store import TargetStore

pytestmark = pytest.mark.virtual_time

PAGE = """vllm:num_requests_running{model_name="m"} 0
vllm:num_requests_waiting{model_name="m"} 0
vllm:request_success_total{model_name="m"} 5
"""

CROWD = 16
"""Variants with one slow pod each: enough that some are scraped near the end of the spread."""


class LoopClock(Clock):
    """The event loop's time."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def plan(snapshot: fleet.Fleet) -> planning.Plan:
    return planning.plan(snapshot)


def source(namespace: str, name: str, endpoint: str) -> VariantSource:
    return VariantSource(
        namespace=namespace, name=name, model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(itl_ms=24.0), endpoints=(endpoint,), replicas=1,
    )  # fmt: skip


async def test_what_pods_answer_late_is_recorded_before_the_next_scrape_cycle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Busy servers answer late, and it is their rises that must be seen."""
    late, seen = 3 * LOOK_SECONDS, []

    async def page(_: web.Request) -> web.Response:
        await asyncio.sleep(late)
        return web.Response(text=PAGE)

    def record(_: ControlLoop, *, between: bool = False) -> None:
        seen.append((asyncio.get_running_loop().time() - began, between))

    monkeypatch.setattr(ControlLoop, "record_scrape", record)
    monkeypatch.setattr(ControlLoop, "watched", ("good/v",))
    app = web.Application()
    app.router.add_get("/good", page)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        clock, settings = LoopClock(), LoopSettings()
        loop = ControlLoop(
            collector=Collector(session=session, clock=clock, settings=settings.collection),
            store=TargetStore(), clock=clock, planner=plan, settings=settings,
        )  # fmt: skip
        loop.apply_inputs(Inputs(variants=(source("good", "v", str(server.make_url("/good"))),)))
        began = asyncio.get_running_loop().time()
        running = asyncio.create_task(loop.run())
        await asyncio.sleep(settings.collection.interval)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        loop.collector.close()
    recorded_at = [at for at, between in seen if between]
    assert len(recorded_at) >= 2
    assert recorded_at[-1] - recorded_at[-2] == pytest.approx(late - LOOK_SECONDS, abs=0.5)


async def test_slow_pods_take_no_look_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape cycle waits for them; the pods of others are looked at meanwhile."""
    asked: list[float] = []

    async def page(request: web.Request) -> web.Response:
        if request.path == "/good":
            asked.append(asyncio.get_running_loop().time())
        else:
            await asyncio.sleep(1000)
        return web.Response(text=PAGE)

    app = web.Application()
    app.router.add_get("/{pod}", page)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        clock, settings = LoopClock(), LoopSettings()
        loop = ControlLoop(
            collector=Collector(session=session, clock=clock, settings=settings.collection),
            store=TargetStore(), clock=clock, planner=plan, settings=settings,
        )  # fmt: skip
        crowd = [source("bad", f"b{number}", f"{url}/b{number}") for number in range(CROWD)]
        variants = (*crowd, source("good", "v", f"{url}/good"))
        loop.apply_inputs(Inputs(variants=variants))
        monkeypatch.setattr(ControlLoop, "watched", tuple(item.key for item in variants))
        running = asyncio.create_task(loop.run())
        await asyncio.sleep(6 * settings.collection.interval)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        loop.collector.close()
    longest = max(later - at for at, later in pairwise(asked))
    assert (
        longest <= settings.collection.interval - settings.collection.busy_interval + LOOK_SECONDS
    )

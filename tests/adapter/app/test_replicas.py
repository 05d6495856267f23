"""Several replicas of the adapter: one decides, all serve, and what breaks in between loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from adapter.app.endpoints import Endpoints
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

HOURLY = replace(worlds.LOOP, interval=36_000.0)


class Fault:
    """What the API server answers every request with, and which it answered so; None: as it should."""

    def __init__(self, code: int | None) -> None:
        self._code = code
        self._paths: list[str] = []

    def __call__(self, _method: str, path: str) -> int | None:
        self._paths.append(path)
        return self._code

    def hit(self, *plurals: str) -> bool:
        """Whether all of these collections were asked for."""
        return all(any(path.endswith(plural) for path in self._paths) for plural in plurals)


def there(endpoints: Endpoints, key: str) -> Callable[[], bool]:
    """Whether a variant is known by now."""
    return lambda: key in endpoints.loop.states


async def test_a_target_that_grows_old_is_confirmed_for_the_followers(tmp_path: Path) -> None:
    """The time of the decision is renewed within the time to live, though nothing else changed."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        short = replace(worlds.LOOP, time_to_live=90.0)  # 9 s of the loop, so every 3
        async with world.replica("a", loop=short):
            await until(lambda: world.desired() == 2)
            first = world.status()["desiredOptimizedAlloc"]["lastRunTime"]
            await until(lambda: world.status()["desiredOptimizedAlloc"]["lastRunTime"] != first)


async def test_one_decides_and_all_serve(tmp_path: Path) -> None:
    """Only the holder of the lease writes; the other serves what the status holds, and shows no variants."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (a, _), world.replica("b") as (b, _):
            await until(lambda: world.desired() == 2)
            await until(lambda: b.loop.states["team-a/v"].desired == 2)
            await until(world.ca_bundle)
            assert await world.metric(a) == await world.metric(b) == ["2"]
            assert (a.loop.leading, b.loop.leading) == (True, False)
            writers = {who for who, _, _ in world.api.writes("variantautoscalings")}
            assert writers == {"a"}
            async with aiohttp.ClientSession() as session:
                pages = []
                for endpoints in (a, b):
                    async with session.get(f"{endpoints.metrics_url}/metrics") as response:
                        pages.append(await response.text())
            wanted = "inferno_desired_replicas{"
            assert wanted in pages[0]
            assert wanted not in pages[1]
            assert "variant_adapter_leading 1.0" in pages[0]
            assert "variant_adapter_leading 0.0" in pages[1]


async def test_a_leader_that_ends_is_followed_at_once(tmp_path: Path) -> None:
    """The lease is given back at the end: the other leads before it would have run out, and decides."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
            await first.enter_async_context(world.replica("a"))
            await until(lambda: world.desired() == 2)
            b, _ = await second.enter_async_context(world.replica("b"))
            began = asyncio.get_running_loop().time()
            await first.aclose()
            await until(lambda: b.loop.leading)
            assert asyncio.get_running_loop().time() - began < worlds.LEASE.duration
            world.load["v"] = 120.0
            await until(lambda: (world.desired() or 0) >= 4)


async def test_a_leader_that_is_cut_off_stops_before_another_leads(tmp_path: Path) -> None:
    """Without the API server the leader stops deciding; its last targets are served on by both."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with world.replica("a") as (a, way), world.replica("b") as (b, _):
            await until(lambda: world.desired() == 2)
            await until(world.ca_bundle)
            both = []

            async def watch() -> None:
                while True:
                    both.append(a.loop.leading and b.loop.leading)
                    await asyncio.sleep(0.005)

            watching = asyncio.create_task(watch())
            way.isolate()
            await until(lambda: b.loop.leading)
            watching.cancel()
            assert not any(both)
            assert a.loop.states["team-a/v"].desired == 2
            assert await world.metric(b) == ["2"]
            way.cut = False
            await until(lambda: not a.loop.leading and b.loop.leading)
            world.load["v"] = 120.0
            await until(lambda: (a.loop.states["team-a/v"].desired or 0) >= 4)


async def test_what_a_cluster_does_to_watches(tmp_path: Path) -> None:
    """Ended watches, compacted history, throttling and an outage lose nothing, and targets stay served."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 45.0
        async with world.replica("a", loop=HOURLY, interval=HOURLY.interval) as (endpoints, way):
            await until(lambda: endpoints.loop.states.get("team-a/v"))
            # A variant that appears while the watches are broken is found once they work again.
            for number, code in enumerate((None, 429, 503)):
                fault = Fault(code)
                way.answer = fault
                way.end_watches()
                name = f"more-{number}"
                world.api.put(APPS, "deployments", worlds.workload(name, 1))
                world.api.put(VARIANTS, "variantautoscalings", worlds.variant(name))
                world.api.compact()
                if code is not None:
                    # Both collections were asked for again, in vain.
                    await until(partial(fault.hit, "variantautoscalings", "deployments"))
                    assert f"team-a/{name}" not in endpoints.loop.states
                    assert "team-a/v" in endpoints.loop.states
                way.answer = Fault(None)
                await until(there(endpoints, f"team-a/{name}"))
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", "more-0")
            await until(lambda: "team-a/more-0" not in endpoints.loop.states)
            assert world.api.bookmarks > 0

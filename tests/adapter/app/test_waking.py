"""From a request at a gateway to the patch of a scale target at zero, and what must hold on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from adapter.resources.watched.scope import Scope
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import APPS, World, until
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

PROMISED_SECONDS = 0.5
REAL: dict[str, Any] = {"gateway_seconds": worlds.SPEED, "wake_seconds": 0.15 * worlds.SPEED}
"""The program's 1 s and 0.15 s, in the scenario seconds of the world's clock."""

PATIENT = replace(worlds.LOOP, retention=60.0)
COLLECTION = replace(worlds.LOOP.collection, interval=600.0)
SLOW = replace(worlds.LOOP, interval=600.0, collection=COLLECTION)


def at_zero(world: World, *names: str) -> None:
    """Variants whose Deployments are at zero, with scale to zero."""
    worlds.scale_to_zero(world)
    for name in names:
        if name != "v":
            world.deploy(name, 0)
        world.api.put(APPS, "deployments", worlds.workload(name, 0))


def replicas(world: World, name: str = "v") -> int:
    return int(world.api.get(APPS, "deployments", "team-a", name)["spec"]["replicas"])


async def test_a_request_starts_a_replica_within_half_a_second(tmp_path: Path) -> None:
    """At any moment of the cycle, though the next cycle is an hour away, and the followers know before."""
    async with worlds.running(tmp_path, actuate=True) as world:
        at_zero(world, "v")
        gateways = (("", world.gateway),)
        loop = asyncio.get_running_loop()
        async with (
            world.replica("a", loop=PATIENT, gateways=gateways, **REAL) as (a, _),
            world.replica("b", loop=PATIENT, gateways=gateways, **REAL) as (b, _),
        ):
            await until(lambda: world.desired() == 0)
            await until(lambda: {r.loop.live.served("team-a/v") for r in (a, b)} == {0})
            for pause in (0.0, 0.037, 0.11):
                await asyncio.sleep(3.0 + pause)
                world.waiting = 1
                asked_at = loop.time()
                served = {-1}
                while replicas(world) == 0:
                    served = {r.loop.live.served("team-a/v") or 0 for r in (a, b)}
                    await asyncio.sleep(0.002)
                assert loop.time() - asked_at <= PROMISED_SECONDS
                assert 0 not in served
                world.waiting = 0
                await asyncio.sleep(2.0)  # the gateway is read once a second again
                assert (world.desired(), replicas(world)) == (1, 1)
                world.api.put(APPS, "deployments", worlds.workload("v", 0))
                # Idle again: the status says zero before the next request.
                await until(lambda: world.desired() == 0)
                await until(lambda: {r.loop.live.served("team-a/v") for r in (a, b)} == {0})


async def test_nothing_waits_for_another_where_the_api_is_slow(tmp_path: Path) -> None:
    """With 50 ms an answer still within half a second.

    The consent is read while the followers learn the target; Events, which only people read, come last.
    """
    async with worlds.running(tmp_path, actuate=True) as world:
        at_zero(world, "v")
        gateways = (("", world.gateway),)
        loop = asyncio.get_running_loop()
        async with world.replica("a", loop=SLOW, gateways=gateways, **REAL) as (a, entrance):
            await until(lambda: world.desired() == 0)
            await asyncio.sleep(3.0)
            entrance.slow = 0.05
            before = len(world.api.requests)
            world.waiting, asked_at = 1, loop.time()
            while replicas(world) == 0:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.002)
            assert loop.time() - asked_at <= PROMISED_SECONDS
            paths = [path for _, _, path in world.api.requests[before:]]
            assert not [path for path in paths if path.endswith("/events")]
            await until(
                lambda: [r for r in world.api.requests[before:] if r[2].endswith("/events")]
            )
            assert a.loop.live.served("team-a/v") == 1


async def test_a_request_that_is_gone_at_the_next_scrape_still_wakes(tmp_path: Path) -> None:
    """A gateway that turns requests away shows them once, between two scrapes."""
    async with worlds.running(tmp_path, actuate=True) as world:
        at_zero(world, "v")
        async with world.replica("a", gateways=(("", world.gateway),), **REAL) as (endpoints, _):
            await until(lambda: endpoints.loop.live.served("team-a/v") == 0)
            world.waiting = 1
            await until(lambda: endpoints.loop.waking.variants)
            world.waiting = 0
            await until(lambda: replicas(world) == 1)


async def test_a_gateway_that_does_not_answer_delays_no_other(tmp_path: Path) -> None:
    """Each is read on its own."""

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        raise web.HTTPServiceUnavailable

    async with worlds.running(tmp_path, actuate=True) as world:
        at_zero(world, "v")
        pages = worlds.Pages(world.clock)
        async with pages.served(gateway=world._gateway, hang=hang):
            gateways = [
                ("", f"http://127.0.0.1:{pages.port}/{name}") for name in ("hang", "gateway")
            ]
            async with world.replica("a", gateways=tuple(gateways), **REAL) as (endpoints, _):
                await until(lambda: endpoints.loop.live.served("team-a/v") == 0)
                world.waiting = 1
                await until(lambda: replicas(world) == 1)


async def test_gateways_are_read_quickly_for_variants_at_zero_only(tmp_path: Path) -> None:
    """Once a second with replicas, seven times as often without."""
    async with worlds.running(tmp_path, actuate=True) as world:
        read: list[float] = []
        loop = asyncio.get_running_loop()
        answer = world._gateway

        async def counted(request: web.Request) -> web.Response:
            read.append(loop.time())
            return await answer(request)

        world.load["v"] = 20.0
        counting = worlds.Pages(world.clock)
        async with counting.served(gateway=counted):
            gateways = (("", f"http://127.0.0.1:{counting.port}/gateway"),)
            async with world.replica("a", gateways=gateways, **REAL) as (endpoints, _):
                await until(lambda: endpoints.loop.live.served("team-a/v") == 1)
                read.clear()
                await asyncio.sleep(3.0)
                assert 2 <= len(read) <= 4
                world.load["v"] = 0.0
                world.api.put(APPS, "deployments", worlds.workload("v", 0))
                await until(lambda: endpoints.loop.waking.sleeps(""))
                await asyncio.sleep(1.0)
                read.clear()
                await asyncio.sleep(3.0)
                assert 15 <= len(read) <= 21


async def test_a_variant_without_free_devices_is_not_woken(tmp_path: Path) -> None:
    """Nothing is promised ahead of the cycle, which decides who gets the devices."""
    async with worlds.running(tmp_path, actuate=True, limited=True) as world:
        at_zero(world, "v")
        scope = Scope(config_namespace=worlds.SYSTEM, limited=True)
        gateways = (("", world.gateway),)
        async with world.replica("a", scope=scope, gateways=gateways, **REAL) as (endpoints, _):
            await until(lambda: endpoints.loop.cycles >= 2)
            world.waiting = 1
            cycles = endpoints.loop.cycles
            await until(lambda: endpoints.loop.cycles >= cycles + 2)
            assert replicas(world) == 0
            assert endpoints.loop.live.wake({"team-a/v"}) == {}


async def test_what_needs_no_metrics_is_told_within_five_seconds(tmp_path: Path) -> None:
    """The first cycle is far away: a refusal and a new variant have conditions, a decision is not touched."""
    rules = kubernetes_api.applied_rules(actuate=False, limited=False)
    async with worlds.running(tmp_path, rules=rules) as world:
        at_zero(world, "new")
        world.deploy("bad", 1, modelID="nobody/lists-it")
        item = world.variant()
        condition = {
            "type": "MetricsAvailable",
            "status": "True",
            "reason": "MetricsFound",
            "message": "as the leader before saw it",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        kept = {"conditions": [condition]}
        world.api.put(VARIANTS, "variantautoscalings", {**item, "status": kept})
        loop = asyncio.get_running_loop()
        async with world.replica("a", loop=SLOW, interval=SLOW.interval) as (endpoints, _):
            await until(lambda: endpoints.loop.leading)
            led_at = loop.time()
            await until(lambda: world.condition("OptimizationReady", "bad")[1])
            await until(lambda: world.condition("TargetResolved", "new")[0])
            assert loop.time() - led_at <= 5.0
            assert world.condition("OptimizationReady", "bad")[1] == "InvalidConfiguration"
            assert world.condition("TargetResolved", "new")[:2] == ("True", "TargetFound")
            assert endpoints.loop.cycles == 0
            assert world.status() == kept

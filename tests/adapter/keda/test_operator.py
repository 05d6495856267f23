"""KEDA's operator against the program: its calls in its order, over TLS, at good and bad times."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from adapter.app.endpoints import Endpoints
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import APPS, World, until
from tests.fakes.keda_operator import Certificates, Operator, ScaledObject
from tests.fakes.kubernetes_objects import VARIANTS

pytestmark = pytest.mark.virtual_time

QUICK = replace(worlds.LOOP, retention=10.0)
HOURLY = replace(worlds.LOOP, interval=36_000.0)


def deployment(world: World, name: str = "v") -> ScaledObject:
    """The ScaledObject of a Deployment of the world."""

    def scale(replicas: int) -> None:
        item = world.api.get(APPS, "deployments", "team-a", name)
        if item["spec"]["replicas"] != replicas:
            item["spec"]["replicas"] = replicas
            world.api.put(APPS, "deployments", item)

    def replicas() -> int:
        return int(world.api.get(APPS, "deployments", "team-a", name)["spec"]["replicas"])

    return ScaledObject(replicas=replicas, scale=scale)


@contextlib.asynccontextmanager
async def operator(
    world: World, endpoints: Endpoints, certificates: Certificates
) -> AsyncIterator[Operator]:
    """The operator with the replica of the adapter that its connection has reached."""
    async with certificates.channel(endpoints.keda_address) as stub:
        keda = Operator(stub, deployment(world))
        pushing = asyncio.create_task(keda.push())
        try:
            yield keda
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)


async def polled(keda: Operator, wanted: str = "") -> None:
    """Poll until that is the outcome."""
    while await keda.poll() != wanted:  # noqa: ASYNC110 - polling is what KEDA does
        await asyncio.sleep(0.05)


async def test_the_hpa_is_made_before_the_first_cycle_and_follows_the_target(
    tmp_path: Path,
) -> None:
    """Specs at once, no value and no push before there is a decision, then the decided replicas."""
    certificates = Certificates(tmp_path / "keda")
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with (
            world.replica("a", loop=HOURLY, interval=None, keda=certificates.options()) as (a, _),
            operator(world, a, certificates) as keda,
        ):
            keda.scaled.fallback = 3
            await keda.reconcile()
            assert keda.metric == "variant-adapter-desired-replicas"
            assert [await keda.poll() for _ in range(3)] == ["UNAVAILABLE"] * 3
            assert keda.scaled.log == ["fallback"]
            assert keda.pushed == []
            await until(lambda: world.desired() == 2)
            await until(lambda: a.loop.live.served("team-a/v") == 2)
            assert await keda.poll() == ""
            assert keda.scaled.replicas() == 2
            await until(lambda: keda.pushed == [True])


async def test_a_change_of_leaders_is_not_noticed(tmp_path: Path) -> None:
    """A follower answers as the leader does, while that ends, and when it leads itself."""
    certificates = Certificates(tmp_path / "keda")
    options = certificates.options()
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        async with contextlib.AsyncExitStack() as first:
            await first.enter_async_context(world.replica("a", keda=options))
            await until(lambda: world.desired() == 2)
            async with (
                world.replica("b", keda=options) as (b, _),
                operator(world, b, certificates) as keda,
            ):
                await keda.reconcile()
                await polled(keda)
                assert not b.loop.leading
                assert keda.scaled.replicas() == 2
                ending = asyncio.create_task(first.aclose())
                codes = set()
                while not (ending.done() and b.loop.leading and b.loop.cycles >= 2):
                    codes.add(await keda.poll())
                    await asyncio.sleep(0.02)
                await ending
                assert codes == {""}
                assert keda.scaled.log == []
                assert keda.pushed == [True]


async def test_a_withdrawn_target_is_an_error_and_no_order_to_stop(tmp_path: Path) -> None:
    """Silent pods end in an error once the time to live is over; a deleted variant is not found."""
    certificates = Certificates(tmp_path / "keda")
    short = replace(QUICK, time_to_live=15.0)
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 20.0
        async with (
            world.replica("a", loop=short, keda=certificates.options()) as (a, _),
            operator(world, a, certificates) as keda,
        ):
            await keda.reconcile()
            await until(lambda: world.desired() == 1)
            await polled(keda)
            world.pages.finished.clear()
            await polled(keda, "UNAVAILABLE")
            assert keda.scaled.replicas() == 1
            world.api.remove(VARIANTS, "variantautoscalings", "team-a", "v")
            await polled(keda, "NOT_FOUND")
            assert keda.scaled.replicas() == 1
            assert keda.scaled.log == []
            assert keda.pushed == [True]
            await keda.reconcile()


@pytest.mark.parametrize("leads", [True, False])
async def test_zero_after_proven_idleness_and_back_by_a_request(
    tmp_path: Path, *, leads: bool
) -> None:
    """Idle for its retention it goes to zero by polling; a request at the gateway pushes it back at once."""
    certificates = Certificates(tmp_path / "keda")
    options = certificates.options()
    async with worlds.running(tmp_path) as world, contextlib.AsyncExitStack() as stack:
        gateways = (("", world.gateway),)

        async def replica(name: str) -> Endpoints:
            made = world.replica(name, loop=QUICK, keda=options, gateways=gateways)
            return (await stack.enter_async_context(made))[0]

        endpoints = await replica("a")
        worlds.scale_to_zero(world)
        await until(lambda: world.desired() == 0)
        if not leads:
            endpoints = await replica("b")
        async with operator(world, endpoints, certificates) as keda:
            await keda.reconcile()
            await polled(keda)
            assert keda.scaled.log == ["to zero"]
            await until(lambda: endpoints.loop.states["team-a/v"].source.spec_replicas == 0)
            await until(lambda: keda.pushed == [False])
            world.waiting = 3
            await until(lambda: keda.scaled.replicas() == 1)
            assert keda.scaled.log == ["to zero", "pushed from zero"]
            assert endpoints.loop.leading is leads
            # Polling meanwhile does not send it back.
            assert await keda.poll() == ""
            assert keda.scaled.replicas() == 1

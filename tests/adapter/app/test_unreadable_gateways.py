"""An endpoint picker that cannot be read: the condition, doctor and explain say so, until it can be."""

from __future__ import annotations

import asyncio
import contextlib
import io
from pathlib import Path

import pytest
from aiohttp import web

from adapter import cli
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import World, until

GATEWAYS = "GatewaysReadable"


async def doctor(world: World) -> list[str]:
    """Lines of `doctor` about gateways."""
    admin = await world.site.entrance("admin", user="")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        await asyncio.to_thread(cli.main, ("doctor", "--kubeconfig", str(admin.kubeconfig)))
    return [line for line in out.getvalue().splitlines() if "gateway of" in line]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, "Authentication failed\n"), "HTTP status 401: it wants a token"),
        ((403, "Authorization denied\n"), "HTTP status 403: it wants a token"),
        ((200, "vllm:num_requests_running 1\n"), "no metrics of an endpoint picker"),
    ],
)
async def test_a_gateway_that_cannot_be_read_is_named(
    tmp_path: Path, answer: tuple[int, str], said: str
) -> None:
    """By a condition of its own beside a target that goes on, and by doctor once for all variants."""
    async with worlds.running(tmp_path) as world:
        world.load["v"] = 60.0
        world.deploy("w", 1)
        readable = world._gateway
        refusing = True

        async def gateway(request: web.Request) -> web.Response:
            status, text = answer
            return web.Response(status=status, text=text) if refusing else await readable(request)

        world._gateway = gateway  # type: ignore[assignment,method-assign] # refuses for a while
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(world.pages.served(gateway=gateway))
            endpoints, _ = await stack.enter_async_context(
                world.replica("a", gateways=(("", world.gateway),))
            )
            await until(lambda: said in world.condition(GATEWAYS)[2])
            await until(lambda: said in world.condition(GATEWAYS, "w")[2])
            assert world.condition(GATEWAYS)[:2] == ("False", "GatewayUnreadable")
            await until(lambda: world.desired() == 2)
            (line,) = await doctor(world)
            assert line.startswith("ERROR    gateway of VariantAutoscaling team-a/v and 1 more: ")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                show = ("explain", "team-a/v", "--url", endpoints.metrics_url)
                await asyncio.to_thread(cli.main, show)
            assert said in out.getvalue()
            refusing = False
            await until(lambda: world.condition(GATEWAYS)[:2] == ("True", "GatewaysRead"))

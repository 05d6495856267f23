"""What waits at the gateway, by model, over several endpoint pickers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.gateway import Demand, Gateways
from adapter.controller.wake import waking
from adapter.planning import fleet
from adapter.resources import variant
from adapter.resources.inputs import Contents
from analyzer.latency import LatencyParameters

PAGE = """# TYPE inference_extension_flow_control_queue_size gauge
inference_extension_flow_control_queue_size{{model_name="a",target_model_name="a",priority="0"}} {waiting}
inference_extension_flow_control_queue_size{{model_name="a",target_model_name="a",priority="1"}} 2
# TYPE {counter} counter
{counter}_total{{model_name="a"}} {count}
{counter}_total{{model_name="b"}} 7
# TYPE process_cpu_seconds gauge
process_cpu_seconds 1
"""


class Picker:
    """A metrics page that changes."""

    def __init__(self, counter: str = "inference_objective_request") -> None:
        self.counter, self.waiting, self.count, self.broken = counter, 0, 0, False

    async def page(self, _: web.Request) -> web.Response:
        if self.broken:
            raise web.HTTPServiceUnavailable
        return web.Response(
            text=PAGE.format(counter=self.counter, waiting=self.waiting, count=self.count)
        )


@contextlib.asynccontextmanager
async def looking(*pickers: Picker) -> AsyncIterator[Gateways]:
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for picker in pickers:
            app = web.Application()
            app.router.add_get("/metrics", picker.page)
            server = await stack.enter_async_context(TestServer(app))
            urls.append(str(server.make_url("/metrics")))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Gateways(session, urls)


async def test_queues_add_up_and_counters_are_compared() -> None:
    """Over priorities and pickers; the first look knows no arrivals, and a restart counts from zero."""
    one, two = Picker(), Picker("inference_model_request")
    async with looking(one, two) as found:
        one.waiting, one.count = 3, 10
        first = await found.demand()
        assert first["", "a"] == Demand(waiting=7.0)
        assert not first.get(("", "b"), Demand()).any
        one.count, two.count = 14, 5
        assert (await found.demand())["", "a"] == Demand(waiting=7.0, arrived=9.0)
        one.count = 2
        assert (await found.demand())["", "a"].arrived == 2.0


async def test_a_picker_that_does_not_answer_says_nothing() -> None:
    """The others count on, and nobody is woken or put to sleep by it."""
    one, two = Picker(), Picker()
    async with looking(one, two) as found:
        one.broken = True
        assert (await found.demand())["", "a"].waiting == 2.0
        two.broken = True
        assert await found.demand() == {}


def source(name: str, accelerator: str, *, replicas: int = 0) -> variant.VariantSource:
    """A variant of model `a`."""
    profile = fleet.Profile(
        accelerator=accelerator,
        max_batch=4,
        latency=LatencyParameters(alpha_ms=10, beta_ms=1, gamma_ms=0, delta_ms=0),
    )
    return variant.VariantSource(
        namespace="n", name=name, model="a", service_class="c", profiles=(profile,),
        targets=fleet.Targets(), accelerator=accelerator, endpoints=(), replicas=replicas,
        wanted=replicas,
    )  # fmt: skip


def test_the_cheapest_variant_of_a_model_wakes() -> None:
    """One of those at zero, and none while another runs or nobody asks."""
    costs = tuple(
        fleet.Accelerator(name=name, device_type=name, unit_cost=cost)
        for name, cost in (("dear", 90.0), ("cheap", 20.0))
    )
    asleep = Contents(accelerators=costs, variants=(source("x", "dear"), source("y", "cheap")))
    assert waking(asleep, {("", "a"): Demand(waiting=1)}) == {"n/y"}
    assert waking(asleep, {("n", "a"): Demand(arrived=2)}) == {"n/y"}
    assert waking(asleep, {("", "a"): Demand(), ("", "b"): Demand(waiting=1)}) == frozenset()
    awake = Contents(
        accelerators=costs, variants=(source("x", "dear", replicas=1), source("y", "cheap"))
    )
    assert waking(awake, {("", "a"): Demand(waiting=1)}) == frozenset()

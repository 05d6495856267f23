"""Requests in flight and saturation of pools: read from pickers' pages, and used beside the pods' load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.gateway import Demand, Gateways, GatewayWindow
from adapter.collector.observation import Observation
from adapter.collector.pickers import applying
from adapter.collector.pickers.loads import InFlight, PoolLoad, PoolLoads, merged
from adapter.collector.promql import GatewayCount
from adapter.collector.traffic import Traffic
from adapter.controller.demand import GatewayDemand
from adapter.planning import fleet
from adapter.resources.variant import VariantSource

DATA = Path(__file__).parents[3] / "data" / "metrics"
PAGE = (DATA / "epp-0.11.prom").read_text()
SPACE, MODEL = "epp-0.11", "Qwen/Qwen3-8B"
SOURCE = VariantSource(
    namespace=SPACE,
    name="v",
    model=MODEL,
    service_class="Premium",
    profiles=(),
    targets=fleet.Targets(itl_ms=24),
    accelerator="H100",
    endpoints=("http://10.0.0.1:8000/metrics", "http://10.0.0.1:8001/metrics"),
    replicas=1,
    pods=("qwen3-0", "qwen3-0"),
)
BUSY = Observation(
    traffic=Traffic(
        arrival_rate_rps=1.0, input_tokens=100.0, output_tokens=50.0, ttft_ms=50.0, itl_ms=10.0,
        idle=False, idle_seconds=0.0, running=4.0, waiting=0.0,
    )
)  # fmt: skip


@asynccontextmanager
async def picker(pages: list[str], namespace: str = SPACE) -> AsyncIterator[Gateways]:
    """One picker that shows these pages, the last one for ever."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=pages.pop(0) if len(pages) > 1 else pages[0])

    app = web.Application()
    app.router.add_get("/metrics", page)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Gateways(session, ((namespace, str(server.make_url("/metrics"))),))


@pytest.mark.parametrize(
    "prefix",
    ["llm_d_epp", "kserve_llm_d_epp", "llm_d_router_epp", "inference_extension"],
)  # fmt: skip
async def test_in_flight_and_saturation_are_read(prefix: str) -> None:
    """Servers and priorities of a pod add up, producers do not; gone pods and others do not count."""
    async with picker([PAGE.replace("llm_d_epp", prefix)]) as gateways:
        await gateways.demand()
        load = gateways.load
    assert load.in_flight[SPACE, "qwen3-0"] == InFlight(13.0, 13300.0)
    assert load.at(SOURCE) == InFlight(13.0, 13300.0)
    assert {space for space, _ in load.in_flight} == {SPACE}
    assert load.saturation_of(SOURCE) == 1.08
    assert load.saturation_of(replace(SOURCE, role="prefill")) == 0.31
    assert load.saturation_of(replace(SOURCE, model="unheard-of")) is None


async def test_a_picker_that_fails_shows_nothing() -> None:
    """What it showed before is not kept."""
    async with picker([PAGE, "{"]) as gateways:
        await gateways.demand()
        assert gateways.load.in_flight
        await gateways.demand()
        assert not gateways.load.in_flight or gateways.load == PoolLoad()


def seen(requests: float = 0.0, tokens: float = 0.0, saturation: float | None = None) -> PoolLoad:
    """Of the one pod, and of the model's pool."""
    shown = {} if saturation is None else {(SPACE, MODEL): {"": saturation}}
    return PoolLoad(in_flight={(SPACE, "qwen3-0"): InFlight(requests, tokens)}, saturation=shown)


def test_what_is_in_flight_beyond_the_pods_is_waiting() -> None:
    """20 in flight where 4 run: what pods do not show waits; 6 may be the difference of two moments.

    A count that leaks is no queue without bound.
    """
    used = applying.applied(seen(20.0, 900.0), SOURCE, BUSY, queued=False)
    assert used.traffic is not None
    assert used.traffic.waiting == pytest.approx(20 - 4 - 3 * 2)
    assert used.gateway == "20 requests in flight (900 tokens)"
    leaked = applying.applied(seen(9000.0), SOURCE, BUSY, queued=False)
    assert leaked.traffic is not None
    assert leaked.traffic.waiting == 16.0
    near = applying.applied(seen(10.0), SOURCE, BUSY, queued=False)
    assert near.traffic is not None
    assert near.traffic.waiting == 0.0
    assert used.complete


def test_nothing_is_idle_with_requests_in_flight() -> None:
    """A variant that would go to zero by its pods alone stays."""
    assert BUSY.traffic is not None
    idle = replace(BUSY, traffic=replace(BUSY.traffic, idle=True, running=0.0, idle_seconds=999.0))
    for number, expected in ((0.0, True), (1.0, False)):
        used = applying.applied(seen(number), SOURCE, idle, queued=False)
        assert used.traffic is not None
        assert used.traffic.idle is expected


@pytest.mark.parametrize(
    ("saturation", "running", "queued", "part"),
    [
        (1.0, 4.0, False, True),
        (1.3, 0.0, True, True),
        (0.99, 4.0, True, False),
        (1.0, 0.0, False, False),
    ],
)
def test_a_saturated_pool_serves_a_part(
    saturation: float, running: float, *, queued: bool, part: bool
) -> None:
    """From 1 on the load is a lower bound, and says why; a pool without any work is no proof of more."""
    assert BUSY.traffic is not None
    busy = replace(BUSY, traffic=replace(BUSY.traffic, running=running))
    used = applying.applied(seen(saturation=saturation), SOURCE, busy, queued=queued)
    assert used.complete is not part
    assert ("holds requests back" in used.note) is part
    assert f"pool saturation {saturation:.2f}" in used.gateway


def test_counts_that_stand_still_have_leaked() -> None:
    """One that is the same for longer than the window does not count, where no request comes either."""
    assert BUSY.traffic is not None
    quiet = replace(
        BUSY, traffic=replace(BUSY.traffic, arrival_rate_rps=0.0, idle=True, running=0.0)
    )
    loads = PoolLoads(still_seconds=60)
    for at in (0.0, 30.0, 61.0):
        loads.use(merged([seen(5.0), PoolLoad(in_flight={(SPACE, "q"): InFlight(at)})]), now=at)
    load = loads.at(now=61.0)
    assert load.still == {(SPACE, "qwen3-0")}
    assert applying.applied(load, SOURCE, quiet, queued=False) == quiet
    assert applying.applied(load, SOURCE, BUSY, queued=False).gateway == "5 requests in flight"
    assert loads.at(now=200.0) == PoolLoad()


def test_scraped_pickers_count_before_prometheus() -> None:
    """And Prometheus where none is scraped."""
    demand = GatewayDemand(window_seconds=60)
    demand.record_load(seen(30.0), now=1.0)
    assert demand.applied(SOURCE, BUSY, now=1.0).gateway == "30 requests in flight"
    demand.set_scraped({}, now=1.0, load=seen(8.0))
    assert demand.applied(SOURCE, BUSY, now=1.0).gateway == "8 requests in flight"


def test_an_answer_that_is_used_again_is_no_time_without_requests() -> None:
    """While Prometheus takes long the last one stays: two requests a second came."""
    demand = GatewayDemand(window_seconds=60)
    for at in range(7):
        counts = (GatewayCount(namespace="", model="m", requests=20.0 * at, waiting=3.0),)
        demand.record_counts(counts, now=10.0 * at)
    for late in (70.0, 80.0):
        demand.record_counts(counts, now=late)
        assert demand.window.rates(now=late).rps == {("", "m"): pytest.approx(2.0)}
    assert demand.waiting["", "m"].waiting == 3.0


# What is turned away without a model.

FLOW = """llm_d_epp_request_total{{model_name="a"}} {a}
llm_d_epp_request_total{{model_name="b"}} {b}
llm_d_epp_flow_control_requests_total{{outcome="Dispatched",priority="0"}} {dispatched}
llm_d_epp_flow_control_requests_total{{outcome="RejectedCapacity",priority="0"}} {rejected}
"""


async def test_what_is_turned_away_without_a_model_is_divided() -> None:
    """As what was forwarded is: of 40 that were turned away 30 were for the model with three quarters."""
    pages = [FLOW.format(a=90 * m, b=30 * m, dispatched=120 * m, rejected=40 * m) for m in range(4)]
    window = GatewayWindow(window_seconds=180)
    async with picker(pages) as gateways:
        for minute in range(4):
            await gateways.demand(window, now=60.0 * minute)
    rates = window.rates(now=180.0).rps
    assert 60 * rates[SPACE, "a"] == pytest.approx(90 + 30)
    assert 60 * rates[SPACE, "b"] == pytest.approx(30 + 10)


def test_what_two_names_count_is_turned_away_once() -> None:
    """The newer name has all, the older one by model those of the queue."""
    window = GatewayWindow(window_seconds=180)
    for minute in range(4):
        of_model = GatewayCount(
            namespace="n", model="a", requests=40.0 * minute, rejected=10.0 * minute
        )
        whole = GatewayCount(namespace="n", model="", rejected=50.0 * minute)
        window.add("", [whole, of_model], now=60.0 * minute)
    assert 60 * window.rates(now=180.0).rps["n", "a"] == pytest.approx(90)


async def test_a_request_turned_away_wakes_the_only_model() -> None:
    """Without a model it can only be for the one that the picker knows."""
    text = (
        'llm_d_epp_request_total{{model_name="a"}} 5\n' + FLOW.partition("\n")[2].partition("\n")[2]
    )
    pages = [text.format(dispatched=5, rejected=number) for number in (3, 4)]
    async with picker(pages) as gateways:
        await gateways.demand()
        assert (await gateways.demand())[SPACE, "a"] == Demand(arrived=1.0)

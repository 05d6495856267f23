"""The query for further servers of pods that answer themselves: when it is made, and what it may cost."""

from __future__ import annotations

import dataclasses

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.prometheus import PrometheusOptions
from adapter.collector.windows import discovery
from adapter.collector.windows.discovery import Discovery
from tests.adapter.collector.test_servers_in_prometheus import VARIANT
from tests.fakes.prometheus_api import Server, vector
from tests.fakes.virtual_time import ManualClock

PAGE = "".join(
    f'{name}{{model_name="m"}} 1\n'
    for name in (
        "vllm:request_success_total",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
    )
)
POD = {"n/v": ["http://10.0.0.1:8000/metrics"]}


def times(seconds: int, *, undecided: bool = False, pods: int = 1) -> list[int]:
    """Seconds at which it is made in cycles of 5 s; one more pod every 20 s up to so many."""
    asking, made = Discovery(), []
    for now in range(0, seconds, 5):
        present = {**POD, "n/w": [f"http://10.0.1.{at}/" for at in range(min(now // 20, pods - 1))]}
        if asking.due(present, now=float(now)):
            made.append(now)
            asking.done(undecided=undecided)
    return made


def test_it_is_seldom() -> None:
    """Once pods are known, every five minutes; new ones are waited for, and looks in a row are few."""
    assert times(1000) == [60, 360, 660, 960]
    assert times(500, pods=10) == [60, 120, 180, 480]
    looks = [60, 75, 90, 105, 120]
    assert times(700, undecided=True) == [*looks, *(at + 360 for at in looks)]


async def collected(prometheus: Server) -> list[list[float]]:
    """Requests that wait at gateways, by cycle, while a pod answers and two such queries fall due."""
    clock, waiting = ManualClock(1000.0), []

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE)

    application = web.Application()
    application.router.add_get("/metrics", page)
    async with (
        TestServer(application) as pod,
        prometheus.running() as url,
        aiohttp.ClientSession() as session,
    ):
        settings = CollectionSettings(interval=10.0, window=40.0, source="auto")
        collector = Collector(session=session, clock=clock, settings=settings)
        collector.connect(PrometheusOptions(url=url))
        variant = dataclasses.replace(VARIANT, endpoints=(str(pod.make_url("/metrics")),))
        for _ in range(int((discovery.NEW_PODS_SECONDS + discovery.INTERVAL_SECONDS) / 10) + 1):
            clock.at += 10.0
            collector.use([variant])
            await collector.collect()
            waiting.append([item.waiting for item in collector.gateways])
        assert collector.fleet_queries == 2
        collector.close()
    return waiting


def gateways() -> dict[str, object]:
    """An answer with seven requests that wait at a gateway."""
    labels = {"namespace": "n", "model_name": "m"}
    return vector(*(({**labels, "quantity": name}, "7") for name in ("requests", "waiting")))


async def test_a_query_that_fails_takes_no_gateway_away() -> None:
    """A Prometheus may answer the small query for gateways, and not that for the whole fleet."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if '"started_at"' in str((await request.post())["query"]):
            return web.Response(status=422, text="query processing would load too many samples")
        return web.json_response(gateways())

    waiting = await collected(Server(answer))
    assert waiting == [[7.0]] * len(waiting)


async def test_it_is_one_query() -> None:
    """Those for buckets have three times as many series, and nobody would use their answers."""
    prometheus = Server(gateways())
    await collected(prometheus)
    assert sum('"started_at"' in body["query"] for body in prometheus.bodies) == 2
    assert not [body["query"] for body in prometheus.bodies if "_bucket" in body["query"]]

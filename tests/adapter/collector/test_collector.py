"""Collection from the pods: bounded, spread, patient with those that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from adapter.clock import Clock
from adapter.collector import pod_scraper
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.pod_scraper import PodScraper, ScrapeJob
from adapter.collector.prometheus import PrometheusOptions
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from adapter.settings.control import Source
from tests.fakes.prometheus_api import Server, vector
from tests.fakes.virtual_time import ManualClock

pytestmark = pytest.mark.virtual_time

PAGE = """vllm:num_requests_running{model_name="m"} 0
vllm:num_requests_waiting{model_name="m"} 0
vllm:request_success_total{model_name="m"} 5
"""


class Pods:
    """Metrics pages of many pods, which remembers who was asked when, and how many at once."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.down: set[str] = set()
        self.under_way = self.most = 0
        self.seconds = 0.0
        self.text = PAGE
        self.url = ""

    async def page(self, request: web.Request) -> web.Response:
        name = request.match_info["pod"]
        self.asked.append((name, asyncio.get_running_loop().time()))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        if name in self.down:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.text)

    def endpoint(self, name: str) -> str:
        return f"{self.url}/{name}"


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Pods, aiohttp.ClientSession]]:
    pods = Pods()
    app = web.Application()
    app.router.add_get("/{pod}", pods.page)
    connector = aiohttp.TCPConnector(limit=0)
    async with TestServer(app) as server, aiohttp.ClientSession(connector=connector) as session:
        pods.url = str(server.make_url("")).rstrip("/")
        yield pods, session


def source(*endpoints: str, name: str = "v", origin: Source | None = None) -> VariantSource:
    """A variant of model `m` with these endpoints."""
    return VariantSource(
        namespace="n", name=name, model="m", service_class="c", profiles=(), accelerator="",
        targets=fleet.Targets(), endpoints=endpoints, replicas=len(endpoints),
        metrics_source=origin,
    )  # fmt: skip


class LoopClock(Clock):
    """The event loop's time."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def collector(session: aiohttp.ClientSession, clock: Clock) -> Collector:
    return Collector(session=session, clock=clock, settings=CollectionSettings(interval=10.0))


async def test_scrapes_in_flight_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pods there are, no more scrapes than the limit are in flight."""
    monkeypatch.setattr(pod_scraper, "MAX_CONCURRENT", 7)
    async with serving() as (pods, session):
        pods.seconds = 0.02
        collecting = collector(session, LoopClock())
        collecting.use([source(*(pods.endpoint(f"p{i}") for i in range(40)))])
        await collecting.collect()
        assert len(pods.asked) == 40
        assert pods.most == 7


async def test_pods_that_the_budget_left_out_are_told() -> None:
    """Of a variant whose pods all hang, those that got no turn within its seconds say why."""
    async with serving() as (pods, session):
        pods.seconds = 1000.0
        scraper = PodScraper(session, LoopClock(), interval=10.0)
        jobs = [ScrapeJob("n/v", pods.endpoint(f"p{number}"), "m") for number in range(100)]
        with capture_logs() as logs:
            await scraper.scrape(jobs, unexpected)
            await asyncio.sleep(60)
        told = [
            job for job in jobs if scraper.error(job.key, job.endpoint).startswith("not scraped")
        ]
        assert 0 < len(told) < len(jobs)
        (warning,) = (line for line in logs if "budget" in line["event"])
        assert (warning["variant"], warning["pods"]) == ("n/v", len(told))


async def test_a_scrape_that_the_end_of_the_program_cuts_off_warns_of_no_budget() -> None:
    """A program that ends while a server is slow, as a demo whose servers stop, used up no budget."""
    async with serving() as (pods, session):
        pods.seconds = 1000.0
        scraper = PodScraper(session, LoopClock(), interval=10.0)
        job = ScrapeJob("n/v", pods.endpoint("p"), "m")
        with capture_logs() as logs:
            scraping = asyncio.create_task(scraper.scrape([job], unexpected))
            await asyncio.sleep(1)
            assert pods.under_way == 1
            scraper.close()
            await scraping
            await asyncio.sleep(60)
        assert logs == []
        assert scraper.error(job.key, job.endpoint) == ""


def unexpected(job: ScrapeJob, *_: object) -> None:
    raise AssertionError(job)


async def test_scrapes_are_spread_and_each_pod_has_its_moment() -> None:
    """Pods are not scraped all at once, and each at the same moment of every scrape cycle."""
    async with serving() as (pods, session):
        settings = CollectionSettings(interval=2.0, spread=0.5)
        collecting = Collector(session=session, clock=LoopClock(), settings=settings)
        collecting.use([source(*(pods.endpoint(f"p{i}") for i in range(20)))])
        cycles = []
        for _ in range(2):
            pods.asked.clear()
            began = asyncio.get_running_loop().time()
            await collecting.collect(spread=True)
            cycles.append({name: at - began for name, at in pods.asked})
        assert max(cycles[0].values()) - min(cycles[0].values()) > 0.5
        assert cycles[0] == pytest.approx(cycles[1], abs=1e-3)


async def test_failures_are_retried_with_exponential_back_off() -> None:
    """The back-off doubles, is capped at one minute, and ends with the first success."""
    async with serving() as (pods, session):
        clock = ManualClock()
        collecting = collector(session, clock)
        collecting.use([source(pods.endpoint("p"))])
        pods.down = {"p"}
        when = []
        for _ in range(31):
            clock.at += 10
            before = len(pods.asked)
            await collecting.collect()
            if len(pods.asked) > before:
                when.append(clock.at - 1000)
        assert when == [10, 20, 40, 80, 140, 200, 260]
        pods.down.clear()
        clock.at = 1320
        await collecting.collect()
        pods.asked.clear()
        for _ in range(3):
            clock.at += 10
            await collecting.collect()
        assert len(pods.asked) == 3


async def test_the_state_of_metrics_comes_with_its_reason() -> None:
    """Missing, then found, then stale, with the pod's own reason and the age of its metrics."""
    async with serving() as (pods, session):
        clock = ManualClock()
        collecting = collector(session, clock)
        variant = source(pods.endpoint("p"))
        collecting.use([variant])
        pods.down = {"p"}
        await collecting.collect()
        missing = collecting.observe(variant)
        assert missing.metrics == "MetricsMissing"
        assert "HTTP status 503" in missing.problem
        pods.down.clear()
        for _ in range(3):
            clock.at += 10
            await collecting.collect()
        observation = collecting.observe(variant)
        assert (observation.metrics, observation.problem, observation.origin) == (
            "MetricsFound",
            "",
            "direct",
        )
        pods.text = PAGE.replace("} 5", "} -1")
        clock.at += 30
        await collecting.collect()
        stale = collecting.observe(variant)
        assert stale.metrics == "MetricsStale"
        assert "finished is negative" in stale.problem
        assert stale.age_seconds == 30.0


async def test_how_old_is_too_old_is_a_setting() -> None:
    """Metrics older than that do not count, younger ones do."""
    async with serving() as (pods, session):
        clock = ManualClock()
        settings = CollectionSettings(interval=10.0, stale_after=100.0)
        collecting = Collector(session=session, clock=clock, settings=settings)
        variant = source(pods.endpoint("p"))
        collecting.use([variant])
        for _ in range(2):
            clock.at += 10
            await collecting.collect()
        clock.at += 40
        assert collecting.observe(replace(variant)).metrics == "MetricsFound"
        clock.at += 61
        assert collecting.observe(variant).metrics == "MetricsStale"


async def test_a_variant_that_wants_prometheus_without_one_says_so() -> None:
    """Its pods are not asked behind its back."""
    async with serving() as (pods, session):
        collecting = collector(session, ManualClock())
        variant = source(pods.endpoint("p"), origin="prometheus")
        collecting.use([variant])
        await collecting.collect()
        assert pods.asked == []
        assert "--prometheus or PROMETHEUS_BASE_URL" in collecting.observe(variant).problem


async def test_a_variant_at_zero_is_not_missing() -> None:
    """No replicas, no pods: nothing has to be heard."""
    async with serving() as (_, session):
        collecting = collector(session, ManualClock())
        asleep = source()
        collecting.use([asleep])
        await collecting.collect()
        assert collecting.observe(asleep).metrics == "MetricsFound"
        gone = replace(asleep, replicas=2)
        assert collecting.observe(gone).problem == "2 replicas, but no endpoints to scrape"


async def test_pods_are_read_when_they_are_due_while_prometheus_takes_long() -> None:
    """A reading of Prometheus goes on beside further scrape cycles, and counts when it is there."""
    release, queries = asyncio.Event(), 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal queries
        queries += 1
        await release.wait()
        labels = {"quantity": "requests", "model_name": "m"}
        return web.json_response(vector((labels, "7"), at=1.0))

    prometheus = Server(answer)
    async with serving() as (pods, session), prometheus.running() as url:
        collecting = collector(session, LoopClock())
        collecting.use([source(pods.endpoint("p"))])
        collecting.connect(PrometheusOptions(url=url, timeout_seconds=1000.0))
        loop = asyncio.get_running_loop()
        began = loop.time()
        for cycle in range(1, 4):
            await collecting.collect(spread=True)
            assert loop.time() - began <= 10.0 * cycle + 3.0
            assert len(pods.asked) == cycle
        assert (queries, collecting.gateways) == (1, ())
        release.set()
        await collecting.collect(spread=True)
        assert [count.requests for count in collecting.gateways] == [7.0]
        collecting.close()


async def test_gateways_in_prometheus_count_while_it_takes_long_for_the_rest() -> None:
    """They are read first, and the last answer counts while it is not too old."""
    fleet_answers, gateways_answer = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        query = str((await request.post()).get("query") or request.query.get("query"))
        of_gateways = "flow_control_queue_size" in query
        await (gateways_answer if of_gateways else fleet_answers).wait()
        labels = {"quantity": "waiting", "model_name": "m"}
        return web.json_response(vector((labels, "7"), at=1.0) if of_gateways else vector())

    prometheus = Server(answer)
    async with serving() as (_, session), prometheus.running() as url:
        collecting = collector(session, LoopClock())
        collecting.use([source("prometheus:p", origin="prometheus")])
        collecting.connect(PrometheusOptions(url=url, timeout_seconds=1000.0))

        async def waiting(cycles: int = 1) -> list[float]:
            for _ in range(cycles):
                began = asyncio.get_running_loop().time()
                await collecting.collect(spread=True)
                await asyncio.sleep(began + 10.0 - asyncio.get_running_loop().time())
            return [count.waiting for count in collecting.gateways]

        gateways_answer.set()
        assert await waiting() == [7.0]
        fleet_answers.set()
        await waiting(2)
        gateways_answer.clear()
        assert await waiting() == [7.0]
        assert await waiting(3) == []
        gateways_answer.set()
        assert await waiting(2) == [7.0]
        collecting.close()


async def test_what_a_former_prometheus_answers_late_counts_for_nothing() -> None:
    """Its reading ends with it, and the first scrape cycle with another one reads that."""
    release = asyncio.Event()

    def answering(value: str, *, late: bool) -> Server:
        async def answer(_: web.Request) -> web.Response:
            if late:
                await release.wait()
            return web.json_response(
                vector(({"quantity": "requests", "model_name": "m"}, value), at=1.0)
            )

        return Server(answer)

    former, present = answering("7", late=True), answering("9", late=False)
    async with serving() as (_, session), former.running() as url, present.running() as other:
        collecting = collector(session, LoopClock())
        collecting.connect(PrometheusOptions(url=url, timeout_seconds=1000.0))
        await collecting.collect(spread=True)
        collecting.connect(PrometheusOptions(url=other))
        release.set()
        await collecting.collect(spread=True)
        assert [count.requests for count in collecting.gateways] == [9.0]
        collecting.close()

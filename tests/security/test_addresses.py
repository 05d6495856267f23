"""What a tenant can make the adapter connect to, and what it learns from that: its own pods, and nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from adapter.apiserver import delegation
from adapter.app.prometheus import prometheus_options, trusted_settings
from adapter.clock import Clock
from adapter.collector import exposition, pod_scraper
from adapter.collector.gateway import Gateways
from adapter.collector.pod_scraper import PodScraper, ScrapeJob
from adapter.kube import labels
from adapter.resources import pods
from adapter.resources.annotations import Destinations
from adapter.resources.serving import pools
from adapter.resources.watched.scope import Scope
from adapter.settings.control import Prometheus
from adapter.settings.declaration import resolve
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import SYSTEM, World, until
from tests.fakes.kubernetes_objects import VARIANTS

SECRET = "token-of-somebody-else"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[str, list[str]]]:
    """A server of which nobody but its owner may know, and the paths that were requested."""
    requested: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        requested.append(request.path)
        return await handler(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), requested


def annotated(world: World, name: str, urls: str) -> None:
    """A variant whose annotation names addresses."""
    world.deploy(name, 1)
    item = world.variant(name)
    item["metadata"]["annotations"] = {"llmd.ai/metrics-endpoints": urls}
    world.api.put(VARIANTS, "variantautoscalings", item)


@pytest.mark.virtual_time
async def test_only_own_pods_are_scraped(tmp_path: Path) -> None:
    """Other addresses, and names that lead anywhere, are refused unless the operator allows them."""
    scope = Scope(config_namespace=SYSTEM, allowed_endpoints=("127.0.0.2/32",))
    async with worlds.running(tmp_path) as world:
        port = world.pages.port
        rows = {
            "other": f"http://127.0.0.3:{port}/pods/v-0",
            "named": f"http://localhost:{port}/pods/v-0",
            "metadata": "http://169.254.169.254/latest/meta-data",
            "number": f"http://2130706433:{port}/pods/v-0",
            "own": f"http://127.0.0.1:{port}/pods/own-0",
            "allowed": f"http://127.0.0.2:{port}/pods/allowed-0",
        }
        for name, url in rows.items():
            annotated(world, name, url)
        world.load |= {"own": 60.0, "allowed": 60.0}
        async with world.replica("a", scope=scope):
            await until(lambda: world.desired("own") == 2)
            for name in ("other", "named", "metadata", "number"):
                status, reason, message = world.condition("OptimizationReady", name)
                assert (status, reason) == ("False", "InvalidConfiguration"), name
                assert "llmd.ai/metrics-endpoints" in message
            assert world.condition("OptimizationReady", "allowed")[1] != "InvalidConfiguration"


@pytest.mark.parametrize(
    ("host", "included"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("metrics.example.com", True),
        ("METRICS.example.com.", True),
        ("example.com", False),
        ("metrics.example.com.evil.net", False),
        ("one.host", True),
        ("2001:db8::1", True),
        ("::ffff:10.1.2.3", False),
    ],
)
def test_destinations_of_the_operator(host: str, *, included: bool) -> None:
    """CIDRs match addresses, names match themselves, and `*.` what is below a domain."""
    allowed = Destinations(("10.0.0.0/8", "2001:db8::/32", "*.example.com", "one.host"))
    assert allowed.include(host) is included


@pytest.mark.parametrize(
    "notes",
    [
        {"prometheus.io/port": "80@evil.example"},
        {"prometheus.io/port": "0"},
        {"prometheus.io/port": "65536"},
        {"prometheus.io/port": "9" * 5000},
        {"prometheus.io/scheme": "file"},
        {"prometheus.io/scheme": "http://evil.example/?"},
        {"prometheus.io/path": "x\r\nHost: evil.example"},
        {"prometheus.io/path": "/" + "a" * 5000},
    ],
)
def test_annotations_of_pods_lead_to_the_pod(notes: dict[str, str]) -> None:
    """The address is the pod's, the port a number, the scheme http or https; what is odd is named."""
    pod = pods.trimmed(
        {
            "metadata": {"name": "p", "namespace": "n", "annotations": notes},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"podIP": "10.0.0.1"},
        }
    )
    assert pod["url"] == "http://10.0.0.1:8000/metrics"
    assert next(iter(notes)) in pod["problem"]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
@pytest.mark.parametrize("ready", ["True", "False"])
def test_an_address_that_a_pod_gave_back_is_not_its_own(phase: str, ready: str) -> None:
    """A pod that has ended still shows the address that may be another namespace's pod's by now."""
    selector = labels.selector_of({"matchLabels": {"app": "v"}})
    ended = pods.trimmed(
        {
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "v"}},
            "spec": {"containers": [{"name": "c"}]},
            "status": {
                "phase": phase,
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }
    )
    by_label = pods.ByLabel([ended])
    serving = by_label.serving("n", selector)
    assert (serving.addresses, serving.endpoints, serving.existing) == (frozenset(), (), 1)
    picked = pools.Picked("n", pools.Pool(selector, "picker"), selector)
    assert pools.endpoints([picked], by_label, {"n": [{"app": "v"}]}) == ()


@pytest.mark.parametrize("status", [301, 302, 307, 308, 200, 403, 500])
async def test_neither_redirects_nor_bodies_come_back(status: int) -> None:
    """No redirect is followed, and no error quotes what a server said."""

    async def inner(_: web.Request) -> web.Response:
        return web.Response(text=SECRET)

    async with serving(inner) as (goal, requested):

        async def outer(_: web.Request) -> web.Response:
            headers = {"Location": f"{goal}/{SECRET}"} if 300 <= status < 400 else {}
            text = f'vllm:num_requests_running{{model_name="{SECRET}"}} {SECRET}'
            return web.Response(text=text, status=status, headers=headers, reason=SECRET)

        async with serving(outer) as (url, _), aiohttp.ClientSession() as session:
            with pytest.raises(exposition.ScrapeError) as caught:
                await exposition.fetch(session, url, "m")
            assert SECRET not in str(caught.value)
            assert await Gateways(session, [("", url)]).demand() == {}
        assert requested == []


async def test_what_is_no_http_is_not_quoted() -> None:
    """An address that answers in another protocol is told by its kind of fault."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"SSH-2.0-{SECRET}\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession() as session:
            with pytest.raises(exposition.ScrapeError, match="not HTTP, or broke off") as caught:
                await exposition.fetch(session, f"http://127.0.0.1:{port}/", "m")
    assert SECRET not in str(caught.value)


@pytest.mark.virtual_time
async def test_cookies_of_servers_are_not_kept(tmp_path: Path) -> None:
    """What one server sets is neither stored nor sent: to no other server of its name, nor back."""
    sent: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        sent.append(request.headers.get("Cookie", ""))
        response = web.Response(status=503)
        response.headers.add("Set-Cookie", f"{SECRET}={len(sent)}; Path=/")
        return response

    scope = Scope(config_namespace=SYSTEM, allowed_endpoints=("localhost",))
    async with serving(handle) as (url, _), worlds.running(tmp_path) as world:
        port = URL(url).port
        annotated(world, "one", f"http://localhost:{port}/one,http://localhost:{port}/two")
        async with world.replica("a", scope=scope):
            await until(lambda: len(sent) >= 6)
    assert set(sent) == {""}


GOOD = (
    'vllm:num_requests_running{model_name="m"} 1\nvllm:num_requests_waiting{model_name="m"} 0\n'
    'vllm:request_success_total{model_name="m"} 7\n'
)


async def test_slow_pods_do_not_hold_up_others() -> None:
    """2,000 pods of one variant that never answer: another variant's pod is read all the same, twice."""
    done = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.path.startswith("/slow"):
            await done.wait()
        return web.Response(text=GOOD)

    read: asyncio.Queue[str] = asyncio.Queue()
    async with serving(handle) as (url, _):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            scraper = PodScraper(session, Clock(), interval=1.0)
            jobs = [ScrapeJob("n/slow", f"{url}/slow{n}", "m") for n in range(2000)]
            jobs.append(ScrapeJob("n/v", f"{url}/v", "m"))
            cycles = []
            for _ in range(2):
                cycle = scraper.scrape(jobs, lambda job, _, __: read.put_nowait(job.key))
                cycles.append(asyncio.create_task(cycle))
                assert await read.get() == "n/v"
                await asyncio.sleep(0)
            assert not cycles[0].done()
            scraper.close()
            done.set()
            await asyncio.gather(*cycles)


async def test_slow_pods_of_many_variants_do_not_hold_up_another_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They take all that may be scraped at once; what gets free goes to the namespace that has least."""
    monkeypatch.setattr(pod_scraper, "MAX_CONCURRENT", 4)
    finish = asyncio.Semaphore(0)
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def handle(request: web.Request) -> web.Response:
        begun.put_nowait(request.path)
        if request.path != "/v":
            await finish.acquire()
        return web.Response(text=GOOD)

    async with serving(handle) as (url, _), aiohttp.ClientSession() as session:
        scraper = PodScraper(session, Clock(), interval=1.0)
        jobs = [ScrapeJob(f"bad/{n}", f"{url}/slow{n}", "m") for n in range(64)]
        jobs.append(ScrapeJob("good/v", f"{url}/v", "m"))
        cycle = asyncio.create_task(scraper.scrape(jobs, lambda *_: None))
        for _ in range(4):
            assert "slow" in await begun.get()
        finish.release()
        assert await begun.get() == "/v"
        for _ in jobs:
            finish.release()
        await cycle
        assert scraper.scrapes == len(jobs)


async def test_a_variant_has_a_budget_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages beyond it are not read in this round; those that were left out come first in the next."""
    monkeypatch.setattr(pod_scraper, "VARIANT_BYTES", 3 * len(GOOD))
    monkeypatch.setattr(pod_scraper, "VARIANT_CONCURRENT", 1)

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=GOOD)

    read: list[str] = []
    async with serving(handle) as (url, _), aiohttp.ClientSession() as session:
        scraper = PodScraper(session, Clock(), interval=1.0)
        jobs = [ScrapeJob("n/v", f"{url}/{n}", "m") for n in range(5)]
        await scraper.scrape(jobs, lambda job, _, __: read.append(job.endpoint))
        assert len(read) == 3
        left = [job.endpoint for job in jobs if scraper.error("n/v", job.endpoint)]
        assert "MiB" in scraper.error("n/v", left[0])
        await scraper.scrape(jobs, lambda job, _, __: read.append(job.endpoint))
        assert set(left) <= set(read[3:])


async def test_a_page_ends_at_its_limit() -> None:
    """However much a pod sends, compressed or not, no more than the limit is read."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"# nothing\n" * 10_000)
        return response

    async def packed(_: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

    async with aiohttp.ClientSession() as session:
        async with serving(endless) as (url, _):
            with pytest.raises(exposition.ScrapeError, match="more than 4 MiB"):
                await exposition.fetch(session, url, "m")
        async with serving(packed) as (url, _):
            with pytest.raises(exposition.ScrapeError, match="compressed"):
                await exposition.fetch(session, url, "m")


TOKEN = {"PROMETHEUS_BEARER_TOKEN": SECRET}


@pytest.mark.parametrize(
    ("environment", "config", "why"),
    [
        ({"PROMETHEUS_BASE_URL": "https://p"}, TOKEN, ""),
        ({"PROMETHEUS_BASE_URL": "https://p", **TOKEN}, {}, ""),
        ({"PROMETHEUS_BASE_URL": "https://p", **TOKEN}, {"PROMETHEUS_BASE_URL": "https://p/x"}, ""),
        (TOKEN, {"PROMETHEUS_BASE_URL": "https://evil"}, "only the ConfigMap names this host"),
        (
            {"PROMETHEUS_BASE_URL": "https://p", **TOKEN},
            {"PROMETHEUS_BASE_URL": "https://p:444"},
            "only the ConfigMap names this host",
        ),
        ({}, {"PROMETHEUS_BASE_URL": "https://evil", **TOKEN}, "only the ConfigMap"),
        ({"PROMETHEUS_BASE_URL": "http://p", **TOKEN}, {}, "not https://"),
        (
            {"PROMETHEUS_BASE_URL": "https://p", **TOKEN},
            {"PROMETHEUS_TLS_INSECURE_SKIP_VERIFY": "true"},
            "certificate is not verified",
        ),
        (
            {"PROMETHEUS_BASE_URL": "https://p", **TOKEN},
            {"PROMETHEUS_SERVER_NAME": "evil"},
            "which name the certificate has",
        ),
        (
            {"PROMETHEUS_BASE_URL": "https://p", "PROMETHEUS_CA_CERT_PATH": "/ca", **TOKEN},
            {"PROMETHEUS_CA_CERT_PATH": "/evil"},
            "which authority signs the certificate",
        ),
        (
            {"PROMETHEUS_BASE_URL": "https://p", "PROMETHEUS_CA_CERT_PATH": "/ca", **TOKEN},
            {"PROMETHEUS_CA_CERT_PATH": "/ca"},
            "",
        ),
    ],
)
def test_the_token_goes_where_the_operator_sends_it(
    environment: dict[str, str], config: dict[str, str], why: str
) -> None:
    """To the host that flags or the environment name, over https; else it is withheld, with the reason."""
    secrets = [("Authorization", SECRET)]
    if (
        why != "not https://"
    ):  # an operator's own host without TLS gets what no name says to be a key
        secrets += [("X-Auth-Token", SECRET), ("apikey", SECRET)]
    flags = {"prometheus_header": [*secrets, ("X-Scope-OrgID", "team")]}
    settings = resolve(Prometheus, flags, config=config, environment=environment)
    options = prometheus_options(settings, trusted_settings(flags, environment))
    assert options is not None
    sent = options.request_headers()
    assert sent["X-Scope-OrgID"] == "team"
    if why:
        assert SECRET not in str(sent)
        assert why in options.withheld
        assert why in str(options.status_error(401))
    else:
        assert sent["Authorization"] == f"Bearer {SECRET}"
        assert sent["apikey"] == SECRET
        assert options.withheld == ""


def test_the_delegate_is_not_quoted() -> None:
    """What another adapter answers in another protocol, or no JSON, is told by its kind of fault."""
    url = URL("https://other")
    request = aiohttp.RequestInfo(url, "GET", CIMultiDictProxy(CIMultiDict()), url)
    broken = aiohttp.ClientResponseError(request, (), message=f"Bad status line {SECRET!r}")
    for error in (broken, json.JSONDecodeError("Expecting value", SECRET, 0)):
        assert SECRET not in delegation._why(error)
    with pytest.raises(UnicodeDecodeError) as caught:
        json.loads(b'"\xc3')
    assert delegation._why(caught.value) == "the answer is not UTF-8, at byte 1"

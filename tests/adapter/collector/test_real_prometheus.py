"""Load as a real Prometheus has it: the same as the pods say, whatever happens to either.

One Prometheus serves the module, because it takes up targets only seconds after they are told. What it is to
scrape is therefore told at the start: emulated servers on ports of theirs, and pages of this module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from adapter.clock import Clock
from adapter.collector import exposition, promql
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.model_servers import Page
from adapter.collector.observation import Observation
from adapter.collector.prometheus import Prometheus, PrometheusOptions
from adapter.collector.traffic import Traffic
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from adapter.settings.control import Source
from emulator.load import LoadGenerator, parse_schedule
from tests.fakes import prometheus_server
from tests.fakes.prometheus_server import PrometheusServer, Target, free_port

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.skipif(
        prometheus_server.binary() is None,
        reason=prometheus_server.MISSING,
    ),
]

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data/metrics"
RECORDED = json.loads((DATA / "expected.json").read_text())
PRIORITIES = "sglang-0.5.23.prom"
"""Of a server that also shows its stocks for each priority: no recorded page does."""
GATEWAYS = {"epp": DATA / "epp.prom", "epp-llm-d": DATA / "epp-llm-d.prom"}


def recorded(name: str) -> str:
    """A page; priorities are parts of what the line without one says."""
    text = (DATA / name).read_text()
    if name == PRIORITIES:
        stocks = re.compile(r"^(sglang:num_(?:running|queue)_reqs{[^}]*)} (\d+)\.0$", re.MULTILINE)
        text = stocks.sub(r'\g<0>\n\1,priority="0"} 1.0\n\1,priority="7"} 2.0', text)
        assert text.count(',priority="7"') == 2
    return text


SPEED = 10.0
"""Scenario seconds per second, of emulators and collectors alike; Prometheus has seconds only."""
SCRAPE_MS = 500
INTERVAL, WINDOW, LONG = 5.0, 60.0, 180.0
"""Of collectors, in scenario seconds: as often as Prometheus scrapes."""
BACKFILL, GATEWAY, FLEET = 6, 1, 1
"""Queries."""

MODEL, TEAM = "m", "team"
STEADY_RPS = 2.0
SPARES = tuple(f"spare-{index}" for index in range(20))
EMULATED = ("a-0", "a-1", "b-0", "full-0", "again-0", "again-1", "ends-0")


def steady(model: str, *, timestamp: str = "") -> Callable[[], str]:
    """A page of a server that gets STEADY_RPS, each request with 30 and 20 tokens."""
    began = time.monotonic()

    def page() -> str:
        done = int((time.monotonic() - began) * SPEED * STEADY_RPS)
        values = {
            "num_requests_running": 1,
            "num_requests_waiting": 0,
            "request_success_total": done,
            "request_prompt_tokens_sum": 30 * done,
            "request_prompt_tokens_count": done,
            "request_generation_tokens_sum": 20 * done,
            "request_generation_tokens_count": done,
            "time_to_first_token_seconds_sum": 0.2 * (done + 1),
            "time_to_first_token_seconds_count": done + 1,
            "inter_token_latency_seconds_sum": 0.05 * 19 * done,
            "inter_token_latency_seconds_count": 19 * done,
        }
        return "".join(
            f'vllm:{name}{{model_name="{model}",engine="0"}} {value}{timestamp}\n'
            for name, value in values.items()
        )

    return page


@dataclass
class Pages:
    """Pages under `/NAME` of several addresses; a closed one is an error for whoever asks."""

    addresses: list[str] = field(default_factory=list)
    pages: dict[str, Callable[[], str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    async def get(self, request: web.Request) -> web.Response:
        """One page."""
        name = request.match_info["name"]
        if name in self.closed or name not in self.pages:
            raise web.HTTPServiceUnavailable
        return web.Response(text=self.pages[name](), content_type="text/plain")

    def url(self, name: str, *, door: int = 0) -> str:
        return f"http://{self.addresses[door]}/{name}"


@dataclass
class World:
    """What the module's tests share; `small` is a Prometheus that knows the page `only` and no other."""

    prometheus: PrometheusServer
    small: PrometheusServer
    pages: Pages
    targets: list[Target]
    ports: Mapping[str, int]
    folder: Path

    def url(self, pod: str) -> str:
        return f"http://127.0.0.1:{self.ports[pod]}"

    async def scraped(self, *pods: str) -> None:
        """Wait until Prometheus has these."""
        await self.prometheus.scraped([item for item in self.targets if item.pod in pods])

    @contextlib.asynccontextmanager
    async def emulated(self, pod: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """An emulated server on that pod's port; it may end before the context does."""
        port_file = self.folder / f"{pod}-{time.monotonic_ns()}.port"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "emulator.vllm", "--model", MODEL, "--speed", str(SPEED),
            "--port", str(self.ports[pod]), "--port-file", str(port_file), *flags,
            cwd=ROOT, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                while not port_file.exists():
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[Prometheus]:
        """Its Prometheus as we ask it."""
        asked = Prometheus(PrometheusOptions(url=self.prometheus.url))
        try:
            yield asked
        finally:
            asked.close()

    async def sampled(self) -> dict[str, promql.Sampled]:
        """What Prometheus says of each pod now."""
        async with self.asking() as asked:
            found = promql.pods((await asked.query(promql.fleet())).items)
        return {item.pod: item for item in found}

    @contextlib.asynccontextmanager
    async def collecting(
        self,
        variants: Sequence[VariantSource],
        *sources: Source,
        window: float = WINDOW,
        stale_after: float = 0.0,
        timeout_seconds: float = 10.0,
        prometheus: PrometheusServer | None = None,
    ) -> AsyncIterator[list[Collector]]:
        """A collector for each source; all know those variants."""
        settings = CollectionSettings(
            interval=INTERVAL, window=window, long_window=LONG, stale_after=stale_after
        )
        url = (prometheus or self.prometheus).url
        options = PrometheusOptions(url=url, timeout_seconds=timeout_seconds)
        async with aiohttp.ClientSession() as session:
            collectors = []
            for source in sources:
                collector = Collector(
                    session=session,
                    clock=Clock(speed=SPEED),
                    settings=dataclasses.replace(settings, source=source),
                )
                if source != "direct":
                    collector.connect(options)
                collector.use(variants)
                collectors.append(collector)
            try:
                yield collectors
            finally:
                for collector in collectors:
                    collector.close()


def variant(
    name: str,
    pods: Mapping[str, str],
    *,
    model: str = MODEL,
    namespace: str = TEAM,
) -> VariantSource:
    """One that has these pods: their names and URLs."""
    return VariantSource(
        namespace=namespace,
        name=name,
        model=model,
        service_class="Premium",
        profiles=(),
        targets=fleet.Targets(itl_ms=24),
        accelerator="A100",
        endpoints=tuple(pods.values()),
        pods=tuple(pods),
        pods_known=bool(pods),
        replicas=len(pods) or 1,
    )


def load(
    world: World, pods: Sequence[str], rpm: float, seconds: float, **more: int
) -> LoadGenerator:
    tokens = {"input_tokens": 30, "output_tokens": 20, **more}
    return LoadGenerator(
        model=MODEL,
        phases=parse_schedule(json.dumps([[seconds, rpm]])),
        input_tokens=tokens["input_tokens"],
        output_tokens=tokens["output_tokens"],
        speed=SPEED,
        endpoints=lambda: [world.url(pod) for pod in pods],
    )


def traffic(observation: Observation) -> Traffic:
    assert observation.traffic is not None, observation
    return observation.traffic


async def rounds(seconds: float) -> AsyncIterator[float]:
    """Scenario seconds since the first round, one round an interval."""
    began = time.monotonic()
    number = 0
    while number * INTERVAL <= seconds:
        yield number * INTERVAL
        number += 1
        await asyncio.sleep(max(began + number * INTERVAL / SPEED - time.monotonic(), 0))


async def until(
    collectors: Iterable[Collector], true: Callable[[], bool], *, seconds: float = 20.0
) -> None:
    """Collect until it is so; real seconds."""
    collectors = list(collectors)
    async with asyncio.timeout(seconds):
        while True:
            await asyncio.gather(*(collector.collect() for collector in collectors))
            if true():
                return
            await asyncio.sleep(INTERVAL / SPEED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A Prometheus, and all that it scrapes."""
    pages = Pages()
    app = web.Application()
    app.router.add_get("/{name}", pages.get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for _ in range(3):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    pages.addresses = [f"127.0.0.1:{address[1]}" for address in runner.addresses]
    ports = {pod: free_port() for pod in EMULATED}
    targets = [
        Target(address=f"127.0.0.1:{port}", namespace=TEAM, pod=pod) for pod, port in ports.items()
    ]

    def paged(name: str, page: Callable[[], str], **labels: str) -> None:
        pages.pages[name] = page
        labels = {"namespace": TEAM, "pod": name, **labels}
        targets.append(Target(address=pages.addresses[0], path=f"/{name}", **labels))

    for name in RECORDED:
        paged(name, functools.partial(recorded, name))
    for name, path in GATEWAYS.items():
        paged(name, path.read_text, namespace=name)
    for name in (*SPARES, "twice", "leaves"):
        paged(name, steady(MODEL))
    targets.append(dataclasses.replace(targets[-2], job="another"))
    paged("nameless", steady("nameless"), namespace="")
    pages.pages["bare"] = steady("bare")
    targets.append(Target(address=pages.addresses[1], path="/bare"))
    pages.pages["unknown"] = steady("unknown")
    targets.append(Target(address=pages.addresses[2], path="/unknown"))
    paged("old", steady("old", timestamp=f" {int(time.time() * 1000)}"))
    pages.pages["only"] = steady(MODEL)
    only = Target(address=pages.addresses[0], namespace=TEAM, pod="only", path="/only")
    folder = tmp_path_factory.mktemp("ports")
    try:
        async with (
            prometheus_server.running(targets, interval_ms=SCRAPE_MS) as prometheus,
            prometheus_server.running([only], interval_ms=SCRAPE_MS) as small,
        ):
            yield World(prometheus, small, pages, targets, ports, folder)
    finally:
        await runner.cleanup()


@dataclass
class Scene:
    """What was seen while three emulated servers were under load and a fourth under too much.

    Attributes:
        seen: per round its scenario seconds, and per variant what direct and Prometheus gave.
        between: per look and pod the page before the query, that of Prometheus, and the page after.
        finished: of the fourth server, requests per minute.

    """

    variants: dict[str, VariantSource]
    idle: dict[str, list[Traffic]] = field(default_factory=dict)
    seen: list[tuple[float, dict[str, list[Observation]]]] = field(default_factory=list)
    between: list[tuple[str, Page, Page, Page]] = field(default_factory=list)
    late: dict[str, Observation] = field(default_factory=dict)
    quiet: list[tuple[str, Page, Page]] = field(default_factory=list)
    finished: float = 0.0

    def after_a_window(self, name: str) -> list[list[Traffic]]:
        """Of one variant, per round of the load after the first window."""
        return [
            [traffic(item) for item in found[name]] for at, found in self.seen if at > WINDOW + 5
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(world: World) -> Scene:
    """Two variants of one model in one namespace, and one whose server finishes 60 a minute."""
    a, b, full = ("a-0", "a-1"), ("b-0",), ("full-0",)
    variants = {
        name: variant(name, {pod: f"{world.url(pod)}/metrics" for pod in pods})
        for name, pods in (("a", a), ("b", b), ("full", full))
    }
    found = Scene(variants)
    times = ("--alpha=90", "--beta=2", "--gamma=50", "--delta=0.5", "--max-batch=16")
    # Four requests at 20 tokens after the first: 20 * (180 + 4 * 5) ms = 4 s.
    slow = ("--alpha=180", "--beta=5", "--max-batch=4")
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(
            *(stack.enter_async_context(world.emulated(pod, *times)) for pod in (*a, *b)),
            *(stack.enter_async_context(world.emulated(pod, *slow)) for pod in full),
        )
        await world.scraped(*a, *b, *full)
        await _look_at_idle_servers(world, found)
        seconds = WINDOW + 40
        loads = [
            load(world, a, 60, seconds),
            load(world, a, 90, seconds, input_tokens=60, output_tokens=40),
            load(world, b, 60, seconds),
            load(world, full, 120, seconds, output_tokens=21),
        ]
        tasks = [asyncio.create_task(item.run()) for item in loads]
        await _look_at_busy_servers(world, found, seconds)
        # What waits there would take as long again.
        tasks[-1].cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(2.5 * SCRAPE_MS / 1000)
        pages, through = await _direct_pages(world), await world.sampled()
        for pod, page in pages.items():
            other = through[pod].page
            assert other is not None
            found.quiet.append((pod, page, other))
        assert [item.failed for item in loads] == [0, 0, 0, 0]
    return found


async def _direct_pages(world: World) -> dict[str, Page]:
    async with aiohttp.ClientSession() as session:
        pods = ("a-0", "a-1", "b-0", "full-0")
        pages = [exposition.fetch(session, f"{world.url(pod)}/metrics", MODEL) for pod in pods]
        return dict(zip(pods, await asyncio.gather(*pages), strict=True))


async def _look_at_idle_servers(world: World, found: Scene) -> None:
    sources = list(found.variants.values())
    async with world.collecting(sources, "direct", "prometheus", window=10) as collectors:
        async for _ in rounds(20):
            await asyncio.gather(*(collector.collect() for collector in collectors))
        found.idle = {
            name: [traffic(collector.observe(source)) for collector in collectors]
            for name, source in found.variants.items()
        }


async def _look_at_busy_servers(world: World, found: Scene, seconds: float) -> None:
    sources = list(found.variants.values())
    async with world.collecting(sources, "direct", "prometheus") as collectors:
        started = None
        async for at in rounds(seconds - INTERVAL):
            await asyncio.gather(*(collector.collect() for collector in collectors))
            found.seen.append(
                (
                    at,
                    {
                        name: [collector.observe(source) for collector in collectors]
                        for name, source in found.variants.items()
                    },
                )
            )
            if at % 20 == 0:
                before = await _direct_pages(world)
                through = await world.sampled()
                after = await _direct_pages(world)
                for pod, page in before.items():
                    sampled = through[pod].page
                    assert sampled is not None
                    found.between.append((pod, page, sampled, after[pod]))
            if at == WINDOW:
                started = time.monotonic(), after_finished(await _direct_pages(world))
        assert started is not None
        spent = (time.monotonic() - started[0]) * SPEED / 60
        found.finished = (after_finished(await _direct_pages(world)) - started[1]) / spent
        async with world.collecting(sources, "prometheus") as (late,):
            await late.collect()
            found.late = {name: late.observe(item) for name, item in found.variants.items()}


def after_finished(pages: Mapping[str, Page]) -> float:
    return pages["full-0"].finished


COUNTERS = ("prompt_tokens", "generation_tokens", "ttft", "itl")


def counters(page: Page) -> list[float]:
    return [page.finished, *(value for name in COUNTERS for value in getattr(page, name))]


async def test_prometheus_lags_the_pods_and_nothing_else(scene: Scene) -> None:
    """Under load each counter by Prometheus lies between what the pod itself said before and after."""
    assert len(scene.between) >= 12
    grown = 0
    for pod, before, sampled, after in scene.between:
        # Prometheus may have asked an interval before we did: its page is no newer than ours after.
        assert all(
            one <= other + 1e-9
            for one, other in zip(counters(sampled), counters(after), strict=True)
        ), pod
        grown += counters(after) > counters(before)
    assert grown > 0
    looks = [item for item in scene.between if item[0] == "a-0"]
    for (_, earlier, _, _), (_, _, sampled, _) in itertools.pairwise(looks):
        assert all(
            one <= other + 1e-9
            for one, other in zip(counters(earlier), counters(sampled), strict=True)
        )


async def test_pages_at_rest_are_equal(scene: Scene) -> None:
    """Once nothing changes, every field of every pod's page is the same from both sources, to the bit."""
    assert len(scene.quiet) == 4
    for pod, page, other in scene.quiet:
        assert page == other, pod
        assert page.finished > 10, pod


@pytest.mark.parametrize(
    ("quantity", "share"),
    [
        # One scrape of twelve in the window may be in one and not in the other.
        ("arrival_rate_rps", 0.05),
        ("input_tokens", 0.05),
        ("output_tokens", 0.05),
        ("ttft_ms", 0.1),
        ("itl_ms", 0.02),
        # Looks at different moments, half an interval apart at the mean; over all rounds.
        ("running", 0.2),
        ("kv_cache", 0.25),
    ],
)
async def test_both_sources_agree_under_load(scene: Scene, quantity: str, share: float) -> None:
    """Direct scraping and Prometheus see the same of two pods under load, within the scrapes' offset."""
    found = scene.after_a_window("a")
    assert len(found) >= 5
    direct, prometheus = (
        statistics.fmean(getattr(pair[index], quantity) for pair in found) for index in (0, 1)
    )
    assert direct > 0
    assert prometheus == pytest.approx(direct, rel=share)


async def test_what_is_seen_is_what_is_sent(scene: Scene) -> None:
    """Rate, lengths and latencies of both sources are those of the load and of the servers' profiles."""
    for pair in scene.after_a_window("a"):
        for one in pair:
            assert one.arrival_rate_rps * 60 == pytest.approx(150, rel=0.06)
            # 60 a minute of 30 and 20 tokens, 90 of 60 and 40.
            assert one.input_tokens == pytest.approx(48, rel=0.06)
            assert one.output_tokens == pytest.approx(32, rel=0.06)
            assert one.itl_ms is not None
            # alpha to alpha + 16 beta
            assert 90 < one.itl_ms < 122
            assert one.ttft_ms is not None
            # gamma + delta * tokens at least, and never a queue to speak of
            assert 65 < one.ttft_ms < 1000
            assert not one.idle


async def test_both_sources_agree_that_nothing_happens(scene: Scene) -> None:
    """Servers without load are idle for both, for about as long, with nothing running or waiting."""
    for direct, prometheus in scene.idle.values():
        for one in (direct, prometheus):
            assert one.idle
            assert (one.arrival_rate_rps, one.running, one.waiting, one.kv_cache) == (0, 0, 0, 0)
            assert one.ttft_ms is one.itl_ms is one.output_tokens is None
        assert direct.idle_seconds >= 10
        assert prometheus.idle_seconds == pytest.approx(direct.idle_seconds, abs=2 * INTERVAL)


@pytest.mark.parametrize("index", [0, 1], ids=["direct", "prometheus"])
async def test_a_full_server_shows_what_is_offered(scene: Scene, index: int) -> None:
    """120 requests a minute into a server that finishes 60 are seen as 120 within a tenth."""
    found = [pair[index] for pair in scene.after_a_window("full")]
    assert len(found) >= 5
    assert scene.finished == pytest.approx(60, rel=0.1)
    for one in found:
        assert one.arrival_rate_rps * 60 == pytest.approx(120, rel=0.1)
        assert (one.running, one.kv_cache) == (4, 1)
        assert one.output_tokens == 21
    # One request more waits each second.
    assert found[-1].waiting - found[0].waiting == pytest.approx(
        INTERVAL * (len(found) - 1), abs=2 * INTERVAL
    )


async def test_variants_of_one_model_have_their_own_load(scene: Scene) -> None:
    """Two variants of one model in one namespace each have their own pods' load, by pod."""
    for at, found in scene.seen:
        if at > WINDOW + 5:
            for name, rpm in (("a", 150), ("b", 60)):
                direct, prometheus = found[name]
                assert traffic(prometheus).arrival_rate_rps * 60 == pytest.approx(rpm, rel=0.06)
                assert (prometheus.origin, prometheus.how) == ("prometheus", "pod")
                assert (direct.origin, direct.how) == ("direct", "")
                assert prometheus.complete


async def test_a_late_collector_has_the_past(scene: Scene) -> None:
    """One that starts under load has the rate after one round, from what Prometheus has of before."""
    for name, rpm in (("a", 150), ("b", 60)):
        late = scene.late[name]
        assert late.metrics == "MetricsFound"
        assert traffic(late).arrival_rate_rps * 60 == pytest.approx(rpm, rel=0.08)
        assert traffic(late).output_tokens == pytest.approx({"a": 32, "b": 20}[name], rel=0.06)


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_promql_reads_a_page_as_the_scraper_does(world: World, name: str) -> None:
    """Every recorded page: engines, ranks, pids, priorities and old names give the same from both."""
    await world.scraped(name)
    model = RECORDED[name]["model"]
    expected = exposition.parse(recorded(name), model, name)
    found = (await world.sampled())[name]
    assert (found.namespace, found.model, found.problem) == (TEAM, model, "")
    assert found.page is not None
    for item in dataclasses.fields(Page):
        one, other = getattr(found.page, item.name), getattr(expected, item.name)
        # Sums of engines are added up in another order.
        assert one == (None if other is None else pytest.approx(other, rel=1e-12)), item.name
        written = item.name.replace("kv_cache", "kv_cache_usage")
        known = RECORDED[name][written]
        assert one == (None if known is None else pytest.approx(known)), item.name


async def test_gauges_are_equal(world: World) -> None:
    """What runs, waits and fills the cache is the same by both, for every recorded page as a variant."""
    await world.scraped(*RECORDED)
    variants = [
        variant(f"v{number}", {name: world.pages.url(name)}, model=RECORDED[name]["model"])
        for number, name in enumerate(RECORDED)
    ]
    async with world.collecting(variants, "direct", "prometheus") as collectors:
        direct, prometheus = collectors
        await until(
            collectors,
            lambda: all(
                item.observe(one).traffic is not None for item in collectors for one in variants
            ),
        )
        for source in variants:
            one, other = (traffic(item.observe(source)) for item in (direct, prometheus))
            assert (one.arrival_rate_rps, other.arrival_rate_rps) == (0, 0)
            assert (one.running, one.waiting) == (other.running, other.waiting)
            assert one.running > 0
            assert one.kv_cache == other.kv_cache
            assert one.idle is other.idle is False


@pytest.mark.parametrize("name", sorted(GATEWAYS))
async def test_gateways_count_each_model_once(world: World, name: str) -> None:
    """Requests and queue of the model served in the end, over priorities; two names count once."""
    await world.scraped(name)
    async with world.asking() as asked:
        found = promql.models((await asked.query(promql.gateways())).items)
    ours = {item.model: (item.requests, item.waiting) for item in found if item.namespace == name}
    assert ours == {"Qwen/Qwen3-8B": (177 + 59, 4 + 1), "sql-lora-2": (42, 0)}


@pytest.mark.parametrize(
    ("pods", "model", "how"),
    [
        pytest.param({"nameless": "http://127.0.0.1:1/"}, "nameless", "pod without namespace"),
        pytest.param({"bare-7": "bare"}, "bare", "address"),
        pytest.param({}, "unknown", "model"),
    ],
)
async def test_series_without_labels_are_attributed(
    world: World, pods: dict[str, str], model: str, how: str
) -> None:
    """Series without namespace or pod are found by name, by address, or by model, and that is said."""
    pods = {
        pod: world.pages.url(url, door=1) if url == "bare" else url for pod, url in pods.items()
    }
    source = variant("v", pods, model=model)
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        found = collector.observe(source)
    assert (found.origin, found.how) == ("prometheus", how)
    assert traffic(found).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1)


async def test_a_pod_that_two_jobs_scrape_counts_once(world: World) -> None:
    """Series of one pod under two jobs are one pod's load, not two pods'."""
    await world.scraped("twice")
    source = variant("v", {"twice": world.pages.url("twice")})
    assert len(await world.prometheus.ask('vllm:num_requests_running{pod="twice"}')) == 2
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        async for _ in rounds(20):
            await collector.collect()
            found = traffic(collector.observe(source))
            assert found.running == 1
            assert found.arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1)


def _all_found(collector: Collector, variants: Sequence[VariantSource]) -> bool:
    return {collector.observe(one).metrics for one in variants} == {"MetricsFound"}


async def test_queries_do_not_grow_with_the_fleet(world: World) -> None:
    """A round of twenty variants asks as often as one of a single variant."""
    await world.scraped(*SPARES)
    everyone = [variant(pod, {pod: world.pages.url(pod)}) for pod in SPARES]
    for variants in (everyone[:1], everyone):
        async with world.collecting(variants, "prometheus") as (collector,):
            await collector.collect()
            asked = collector.counts["queries"]
            assert asked == FLEET + GATEWAY + BACKFILL
            for _ in range(3):
                await collector.collect()
            assert collector.counts["queries"] == asked + 3 * (FLEET + GATEWAY)
            await until([collector], functools.partial(_all_found, collector, variants))
            assert collector.counts["scrapes"] == collector.counts["query_failures"] == 0


async def test_auto_asks_prometheus_for_pods_that_do_not_answer(world: World) -> None:
    """Pods that answer are asked themselves, Prometheus then not for them; the change costs no rate."""
    pod = SPARES[0]
    await world.scraped(pod)
    # The same page behind a door of ours: Prometheus comes another way.
    world.pages.pages["door"] = world.pages.pages[pod]
    source = variant("v", {pod: world.pages.url("door")})
    async with world.collecting([source], "auto") as (collector,):

        async def watch(seconds: float) -> Observation:
            async for _ in rounds(seconds):
                await collector.collect()
                found = collector.observe(source)
                assert found.metrics == "MetricsFound", found
                assert traffic(found).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1)
            return found

        await collector.collect()
        await asyncio.sleep(2 * INTERVAL / SPEED)
        assert (await watch(20)).origin == "direct"
        assert collector.fleet_queries == 0
        world.pages.closed.add("door")
        try:
            found = await watch(30)
        finally:
            world.pages.closed.discard("door")
        assert (found.origin, found.how, found.complete) == ("prometheus", "pod", True)
        assert collector.fleet_queries > 0
        await until([collector], lambda: collector.observe(source).origin == "direct")
        asked = collector.fleet_queries
        await watch(15)
        assert collector.fleet_queries == asked


async def test_restarts_and_departures_are_no_load(world: World) -> None:
    """A server that begins anew, and one that leaves, neither hide load nor make any, for either source."""
    pods = ("again-0", "again-1")
    everyone = {pod: f"{world.url(pod)}/metrics" for pod in pods}
    source = variant("v", everyone)
    less = dataclasses.replace(source, endpoints=source.endpoints[1:], pods=source.pods[1:])
    rates: list[float] = []
    async with (
        world.emulated(pods[1]),
        world.collecting([source], "direct", "prometheus") as collectors,
    ):

        def good() -> bool:
            """Whether both know all of it; notes what they say."""
            seen = [collector.observe(source) for collector in collectors]
            rates.extend(one.traffic.arrival_rate_rps for one in seen if one.traffic is not None)
            return all(one.metrics == "MetricsFound" and one.complete for one in seen)

        async def after(seconds: float) -> None:
            end = time.monotonic() + seconds / SPEED
            await until(collectors, lambda: good() and time.monotonic() > end)

        async with world.emulated(pods[0]) as process:
            await world.scraped(*pods)
            task = asyncio.create_task(load(world, pods, 120, 1000).run())
            # What was before the load is out of the window then.
            await after(WINDOW + 2 * INTERVAL)
            rates.clear()
            process.kill()
            await process.wait()
        try:
            async with world.emulated(pods[0]):
                await after(30)
                for collector in collectors:
                    collector.use([less])
                source = less
            await after(WINDOW / 2)
            last = [traffic(item.observe(source)).arrival_rate_rps for item in collectors]
        finally:
            task.cancel()
            await asyncio.wait([task])
    assert len(rates) > 20
    # Requests that the killed server had are sent anew; until it is heard again, or gone, it is taken to
    # get what it got before, which the other one gets by then.
    assert min(rates) * 60 > 0.8 * 120
    assert max(rates) * 60 < 1.5 * 120
    assert [60 * rate for rate in last] == pytest.approx([120, 120], rel=0.1)


async def test_a_pod_that_ends_makes_its_variant_stale(world: World) -> None:
    """Prometheus forgets a target that is down at once: stale, with the last load; never seen, missing."""
    source = variant("v", {"ends-0": f"{world.url('ends-0')}/metrics"})
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: "recent series of" in collector.observe(source).problem)
        assert collector.observe(source).metrics == "MetricsMissing"
        async with world.emulated("ends-0"):
            await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
        found = collector.observe(source)
        assert found.metrics == "MetricsStale"
        assert "has no recent series of" in found.problem
        assert not found.complete
        assert traffic(found).arrival_rate_rps == 0
        assert 2.5 * INTERVAL < found.age_seconds < 2.5 * INTERVAL + 30


async def test_a_past_without_a_present_is_stale(world: World) -> None:
    """Where Prometheus has nothing now but has of before, the load is that of before, and stale."""
    source = variant("v", {"only": world.pages.url("only")})
    # Enough of a past to have a rate.
    await world.small.until("count_over_time(vllm:num_requests_running[10m]) > 6")
    world.pages.closed.add("only")
    # Its age has to be told by more than a round.
    await world.small.until("sum_over_time(up[1500ms]) == 0")
    async with world.collecting([source], "prometheus", prometheus=world.small) as (collector,):
        await collector.collect()
        found = collector.observe(source)
    assert traffic(found).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.15)
    assert (found.metrics, found.complete) == ("MetricsStale", False)
    assert found.age_seconds > INTERVAL


async def test_old_samples_are_stale_although_prometheus_serves_them(world: World) -> None:
    """Samples with a time of their own stay in answers for minutes: their age tells, not the answer's."""
    await world.scraped("old")
    source = variant("v", {"old": world.pages.url("old")}, model="old")
    assert await world.prometheus.ask('vllm:num_requests_running{pod="old"}')
    async with world.collecting([source], "prometheus") as (collector,):
        await collector.collect()
        found = collector.observe(source)
    assert found.metrics == "MetricsStale"
    assert not found.complete


async def test_targets_that_prometheus_no_longer_has_are_stale(world: World) -> None:
    """A target that is taken from Prometheus makes its variant stale, though the pod is there."""
    await world.scraped("leaves")
    source = variant("v", {"leaves": world.pages.url("leaves")})
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        world.prometheus.scrape(item for item in world.targets if item.pod != "leaves")
        try:
            await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
        finally:
            world.prometheus.scrape(world.targets)
        assert collector.observe(source).metrics == "MetricsStale"
        assert collector.prometheus_problem == ""


async def test_a_prometheus_that_hangs_is_said_and_survived(world: World) -> None:
    """Fresh numbers outlive one failed query; then the error is named, and forgotten once it answers."""
    pod = SPARES[1]
    await world.scraped(pod)
    source = variant("v", {pod: world.pages.url(pod)})
    async with world.collecting(
        [source], "prometheus", stale_after=8 * INTERVAL, timeout_seconds=0.5
    ) as (collector,):
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        async with world.prometheus.held():
            await collector.collect()
            assert collector.observe(source).metrics == "MetricsFound"
            assert collector.prometheus_problem
            await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
            found = collector.observe(source)
        assert found.metrics == "PrometheusError"
        assert "no answer within 0.5 s" in found.problem
        assert traffic(found).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1)
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        assert collector.prometheus_problem == ""
        assert traffic(collector.observe(source)).arrival_rate_rps == pytest.approx(
            STEADY_RPS, rel=0.1
        )


async def test_a_prometheus_that_is_gone_is_said() -> None:
    """No target yet is missing metrics; no Prometheus any more is an error that names its address."""
    source = variant("v", {"p": "http://127.0.0.1:1/metrics"})
    settings = CollectionSettings(interval=INTERVAL, source="prometheus")
    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=Clock(speed=SPEED), settings=settings)
        collector.use([source])
        async with prometheus_server.running() as server:
            collector.connect(PrometheusOptions(url=server.url))
            # A pod that has just come need not be there yet.
            await until([collector], lambda: "PodMonitor" in collector.observe(source).problem)
            assert collector.observe(source).metrics == "MetricsMissing"
        await collector.collect()
        found = collector.observe(source)
        collector.close()
    assert found.metrics == "PrometheusError"
    assert server.url in found.problem

"""A real Prometheus with emulated servers and pages that it scrapes, and collectors beside it.

One Prometheus serves a test module, because it takes up targets only seconds after they are given. What it
is to scrape is therefore given at the start: emulated servers on ports of theirs, and pages of this module's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from adapter.clock import Clock
from adapter.collector import promql
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.observation import Observation
from adapter.collector.prometheus import PrometheusClient, PrometheusOptions
from adapter.collector.traffic import Traffic
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from adapter.settings.control import Source
from emulator.load import LoadGenerator, parse_schedule
from tests.fakes import prometheus_server
from tests.fakes.prometheus_server import PrometheusServer, Target, free_port

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data/metrics"
RECORDED = json.loads((DATA / "expected.json").read_text())
PRIORITIES = "sglang-0.5.23.prom"
"""Of a server that also shows its stocks for each priority: no recorded page does."""
GATEWAYS = {name: DATA / f"{name}.prom" for name in ("epp", "epp-llm-d", "epp-0.11")}


def recorded(name: str) -> str:
    """A page; priorities are parts of what the line without one says."""
    text = (DATA / name).read_text()
    if name == PRIORITIES:
        stocks = re.compile(r"^(sglang:num_(?:running|queue)_reqs{[^}]*)} (\d+)\.0$", re.MULTILINE)
        text = stocks.sub(r'\g<0>\n\1,priority="0"} 1.0\n\1,priority="7"} 2.0', text)
        assert text.count(',priority="7"') == 2
    return text


MARKS = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.skipif(prometheus_server.binary() is None, reason=prometheus_server.MISSING),
]
"""Of a module whose tests share the fixture `world`."""
HANG_SECONDS = 300.0
"""After which a wait is taken to be for ever, on a busy machine too."""
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
EMULATED = ("a-0", "a-1", "b-0", "full-0", "ends-0")
AGAIN = ("again-0", "again-1")
LATER = (*AGAIN, "old")
"""Pods that are scraped, and have a page once a test gives them one."""


def steady(model: str, *, timestamp: str = "") -> Callable[[], str]:
    """A page of a server that gets STEADY_RPS, each request with 30 and 20 tokens."""
    served = Served(model, timestamp=timestamp)
    served.gets(STEADY_RPS)
    return served.page


class Served:
    """The page of a server whose load changes, and which may begin anew; it is never behind its load.

    Each request has 30 and 20 tokens.
    """

    def __init__(self, model: str, *, timestamp: str = "") -> None:
        self._series = f'{{model_name="{model}",engine="0"}}'
        self._timestamp = timestamp
        self._process = ""
        self._begun, self._at, self._rps = 0.0, time.monotonic(), 0.0

    def gets(self, rps: float) -> None:
        """That many requests per scenario second from now on, one of them at once."""
        first = rps > 0 and self._rps == 0
        self._begun, self._at = self._count() + first, time.monotonic()
        self._rps = rps

    def starts(self) -> None:
        """A new process, whose page says so: nothing was served yet, and nothing comes."""
        self._process = f"process_start_time_seconds {time.time()}\n"
        self._begun, self._at, self._rps = 0.0, time.monotonic(), 0.0

    def _count(self) -> float:
        return self._begun + (time.monotonic() - self._at) * SPEED * self._rps

    def page(self) -> str:
        begun, running = int(self._count()), int(self._rps > 0)
        done = begun - running
        values = {
            "vllm:num_requests_running": running,
            "vllm:num_requests_waiting": 0,
            "vllm:request_success_total": done,
            "vllm:request_prompt_tokens_sum": 30 * done,
            "vllm:request_prompt_tokens_count": done,
            "vllm:request_generation_tokens_sum": 20 * done,
            "vllm:request_generation_tokens_count": done,
            "vllm:time_to_first_token_seconds_sum": 0.2 * begun,
            "vllm:time_to_first_token_seconds_count": begun,
            "vllm:inter_token_latency_seconds_sum": 0.05 * 19 * done,
            "vllm:inter_token_latency_seconds_count": 19 * done,
        }
        return self._process + "".join(
            f"{name}{self._series} {value}{self._timestamp}\n" for name, value in values.items()
        )


def varied(model: str) -> Callable[[], str]:
    """A steady page with histograms: half of the requests have 100 tokens in, the others 1,000; 50 out."""
    page = steady(model)

    def shown() -> str:
        text = page()
        done = int(text.partition("request_success_total")[2].partition("} ")[2].partition("\n")[0])
        for name, bounds in (
            (
                "request_prompt_tokens",
                {"50.0": 0, "200.0": done // 2, "500.0": done // 2, "2000.0": done},
            ),
            ("request_generation_tokens", {"20.0": 0, "100.0": done}),
        ):
            for bound, count in {**bounds, "+Inf": done}.items():
                text += (
                    f'vllm:{name}_bucket{{model_name="{model}",engine="0",le="{bound}"}} {count}\n'
                )
        return text

    return shown


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
    lag: float = 0.0

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
            async with asyncio.timeout(HANG_SECONDS):
                while not port_file.exists():
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[PrometheusClient]:
        """A client of its Prometheus."""
        options = PrometheusOptions(url=self.prometheus.url, timeout_seconds=60)
        async with aiohttp.ClientSession() as session:
            yield PrometheusClient(session, options)

    async def slack(self, span: float = WINDOW, *, pods: str = ".*") -> float:
        """How far a rate over that many scenario seconds may be off because the machine is busy.

        A scrape has the time of its beginning and the numbers of its end, and what is late here is late in
        both: so much of the span is uncertain, at each of its ends.
        """
        query = f'max(max_over_time(scrape_duration_seconds{{pod=~"{pods}"}}[2m]))'
        (scrape,) = await self.prometheus.ask(query)
        return 2 * SPEED * max(float(scrape["value"][1]), self.lag) / span

    async def watch_lag(self) -> None:
        """Note for how long the event loop is held up at most, until cancelled."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.lag = max(self.lag, time.monotonic() - before - 0.01)

    async def sampled(self) -> dict[str, promql.Sampled]:
        """What Prometheus says of each pod now."""
        async with self.connected() as client:
            pods = promql.pods((await client.query(promql.fleet())).samples)
        return {item.pod: item for item in pods}

    @contextlib.asynccontextmanager
    async def collecting(
        self,
        variants: Sequence[VariantSource],
        *sources: Source,
        window: float = WINDOW,
        stale_after: float = 24 * INTERVAL,
        timeout_seconds: float = 60.0,
        prometheus: PrometheusServer | None = None,
    ) -> AsyncIterator[list[Collector]]:
        """A collector for each source; all know those variants. Stale only after 12 s of real time."""
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
    collectors: Iterable[Collector], true: Callable[[], bool], *, seconds: float = HANG_SECONDS
) -> None:
    """Collect until it is so; `seconds` of real time guard against hanging."""
    collectors = list(collectors)
    async with asyncio.timeout(seconds):
        while True:
            await asyncio.gather(*(collector.collect() for collector in collectors))
            if true():
                return
            await asyncio.sleep(INTERVAL / SPEED)


@contextlib.asynccontextmanager
async def running_world(folder: Path) -> AsyncIterator[World]:
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

    targets += [
        Target(address=pages.addresses[0], path=f"/{name}", namespace=TEAM, pod=name)
        for name in LATER
    ]
    for name in RECORDED:
        paged(name, functools.partial(recorded, name))
    for name, path in GATEWAYS.items():
        paged(name, path.read_text, namespace=name)
    for name in (*SPARES, "twice", "leaves"):
        paged(name, steady(MODEL))
    targets.append(dataclasses.replace(targets[-2], job="another"))
    paged("varied", varied(MODEL))
    paged("nameless", steady("nameless"), namespace="")
    pages.pages["bare"] = steady("bare")
    targets.append(Target(address=pages.addresses[1], path="/bare"))
    pages.pages["unknown"] = steady("unknown")
    targets.append(Target(address=pages.addresses[2], path="/unknown"))
    pages.pages["only"] = steady(MODEL)
    only = Target(address=pages.addresses[0], namespace=TEAM, pod="only", path="/only")
    try:
        async with (
            prometheus_server.running(targets, interval_ms=SCRAPE_MS) as prometheus,
            prometheus_server.running([only], interval_ms=SCRAPE_MS) as small,
        ):
            world = World(prometheus, small, pages, targets, ports, folder)
            watch = asyncio.create_task(world.watch_lag())
            try:
                yield world
            finally:
                watch.cancel()
                await asyncio.wait([watch])
    finally:
        await runner.cleanup()

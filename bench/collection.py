"""Collection of the load of 1,000 variants with 3 pods each: from the pods, and from a real Prometheus.

One process serves the pods' pages, 40 kB each, whose counters grow. `collect` is one scrape cycle, `observe`
what a reconcile cycle then reads of all variants, CPU that of the adapter alone in both. `stall` is the
longest time in a scrape cycle in which the event loop is held up, so that no request is answered. Aim: less
than 2 s and some ten queries a cycle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import os
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import structlog

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adapter.app import serving  # noqa: E402
from adapter.clock import Clock  # noqa: E402
from adapter.collector import model_servers  # noqa: E402
from adapter.collector.collector import CollectionSettings, Collector  # noqa: E402
from adapter.collector.prometheus import PrometheusOptions  # noqa: E402
from adapter.planning import fleet  # noqa: E402 - the clone is what is measured
from adapter.resources.variant import Source, VariantSource  # noqa: E402
from tests.fakes import prometheus_server  # noqa: E402 - the harness of the tests stands beside us

PAGE = ROOT / "tests/data/metrics/vllm-0.11-v1.prom"
PAGE_MODEL = "Qwen/Qwen3-8B"
RATE_RPS = 2.0
"""Requests per second that each pod finishes."""
GAUGES = frozenset({"vllm:num_requests_running", "vllm:num_requests_waiting"})
BUCKETS = ".+_bucket"
MEBI = 2**20
PODS = 3
"""Of each variant."""
START_SECONDS = 600.0
"""Most seconds until Prometheus has scraped every pod, for a machine that does other work too."""


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve `/NUMBER/metrics` to one client with little effort: the time measured is the collector's."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            body = page(int(request.split(b"/", 2)[1]))
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
    writer.close()


def _pieces() -> list[tuple[str, float, float]]:
    """The page up to each counter that is read, its value, and how much one request adds to it."""
    text = PAGE.read_text()
    names = sorted(model_servers.SERIES - GAUGES)
    pattern = re.compile(rf"^((?:{'|'.join(names)}){{[^}}]*}}) (\S+)$", re.MULTILINE)
    counters = list(pattern.finditer(text))
    totals = {match[1]: float(match[2]) for match in counters}
    finished = sum(value for series, value in totals.items() if "success" in series)
    # Those in service have a first token already.
    begun = sum(value for series, value in totals.items() if "first_token_seconds_count" in series)
    pieces, end = [], 0
    for match in counters:
        value = float(match[2])
        requests = begun if "first_token" in match[1] else finished
        pieces.append((text[end : match.end(1)] + " ", value, value / requests))
        end = match.end()
    return [*pieces, (text[end:], 0.0, 0.0)]


PIECES = _pieces()


def model(variant: int) -> str:
    """What the pods of a variant serve."""
    return f"example/model-{variant:04}"


def page(pod: int) -> bytes:
    """That pod's page now."""
    requests = (time.time() % 1e6) * RATE_RPS
    parts: list[str] = []
    for text, value, each in PIECES[:-1]:
        parts += text, repr(value + each * requests)
    parts.append(PIECES[-1][0])
    return "".join(parts).replace(PAGE_MODEL, model(pod // PODS)).encode()


def serve_pages(channel: Connection) -> None:
    """Tell the port, then serve until the other end is closed."""

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        channel.send(server.sockets[0].getsockname()[1])
        with contextlib.suppress(EOFError):
            await asyncio.get_running_loop().run_in_executor(None, channel.recv)

    asyncio.run(serve())


@contextlib.asynccontextmanager
async def pages() -> AsyncIterator[str]:
    """The address of a process that serves them."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=serve_pages, args=(theirs,), name="pages")
    process.start()
    theirs.close()
    try:
        yield f"127.0.0.1:{await asyncio.to_thread(ours.recv)}"
    finally:
        ours.close()
        await asyncio.to_thread(process.join, 10)
        if process.is_alive():
            process.kill()
            process.join()


def variants(count: int, address: str) -> list[VariantSource]:
    """A fleet whose pods are those pages."""
    return [
        VariantSource(
            namespace=f"team-{number % 20}",
            name=f"v{number}",
            model=model(number),
            service_class="Premium",
            profiles=(),
            targets=fleet.Targets(itl_ms=24),
            accelerator="A100",
            endpoints=tuple(
                f"http://{address}/{pod}/metrics"
                for pod in range(PODS * number, PODS * number + PODS)
            ),
            pods=tuple(f"v{number}-{index}" for index in range(PODS)),
            pods_known=True,
            replicas=PODS,
        )
        for number in range(count)
    ]


def targets(sources: Sequence[VariantSource], address: str) -> list[prometheus_server.Target]:
    """The same pods for Prometheus."""
    return [
        prometheus_server.Target(
            address=address,
            namespace=source.namespace,
            pod=pod,
            path=endpoint.removeprefix(f"http://{address}"),
        )
        for source in sources
        for pod, endpoint in zip(source.pods, source.endpoints, strict=True)
    ]


@dataclass
class Cycles:
    """Measurements, one number per scrape cycle."""

    collect: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    observe: list[float] = field(default_factory=list)
    stall: list[float] = field(default_factory=list)
    queries: list[float] = field(default_factory=list)


async def _longest_stall(stalls: list[float]) -> None:
    """Append the longest delay of the event loop until cancelled."""
    longest = 0.0
    try:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)
    finally:
        stalls.append(longest)


async def one(collector: Collector, sources: Sequence[VariantSource], into: Cycles) -> None:
    """One scrape cycle."""
    watch = asyncio.create_task(_longest_stall(into.stall))
    await asyncio.sleep(0)
    queries, cpu, began = (
        collector.counts["queries"],
        time.process_time(),
        time.perf_counter(),
    )
    await collector.collect()
    into.collect.append(time.perf_counter() - began)
    into.cpu.append(time.process_time() - cpu)
    into.queries.append(collector.counts["queries"] - queries)
    watch.cancel()
    await asyncio.wait([watch])
    began = time.perf_counter()
    for source in sources:
        collector.observe(source)
    into.observe.append(time.perf_counter() - began)


def coverage(collector: Collector, sources: Sequence[VariantSource]) -> str:
    """Share of the load that is observed, and of how many variants."""
    observed = [collector.observe(source) for source in sources]
    rate = sum(item.traffic.arrival_rate_rps for item in observed if item.traffic is not None)
    share = rate / (RATE_RPS * PODS * len(sources))
    good = sum(item.metrics == "MetricsFound" and item.complete for item in observed)
    return f"{good} of {len(sources)} variants complete, {share:.1%} of the load"


def made(session: aiohttp.ClientSession, source: Source, interval: float) -> Collector:
    """A collector with one source."""
    settings = CollectionSettings(source=source, interval=interval)
    return Collector(session=session, clock=Clock(), settings=settings)


def line(name: str, values: Sequence[float], unit: str = "s") -> None:
    """Median and spread of one thing."""
    scale, digits = {"s": (1, 2), "ms": (1000, 0), "": (1, 0)}[unit]
    shown = [scale * value for value in values]
    middle, least, most = statistics.median(shown), min(shown), max(shown)
    print(
        f"{name:<34} {middle:>8.{digits}f}  {least:>8.{digits}f} - {most:<8.{digits}f} {unit}",
        flush=True,
    )


def table(name: str, cycles: Cycles) -> None:
    """All of one source."""
    line(f"{name}: collect", cycles.collect)
    line(f"{name}: CPU", cycles.cpu)
    line(f"{name}: stall", cycles.stall, "ms")
    line(f"{name}: observe", cycles.observe, "ms")
    line(f"{name}: queries", cycles.queries, "")


async def measure(args: argparse.Namespace) -> None:
    """Both sources, one after the other."""
    async with pages() as address, aiohttp.ClientSession() as session:
        sources = variants(args.variants, address)
        size = len(page(0)) / 1024
        print(
            f"{args.variants} variants, {PODS * args.variants} pods, pages of {size:.0f} KiB,"
            f" {os.cpu_count()} CPUs"
        )
        print(f"{'':<34} {'median':>8}  {'spread'}")
        collector = made(session, "direct", args.interval)
        collector.use(sources)
        await collector.collect()  # connections
        direct = Cycles()
        for _ in range(args.rounds):
            await asyncio.sleep(1.0)
            await one(collector, sources, direct)
        table("pods", direct)
        print(f"  {coverage(collector, sources)}")
        if prometheus_server.binary() is None:
            print(f"Prometheus was not measured: {prometheus_server.MISSING}")
            return
        await from_prometheus(args, session, sources, address)


async def from_prometheus(
    args: argparse.Namespace,
    session: aiohttp.ClientSession,
    sources: Sequence[VariantSource],
    address: str,
) -> None:
    """Through a Prometheus that scrapes the same pages."""
    scrape_targets = targets(sources, address)
    interval = args.interval
    async with prometheus_server.running(
        scrape_targets, interval_ms=round(1000 * interval), drop="" if args.buckets else BUCKETS
    ) as server:
        await server.scraped(scrape_targets, seconds=START_SECONDS)
        # Backfill needs a past.
        await asyncio.sleep(2 * interval)
        collector = made(session, "prometheus", interval)
        collector.connect(PrometheusOptions(url=server.url, timeout_seconds=args.timeout))
        collector.use(sources)
        first, cycles = Cycles(), Cycles()
        await one(collector, sources, first)
        for _ in range(args.rounds):
            await asyncio.sleep(interval)
            await one(collector, sources, cycles)
        line("Prometheus: first cycle", first.collect)
        line("Prometheus: first cycle's queries", first.queries, "")
        table("Prometheus", cycles)
        print(f"  {coverage(collector, sources)}; {collector.prometheus_problem or 'no problem'}")
        series = await server.ask("count({__name__!=''})")
        memory = _resident_mib(server.process.pid)
    kept = "all series" if args.buckets else "no buckets"
    count = series[0]["value"][1] if series else "?"
    print(f"  it scraped every {interval:g} s and kept {kept}: {count} series, {memory:.0f} MiB")


def _resident_mib(process_id: int) -> float:
    pages_ = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages_ * os.sysconf("SC_PAGE_SIZE") / MEBI


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between scrapes")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds of one query")
    parser.add_argument("--buckets", action="store_true", help="Prometheus keeps all series")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    serving.settle_heap()  # as serve does
    asyncio.run(measure(args))


if __name__ == "__main__":
    main()

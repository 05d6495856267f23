"""The pages with 1,000 variants: time to render, CPU of the server with a viewer, and how long a GET waits.

The program runs in a process of its own, with all states replaced every interval, as reconcile cycles do.
A viewer opens the fleet's page and follows its updates. The API is asked over keep-alive TLS, in turns
without and with two viewers in one run: their ratio counts, not the machine. Where Chromium is installed,
a tab then takes as many updates as a day brings, and its memory is printed twelve times on the way. Ends
with 1 where the first page, the CPU of one viewer, the ratio of p99, or the growth of the tab misses its
bound. `--only-tab` leaves out all but the tab.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapter import logs
from adapter.store import DESIRED
from emulator.demo import scenario
from tests.adapter.ui import browser
from tests.fakes import fleet_states  # the harness of the tests stands beside us

PAGE_SECONDS, CPU_SHARE, RATIO = 1.0, 0.01, 2.0
"""Bounds: the first page, a core's share for one viewer, and p99 with two viewers over p99 without."""

TAB_GROWTH, TAB_BYTES = 1.1, 200_000
"""Bound of a tab's heap after a day: that many times the heap after 20 updates, and as many bytes more."""

TURNS = 12
SAMPLES = 12
"""How often a tab's memory is read during its day, after the first 20 updates."""
PATH = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/team-1/{DESIRED}"


async def serve(folder: Path, variants: int, interval: float, *, all_updates: bool) -> None:
    """Serve until the end of stdin, with new states at every interval; prints addresses and files first."""
    logs.configure("text", quiet=True)
    objects = folder / "objects"
    scenario.write_objects(objects)
    scenario.write_deployment(objects, (), 1)
    async with fleet_states.served(folder, objects, variants) as endpoints:
        states = dict(endpoints.loop.states)
        if all_updates:
            # A day's updates in minutes are more than the pages' share of the processor allows.
            fleet_states.show_every_update(endpoints)

        async def cycle() -> None:
            number = 0
            while True:
                await asyncio.sleep(interval)
                number += 1
                now = time.time()
                fleet_states.put(
                    endpoints,
                    {
                        key: replace(state, decided_at=now, observed_at=now - number % 7)
                        for key, state in states.items()
                    },
                )

        cycles = asyncio.create_task(cycle())
        print(
            json.dumps({
                "metrics": endpoints.metrics_url, "api": endpoints.url, "ca": str(endpoints.ca_file),
                "state": str(folder / "state"),
            }),
            flush=True,
        )  # fmt: skip
        await asyncio.to_thread(sys.stdin.read)
        cycles.cancel()


async def view(url: str, fetched: list[float]) -> None:
    """Open the fleet's page and follow its updates, until cancelled."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        async with session.get(f"{url}/ui") as page:
            await page.read()
        async with session.get(f"{url}/ui/events") as stream:
            async for line in stream.content:
                if line.startswith(b"event: tick"):
                    began = time.perf_counter()
                    headers = {"X-Fragment": "1"}
                    async with session.get(f"{url}/ui", headers=headers) as page:
                        await page.read()
                    fetched.append(time.perf_counter() - began)


async def ask(url: str, context: ssl.SSLContext, seconds: float) -> list[float]:
    """Seconds that each GET of the API took, at about 200 a second, as many HPAs ask."""
    times = []
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        ends = time.perf_counter() + seconds
        while (began := time.perf_counter()) < ends:
            async with session.get(url) as response:
                await response.read()
                if response.status != 200:
                    raise SystemExit(f"the API answered {response.status}")
            times.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.005 - times[-1], 0.0))
    return times


def cpu_seconds(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p99(times: list[float]) -> float:
    """99th percentile in milliseconds."""
    return 1000 * statistics.quantiles(times, n=100)[98]


async def measure(pid: int, at: dict[str, str], seconds: float, interval: float) -> bool:
    """Print the table; whether all bounds hold."""
    url, state = at["metrics"], Path(at["state"])
    context = ssl.create_default_context(cafile=at["ca"])
    context.load_cert_chain(state / "client.crt", state / "client.key")
    async with aiohttp.ClientSession() as session:

        async def page(path: str) -> float:
            began = time.perf_counter()
            async with session.get(url + path) as response:
                await response.read()
            return time.perf_counter() - began

        first = await page("/ui")
        again = [await page(f"/ui?sort=cost&page={number}") for number in range(1, 6)]
        one = await page("/ui/variants/team-1/v0001")
    print(
        f"first page {first:.3f} s, other pages {max(again):.3f} s at most, one variant {one:.3f} s"
    )
    used = []
    for viewers in (0, 1):
        fetched: list[float] = []
        jobs = [asyncio.create_task(view(url, fetched)) for _ in range(viewers)]
        await asyncio.sleep(interval)
        before = cpu_seconds(pid)
        await asyncio.sleep(seconds)
        used.append((cpu_seconds(pid) - before) / seconds)
        print(
            f"{viewers} viewers: {used[-1]:.2%} of a core, {len(fetched)} updates in {seconds:g} s,"
            f" cycles every {interval:g} s"
        )
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    turns: dict[int, list[float]] = {0: [], 2: []}
    for turn in range(TURNS):
        viewers = 2 * (turn % 2)
        jobs = [asyncio.create_task(view(url, [])) for _ in range(viewers)]
        await asyncio.sleep(0.5)
        turns[viewers] += await ask(at["api"] + PATH, context, 2 * seconds / TURNS)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
    ratio = p99(turns[2]) / p99(turns[0])
    print(
        f"GET p99 {p99(turns[0]):.2f} ms without viewers, {p99(turns[2]):.2f} ms with two: {ratio:.2f} times"
    )
    viewer = used[1] - used[0]
    print(f"one viewer takes {viewer:.2%} of a core")
    return first <= PAGE_SECONDS and viewer <= CPU_SHARE and ratio <= RATIO


async def watch_day(url: str, pid: int, folder: Path, updates: int) -> bool:
    """Print what a tab and its server hold during so many updates; whether the tab is within its bound."""
    print("updates  heap MB  nodes  listeners  documents  server MiB")
    held = []
    async with browser.running(folder) as running:
        tab = await running.tab()
        await tab.open(f"{url}/ui")
        await tab.until("document.getElementById('connection').textContent === 'Live'")
        began, done = time.perf_counter(), 0
        for until in (
            20,
            *(round(20 + updates * part / SAMPLES) for part in range(1, SAMPLES + 1)),
        ):
            now = await tab.memory_after(updates=until - done)
            done = until
            held.append(now)
            print(
                f"{done:7} {now['JSHeapUsedSize'] / 1e6:8.2f} {now['Nodes']:6.0f}"
                f" {now['JSEventListeners']:10.0f} {now['Documents']:10.0f} {resident(pid):11.1f}",
                flush=True,
            )
        taken = await tab.value("Number(document.documentElement.dataset.updates)")
        print(f"{taken} updates were put on the page, in {time.perf_counter() - began:.0f} s")
    most = max(item["JSHeapUsedSize"] for item in held)
    return bool(
        taken >= updates + 20
        and most <= held[0]["JSHeapUsedSize"] * TAB_GROWTH + TAB_BYTES
        and max(item["JSEventListeners"] for item in held) <= held[0]["JSEventListeners"]
        and not tab.problems
    )


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def server(args: argparse.Namespace, folder: Path, *more: str) -> Iterator[tuple[int, Any]]:
    """Process number and addresses of a server in a process of its own."""
    command = [
        sys.executable, "-P", __file__, "--serve", str(folder), "--variants", str(args.variants),
        "--interval", str(args.interval), *more,
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise SystemExit("the server has no input and output")
        try:
            yield (
                process.pid,
                json.loads(next(line for line in process.stdout if line.startswith("{"))),
            )
        finally:
            process.stdin.close()


def main() -> int:
    """Measure; with --serve, run the measured server."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--variants", type=int, default=1000, help="Number of variants. Default 1000"
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="Seconds of each measurement. Default 60"
    )
    parser.add_argument(
        "--interval", type=float, default=15.0, help="Seconds between cycles. Default 15"
    )
    parser.add_argument(
        "--updates",
        type=int,
        default=5760,
        help="Updates of a tab; 0 leaves the tab out. Default 5760: a day of cycles every 15 s",
    )
    parser.add_argument("--only-tab", action="store_true", help="Measure the tab alone")
    # Used by the benchmark itself, to start the server.
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--all-updates", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(serve(args.serve, args.variants, args.interval, all_updates=args.all_updates))
        return 0
    holds = True
    if not args.only_tab:
        with (
            tempfile.TemporaryDirectory() as folder,
            server(args, Path(folder)) as (pid, at),
        ):
            holds = asyncio.run(measure(pid, at, args.seconds, args.interval))
    if browser.CHROMIUM is None:
        print("a tab for a day: skipped, chromium is not installed")
        return 0 if holds and not args.only_tab else 1
    if args.updates:
        with (
            tempfile.TemporaryDirectory() as folder,
            server(args, Path(folder), "--all-updates") as (pid, at),
        ):
            day = watch_day(at["metrics"], pid, Path(folder), args.updates)
            holds = asyncio.run(day) and holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

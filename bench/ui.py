"""The pages with 1,000 variants: time to render, CPU of the server with a viewer, and how long a GET waits.

The program runs in a process of its own, with all states replaced every interval, as reconcile cycles do.
A viewer opens the fleet's page and follows its updates. The API is asked over keep-alive TLS, in turns
without and with two viewers in one run: their ratio counts, not the machine. Ends with 1 where the first
page, the CPU of one viewer, or the ratio of p99 misses its bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapter import logs
from adapter.store import DESIRED
from emulator.demo import scenario
from tests.fakes import fleet_states  # the harness of the tests stands beside us

PAGE_SECONDS, CPU_SHARE, RATIO = 1.0, 0.01, 2.0
"""Bounds: the first page, a core's share for one viewer, and p99 with two viewers over p99 without."""

TURNS = 12
PATH = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/team-1/{DESIRED}"


async def serve(folder: Path, variants: int, interval: float) -> None:
    """Serve until the end of stdin, with new states at every interval; prints addresses and files first."""
    logs.configure("text", quiet=True)
    objects = folder / "objects"
    scenario.write_objects(objects)
    scenario.write_deployment(objects, (), 1)
    async with fleet_states.served(folder, objects, variants) as endpoints:
        states = dict(endpoints.loop.states)

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


async def measure(process: subprocess.Popen[str], seconds: float, interval: float) -> bool:
    """Print the table; whether all bounds hold."""
    if process.stdout is None:
        raise SystemExit("the server has no output to read")
    at = json.loads(next(line for line in process.stdout if line.startswith("{")))
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
        before = cpu_seconds(process.pid)
        await asyncio.sleep(seconds)
        used.append((cpu_seconds(process.pid) - before) / seconds)
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
    # Used by the benchmark itself, to start the server.
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(serve(args.serve, args.variants, args.interval))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-P", __file__, "--serve", folder, "--variants", str(args.variants),
            "--interval", str(args.interval),
        ]  # fmt: skip
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            holds = asyncio.run(measure(process, args.seconds, args.interval))
            if process.stdin is not None:
                process.stdin.close()
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

"""CPU of the leader and of a follower in a cluster of 300 variants whose load, statuses and HPAs change.

Two real programs serve against an in-memory Kubernetes API. Every variant has a Deployment with two pods and
an HPA; half of the loads change every 20 s, the HPAs' statuses every 15 s, as their controller writes them;
every target is confirmed in its status every 20 s (a third of its time to live). With --serving an
HPA of every variant reads its metric from the follower every 15 s, by one front proxy, and scales its target.
The share of each program is its own and its children's, of one CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import aiohttp  # noqa: E402 - as below
from footprint import cpu_seconds, process_tree  # noqa: E402 - as below

from tests.fakes import cluster_world as worlds  # noqa: E402 - the clone is what is measured

START_SECONDS = 180.0
"""Most seconds until the last variant has its first target."""

SETTLE_SECONDS = 25.0
"""Seconds between the start of the follower and the measurement."""

LEASES = ("/apis/coordination.k8s.io/v1", "leases")

SYNC_SECONDS = 15.0
"""Seconds between two readings of an HPA."""

LOADS = (6.0, 12.0)
"""Requests a minute of a variant at its lower load and at the higher one."""

SCALING_LOADS = (20.0, 60.0)
"""The same where HPAs scale: one replica, and two."""


def progress(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def program(world: worlds.World, clone: Path, name: str, port: int = 0) -> AsyncIterator[int]:
    """Run a replica; gives its process id."""
    way = await world.site.entrance(name)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "adapter", "serve", f"--kubeconfig={way.kubeconfig}",
        f"--config-namespace={worlds.SYSTEM}", f"--port={port}", f"--state-dir={world.folder}/{name}",
        "--interval=15s", "--scrape-interval=5s", "--window=15s", "--time-to-live=60s",
        f"--identity={name}",
        cwd=clone, env={**os.environ, "PYTHONPATH": str(clone)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


async def change(world: worlds.World, names: list[str], loads: tuple[float, float] = LOADS) -> None:
    """Change loads and the HPAs' statuses, until cancelled."""
    for turn in range(10**6):
        for number, name in enumerate(names):
            high = turn // 4 % 2 and number % 2
            world.load[name] = loads[bool(high)] / worlds.SPEED
            if number % 3 == turn % 3:
                metrics = [{"type": "External", "current": turn}]
                world.api.set_status(
                    worlds.SCALERS, "horizontalpodautoscalers", "team-a", name,
                    currentMetrics=metrics,
                )  # fmt: skip
        await asyncio.sleep(5)


async def scale(world: worlds.World, names: list[str], port: int) -> None:
    """Read every variant's metric from the replica at that port and scale its target, until cancelled."""
    proxy = world.site.certificates.folder
    tls = ssl.create_default_context(cadata=world.ca_bundle().decode())
    tls.load_cert_chain(proxy / "fp.crt", proxy / "fp.key")
    path = "apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/wva_desired_replicas"
    url = f"https://127.0.0.1:{port}/{path}"
    host = "variant-adapter.variant-adapter-system.svc"
    headers = {"X-Remote-User": worlds.HPA_CONTROLLER, "Host": f"{host}:443"}
    connector = aiohttp.TCPConnector(ssl=tls, limit=4)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        while True:  # until it listens
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(url, server_hostname=host):
                    break
            await asyncio.sleep(0.5)
        while True:
            for name in names:
                query = {"labelSelector": f"variant_name={name}"}
                async with session.get(url, params=query, server_hostname=host) as response:
                    items = (await response.json()).get("items")
                if items:
                    target = world.api.get(worlds.APPS, "deployments", "team-a", name)
                    replicas = max(int(items[0]["value"]), 1)
                    if target["spec"]["replicas"] != replicas:
                        world.api.put(
                            worlds.APPS, "deployments",
                            {**target, "spec": {**target["spec"], "replicas": replicas}},
                        )  # fmt: skip
                await asyncio.sleep(SYNC_SECONDS / len(names))


async def first_statuses(world: worlds.World, names: list[str]) -> float:
    """Seconds from the election until every variant has a status."""
    async with asyncio.timeout(START_SECONDS):
        while not world.api.objects.get(LEASES):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        elected = asyncio.get_running_loop().time()
        for name in names:
            while not world.status(name):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
    return asyncio.get_running_loop().time() - elected


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        return int(item.getsockname()[1])


async def measure(
    count: int, clone: Path, seconds: float, *, serving: bool
) -> tuple[float, float, int]:
    """Shares of a CPU of leader and follower, and status writes in the measured time."""
    with tempfile.TemporaryDirectory() as folder:
        async with worlds.running(Path(folder)) as world:
            names = ["v", *(f"v{number}" for number in range(1, count))]
            for name in names[1:]:
                world.deploy(name, 2)
            for name in names:
                world.api.put(worlds.SCALERS, "horizontalpodautoscalers", worlds.scaler(name))
            changing = asyncio.create_task(
                change(world, names, SCALING_LOADS if serving else LOADS)
            )
            scaling: asyncio.Task[None] | None = None
            async with contextlib.AsyncExitStack() as stack:
                ids = [await stack.enter_async_context(program(world, clone, "a"))]
                seconds_to_first = await first_statuses(world, names)
                progress(f"first statuses {seconds_to_first:.1f} s after the election")
                progress("waiting for the first targets")
                async with asyncio.timeout(START_SECONDS):
                    while world.desired(names[-1]) is None:  # noqa: ASYNC110 - nobody tells
                        await asyncio.sleep(0.2)
                port = free_port()
                ids.append(await stack.enter_async_context(program(world, clone, "b", port)))
                progress("a follower joins")
                await asyncio.sleep(SETTLE_SECONDS / 2)
                if serving:
                    scaling = asyncio.create_task(scale(world, names, port))
                await asyncio.sleep(SETTLE_SECONDS / 2)
                progress(f"measuring for {seconds:g} s")
                before = [sum(map(cpu_seconds, process_tree(item))) for item in ids]
                writes = len(world.api.writes("variantautoscalings"))
                await asyncio.sleep(seconds)
                after = [sum(map(cpu_seconds, process_tree(item))) for item in ids]
                written = len(world.api.writes("variantautoscalings")) - writes
                if scaling is not None:
                    scaling.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await scaling  # an error of it is one of the benchmark
                leases = world.api.objects[LEASES].values()
                if any(lease["spec"]["leaseTransitions"] for lease in leases):
                    progress("the leader has changed: the numbers say nothing")
            changing.cancel()
    a, b = ((new - old) / seconds for new, old in zip(after, before, strict=True))
    return a, b, written


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0, help="Measured time. Default: 60")
    parser.add_argument(
        "--clone", type=Path, default=ROOT, help="Clone whose program runs. Default: this one"
    )
    parser.add_argument(
        "--serving", action="store_true", help="HPAs read from the follower. Default: nobody does"
    )
    args = parser.parse_args()
    # Watches that end with the programs are no news.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    leader, follower, writes = asyncio.run(
        measure(args.variants, args.clone, args.seconds, serving=args.serving)
    )
    print(f"{'variants':>8}  {'leader':>7}  {'follower':>8}  {'status writes a minute':>22}")
    rate = 60 * writes / args.seconds
    print(f"{args.variants:>8}  {leader:>7.1%}  {follower:>8.1%}  {rate:>22.0f}")


if __name__ == "__main__":
    main()

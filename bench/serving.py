"""Requests per second and latencies of the API over keep-alive TLS with a client certificate.

The server runs in a process of its own, as `serve` would, with 1, 100 and 10,000 variants; the client queries
one variant by its label, as an HPA does, over 1 and 4 connections. Each case is measured with an idle
planning worker, and while it plans 1,000 variants repeatedly. `--loop uvloop` measures another event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.auth import authentication, authorization
from adapter.planning import fleet
from adapter.planning.worker import PlanningWorker
from adapter.store import Series, TargetStore
from adapter.tls import listener
from adapter.tls.certificates import Certificates
from analyzer.latency import LatencyParameters
from certs.authority import Authority

PATH = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/inferno_desired_replicas"
VARIANTS = (1, 100, 10_000)
SECONDS = 4.0


def snapshot(count: int) -> fleet.Fleet:
    """A fleet whose plan takes a while."""
    profiles = tuple(
        fleet.Profile(
            accelerator=name,
            max_batch=64,
            latency=LatencyParameters(alpha_ms=alpha, beta_ms=0.3, gamma_ms=9, delta_ms=0.01),
        )
        for name, alpha in (("A", 20.0), ("B", 12.0), ("C", 8.0), ("D", 15.0))
    )
    return fleet.Fleet(
        accelerators=tuple(
            fleet.Accelerator(name=name, device_type=name, unit_cost=cost)
            for name, cost in (("A", 40), ("B", 60), ("C", 90), ("D", 50))
        ),
        service_classes=(
            fleet.ServiceClass(
                name="p", priority=1, targets={"m": fleet.Targets(itl_ms=40, ttft_ms=800)}
            ),
        ),
        variants=tuple(
            fleet.Variant(
                name=f"ns/v{number}", model="m", service_class="p", profiles=profiles,
                load=fleet.Load(
                    arrival_rate_rps=1 + number % 50, input_tokens=300 + number % 700,
                    output_tokens=100 + number % 300,
                ),
                current=fleet.CurrentAllocation(accelerator="A", replicas=1),
            )
            for number in range(count)
        ),
    )  # fmt: skip


async def serve(folder: Path, variants: int, *, planning: bool) -> None:
    """Serve until the end of stdin; prints the port, and in the end the peak memory in MiB."""
    store = TargetStore()
    store.publish(
        Series(
            metric="inferno_desired_replicas",
            namespace="ns",
            labels={
                "variant_name": f"v{number}", "namespace": "ns", "exported_namespace": "ns",
                "accelerator_type": "A100", "model_name": "default/default",
            },
            value="3", decided_at=time.time(), valid_until=None,
        )
        for number in range(variants)
    )  # fmt: skip
    config = authentication.IdentityConfig(client_cas=(folder / "ca.crt").read_bytes())
    application = handlers.application(
        provider=store,
        authenticator=authentication.Authenticator(config),
        policy=authorization.LocalPolicy(),
        probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
    )
    certificates = Certificates(
        folder / "s.crt", folder / "s.key", (folder / "ca.crt").read_bytes()
    )
    worker = PlanningWorker()

    async def plan() -> None:
        work = snapshot(1000)
        while True:
            await worker.plan(work)

    async with listener.listening(
        application, host="127.0.0.1", port=0, certificates=certificates
    ) as port:
        planner = None
        if planning:
            await worker.plan(snapshot(1))
            planner = asyncio.create_task(plan())
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        if planner is not None:
            planner.cancel()
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{used:.0f}", flush=True)
        await worker.close()


async def load(url: str, context: ssl.SSLContext, connections: int) -> tuple[float, list[float]]:
    """Requests per second, and the latency of each request in ms."""
    times: list[float] = []
    connector = aiohttp.TCPConnector(ssl=context, limit=connections)
    headers = {"Accept": "application/vnd.kubernetes.protobuf, */*", "Accept-Encoding": "gzip"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def client(seconds: float) -> None:
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                async with session.get(url) as response:
                    body = await response.read()
                times.append((time.perf_counter() - start) * 1000)
                if b'"value":"3"' not in body:
                    raise SystemExit(f"wrong answer: {body!r}")

        await client(0.3)
        times.clear()
        begun = time.perf_counter()
        await asyncio.gather(*(client(SECONDS) for _ in range(connections)))
        return len(times) / (time.perf_counter() - begun), times


def measure(folder: Path, loop: str, variants: int, connections: int, *, planning: bool) -> str:
    """One row of the table."""
    command = [
        sys.executable, "-P", __file__, "--serve", str(folder), "--loop", loop,
        "--variants", str(variants), *(["--planning"] if planning else []),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise SystemExit("no pipes")
        port = int(process.stdout.readline())
        context = ssl.create_default_context(cafile=str(folder / "sca.crt"))
        context.load_cert_chain(folder / "c.crt", folder / "c.key")
        url = f"https://127.0.0.1:{port}{PATH}?labelSelector=variant_name%3Dv{variants - 1}"
        rate, times = asyncio.run(load(url, context, connections))
        process.stdin.close()
        memory = process.stdout.readline().strip()
    cuts = statistics.quantiles(times, n=100)
    state = "planning 1,000" if planning else "idle"
    return (
        f"{loop:>8} {variants:>8} {state:>16} {connections:>11}  {rate:>8.0f}  {cuts[49]:>7.2f}"
        f"  {cuts[98]:>7.2f}  {memory:>6}"
    )


def certificates(folder: Path) -> None:
    """Write the certificates of server and client, and their authorities."""
    clients, servers = Authority.create("clients"), Authority.create("servers")
    (folder / "ca.crt").write_bytes(clients.cert_pem)
    (folder / "sca.crt").write_bytes(servers.cert_pem)
    for name, pair in (
        ("s", servers.issue_server(["localhost"], ["127.0.0.1"])),
        ("c", clients.issue_client("hpa", ["system:masters"])),
    ):
        (folder / f"{name}.crt").write_bytes(pair.cert_pem)
        (folder / f"{name}.key").write_bytes(pair.key_pem)


def main() -> None:
    """Measure all cases; with --serve, run the measured server."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--loop",
        choices=("asyncio", "uvloop"),
        default="asyncio",
        help="event loop of the server. Default: asyncio",
    )
    # Used by the benchmark itself, to start the server.
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variants", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--planning", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        factory = None
        if args.loop == "uvloop":
            import uvloop  # noqa: PLC0415 - optional

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(serve(args.serve, args.variants, planning=args.planning))
        return
    print(
        f"{'loop':>8} {'variants':>8} {'worker':>16} {'connections':>11}  {'req/s':>8}  {'p50 ms':>7}"
        f"  {'p99 ms':>7}  {'MB':>6}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates(folder)
        for variants in VARIANTS:
            for connections in (1, 4):
                for planning in (False, True):
                    print(measure(folder, args.loop, variants, connections, planning=planning))


if __name__ == "__main__":
    main()

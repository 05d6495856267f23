"""Faults put into the running program, each with what must hold: one table; exit status 1 where one does not.

The real `variant-adapter serve` runs against an in-memory Kubernetes API over TLS, with the rights of the
manifests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import programs
import slow_clients
from programs import BrokenError, Cluster, Watcher, require, until

from adapter import cli

MORE = 20.0 / 6.0
"""Factor of the load at which more replicas are decided."""


@dataclass(frozen=True)
class Fault:
    """One fault, and what must hold while and after it is there."""

    run: Callable[[Cluster], Awaitable[str]]
    holds: str

    @property
    def name(self) -> str:
        """Its name in the table and for --only."""
        return self.run.__name__.replace("_", "-")


async def _decides(cluster: Cluster) -> float:
    """Change the load; give the seconds until there is a decision for it."""
    before = cluster.world.desired() or 0
    cluster.world.load["v"] *= MORE
    return await until(lambda: (cluster.world.desired() or 0) > before, "a decision for more load")


async def worker_killed(cluster: Cluster) -> str:
    """SIGKILL for the planning worker, and for the next one."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        async with Watcher(cluster, program).watching() as watcher:
            for _ in range(2):
                await until(program.children, "a planning worker")
                for child in program.children():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                await asyncio.sleep(3)
            seconds = await _decides(cluster)
        return f"decided {seconds:.1f} s later; {watcher.served()}"


async def workers_killed_at_once(cluster: Cluster) -> str:
    """SIGKILL for every planning worker as soon as it is there, for 15 s."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        killed: set[int] = set()
        async with Watcher(cluster, program).watching() as watcher:
            for _ in range(150):
                for child in program.children():
                    killed.add(child)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                await asyncio.sleep(0.1)
            require(program.said("planning worker is broken"), "the log does not say so")
            require(len(killed) <= 15, f"{len(killed)} workers were started in 15 s")
            seconds = await _decides(cluster)
        return f"{len(killed)} workers; decided {seconds:.1f} s later; {watcher.served()}"


async def errors_and_throttling(cluster: Cluster) -> str:
    """Two of three requests to the API server end with 429 or 500 for ten seconds."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        dice = random.Random(1)  # noqa: S311 - faults, not secrets
        async with Watcher(cluster, program).watching() as watcher:
            program.way.answer = lambda _method, path: (
                None if path.endswith("reviews") else dice.choice((429, 500, None))
            )
            await asyncio.sleep(10)
            program.way.answer = lambda _method, _path: None
            seconds = await _decides(cluster)
        return f"decided {seconds:.1f} s later; {watcher.served()}"


async def api_server_down(cluster: Cluster) -> str:
    """No connection to the API server for ten seconds."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        async with Watcher(cluster, program).watching() as watcher:
            # The review of the HPA controller's right is cached for ten seconds.
            program.way.answer = lambda _method, path: (
                None if path.endswith("accessreviews") else 503
            )
            program.way.end_watches()
            await asyncio.sleep(10)
            program.way.answer = lambda _method, _path: None
            seconds = await _decides(cluster)
        return f"decided {seconds:.1f} s later; {watcher.served()}"


async def certificate_exchanged(cluster: Cluster) -> str:
    """Certificate authority and serving certificate are exchanged while the metric is queried."""
    world = cluster.world
    async with cluster.program("a", "--certificate-overlap=4s") as program:
        await cluster.serves(program)
        before = world.ca_bundle().strip()
        async with Watcher(cluster, program).watching() as watcher:
            admin = await world.site.entrance("admin", user="")
            arguments = ["certs", "rotate", "--kubeconfig", str(admin.kubeconfig)]
            with contextlib.redirect_stdout(None):
                require(await asyncio.to_thread(cli.main, arguments) == 0, "certs rotate failed")
            seconds = await until(lambda: before not in world.ca_bundle(), "another authority")
        return f"exchanged in {seconds:.1f} s; {watcher.served()}"


async def slow_senders(cluster: Cluster) -> str:
    """300 strangers send a request byte by byte over TLS."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        context = programs.stranger(cluster.world)
        before = program.memory_mib()

        async def send() -> None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", program.port, ssl=context)
                for byte in b"GET /x HTTP/1.1\r\nX: " + b"a" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.2)

        async with Watcher(cluster, program).watching() as watcher:
            senders = [asyncio.create_task(send()) for _ in range(300)]
            await until(lambda: watcher.answers >= 50, "50 answers")
            for task in senders:
                task.cancel()
        return f"{program.memory_mib() - before:+.0f} MiB; {watcher.served()}"


async def flood_of_connections(cluster: Cluster) -> str:
    """1,000 idle anonymous TLS and 4,000 TCP connections to the API port, 1,000 to the metrics port."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        context = programs.stranger(cluster.world)
        before, slots, held = program.memory_mib(), asyncio.Semaphore(50), []

        async def connect(port: int, *, tls: bool) -> None:
            async with slots:
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(20):
                        held.append(
                            await asyncio.open_connection(
                                "127.0.0.1", port, ssl=context if tls else None
                            )
                        )

        async with Watcher(cluster, program).watching() as watcher:
            await asyncio.gather(
                *(connect(program.port, tls=True) for _ in range(1000)),
                *(connect(program.port, tls=False) for _ in range(4000)),
                *(connect(program.metrics_port, tls=False) for _ in range(1000)),
            )
        grown, files = program.memory_mib() - before, program.descriptors()
        for _, writer in held:
            writer.close()
        require(grown < 200, f"memory grew by {grown:.0f} MiB")
        require(program.said("connection limit reached") <= 4, "the log is flooded")
        return f"{grown:+.0f} MiB, {files} open files; {watcher.served()}"


async def flood_of_paths_and_tokens(cluster: Cluster) -> str:
    """1,000 anonymous requests to as many paths, and 1,000 with as many made-up tokens."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        world, context = cluster.world, programs.stranger(cluster.world)
        before = world.api.access_reviews, world.api.identities.token_reviews
        started = time.monotonic()
        for header in ("", "Authorization: Bearer t{}\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", program.port, ssl=context)
            for number in range(1000):
                line = f"GET /x/{number} HTTP/1.1\r\nHost: x\r\n{header.format(number)}\r\n"
                writer.write(line.encode())
                await _response(reader)
            writer.close()
        seconds = time.monotonic() - started
        access = world.api.access_reviews - before[0]
        tokens = world.api.identities.token_reviews - before[1]
        limit = 25 + 6 * seconds
        require(access < limit, f"{access} access reviews in {seconds:.0f} s")
        require(tokens < limit, f"{tokens} token reviews in {seconds:.0f} s")
        return f"{access} access and {tokens} token reviews in {seconds:.0f} s"


async def odd_watch_lines(cluster: Cluster) -> str:
    """Every watch is a line that is no event, for six seconds."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        async with Watcher(cluster, program).watching() as watcher:
            for line in (b"null", b"[1]", b'"x"', b"[" * 100_000, b"\xff{"):
                program.way.odd_line = line
                program.way.end_watches()
                await asyncio.sleep(1.2)
            before = len(cluster.world.api.requests)
            await asyncio.sleep(3)
            rate = (len(cluster.world.api.requests) - before) / 3
            program.way.odd_line = b""
            seconds = await _decides(cluster)
        require(rate < 25, f"{rate:.0f} requests per second")
        return f"{rate:.0f} requests/s; decided {seconds:.1f} s later; {watcher.served()}"


async def full_disk(cluster: Cluster) -> str:
    """No file of the program can grow while its certificate is exchanged; then they can again."""
    world = cluster.world
    async with cluster.program("a", "--certificate-overlap=2s") as program:
        await cluster.serves(program)
        pid = program.process.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        async with Watcher(cluster, program).watching() as watcher:
            before = world.ca_bundle().strip()
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
            admin = await world.site.entrance("admin", user="")
            arguments = ["certs", "rotate", "--kubeconfig", str(admin.kubeconfig)]
            with contextlib.redirect_stdout(None):
                require(await asyncio.to_thread(cli.main, arguments) == 0, "certs rotate failed")
            await until(lambda: program.said("not synced"), "a log message")
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
            await until(lambda: before not in world.ca_bundle(), "another authority")
        return watcher.served()


async def clock_jump(cluster: Cluster) -> str:
    """The clock jumps 80 days ahead and back."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        for days in (80, 0):
            program.offset.write_text(str(days * 86_400))
            await asyncio.sleep(4)
        await cluster.serves(program)
        async with Watcher(cluster, program).watching() as watcher:
            seconds = await _decides(cluster)
        return f"decided {seconds:.1f} s later; {watcher.served()}"


async def delayed_write_of_a_former_leader(cluster: Cluster) -> str:
    """The leader's status is on its way for 2.5 s longer than its lease, and it is cut off."""
    world = cluster.world
    async with cluster.program("a") as a, cluster.program("b") as b:
        await cluster.serves(a)
        await cluster.serves(b)
        ways = {"a_0": a.way, "b_0": b.way}
        old = ways[_holder(cluster)]

        def late(method: str, path: str) -> float:
            if method != "PATCH" or not path.endswith("/v/status"):
                return 0.0
            old.isolate()
            return 10.0 + 2.5

        old.late = late
        cluster.world.load["v"] *= MORE
        await until(lambda: old.cut, "a write of the leader")
        cluster.world.load["v"] /= MORE
        await until(lambda: ways[_holder(cluster)] is not old, "another leader")
        await until(lambda: world.api.late, "the late write")
        require(world.api.late[0][1] == 409, f"the late write got {world.api.late}")
        return f"refused with 409; the status holds {world.desired()} replicas"


async def keep_alive_at_sigterm(cluster: Cluster) -> str:
    """30 clients with a keep-alive connection query on while the program ends."""
    async with cluster.program("a", "--shutdown-delay=2s") as program:
        await cluster.serves(program)
        context = programs.stranger(cluster.world)
        ends: list[str] = []

        async def query(pause: float) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", program.port, ssl=context)
            closes = False
            while not closes:
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                try:
                    closes = await _response(reader)
                except (OSError, EOFError) as error:
                    ends.append(repr(error))
                    return
                await asyncio.sleep(pause)
            writer.close()

        clients = [asyncio.create_task(query(0.02 * (number + 1))) for number in range(30)]
        await asyncio.sleep(1)
        program.process.terminate()
        started = time.monotonic()
        await asyncio.wait_for(asyncio.gather(*clients), 30)
        code = await asyncio.wait_for(program.process.wait(), 30)
        require(not ends, f"{len(ends)} clients got no answer: {ends[:1]}")
        require(code == 0, f"exit status {code}")
        return f"all answered; ended after {time.monotonic() - started:.1f} s"


def _holder(cluster: Cluster) -> str:
    path = "/apis/coordination.k8s.io/v1"
    lease = cluster.world.api.get(path, "leases", programs.worlds.SYSTEM, "variant-adapter")
    return str(lease["spec"].get("holderIdentity"))


async def _response(reader: asyncio.StreamReader) -> bool:
    """Read a response; whether it closes the connection."""
    if not await reader.readline():
        raise EOFError("end of file in place of an answer")
    length, closes = 0, False
    while (line := (await reader.readline()).lower()) not in {b"\r\n", b""}:
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        closes = closes or (line.startswith(b"connection:") and b"close" in line)
    await reader.readexactly(length)
    return closes


FAULT_SECONDS = 1800.0
"""Seconds after which a fault ends that ends by no deadline of its own, all of which are shorter."""

FAULTS = (
    Fault(worker_killed, "all are answered; the next load is decided"),
    Fault(workers_killed_at_once, "back-off, the log says so; the next load is decided"),
    Fault(errors_and_throttling, "all are answered; the next load is decided"),
    Fault(api_server_down, "all are answered; the next load is decided"),
    Fault(certificate_exchanged, "nobody who trusts the caBundle is turned away"),
    Fault(slow_senders, "the front proxy is answered"),
    Fault(
        slow_clients.slow_readers,
        "those with answers are closed, few streams stay; memory < 300 MiB; others are answered",
    ),
    Fault(flood_of_connections, "the front proxy is answered; memory < 200 MiB; few log lines"),
    Fault(flood_of_paths_and_tokens, "at most 20 reviews at once and 5 a second"),
    Fault(odd_watch_lines, "all are answered; back-off; the next load is decided"),
    Fault(full_disk, "all are answered by the old certificate, then by the new one"),
    Fault(clock_jump, "a valid certificate and targets, after it is right again"),
    Fault(delayed_write_of_a_former_leader, "it is refused"),
    Fault(keep_alive_at_sigterm, "an answer with Connection: close, exit status 0"),
)


async def _measured(fault: Fault) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(FAULT_SECONDS), programs.cluster() as cluster:
            return True, await fault.run(cluster)
    except* (BrokenError, TimeoutError, AssertionError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        broken = str(error) or type(error).__name__
    return False, broken


def main() -> int:
    """Print one row per fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", nargs="*", choices=names, help="faults to run. Default all")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    failed = 0
    for fault in FAULTS:
        if args.only and fault.name not in args.only:
            continue
        holds, measured = asyncio.run(_measured(fault))
        failed += not holds
        print(f"{'holds' if holds else 'BROKEN':<7} {fault.name:<33} {fault.holds}", flush=True)
        print(f"{'':<7} {'':<33} {measured}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The real program against an in-memory Kubernetes API, and what is measured of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.fakes import cluster_world as worlds  # noqa: E402 - the clone is what is measured

WAIT_SECONDS = 60.0
"""Seconds after which something that must come to hold does not."""

SERVE = Path(__file__).with_name("serve_with_offset.py")


class BrokenError(Exception):
    """What must hold does not."""


def require(holds: object, what: str) -> None:
    """End a fault where something does not hold."""
    if not holds:
        raise BrokenError(what)


async def until(
    true: Callable[[], object],
    what: str,
    *,
    seconds: float = WAIT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until something holds, at most those seconds of a clock; give the real seconds that it took."""
    began, started = time.monotonic(), clock()
    while not true():
        require(clock() - started < seconds, f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


class Program:
    """One `variant-adapter serve`.

    Attributes:
        url: URL of the API port.
        metrics_port: plain port.
        way: its way to the Kubernetes API.
        log: lines that it wrote.
        offset: file with the seconds that its clock is ahead.

    """

    def __init__(
        self, process: asyncio.subprocess.Process, way: Any, ports: tuple[int, int], offset: Path
    ) -> None:
        self.process = process
        self.port, self.metrics_port = ports
        self.url = f"https://localhost:{ports[0]}"
        self.way = way
        self.offset = offset
        self.log: list[str] = []

    def said(self, text: str) -> int:
        """Number of log lines with a text."""
        return sum(text in line for line in self.log)

    def children(self) -> list[int]:
        """Ids of its child processes."""
        process_ids = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                process_ids += [int(item) for item in (task / "children").read_text().split()]
        return process_ids

    def memory_mib(self) -> float:
        """Resident memory of the server."""
        return resident_mib(self.process.pid)

    def cpu_seconds(self) -> float:
        """Seconds of the processor that the server has used: a time that a busy machine does not shorten."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        """Open files of the server."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


class Cluster:
    """A world with programs in it."""

    def __init__(self, world: worlds.World) -> None:
        self.world = world

    @contextlib.asynccontextmanager
    async def program(self, name: str, *flags: str) -> AsyncIterator[Program]:
        """Run a replica until the context ends."""
        way = await self.world.site.entrance(name)
        ports = free_port(), free_port()
        offset = self.world.folder / f"{name}.offset"
        offset.write_text("0")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(SERVE), str(offset), "serve",
            f"--kubeconfig={way.kubeconfig}", f"--config-namespace={worlds.SYSTEM}",
            f"--port={ports[0]}", f"--metrics-port={ports[1]}", f"--identity={name}_0",
            f"--state-dir={self.world.folder}/state-{name}", "--interval=2s",
            "--scrape-interval=500ms", "--window=5s", "--lease-duration=6s", "--log-format=json",
            *flags, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        program = Program(process, way, ports, offset)
        reading = asyncio.create_task(_read(process, program.log))
        try:
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()
            await reading

    async def value(self, program: Program) -> list[str]:
        """The metric of variant `v` as the HPA controller gets it."""
        return await self.world.metric(SimpleNamespace(url=program.url))  # type: ignore[arg-type]

    async def serves(self, program: Program, *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until a program serves a target."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(Exception):
                if await self.value(program):
                    return
            require(time.monotonic() < deadline, f"no target is served; log: {program.log[-3:]}")
            await asyncio.sleep(0.2)


class Watcher:
    """Queries the metric all the time, on a new connection each, and counts what is not a value."""

    def __init__(self, cluster: Cluster, program: Program) -> None:
        self._cluster = cluster
        self._program = program
        self.answers = 0
        self.failures: list[str] = []
        self.slowest = 0.0

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Watcher]:
        """Query until the context ends."""
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                value = await self._cluster.value(self._program)
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(repr(error)[:200])
            else:
                if not value:
                    self.failures.append("no value")
            self.answers += 1
            self.slowest = max(self.slowest, time.monotonic() - started)
            await asyncio.sleep(0.05)

    def served(self) -> str:
        """How many answers there were; all of them must be values."""
        require(self.answers, "no answer")
        require(not self.failures, f"{len(self.failures)} of {self.answers}: {self.failures[:1]}")
        return f"{self.answers} answers, slowest {self.slowest:.2f} s"


@contextlib.asynccontextmanager
async def cluster() -> AsyncIterator[Cluster]:
    """A cluster with one variant under load."""
    with tempfile.TemporaryDirectory() as name:
        async with worlds.running(Path(name)) as world:
            # Pages run at the speed of the world: 60 requests a minute.
            world.load["v"] = 60.0 / worlds.SPEED
            yield Cluster(world)


def stranger(world: worlds.World) -> ssl.SSLContext:
    """TLS without a client certificate."""
    context = ssl.create_default_context(cadata=world.ca_bundle().decode())
    context.check_hostname = False
    return context


def front_proxy(world: worlds.World) -> ssl.SSLContext:
    """TLS with the client certificate of the front proxy."""
    context = stranger(world)
    folder = world.site.certificates.folder
    context.load_cert_chain(folder / "fp.crt", folder / "fp.key")
    return context


def resident_mib(process_id: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def _read(process: asyncio.subprocess.Process, lines: list[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    while line := await process.stderr.readline():
        lines.append(line.decode(errors="replace").rstrip())

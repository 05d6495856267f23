"""A real Prometheus on loopback that scrapes what a test tells it to.

Its data are gone with it. It takes up targets five seconds after they are told, at the start too, and that
cannot be set: a module's tests had better share one, whose targets need not listen yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

START_SECONDS = 300.0
END_SECONDS = 20.0
HANG_SECONDS = 300.0
"""After which a wait counts as endless; it decides nothing else."""
MISSING = "no prometheus on PATH; scripts/test-tools installs Debian's as root"


def binary() -> str | None:
    """Path of the program; None where it is not installed."""
    return shutil.which("prometheus")


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given either."""
    while True:
        port = random.randrange(20000, 30000)  # noqa: S311 - no secret
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                return port


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is scraped, with the labels that relabelling gives a pod's series; empty ones are left out."""

    address: str
    namespace: str = ""
    pod: str = ""
    job: str = ""
    path: str = "/metrics"

    @property
    def group(self) -> dict[str, object]:
        """As a file of targets has it."""
        labels = {
            "namespace": self.namespace,
            "pod": self.pod,
            "job": self.job,
            "__metrics_path__": self.path,
        }
        return {
            "targets": [self.address],
            "labels": {name: value for name, value in labels.items() if value},
        }


@dataclass(slots=True)
class PrometheusServer:
    """One that runs."""

    url: str
    process: asyncio.subprocess.Process
    targets_file: Path
    session: aiohttp.ClientSession = field(repr=False)

    def scrape(self, targets: Iterable[Target]) -> None:
        """These and no others from now on."""
        _write(self.targets_file, targets)

    async def ask(self, query: str) -> list[dict[str, Any]]:
        """The elements of an instant vector, as the API has them."""
        async with self.session.post(f"{self.url}/api/v1/query", data={"query": query}) as response:
            response.raise_for_status()
            elements: list[dict[str, Any]] = (await response.json())["data"]["result"]
            return elements

    async def scraped(self, targets: Sequence[Target], *, seconds: float = HANG_SECONDS) -> None:
        """Wait until the last scrape of each of these went well."""
        wanted = {(target.address, target.namespace, target.pod) for target in targets}
        names = ("instance", "namespace", "pod")
        async with asyncio.timeout(seconds):
            while True:
                labels = [item["metric"] for item in await self.ask("up == 1")]
                if wanted <= {tuple(item.get(name, "") for name in names) for item in labels}:
                    return
                await asyncio.sleep(0.1)

    async def until(self, query: str, *, seconds: float = HANG_SECONDS) -> None:
        """Wait until a query has an answer."""
        async with asyncio.timeout(seconds):
            while True:
                if await self.ask(query):
                    return
                await asyncio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Neither scrapes nor answers until the context ends; connections are accepted all the same."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def _write(path: Path, targets: Iterable[Target]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps([target.group for target in targets]))
    draft.replace(path)


@contextlib.asynccontextmanager
async def running(
    targets: Iterable[Target] = (),
    *,
    interval_ms: int = 250,
    drop: str = "",
    options: Mapping[str, str] | None = None,
) -> AsyncIterator[PrometheusServer]:
    """A Prometheus that answers; `drop` is a pattern of names of series that it does not keep."""
    path = binary()
    assert path is not None, MISSING
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name:
        folder = Path(name)
        files = folder / "targets.json"
        _write(files, targets)
        job: dict[str, object] = {"job_name": "pods", "file_sd_configs": [{"files": [str(files)]}]}
        if drop:
            job["metric_relabel_configs"] = [
                {"source_labels": ["__name__"], "regex": drop, "action": "drop"}
            ]
        every = f"{interval_ms}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every},
            "scrape_configs": [job],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        address = f"127.0.0.1:{free_port()}"
        flags = {
            "config.file": str(folder / "prometheus.yml"),
            "storage.tsdb.path": str(folder / "data"),
            "web.listen-address": address,
            "log.level": "warn",
            **(options or {}),
        }
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                path,
                *(f"--{flag}={value}" for flag, value in flags.items()),
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                async with aiohttp.ClientSession() as session:
                    server = PrometheusServer(f"http://{address}", process, files, session)
                    if not await _ready(server):
                        raise RuntimeError(f"prometheus: {(folder / 'log').read_text()}")
                    yield server
            finally:
                await _end(process)


async def _ready(server: PrometheusServer) -> bool:
    """Wait until it answers; false if it ended instead."""
    async with asyncio.timeout(START_SECONDS):
        while server.process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with server.session.get(f"{server.url}/-/ready") as response:
                    if response.status == 200:
                        return True
            await asyncio.sleep(0.05)
    return False


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()

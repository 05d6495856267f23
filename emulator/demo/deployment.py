"""The emulated Deployment of the demo: one emulated vLLM server process per replica."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from adapter import errors
from emulator.demo import scenario

START_TIMEOUT_SECONDS = 120.0
DRAIN_SECONDS = 20.0
"""Scenario seconds in which a removed replica may finish its requests."""


@dataclass(frozen=True, slots=True)
class _Server:
    url: str
    process: asyncio.subprocess.Process


class ReplicaSet:
    """Starts and stops server processes to match the replicas that were set.

    Attributes:
        spec_replicas: Replicas that were set last.

    """

    def __init__(self, *, speed: float, changed: Callable[[list[str]], None]) -> None:
        """Create a set without replicas; `changed(urls)` is called after every change of ready servers."""
        self._speed = speed
        self._changed = changed
        self._servers: list[_Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: set[asyncio.subprocess.Process] = set()
        self.spec_replicas = 0

    @property
    def urls(self) -> list[str]:
        """Base URLs of the ready servers."""
        return [server.url for server in self._servers]

    async def scale(self, replicas: int) -> None:
        """Set the replicas; returns when new ones are ready."""
        self.spec_replicas = replicas
        while len(self._servers) > replicas:
            server = self._servers.pop()
            task = asyncio.create_task(self._drain(server), name=f"drain {server.url}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        missing = replicas - len(self._servers)
        self._servers.extend(await asyncio.gather(*(self._start() for _ in range(missing))))
        self._changed(self.urls)

    async def close(self) -> None:
        """Stop every server now."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        processes = {server.process for server in self._servers} | self._starting
        self._servers.clear()
        await asyncio.gather(*(_end(process) for process in processes))

    async def _start(self) -> _Server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "emulator.vllm",
            *("--port", "0", "--model", scenario.MODEL, "--speed", str(self._speed)),
            *("--alpha", str(scenario.ALPHA_MS), "--beta", str(scenario.BETA_MS)),
            *("--max-batch", str(scenario.MAX_BATCH)),
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C must reach the demo only: a server that stops first would fail its requests.
            start_new_session=True,
        )
        self._starting.add(process)
        if process.stdout is None:
            raise errors.StartupError("an emulated vLLM server has no output to read")
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise errors.StartupError(
                f"an emulated vLLM server did not start in {START_TIMEOUT_SECONDS:g} s"
            ) from error
        prefix, _, url = line.decode().strip().partition(" on ")
        if prefix != "listening":
            raise errors.StartupError("an emulated vLLM server ended at once; its error is above")
        self._starting.discard(process)
        return _Server(url, process)

    async def _drain(self, server: _Server) -> None:
        try:
            await asyncio.sleep(DRAIN_SECONDS / self._speed)
        finally:
            await asyncio.shield(_end(server.process))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

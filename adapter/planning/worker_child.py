"""The process of the planning worker as its parent sees it: started, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from adapter.planning.worker_process import LENGTH, LOAD_ALL, message

log = structlog.get_logger()

START_SECONDS = 60.0
"""Seconds in which a new worker process must have loaded its libraries."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Seconds for which a worker that does not start is left alone: the first pause, doubled up to the cap."""

_SLOW = "planning it took longer than {:g} s, or ended the planning worker; check its profile and batch size"


class PlanningError(RuntimeError):
    """The worker gave no plan: it took too long, died, or could not plan."""


class WorkerLateError(PlanningError):
    """It took too long."""


class WorkerDiedError(PlanningError):
    """It ended over a plan."""


class WorkerBrokenError(PlanningError):
    """The worker does not start, or ends whatever it is given: no variant's fault."""


class Child:
    """One process; started when it is asked, unless others before it ended by themselves a moment ago."""

    def __init__(self, command: tuple[str, ...], now: Callable[[], float]) -> None:
        self._command = command
        self._now = now
        self._process: asyncio.subprocess.Process | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._paused_until = float("-inf")
        self._broken = ""
        self._loads_all = False

    @property
    def distrusted(self) -> bool:
        """Whether it was broken, and has answered nothing since."""
        return bool(self._broken)

    @property
    def pid(self) -> int | None:
        """Process ID; None while there is none."""
        return None if self._process is None else self._process.pid

    async def exchange(self, frames: list[bytes], seconds: float) -> list[bytes]:
        """Send a message and read the answer; one that takes longer ends the process.

        Raises:
            WorkerBrokenError: the process does not start.
            WorkerDiedError: it ended.
            WorkerLateError: it took longer.

        """
        if self._process is None:
            await self._start()
        try:
            async with asyncio.timeout(seconds):
                answered = await self._asked(frames)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            late = isinstance(error, TimeoutError)
            log.warning("planning worker is late or dead; restarting it", late=late)
            # On a busy machine what a first plan loads may take longer than it has, again and again.
            self._loads_all = self._loads_all or late
            await self.close()
            kind = WorkerLateError if late else WorkerDiedError
            raise kind(_SLOW.format(seconds)) from error
        except BaseException:
            await self.close()  # what it would answer is of no use any more
            raise
        self._pause, self._broken = FIRST_PAUSE_SECONDS, ""
        return answered

    async def close(self) -> None:
        """End the worker at once, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def broken(self, how: str) -> WorkerBrokenError:
        """The worker's own fault: it is not started again for a while, which grows."""
        self._broken = f"the planning worker {how}; see its output in the log, and the memory limit"
        self._paused_until = self._now() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        log.error("planning worker is broken; pausing", reason=self._broken)
        return WorkerBrokenError(self._broken)

    async def _asked(self, frames: Iterable[bytes]) -> list[bytes]:
        """Send a message to the worker and read its answer."""
        if self._process is None or self._process.stdin is None:
            raise OSError("the planning worker has ended")
        for part in message(list(frames)):
            self._process.stdin.write(part)
            await self._process.stdin.drain()
        return await self._receive()

    async def _start(self) -> None:
        """Start the process and wait until it has loaded its libraries.

        Raises:
            WorkerBrokenError: it ended, or did not become ready; or it did so a moment ago.

        """
        if self._now() < self._paused_until:
            raise WorkerBrokenError(self._broken)
        try:
            async with asyncio.timeout(START_SECONDS):
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    *((LOAD_ALL,) if self._loads_all else ()),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # Ctrl-C goes to the whole process group; the parent decides when the worker ends.
                    start_new_session=True,
                )
                await self._receive()
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            late = isinstance(error, TimeoutError)
            await self.close()
            how = f"was not ready within {START_SECONDS:g} s" if late else "ended while it started"
            raise self.broken(how) from error
        except BaseException:
            await self.close()
            raise

    async def _receive(self) -> list[bytes]:
        """Read a message of the worker."""
        if self._process is None or self._process.stdout is None:
            raise OSError("the planning worker has ended")
        source = self._process.stdout

        async def number() -> int:
            (length,) = LENGTH.unpack(await source.readexactly(LENGTH.size))
            return int(length)

        return [await source.readexactly(await number()) for _ in range(await number())]

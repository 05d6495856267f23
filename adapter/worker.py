"""Planning in a process of its own, so that a pass over a large fleet never stalls a GET."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import structlog

from adapter import fleet, planning

log = structlog.get_logger()


class PlanningWorker:
    """One worker process; started again when it dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        """`planning.plan(snapshot)` in the worker."""
        for attempt in (1, 2):
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    max_workers=1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_ignore_interrupts,
                )
            try:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._pool, planning.plan, snapshot)
            except BrokenProcessPool:
                log.warning("planning worker died; starting another", attempt=attempt)
                self.close()
        raise RuntimeError("the planning worker died twice in one pass")

    def close(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _ignore_interrupts() -> None:
    # Ctrl-C goes to the whole process group; the parent decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

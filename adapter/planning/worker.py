"""Planning in a process of its own, so that planning a large fleet never stalls a GET."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import structlog

from adapter.planning import fleet
from adapter.planning import plan as planning

log = structlog.get_logger()

PIECE = 20
"""Variants pickled at once, which takes some tenths of a millisecond."""

NICENESS = 19
"""Niceness of the worker process, 0 (as the server) to 19 (lowest priority)."""


class PlanningWorker:
    """One worker process; started again when it dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        """Run `planning.plan(snapshot)` in the worker.

        What goes there and comes back is packed in pieces, and the event loop runs in between: packing a
        thousand variants at once would keep a GET waiting for as long as it takes.
        """
        head = pickle.dumps(replace(snapshot, variants=()))
        pieces = []
        for start in range(0, len(snapshot.variants), PIECE):
            pieces.append(pickle.dumps(snapshot.variants[start : start + PIECE]))
            await asyncio.sleep(0)
        for attempt in (1, 2):
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    max_workers=1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_prepare,
                )
            try:
                loop = asyncio.get_running_loop()
                packed = await loop.run_in_executor(self._pool, _planned, head, pieces)
                return await _unpacked(*packed)
            except BrokenProcessPool:
                log.warning("planning worker died; restarting it", attempt=attempt)
                self.close()
        raise RuntimeError("the planning worker died twice in one reconcile cycle")

    def close(self) -> None:
        """End the worker."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _planned(head: bytes, pieces: list[bytes]) -> tuple[bytes, list[bytes]]:
    """In the worker: unpack, plan, pack."""
    variants = tuple(variant for piece in pieces for variant in pickle.loads(piece))  # noqa: S301 - our own
    plan = planning.plan(replace(pickle.loads(head), variants=variants))  # noqa: S301 - our own
    decisions = list(plan.decisions.items())
    packed = [
        pickle.dumps(decisions[start : start + PIECE]) for start in range(0, len(decisions), PIECE)
    ]
    return pickle.dumps(replace(plan, decisions={})), packed


async def _unpacked(head: bytes, pieces: list[bytes]) -> planning.Plan:
    decisions: dict[str, planning.Decision] = {}
    for piece in pieces:
        decisions.update(pickle.loads(piece))  # noqa: S301 - our own worker's
        await asyncio.sleep(0)
    plan: planning.Plan = pickle.loads(head)  # noqa: S301 - our own worker's
    return replace(plan, decisions=decisions)


def _prepare() -> None:
    # A plan may wait a little, a GET may not: on a machine that is busy the server goes first.
    os.nice(NICENESS)
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    # Ctrl-C goes to the whole process group; the parent decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

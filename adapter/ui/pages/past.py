"""The past from Prometheus for opened pages of variants: read in the background, kept for a while, bounded.

One query per page that is opened, none for its updates, and none while the last one is young. Few wait at a
time, and few variants are kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from adapter import tasks
from adapter.collector.past.reader import Past, PastReader
from adapter.collector.prometheus import PrometheusError
from adapter.ui.history import FIELDS, SPAN_SECONDS, Series

log = structlog.get_logger()

STEP_SECONDS = 60.0
"""Seconds between two samples of a query."""

FRESH_SECONDS = 60.0
"""Seconds for which an answer, or that there is none, is not asked for again."""

MOST_ANSWERS = 32
"""Variants whose past is kept: 23 KB each."""

WAITING = 4
"""Variants that are read or wait at a time; for more, pages show what is in memory."""

PATIENCE_SECONDS = 0.3
"""Time that a page which is opened waits for an answer; a later one comes with an update."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is known of a variant's past.

    Attributes:
        past: What Prometheus has; None where it could not be read.
        problem: Why it could not be read; empty otherwise.
        pending: True while it is being read.

    """

    past: Past | None = None
    problem: str = ""
    pending: bool = False


class Pasts:
    """The pasts of the variants whose pages are open."""

    def __init__(
        self,
        reader: PastReader | None,
        arrived: Callable[[], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty store.

        Args:
            reader: Reads from Prometheus; None reads nothing.
            arrived: Is called when an answer has come that a page may wait for.
            now: Monotonic seconds.

        """
        self._reader = reader
        self._arrived = arrived
        self._now = now
        self._answers: dict[str, tuple[float, Answer]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a Prometheus to read from."""
        return self._reader is not None and self._reader.connected

    async def close(self) -> None:
        """End what is being read."""
        for task in list(self._reading.values()):
            await tasks.cancel(task)

    def known(self, key: str) -> Answer:
        """What is known now, without a query."""
        answer = self._answers.get(key, (0.0, Answer()))[1]
        return replace(answer, pending=key in self._reading)

    async def opened(self, key: str) -> Answer:
        """What is known, read anew where that is old; waits a moment for it."""
        reader = self._reader
        if reader is None or not reader.connected:
            return Answer()
        at, _ = self._answers.get(key, (-FRESH_SECONDS, Answer()))
        if key not in self._reading and self._now() - at >= FRESH_SECONDS:
            if len(self._reading) >= WAITING:
                return self.known(key)
            self._reading[key] = asyncio.create_task(self._read(reader, key), name="read the past")
        if (task := self._reading.get(key)) is not None:
            await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        return self.known(key)

    async def _read(self, reader: PastReader, key: str) -> None:
        namespace, _, name = key.partition("/")
        answer = Answer(problem="reading was cut off")
        try:
            past = await reader.read(namespace, name, seconds=SPAN_SECONDS, step=STEP_SECONDS)
            answer = Answer(past=past)
        except PrometheusError as error:
            log.info("past not read from Prometheus; showing what is in memory", error=str(error))
            answer = Answer(past=self.known(key).past, problem=str(error))
        finally:
            self._reading.pop(key, None)
            self._answers.pop(key, None)
            while len(self._answers) >= MOST_ANSWERS:
                self._answers.pop(next(iter(self._answers)))
            self._answers[key] = (self._now(), answer)
            self._arrived()


def joined(series: Series | None, past: Past | None, *, now: float) -> Series | None:
    """What memory has of the load, and the past at all other times; oldest first.

    A replica that follows knows replicas and targets alone: the past, where there is one, has all.
    """
    if past is None or not len(past.times):
        return series
    own = series or Series(times=np.zeros(0), seconds=np.zeros(0), values=_nothing(0))
    known = np.isfinite(own.values["offered"])
    inside = (past.times >= now - SPAN_SECONDS) & (past.times <= now)
    inside &= ~_within(past.times, own.times[known], own.seconds[known] / 2)
    kept = past.times[inside]
    mine = known | ~_within(own.times, kept, np.full(len(kept), past.step))
    times = np.concatenate([kept, own.times[mine]])
    order = np.argsort(times, kind="stable")
    seconds = np.concatenate([np.full(len(kept), past.step), own.seconds[mine]])
    missing = _nothing(len(past.times))
    values = {
        name: np.concatenate(
            [past.values.get(name, missing[name])[inside], own.values[name][mine]]
        )[order]
        for name in FIELDS
    }
    return Series(times=times[order], seconds=seconds[order], values=values)


def _nothing(count: int) -> dict[str, NDArray[np.float32]]:
    return {name: np.full(count, np.nan, dtype=np.float32) for name in FIELDS}


def _within(
    times: NDArray[np.float64], centres: NDArray[np.float64], reach: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which times are no further from one of the ascending centres than that centre reaches."""
    if not len(centres):
        return np.zeros(len(times), dtype=np.bool_)
    after = np.minimum(np.searchsorted(centres, times), len(centres) - 1)
    before = np.maximum(after - 1, 0)
    inside: NDArray[np.bool_] = np.abs(times - centres[after]) <= reach[after]
    inside |= np.abs(times - centres[before]) <= reach[before]
    return inside

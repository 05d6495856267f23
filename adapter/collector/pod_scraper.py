"""The serving pods' own `/metrics`: asked all at once, but not more than some at a time, and spread out.

A pod that does not answer is asked less and less often, or a network policy that swallows packets would
fill every round with time-outs.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
import structlog

from adapter.clock import Clock
from adapter.collector import exposition
from adapter.collector.model_servers import Page

log = structlog.get_logger()

AT_ONCE = 128
"""Requests under way at the same time."""

RETRY_LIMIT_SECONDS = 60.0
"""That a pod which does not answer is left alone at most."""


@dataclass(frozen=True, slots=True)
class Job:
    """One pod to ask: whose, where, and what model it should serve."""

    key: str
    endpoint: str
    model: str


@dataclass(frozen=True, slots=True)
class _Failing:
    error: str
    rounds: int
    retry_at: float


Taker = Callable[[Job, Page, float], None]
"""Gets each page with the monotonic seconds at which it was read."""


class DirectSource:
    """Asks pods, and remembers which do not answer and why.

    Attributes:
        scrapes: pages that were read.
        failures: requests that gave none.

    """

    def __init__(self, session: aiohttp.ClientSession, clock: Clock, *, interval: float) -> None:
        """`interval`: seconds from one round to the next."""
        self._session = session
        self._clock = clock
        self._interval = interval
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._failing: dict[tuple[str, str], _Failing] = {}
        self.scrapes = 0
        self.failures = 0

    def error(self, key: str, endpoint: str) -> str:
        """Why a pod's last answer was none; empty if it was one."""
        found = self._failing.get((key, endpoint))
        return "" if found is None else found.error

    def keep(self, jobs: Iterable[Job]) -> None:
        """Forget pods that are gone."""
        known = {(job.key, job.endpoint) for job in jobs}
        self._failing = {place: item for place, item in self._failing.items() if place in known}

    async def scrape(
        self, jobs: Iterable[Job], take: Taker, *, spread_seconds: float = 0.0
    ) -> None:
        """Ask each pod once; `spread_seconds` apart at most, each pod always at its own moment."""
        now = self._clock.monotonic()
        due = []
        for job in jobs:
            failing = self._failing.get((job.key, job.endpoint))
            if failing is None or failing.retry_at <= now:
                due.append(self._one(job, take, _phase(job.endpoint) * spread_seconds))
        await asyncio.gather(*due)

    async def _one(self, job: Job, take: Taker, delay: float) -> None:
        if delay > 0:
            await self._clock.sleep(delay)
        place = (job.key, job.endpoint)
        async with self._at_once:
            try:
                page = await exposition.fetch(self._session, job.endpoint, job.model)
            except exposition.ScrapeError as error:
                self._failed(place, str(error))
                return
        self.scrapes += 1
        if self._failing.pop(place, None):
            log.info("scrape works again", variant=job.key, endpoint=job.endpoint)
        take(job, page, self._clock.monotonic())

    def _failed(self, place: tuple[str, str], error: str) -> None:
        self.failures += 1
        before = self._failing.get(place)
        if before is None or before.error != error:
            log.warning("scrape failed", variant=place[0], error=error)
        rounds = 1 if before is None else before.rounds + 1
        wait = min(self._interval * 2 ** min(rounds - 1, 10), RETRY_LIMIT_SECONDS)
        # Half an interval less: the round after that wait must not come a moment too early.
        retry_at = self._clock.monotonic() + wait - 0.5 * self._interval
        self._failing[place] = _Failing(error, rounds, retry_at)


def _phase(endpoint: str) -> float:
    """From 0 to 1, the same every time: the rounds of one pod stay equally far apart."""
    return zlib.crc32(endpoint.encode()) / 2**32

"""The serving pods' own `/metrics`: scraped concurrently up to a limit, spread over the scrape cycle.

A pod that does not answer is retried with exponential back-off, capped at one minute: otherwise a network
policy that drops packets would fill every cycle with time-outs.
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
from adapter.collector.model_servers import PodMetrics

log = structlog.get_logger()

MAX_CONCURRENT = 128
"""Scrapes in flight at the same time."""

RETRY_LIMIT_SECONDS = 60.0
"""Longest back-off of a pod that does not answer."""


@dataclass(frozen=True, slots=True)
class ScrapeJob:
    """One pod to scrape.

    Attributes:
        key: Key of its variant.
        endpoint: URL of its metrics.
        model: Model that it should serve.

    """

    key: str
    endpoint: str
    model: str


@dataclass(frozen=True, slots=True)
class _Failing:
    error: str
    failures: int
    retry_at: float


OnPage = Callable[[ScrapeJob, PodMetrics, float], None]
"""Called with each pod's metrics and the monotonic seconds at which they were read."""


class PodScraper:
    """Scrapes pods, and knows which of them do not answer and why."""

    def __init__(self, session: aiohttp.ClientSession, clock: Clock, *, interval: float) -> None:
        """`interval`: seconds between two scrape cycles."""
        self._session = session
        self._clock = clock
        self._interval = interval
        self._in_flight = asyncio.Semaphore(MAX_CONCURRENT)
        self._failing: dict[tuple[str, str], _Failing] = {}
        self._scrapes = 0
        self._failures = 0

    @property
    def scrapes(self) -> int:
        """Number of scrapes that gave metrics."""
        return self._scrapes

    @property
    def failures(self) -> int:
        """Number of scrapes that gave none."""
        return self._failures

    def error(self, key: str, endpoint: str) -> str:
        """Why a pod's last scrape failed; empty if it did not."""
        failing = self._failing.get((key, endpoint))
        return "" if failing is None else failing.error

    def retain(self, jobs: Iterable[ScrapeJob]) -> None:
        """Forget the failures of all other pods."""
        known = {(job.key, job.endpoint) for job in jobs}
        self._failing = {pod: item for pod, item in self._failing.items() if pod in known}

    async def scrape(
        self, jobs: Iterable[ScrapeJob], on_page: OnPage, *, spread_seconds: float = 0.0
    ) -> None:
        """Scrape each pod that is due once, spread over `spread_seconds`; each has its own fixed moment."""
        now = self._clock.monotonic()
        due = []
        for job in jobs:
            failing = self._failing.get((job.key, job.endpoint))
            if failing is None or failing.retry_at <= now:
                due.append(self._scrape_pod(job, on_page, _phase(job.endpoint) * spread_seconds))
        await asyncio.gather(*due)

    async def _scrape_pod(self, job: ScrapeJob, on_page: OnPage, delay: float) -> None:
        if delay > 0:
            await self._clock.sleep(delay)
        pod = (job.key, job.endpoint)
        async with self._in_flight:
            try:
                page = await exposition.fetch(self._session, job.endpoint, job.model)
            except exposition.ScrapeError as error:
                self._back_off(pod, str(error))
                return
        self._scrapes += 1
        if self._failing.pop(pod, None):
            log.info("scrape succeeded after failures", variant=job.key, endpoint=job.endpoint)
        on_page(job, page, self._clock.monotonic())

    def _back_off(self, pod: tuple[str, str], error: str) -> None:
        self._failures += 1
        before = self._failing.get(pod)
        if before is None or before.error != error:
            log.warning("scrape failed; retrying with back-off", variant=pod[0], error=error)
        failures = 1 if before is None else before.failures + 1
        wait = min(self._interval * 2 ** min(failures - 1, 10), RETRY_LIMIT_SECONDS)
        # Half an interval less: the cycle at the end of the back-off must not come a moment too early.
        retry_at = self._clock.monotonic() + wait - 0.5 * self._interval
        self._failing[pod] = _Failing(error, failures, retry_at)


def _phase(endpoint: str) -> float:
    """From 0 to 1, always the same for one pod: its scrapes stay equally far apart."""
    return zlib.crc32(endpoint.encode()) / 2**32

"""The serving pods' own `/metrics`: scraped concurrently up to a limit, spread over the scrape cycle.

A pod that does not answer is retried with exponential back-off, capped at one minute: otherwise a network
policy that drops packets would fill every cycle with time-outs. Each variant has a scrape of its own with a
budget of pods, bytes and seconds. No variant waits for another, and a slot goes to the namespace with fewest.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
import structlog

from adapter.clock import Clock
from adapter.collector import exposition
from adapter.collector.model_servers import PodMetrics
from adapter.collector.transport import access
from adapter.collector.transport.reading import PageReader
from adapter.collector.transport.slots import FairSlots

log = structlog.get_logger()

MAX_CONCURRENT = 256
"""Scrapes in flight at the same time."""

NAMESPACE_CONCURRENT = 128
"""Scrapes of the pods of one namespace in flight at the same time."""

VARIANT_CONCURRENT = 16
"""Scrapes of one variant in flight at the same time."""

VARIANT_PODS = 1024
"""Most pods of one variant that are read in one scrape cycle."""

VARIANT_BYTES = 64 * 1024 * 1024
"""Most bytes of pages that are read of one variant in a scrape cycle."""

VARIANT_SECONDS = 15.0
"""Real seconds that the scrape of one variant may take, beside its spread; at least one time-out."""

WAIT_SECONDS = exposition.TIMEOUT_SECONDS + 0.5
"""Real seconds that a scrape cycle waits for its variants; slower ones go on beside the next."""

LOOK_SECONDS = 1.0
"""Real seconds that a scrape of some variants between two cycles waits: their others are looked at next."""

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
    no_server: bool = False


OnPage = Callable[[ScrapeJob, PodMetrics, float], None]
"""Called with each pod's metrics and the monotonic seconds at which they were read."""


@dataclass(slots=True)
class _Round:
    """One reading of a variant's pods: what is left of its budget, and how long it waited for others."""

    on_page: OnPage
    bytes_left: int
    waited: float = 0.0
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(VARIANT_CONCURRENT))


class PodScraper:
    """Scrapes pods, and knows which of them do not answer and why."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Clock,
        *,
        interval: float,
        by: access.Access = access.PLAIN,
        reading: PageReader | None = None,
    ) -> None:
        """Make it.

        Args:
            session: for the requests.
            clock: time of the scrapes.
            interval: seconds between two scrape cycles.
            by: how pods with https are reached.
            reading: turns of all whose pages are read.

        """
        self._session = session
        self._by = by
        self._reading = reading or PageReader()
        self._clock = clock
        self._interval = interval
        self._in_flight = FairSlots(MAX_CONCURRENT, each=NAMESPACE_CONCURRENT)
        self._failing: dict[tuple[str, str], _Failing] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}
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

    def failing(self, key: str, endpoints: Iterable[str]) -> dict[str, bool]:
        """Those of a variant's pods whose last scrape failed, and whether no model server answered there."""
        known = ((endpoint, self._failing.get((key, endpoint))) for endpoint in endpoints)
        return {endpoint: item.no_server for endpoint, item in known if item is not None}

    def retain(self, jobs: Iterable[ScrapeJob]) -> None:
        """Forget the failures of all other pods."""
        known = {(job.key, job.endpoint) for job in jobs}
        self._failing = {pod: item for pod, item in self._failing.items() if pod in known}

    def close(self) -> None:
        """End the scrapes that are under way."""
        for task in self._under_way.values():
            task.cancel()

    async def scrape(
        self, jobs: Iterable[ScrapeJob], on_page: OnPage, *, spread_seconds: float = 0.0,
        wait_seconds: float = WAIT_SECONDS,
    ) -> set[asyncio.Task[None]]:  # fmt: skip
        """Scrape each pod that is due once, spread over `spread_seconds`; each has its own fixed moment.

        A variant whose last one is under way has no other. Returns those that take beyond `wait_seconds`.
        """
        now = self._clock.monotonic()
        due: dict[str, list[ScrapeJob]] = {}
        for job in jobs:
            failing = self._failing.get((job.key, job.endpoint))
            if failing is None or failing.retry_at <= now:
                due.setdefault(job.key, []).append(job)
        started = []
        for key, pods in due.items():
            if key not in self._under_way:
                task = asyncio.create_task(
                    self._scrape_variant(key, pods, on_page, spread_seconds), name=f"scrape {key}"
                )
                self._under_way[key] = task
                started.append(task)
        if not started:
            return set()
        wait = self._clock.real_seconds(spread_seconds) + wait_seconds
        return (await asyncio.wait(started, timeout=wait))[1]

    async def _scrape_variant(
        self, key: str, jobs: list[ScrapeJob], on_page: OnPage, spread_seconds: float
    ) -> None:
        """Scrape one variant within its budget; pods beyond it are the first of the next cycle."""
        pending = {job.endpoint for job in jobs}
        turn = _Round(on_page, VARIANT_BYTES)

        async def one(job: ScrapeJob) -> None:
            await self._scrape_pod(job, turn, _phase(job.endpoint) * spread_seconds)
            pending.discard(job.endpoint)

        seconds = self._clock.real_seconds(spread_seconds) + VARIANT_SECONDS
        try:
            # Those that were left out before come first.
            jobs.sort(key=lambda job: not self.error(job.key, job.endpoint).startswith(_LEFT_OUT))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await asyncio.gather(*map(one, jobs[:VARIANT_PODS]))
        except Exception:
            log.exception("scraping a variant failed; retrying in the next cycle", variant=key)
            return
        finally:
            self._under_way.pop(key, None)
        # Not where the scrape is cancelled: the program ends, and no budget is at fault.
        crowded = turn.waited > seconds / 2
        if pending:
            log.warning(
                "scrapes of a variant waited for those of others; the rest is due in the next cycle"
                if crowded
                else "budget of a variant's scrapes used up; the rest is due in the next cycle",
                variant=key,
                pods=len(pending),
            )
        for endpoint in pending:
            self._leave_out(key, endpoint, seconds, crowded=crowded)

    def _leave_out(self, key: str, endpoint: str, seconds: float, *, crowded: bool = False) -> None:
        """Note that a pod was not read; it is due in the next cycle.

        `crowded`: because those of others were read most of the time, and not for the variant's budget.
        """
        error = (
            f"{_LEFT_OUT}: for {seconds:.0f} s as many others were read as may be at the same time,"
            f" {NAMESPACE_CONCURRENT} pods of one namespace and {MAX_CONCURRENT} of all"
            if crowded
            else f"{_LEFT_OUT}: a scrape cycle reads at most {VARIANT_PODS} pods,"
            f" {VARIANT_BYTES // 2**20} MiB and {seconds:.0f} s of one variant"
        )
        self._failing[key, endpoint] = _Failing(error, 0, self._clock.monotonic())

    @contextlib.asynccontextmanager
    async def _slot(self, turn: _Round, namespace: str) -> AsyncIterator[None]:
        """Hold one of the slots that all share; notes the seconds spent waiting for it."""
        now = asyncio.get_running_loop().time
        async with contextlib.AsyncExitStack() as stack:
            began = now()
            try:
                await stack.enter_async_context(self._in_flight.one(namespace))
            finally:
                turn.waited = max(turn.waited, now() - began)
            yield

    async def _scrape_pod(self, job: ScrapeJob, turn: _Round, delay: float) -> None:
        if delay > 0:
            await self._clock.sleep(delay)
        pod = (job.key, job.endpoint)
        namespace = job.key.partition("/")[0]
        async with turn.slots, self._slot(turn, namespace):
            if turn.bytes_left <= 0:
                self._leave_out(job.key, job.endpoint, VARIANT_SECONDS)
                return
            limit = min(exposition.PAGE_LIMIT_BYTES, turn.bytes_left)
            try:
                page, size = await exposition.fetch(
                    self._session, job.endpoint, job.model, limit=limit, by=self._by,
                    reading=self._reading, party=namespace,
                )  # fmt: skip
                turn.bytes_left -= size
                turn.on_page(job, page, self._clock.monotonic())
            except exposition.ScrapeError as error:
                if (
                    isinstance(error, exposition.PageTooLongError)
                    and limit < exposition.PAGE_LIMIT_BYTES
                ):
                    turn.bytes_left = 0
                    self._leave_out(job.key, job.endpoint, VARIANT_SECONDS)
                else:
                    no_server = isinstance(error, exposition.NoServerError)
                    self._back_off(pod, str(error), no_server=no_server)
                return
            except Exception as error:  # noqa: BLE001 - logged; one pod must not stop all
                # Whatever a page makes of us is that pod's problem alone.
                problem = f"{job.endpoint}: its metrics cannot be used ({type(error).__name__})"
                self._back_off(pod, problem, unforeseen=error)
                return
        self._scrapes += 1
        if self._failing.pop(pod, None):
            log.info("scrape succeeded after failures", variant=job.key, endpoint=job.endpoint)

    def _back_off(
        self,
        pod: tuple[str, str],
        error: str,
        *,
        no_server: bool = False,
        unforeseen: Exception | None = None,
    ) -> None:
        """Note a failure.

        Args:
            pod: key of its variant, and its endpoint.
            error: what is wrong.
            no_server: whether no model server is at that address.
            unforeseen: an error whose traceback is worth a line of the log, once.

        """
        self._failures += 1
        before = self._failing.get(pod)
        if before is None or before.error != error:
            log.warning(
                "scrape failed; retrying with back-off",
                variant=pod[0],
                error=error,
                exc_info=unforeseen,
            )
        failures = 1 if before is None else before.failures + 1
        wait = min(self._interval * 2 ** min(failures - 1, 10), RETRY_LIMIT_SECONDS)
        # Half an interval less: the cycle at the end of the back-off must not come a moment too early.
        retry_at = self._clock.monotonic() + wait - 0.5 * self._interval
        self._failing[pod] = _Failing(error, failures, retry_at, no_server)


_LEFT_OUT = "not scraped"
"""Beginning of the error of a pod that the variant's budget did not suffice for."""


def _phase(endpoint: str) -> float:
    """From 0 to 1, always the same for one pod: its scrapes stay equally far apart."""
    return zlib.crc32(endpoint.encode()) / 2**32

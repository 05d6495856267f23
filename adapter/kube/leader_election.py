"""One leader among the replicas, by a Lease: who holds it works, and stops before it can be anyone else's.

Time is measured on each replica's own monotonic clock, never compared between machines: an observer believes
a holder for the lease's duration from when it saw the last change; a holder believes itself for a shorter
time from before it asked for the last renewal. What lies between is for the work to end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

log = structlog.get_logger()


class LeaseUnavailableError(Exception):
    """The API could not be asked, or did not answer."""


class LeaseConflictError(Exception):
    """Somebody else has written since we read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The spec of a Lease; times are UTC and for people only."""

    holder: str
    duration_seconds: int
    acquired_at: datetime
    renewed_at: datetime
    transitions: int = 0


class LeaseApi(Protocol):
    """Where the Lease is kept. Every method may raise LeaseUnavailableError."""

    async def read(self) -> tuple[LeaseRecord, str] | None:
        """The record and its version; None if there is none yet."""

    async def create(self, record: LeaseRecord) -> str:
        """Write the first one, or raise LeaseConflictError; gives the version."""

    async def update(self, record: LeaseRecord, version: str) -> str:
        """Write over that version, or raise LeaseConflictError; gives the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Seconds.

    Attributes:
        duration: after which others may take a lease that is not renewed.
        deadline: without a renewal, after which the holder ends its work; what is left of the duration is the
            time that the work has to end.
        retry: between attempts to get or to renew.

    """

    duration: int = 15
    deadline: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.deadline < self.duration:
            raise ValueError("retry < deadline < duration must hold, all above 0")


class Leadership:
    """Takes part in the election of one Lease."""

    def __init__(
        self,
        api: LeaseApi,
        *,
        identity: str,
        times: LeaseTimes | None = None,
        monotonic: Callable[[], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._identity = identity
        self._times = times or LeaseTimes()
        self._monotonic = monotonic or asyncio.get_running_loop().time
        self._now = now
        self._seen: tuple[LeaseRecord, str] | None = None
        self._seen_at = 0.0
        self._held_until = float("-inf")
        self._problem = ""

    @property
    def leads(self) -> bool:
        """Whether the lease is ours and can be nobody else's."""
        return self._monotonic() < self._held_until

    @property
    def leader(self) -> str:
        """Who holds the lease, as last seen; empty if nobody does."""
        return self._seen[0].holder if self._seen else ""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever the lease is ours; cancelled, give the lease back.

        The work is cancelled when the lease cannot be renewed in time, and started anew when it is ours
        again. An error of the work gives the lease to another replica.
        """
        while True:
            while not await self._attempt():  # noqa: ASYNC110 - nobody tells that a lease ends
                await asyncio.sleep(self._times.retry)
            log.info("leading", identity=self._identity)
            task = asyncio.ensure_future(work())
            try:
                await self._hold(task)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    try:
                        await task
                    except Exception:
                        log.exception("the leader's work failed; another replica may try")
                held, self._held_until = self.leads, float("-inf")
                log.info("no longer leading", identity=self._identity)
                if held:
                    await asyncio.shield(self._release())
            await asyncio.sleep(self._times.retry)

    async def _hold(self, task: asyncio.Future[None]) -> None:
        """Renew until that fails for too long or the work has ended."""
        while not task.done():
            await asyncio.wait({task}, timeout=min(self._times.retry, self._left()))
            if task.done() or self._left() <= 0:
                return
            renewing = asyncio.ensure_future(self._attempt())
            both: set[asyncio.Future[Any]] = {renewing, task}
            try:
                # The work ends at the deadline even while an answer is awaited.
                while not renewing.done() and not task.done() and self._left() > 0:
                    await asyncio.wait(both, timeout=self._left(), return_when="FIRST_COMPLETED")
                if not renewing.done() or self._left() <= 0:
                    return
                if not renewing.result() and self.leader not in {self._identity, ""}:
                    return
            finally:
                renewing.cancel()

    def _left(self) -> float:
        return self._held_until - self._monotonic()

    async def _attempt(self) -> bool:
        """Get or renew the lease; whether it is ours for some time."""
        asked_at = self._monotonic()
        try:
            async with asyncio.timeout(self._times.deadline):
                taken = await self._take()
        except LeaseConflictError:
            return False
        except (LeaseUnavailableError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
            if problem != self._problem:
                log.warning("lease not reachable", error=problem)
            self._problem = problem
            return False
        if self._problem:
            log.info("lease reachable again")
        self._problem = ""
        if taken:
            # From before the question: the answer may have been under way for long.
            self._held_until = asked_at + self._times.deadline
        return taken and self.leads

    async def _take(self) -> bool:
        found = await self._api.read()
        now = self._now()
        mine = LeaseRecord(
            holder=self._identity,
            duration_seconds=self._times.duration,
            acquired_at=now,
            renewed_at=now,
        )
        if found is None:
            self._see(mine, await self._api.create(mine))
            return True
        record, version = found
        if self._seen is None or self._seen[1] != version:
            self._see(record, version)
        if record.holder == self._identity:
            mine = replace(mine, acquired_at=record.acquired_at, transitions=record.transitions)
        elif record.holder:
            if self._monotonic() < self._seen_at + max(
                record.duration_seconds, self._times.duration
            ):
                return False
            mine = replace(mine, transitions=record.transitions + 1)
        self._see(mine, await self._api.update(mine, version))
        return True

    def _see(self, record: LeaseRecord, version: str) -> None:
        self._seen, self._seen_at = (record, version), self._monotonic()

    async def _release(self) -> None:
        """Give the lease back, so that nobody has to wait for its end."""
        try:
            async with asyncio.timeout(self._times.retry):
                found = await self._api.read()
                if found is not None and found[0].holder == self._identity:
                    record = replace(found[0], holder="", renewed_at=self._now())
                    await self._api.update(record, found[1])
        except (LeaseUnavailableError, LeaseConflictError, TimeoutError) as error:
            log.warning("lease not given back; it ends by itself", error=str(error))

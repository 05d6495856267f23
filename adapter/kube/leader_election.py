"""Leader election among the replicas by a Lease: the holder works, and stops before another replica can lead.

Time is measured on each replica's own monotonic clock, and never compared between machines. An observer
grants a holder the lease's duration since it saw the last renewal; a holder grants itself a shorter deadline
since before it sent the last renewal. The work ends in the time between the two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from adapter import logs, tasks

log = logs.LazyLogger()


LONGEST_SECONDS = 3600
"""Longest duration of another holder's lease that is waited for, whatever it says."""


class LeaseUnavailableError(Exception):
    """The Lease could not be read or written."""


class LeaseConflictError(Exception):
    """Another replica has written the Lease since it was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The spec of a Lease; its times are UTC, and for people only.

    Attributes:
        holder: Identity of the replica that leads; empty where none does.
        duration_seconds: Seconds after which others may take a lease that is not renewed.
        acquired_at: Time at which the holder became leader.
        renewed_at: Last renewal.
        transitions: Number of changes of the holder.

    """

    holder: str
    duration_seconds: int
    acquired_at: datetime
    renewed_at: datetime
    transitions: int = 0


class LeaseApi(Protocol):
    """Reads and writes the Lease. Every method may raise LeaseUnavailableError."""

    async def read(self) -> tuple[LeaseRecord, str] | None:
        """Read the record and its resource version; None where no Lease exists yet."""

    async def create(self, record: LeaseRecord) -> str:
        """Create the Lease, or raise LeaseConflictError; give its resource version."""

    async def update(self, record: LeaseRecord, version: str) -> str:
        """Replace that resource version, or raise LeaseConflictError; give the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Timing of the election, in seconds; retry < deadline < duration.

    Attributes:
        duration: Seconds after which others may take a lease that is not renewed.
        deadline: Seconds without a renewal after which the holder ends its work; the work has the rest of the
            duration to end.
        retry: Seconds between attempts to acquire or to renew.

    """

    duration: int
    deadline: float
    retry: float

    def __post_init__(self) -> None:
        if not 0 < self.retry < self.deadline < self.duration:
            raise ValueError("retry < deadline < duration must hold, all above 0")


class Leadership:
    """One replica's part in the election of a Lease."""

    def __init__(
        self,
        api: LeaseApi,
        *,
        identity: str,
        times: LeaseTimes,
        monotonic: Callable[[], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take part in an election.

        Args:
            api: The Lease.
            identity: Of this replica.
            times: Timing of the election.
            monotonic: Seconds; None: those of the event loop.
            now: Time that people read in the Lease.
            alive: Whether the work goes on: while it does not, the lease is neither acquired nor renewed.

        """
        self._alive = alive
        self._api = api
        self._identity = identity
        self._times = times
        self._monotonic = monotonic or asyncio.get_running_loop().time
        self._now = now
        self._seen: tuple[LeaseRecord, str] | None = None
        self._seen_at = 0.0
        self._held_until = float("-inf")
        self._held_as = 0
        self._problem = ""
        self._stuck = False
        # Whether what was seen is what this replica wrote, and the answer has come.
        self._written = False

    @property
    def leads(self) -> bool:
        """Whether this replica holds the lease, and no other can."""
        return self._monotonic() < self._held_until

    @property
    def leader(self) -> str:
        """Identity of the holder, as last seen; empty where there is none."""
        return self._seen[0].holder if self._seen else ""

    @property
    def transitions(self) -> int:
        """Transitions of the Lease that this replica held last; those of later leaders are larger."""
        return self._held_as

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever this replica leads, until cancelled; the lease is then released.

        The work is cancelled when the lease cannot be renewed in time, and started again when this replica
        leads again. After an error of the work the lease is released, so that another replica can lead.
        """
        while True:
            # There is no event for a lease that ends.
            while not (self._alive() and await self._attempt()):  # noqa: ASYNC110
                await asyncio.sleep(self._times.retry)
            log.info("became leader", identity=self._identity)
            task = asyncio.ensure_future(work())
            try:
                await self._hold(task)
            finally:
                try:
                    await tasks.cancel(task)
                finally:
                    if not task.cancelled() and (error := task.exception()) is not None:
                        log.error("work of the leader failed; releasing the lease", exc_info=error)
                    held, self._held_until = self.leads, float("-inf")
                    ended = "the process ends" if task.cancelled() else "its work has ended"
                    why = ended if held else "the Lease was not renewed in time"
                    log.info("stopped leading", identity=self._identity, reason=why)
                    if held:
                        await asyncio.shield(self._release())
            await asyncio.sleep(self._times.retry)

    async def _hold(self, task: asyncio.Future[None]) -> None:
        """Renew until that fails for too long, or the work has ended."""
        while not task.done():
            await asyncio.wait({task}, timeout=min(self._times.retry, self._seconds_left()))
            if task.done() or self._seconds_left() <= 0:
                return
            if not self._may_renew():
                continue
            renewing = asyncio.ensure_future(self._attempt())
            both: set[asyncio.Future[Any]] = {renewing, task}
            try:
                # The work ends at the deadline even while a renewal is in flight.
                while not renewing.done() and not task.done() and self._seconds_left() > 0:
                    await asyncio.wait(
                        both, timeout=self._seconds_left(), return_when="FIRST_COMPLETED"
                    )
                if not renewing.done() or self._seconds_left() <= 0:
                    return
                if not renewing.result() and self.leader not in {self._identity, ""}:
                    return
            finally:
                renewing.cancel()

    def _may_renew(self) -> bool:
        """Whether the work goes on; where not, that is logged once."""
        alive = self._alive()
        if self._stuck == alive:
            self._stuck = not alive
            if self._stuck:
                log.warning("this process is stuck; not renewing the Lease until it works again")
        return alive

    def _seconds_left(self) -> float:
        return self._held_until - self._monotonic()

    async def _attempt(self) -> bool:
        """Acquire or renew the lease; whether this replica holds it now."""
        started_at = self._monotonic()
        try:
            async with asyncio.timeout(self._times.deadline):
                taken = await self._take()
        except LeaseConflictError:
            return False
        except (LeaseUnavailableError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
            if problem != self._problem:
                log.warning("lease request failed; retrying", error=problem)
            self._problem = problem
            return False
        if self._problem:
            log.info("lease requests work again")
        self._problem = ""
        if taken:
            # Counted from before the request, because its answer may have been delayed.
            self._held_until = started_at + self._times.deadline
        return taken and self.leads

    async def _take(self) -> bool:
        if await self._renewed():
            return True
        current = await self._api.read()
        now = self._now()
        mine = LeaseRecord(
            holder=self._identity,
            duration_seconds=self._times.duration,
            acquired_at=now,
            renewed_at=now,
        )
        if current is None:
            self._see(mine, await self._api.create(mine))
            self._written = True
            return True
        record, version = current
        if self._seen is None or self._seen[1] != version:
            self._see(record, version)
        if record.holder == self._identity:
            mine = replace(mine, acquired_at=record.acquired_at, transitions=record.transitions)
        else:
            granted = max(min(record.duration_seconds, LONGEST_SECONDS), self._times.duration)
            if record.holder and self._monotonic() < self._seen_at + granted:
                return False
            # Also after a release: the number never repeats, as writes are fenced by it.
            mine = replace(mine, transitions=record.transitions + 1)
        self._see(mine, await self._api.update(mine, version))
        self._written = True
        return True

    async def _renewed(self) -> bool:
        """Renew the lease that this replica wrote last, in one request: a busy process has the time for it.

        False where somebody has written it since, so that it has to be read; also after any other error.
        """
        written, self._written = self._written, False
        if not (written and self.leads and self._seen):
            return False
        record, version = self._seen
        record = replace(record, renewed_at=self._now())
        try:
            self._see(record, await self._api.update(record, version))
        except LeaseConflictError:
            return False
        self._written = True
        return True

    def _see(self, record: LeaseRecord, version: str) -> None:
        self._seen, self._seen_at = (record, version), self._monotonic()
        if record.holder == self._identity:
            self._held_as = record.transitions

    async def _release(self) -> None:
        """Release the lease, so that the next leader need not wait for its end."""
        try:
            async with asyncio.timeout(self._times.retry):
                current = await self._api.read()
                if current is not None and current[0].holder == self._identity:
                    record = replace(current[0], holder="", renewed_at=self._now())
                    await self._api.update(record, current[1])
        except (LeaseUnavailableError, LeaseConflictError, TimeoutError) as error:
            log.warning("lease not released; it expires by itself", error=str(error))

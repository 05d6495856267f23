"""A process whose event loop is busy keeps its Lease, and one that hangs loses it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from adapter.kube.election.thread import ElectionThread
from adapter.kube.leader_election import LeaseConflictError, LeaseRecord, LeaseTimes

TIMES = LeaseTimes(duration=60, deadline=30.0, retry=0.01)
HANG_SECONDS = 300.0
"""After which a wait counts as endless; it decides nothing else."""


class Lease:
    """The Lease; its methods are called in the thread of the election."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None
        self.updates = 0
        self.log: list[str] = []
        self.changed = threading.Condition()

    async def read(self) -> tuple[LeaseRecord, str] | None:
        return None if self.record is None else (self.record, str(self.updates))

    async def create(self, record: LeaseRecord) -> str:
        return await self.update(record, str(self.updates))

    async def update(self, record: LeaseRecord, version: str) -> str:
        with self.changed:
            if version != str(self.updates):
                raise LeaseConflictError(version)
            self.record = record
            self.updates += 1
            if not record.holder:
                self.log.append("released")
            self.changed.notify_all()
        return str(self.updates)

    def block_until(self, true: Callable[[], bool]) -> None:
        """Hold up the calling thread, event loop and all."""
        with self.changed:
            assert self.changed.wait_for(true, timeout=HANG_SECONDS)


class Clock:
    """Seconds of all threads, set by the test."""

    def __init__(self, lease: Lease) -> None:
        self.now = 0.0
        self.looks = 0
        self._lease = lease

    def __call__(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            with self._lease.changed:
                self.looks += 1
                self._lease.changed.notify_all()
        return self.now

    def block_for_looks(self, number: int) -> None:
        """Hold up the calling thread until the election has looked at the time so many times more."""
        enough = self.looks + number
        self._lease.block_until(lambda: self.looks >= enough)


class Work:
    """What the leader does."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.started = asyncio.Semaphore(0)
        self.running = 0

    async def __call__(self) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.running += 1
        self.started.release()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)  # ends late
            self.running -= 1
            self.lease.log.append("ended")


def election(lease: Lease, identity: str = "a", **clock: Callable[[], float]) -> ElectionThread:
    """Of one replica."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Lease]:
        assert threading.current_thread() is not threading.main_thread()
        yield lease

    return ElectionThread(opened, identity=identity, times=TIMES, **clock)


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_busy_event_loop_does_not_hold_up_renewals() -> None:
    """While the loop that works takes no turn, the Lease is renewed again and again."""
    lease = Lease()
    work, elected = Work(lease), election(lease)
    task = asyncio.create_task(elected.run(work))
    await work.started.acquire()
    before = lease.updates
    lease.block_until(lambda: lease.updates >= before + 5)
    assert elected.leadership.leads
    assert work.running == 1
    await cancel(task)


async def test_a_hung_event_loop_loses_the_lease() -> None:
    """Once it has taken no turn for the deadline nothing is renewed, and it leads no more a deadline later.

    When it takes turns again its work is ended, and begins anew with the lease.
    """
    lease = Lease()
    clock = Clock(lease)
    work, elected = Work(lease), election(lease, monotonic=clock)
    task = asyncio.create_task(elected.run(work))
    await work.started.acquire()
    clock.now = 20.0
    before = lease.updates
    lease.block_until(lambda: lease.updates >= before + 3)  # for 20 s it is only busy
    clock.now = 31.0
    clock.block_for_looks(50)
    before = lease.updates
    clock.block_for_looks(100)
    assert lease.updates == before
    assert elected.leadership.leads
    clock.now = 51.0
    assert not elected.leadership.leads
    assert lease.log == []
    await work.started.acquire()
    assert lease.log == ["ended"]
    assert work.running == 1
    assert elected.leadership.leads
    await cancel(task)


async def test_a_hung_leader_and_the_next_one_never_lead_both() -> None:
    """The next leads once the hung one has given up: not while it renews, nor as long as that may count."""
    lease = Lease()
    clock = Clock(lease)
    work, first = Work(lease), election(lease, monotonic=clock)
    task = asyncio.create_task(first.run(work))
    await work.started.acquire()
    second = election(lease, "b", monotonic=clock)
    ended = threading.Event()

    async def led() -> None:
        running = asyncio.create_task(second.run(lambda: asyncio.sleep(HANG_SECONDS)))
        await asyncio.to_thread(ended.wait, HANG_SECONDS)
        running.cancel()
        await asyncio.wait({running})

    other = threading.Thread(target=lambda: asyncio.run(led()))
    other.start()
    seen: dict[int, tuple[bool, bool]] = {}
    for seconds in range(0, 3 * TIMES.duration, 3):
        clock.now = float(seconds)
        clock.block_for_looks(60)  # this loop, which is that of the first one's work, takes no turn
        seen[seconds] = first.leadership.leads, second.leadership.leads
    assert (True, True) not in seen.values()
    assert all(seen[seconds][0] for seconds in range(0, int(TIMES.deadline), 3))
    assert not any(seen[seconds][1] for seconds in range(0, TIMES.duration, 3))
    assert not any(seen[seconds][0] for seconds in range(TIMES.duration, 3 * TIMES.duration, 3))
    lease.block_until(lambda: lease.record is not None and lease.record.holder == "b")
    ended.set()
    await asyncio.to_thread(other.join)
    await cancel(task)


async def test_the_lease_is_released_after_the_work_has_ended() -> None:
    """Whoever stops the election finds the work ended, and the lease free for others."""
    lease = Lease()
    work, elected = Work(lease), election(lease)
    task = asyncio.create_task(elected.run(work))
    await work.started.acquire()
    await cancel(task)
    assert lease.log == ["ended", "released"]
    assert not elected.leadership.leads


async def test_an_error_of_the_work_releases_the_lease() -> None:
    """It is logged, and the work begins anew with the lease."""
    lease = Lease()
    again = asyncio.Event()
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise ValueError("at first")
        again.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(election(lease).run(work))
    await again.wait()
    assert lease.log == ["released"]
    await cancel(task)


async def test_no_access_to_the_lease_ends_the_election() -> None:
    """The error of opening it is raised where the election runs."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Lease]:
        raise OSError("no such file")
        yield Lease()

    async def work() -> None:
        raise AssertionError

    with pytest.raises(OSError, match="no such file"):
        await ElectionThread(opened, identity="a", times=TIMES).run(work)

"""Leader election in a thread with an event loop of its own: a busy process has no time to lose its Lease.

One renewal is some ten turns of an event loop, and where the machine is starved a turn of the loop that does
the work may take a second. The work itself stays in that loop. A loop that has not taken a turn for the
lease's deadline renews nothing any more, so that a process that hangs loses the Lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from adapter.kube.leader_election import (
    Leadership,
    LeaseApi,
    LeaseRecord,
    LeaseTimes,
    LeaseUnavailableError,
)

Work = Callable[[], Awaitable[None]]


class ElectionThread:
    """Takes part in the election of a Lease in a thread, and works in the loop that runs it.

    Attributes:
        leadership: This replica's part in the election; its properties may be read by every thread.

    """

    def __init__(
        self,
        opened: Callable[[], AbstractAsyncContextManager[LeaseApi]],
        *,
        identity: str,
        times: LeaseTimes,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it.

        Args:
            opened: opens access to the Lease in the event loop that calls it.
            identity: of this replica.
            times: durations of the election.
            monotonic: seconds, for every thread.

        """
        self._opened = opened
        self._api = _Deferred()
        self._times = times
        self._monotonic = monotonic
        self.leadership = Leadership(
            self._api,
            identity=identity,
            times=times,
            monotonic=monotonic,
            alive=self._alive,
        )
        self._turn_at = float("-inf")
        self._stopping = False
        self._stop: Callable[[], object] = lambda: None

    def _alive(self) -> bool:
        """Whether the loop that works has taken a turn within the deadline."""
        return self._monotonic() - self._turn_at < self._times.deadline

    async def run(self, work: Work) -> None:
        """Work whenever this replica leads, as `Leadership.run`; until cancelled."""
        here = asyncio.get_running_loop()
        ended: asyncio.Future[None] = here.create_future()
        self._stopping, self._turn_at = False, self._monotonic()
        threading.Thread(
            target=self._run, args=(work, here, ended), name="leader election", daemon=True
        ).start()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self._stopping = True
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._stop()
            await _until_done(ended)
            ended.result()
            raise

    def _run(
        self, work: Work, there: asyncio.AbstractEventLoop, ended: asyncio.Future[None]
    ) -> None:
        """Elect, in this thread, until stopped."""
        error: BaseException | None = None
        try:
            asyncio.run(self._elect(work, there))
        except BaseException as raised:  # noqa: BLE001 - the loop that waits raises it again
            error = raised
        with contextlib.suppress(RuntimeError):  # that loop is closed, with its tasks
            there.call_soon_threadsafe(_finish, ended, error)

    async def _elect(self, work: Work, there: asyncio.AbstractEventLoop) -> None:
        here = asyncio.get_running_loop()
        async with self._opened() as api:
            self._api.use(api)
            election = asyncio.ensure_future(
                self.leadership.run(lambda: _done_elsewhere(work, there))
            )
            self._stop = lambda: here.call_soon_threadsafe(election.cancel)
            if self._stopping:
                election.cancel()
            while not election.done():
                there.call_soon_threadsafe(self._took_turn)
                await asyncio.wait({election}, timeout=self._times.retry / 4)
            if not election.cancelled():
                election.result()

    def _took_turn(self) -> None:
        self._turn_at = self._monotonic()


class _Deferred:
    """A Lease that is reached once the thread has opened its access."""

    def __init__(self) -> None:
        self._api: LeaseApi | None = None

    def use(self, api: LeaseApi) -> None:
        self._api = api

    def _opened(self) -> LeaseApi:
        if self._api is None:
            raise LeaseUnavailableError("not connected yet")
        return self._api

    async def read(self) -> tuple[LeaseRecord, str] | None:
        return await self._opened().read()

    async def create(self, record: LeaseRecord) -> str:
        return await self._opened().create(record)

    async def update(self, record: LeaseRecord, version: str) -> str:
        return await self._opened().update(record, version)


async def _done_elsewhere(work: Work, there: asyncio.AbstractEventLoop) -> None:
    """Do work in another thread's event loop; a cancellation waits until it has ended there."""
    here = asyncio.get_running_loop()
    ended: asyncio.Future[None] = here.create_future()
    tasks: list[asyncio.Future[None]] = []

    def tell(task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        here.call_soon_threadsafe(_finish, ended, error)

    def start() -> None:
        task = asyncio.ensure_future(work())
        task.add_done_callback(tell)
        tasks.append(task)

    def cancel() -> None:
        tasks[0].cancel()

    there.call_soon_threadsafe(start)
    try:
        await asyncio.shield(ended)
    except asyncio.CancelledError:
        there.call_soon_threadsafe(cancel)
        await _until_done(ended)
        ended.result()
        raise


def _finish(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


async def _until_done(future: asyncio.Future[None]) -> None:
    """Wait for the end of something, however often this is cancelled meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({future})

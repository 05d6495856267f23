"""Ending asyncio tasks without losing a cancellation of one's own, and long work in pieces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

PIECE_SECONDS = 0.002
"""Longest work before other tasks have their turn, as far as single steps allow."""

TURNS = 4
"""Turns of the event loop between two pieces: a request to the API that has come takes about as many, and so
waits for one piece and not for one at each of its steps.
"""


Key = TypeVar("Key")


class Spending(Protocol):
    """Counts what work takes.

    Attributes:
        spent: Seconds of the processor so far.

    """

    spent: float


class Pieces:
    """Work in pieces: between two of them the event loop runs, and the CPU time that they take is counted.

    The time of this thread, not that of a clock: what a busy machine gives to others is no work. It takes a
    system call, so it is read when the clock says that the piece may have lasted long enough.
    """

    def __init__(self, budget: Spending | None = None) -> None:
        """`budget`: what the time counts for; None counts it for nothing."""
        self._budget = budget
        self._began = time.thread_time()
        self._look_at = time.perf_counter() + PIECE_SECONDS

    async def breathe(self) -> None:
        """Let other tasks run if this piece has lasted long enough."""
        if time.perf_counter() < self._look_at:
            return
        used = time.thread_time() - self._began
        if used >= PIECE_SECONDS:
            await self.rest()
        else:
            self._look_at = time.perf_counter() + PIECE_SECONDS - used

    async def rest(self) -> None:
        """Let other tasks run now."""
        self.end()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._began = time.thread_time()
        self._look_at = time.perf_counter() + PIECE_SECONDS

    def end(self) -> None:
        """Count the last piece."""
        now = time.thread_time()
        if self._budget is not None:
            self._budget.spent += now - self._began
        self._began = now


async def cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; its result or error is for the caller to look at.

    A cancellation of the caller while it waits is raised once the task has ended. `await task` inside
    `contextlib.suppress(asyncio.CancelledError)` would swallow it: the two look the same there.
    """
    task.cancel()
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
            task.cancel()
    if cancelled:
        raise asyncio.CancelledError


async def while_time(
    keys: Sequence[Key], do: Callable[[Key], Awaitable[None]], *, at_once: int, seconds: float
) -> set[Key]:
    """Do it with each key, a few at a time; none begins after those seconds.

    Returns:
        Keys for which the time did not suffice.

    """
    now = asyncio.get_running_loop().time
    items, ends_at, left = iter(keys), now() + seconds, set(keys)

    async def some() -> None:
        for key in items:
            if now() >= ends_at:
                return
            left.remove(key)
            await do(key)

    await asyncio.gather(*(some() for _ in range(min(at_once, len(keys)))))
    return left


class Lasting:
    """Work that goes on where it takes longer than it is waited for; one piece at a time."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def run(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        limit: Coroutine[Any, Any, None] | None = None,
    ) -> None:
        """Begin work unless earlier one goes on, and wait for its end, or for that of `limit`.

        Raises:
            Exception: what the work raised.

        """
        if self._task is None:
            self._task = asyncio.create_task(work(), name="lasting work")
        task = self._task
        timer = None if limit is None else asyncio.create_task(limit)
        try:
            await asyncio.wait(
                {task} if timer is None else {task, timer}, return_when=asyncio.FIRST_COMPLETED
            )
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if task.done():
            self._task = None
            if not task.cancelled():
                task.result()

    def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

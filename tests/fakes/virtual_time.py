"""An event loop in which time does not pass but jumps to the next timer: minutes in milliseconds.

Time stands still while anything else is under way: callbacks, data in sockets of this process, threads and
worker processes of executors. So a busy machine makes a test slower, but never changes what happens in it.
Work that the loop does not know of, such as a subprocess, needs the loop of real time.

Async tests with the marker `virtual_time` run in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from adapter.clock import Clock

Result = TypeVar("Result")

SETTLE_SECONDS = 0.001
"""Real seconds without any event in the sockets after which nothing is under way in them."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer once nothing else is left to do."""

    now = 0.0
    _elsewhere = 0

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]  # typeshed's signature has no name for the result
        self, executor: Any, func: Callable[..., Result], *args: Any
    ) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = super().run_in_executor(executor, func, *args)
        self._elsewhere += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: asyncio.Future[Any]) -> None:
        self._elsewhere -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio has it
        """Wait for its threads without the deadline that Python sets since 3.12: time would jump to it."""
        del timeout
        await super().shutdown_default_executor()

    def _quiet(self) -> bool:
        """Whether nothing happens any more without a jump of time."""
        if self._ready or self._elsewhere:  # type: ignore[attr-defined]
            return False
        if len(self._selector.get_map()) <= 1:  # type: ignore[attr-defined]  # its own pipe only
            return True
        events = self._selector.select(SETTLE_SECONDS)  # type: ignore[attr-defined]
        self._process_events(events)  # type: ignore[attr-defined]
        return not events

    def _run_once(self) -> None:
        if self._scheduled and self._quiet():  # type: ignore[attr-defined]
            # A nanosecond more, or rounding to ms and back could fall short of the timer for ever.
            self.now = max(self.now, self._scheduled[0].when()) + 1e-9  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class ManualClock(Clock):
    """A clock that stands until `at`, in seconds, is moved; Unix and monotonic time are the same."""

    def __init__(self, at: float = 1000.0) -> None:
        super().__init__()
        self.at = at

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

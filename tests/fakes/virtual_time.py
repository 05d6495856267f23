"""An event loop in which time does not pass but jumps to the next timer: minutes in milliseconds.

Sockets within the process work, too: time stands still while there is something to read from one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer instead of passing."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        idle = not self._ready and not self._selector.select(0)  # type: ignore[attr-defined]
        if idle and self._scheduled:  # type: ignore[attr-defined]
            # A nanosecond more, or rounding to ms and back could fall short of the timer for ever.
            self.now = max(self.now, self._scheduled[0].when()) + 1e-9  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)

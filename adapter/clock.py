"""The adapter's time: an argument, so that tests and the demo can run it faster."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Wall clock, monotonic clock and sleep, sped up by a factor.

    `time()` is always the real Unix time, since it is sent over the wire. `monotonic()` and `sleep()`
    run `speed` times as fast as real time, so intervals, windows and rates keep their meaning.
    """

    def __init__(self, *, speed: float = 1.0) -> None:
        """`speed` is scenario seconds per real second, greater than 0."""
        if not speed > 0:
            raise ValueError(f"speed: must be greater than 0, not {speed}")
        self._speed = speed
        self._start = time.monotonic()

    @property
    def speed(self) -> float:
        """Scenario seconds per real second."""
        return self._speed

    def time(self) -> float:
        """Real Unix time, seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Scenario seconds since the clock was made."""
        return (time.monotonic() - self._start) * self._speed

    def real_seconds(self, seconds: float) -> float:
        """Duration of that many scenario seconds in real seconds."""
        return seconds / self._speed

    async def sleep(self, seconds: float) -> None:
        """Sleep for that many scenario seconds."""
        await asyncio.sleep(self.real_seconds(max(seconds, 0.0)))

"""A cache of reviews: results are kept for a short time, and concurrent requests share one review."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

CACHE_SECONDS = 10.0
"""How long a result is cached, allowed and denied alike, as in the official library."""

_CACHED = 4096
"""Results that are cached at most."""

Result = TypeVar("Result")


class Cache(Generic[Result]):
    """Results of reviews by key, bounded in number and in age; concurrent requests share a review."""

    def __init__(
        self, *, clock: Callable[[], float], seconds: float = CACHE_SECONDS, size: int = _CACHED
    ) -> None:
        """Make an empty cache.

        Args:
            clock: monotonic time, seconds.
            seconds: how long a result is cached.
            size: results that are cached at most; the oldest go first.

        """
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._results: OrderedDict[Hashable, tuple[float, Result]] = OrderedDict()
        self._running: dict[Hashable, asyncio.Task[Result]] = {}

    def __len__(self) -> int:
        """Number of cached results."""
        return len(self._results)

    def knows(self, key: Hashable) -> bool:
        """Whether `get` would answer without starting a review."""
        cached = self._results.get(key)
        return key in self._running or (cached is not None and self._clock() < cached[0])

    async def get(self, key: Hashable, review: Callable[[], Awaitable[Result]]) -> Result:
        """The result for a key, cached or reviewed now; errors are raised and not cached."""
        cached = self._results.get(key)
        if cached is not None and self._clock() < cached[0]:
            return cached[1]
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(self._review(key, review))
            self._running[key] = task
            # If all who wait are cancelled, no caller retrieves an error.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A client that disconnects must not cancel the review of the others.
        return await asyncio.shield(task)

    async def _review(self, key: Hashable, review: Callable[[], Awaitable[Result]]) -> Result:
        try:
            result = await review()
        finally:
            self._running.pop(key, None)
        self._results[key] = (self._clock() + self._seconds, result)
        self._results.move_to_end(key)
        while len(self._results) > self._size:
            self._results.popitem(last=False)
        return result

"""A cache of reviews: results are kept for a short time, and concurrent requests share one review."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Generic, TypeVar

CACHE_SECONDS = 10.0
"""How long a result is cached, allowed and denied alike, as in the official library."""

_CACHED = 4096
"""Results that are cached at most."""

CACHED_BYTES = 8 * 2**20
"""Bytes of the results and keys of one cache: users may have thousands of groups, and paths 8 KiB."""

Result = TypeVar("Result")


class Cache(Generic[Result]):
    """Results of reviews by key, bounded in number, memory and age; concurrent requests share a review."""

    def __init__(
        self, *, clock: Callable[[], float], seconds: float = CACHE_SECONDS, size: int = _CACHED
    ) -> None:
        """Make an empty cache.

        Args:
            clock: monotonic time, seconds.
            seconds: how long a result is cached.
            size: results that are cached at most, in CACHED_BYTES; the oldest go first.

        """
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._results: OrderedDict[Hashable, tuple[float, Result, int]] = OrderedDict()
        self._bytes = 0
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
        self._keep(key, result)
        return result

    def _keep(self, key: Hashable, result: Result) -> None:
        """Cache a result, instead of the oldest ones where there is no room."""
        _, _, before = self._results.pop(key, (0.0, None, 0))
        size = bytes_of((key, result))
        self._bytes += size - before
        self._results[key] = (self._clock() + self._seconds, result, size)
        while len(self._results) > self._size or (
            self._bytes > CACHED_BYTES and len(self._results) > 1
        ):
            _, (_, _, freed) = self._results.popitem(last=False)
            self._bytes -= freed


def bytes_of(value: object) -> int:
    """Bytes of a value with all that it holds, each counted as if nothing else held it."""
    held: Iterable[object] = ()
    if isinstance(value, Mapping):
        held = [*value, *value.values()]
    elif isinstance(value, tuple | list):
        held = value
    elif dataclasses.is_dataclass(value):
        held = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return sys.getsizeof(value) + sum(map(bytes_of, held))

"""Cached answers of a slow oracle; concurrent requests share one question."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

CACHE_SECONDS = 10.0
"""How long a review is believed, as the official library has it, for allowed and denied alike."""

_CACHED = 4096

Answer = TypeVar("Answer")


class Cache(Generic[Answer]):
    """Answers of a slow oracle: bounded, for a short time, and asked once for many who wait."""

    def __init__(
        self, *, clock: Callable[[], float], seconds: float = CACHE_SECONDS, size: int = _CACHED
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._known: OrderedDict[Hashable, tuple[float, Answer]] = OrderedDict()
        self._asked: dict[Hashable, asyncio.Task[Answer]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer for that key, from memory if it is fresh; errors are not remembered."""
        found = self._known.get(key)
        if found is not None and self._clock() < found[0]:
            return found[1]
        task = self._asked.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask(key, ask))
            self._asked[key] = task
            # With everyone who waited gone, an error has nobody to go to.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A client that leaves must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            answer = await ask()
        finally:
            self._asked.pop(key, None)
        self._known[key] = (self._clock() + self._seconds, answer)
        self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return answer

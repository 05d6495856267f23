"""Slots for scrapes in flight, shared fairly: who holds most waits for those who hold fewer."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator


class FairSlots:
    """A bounded number of slots; one that gets free goes to the waiting party that holds fewest.

    In the order of requests instead, a tenant with many slow pages would let everybody wait for all of them.
    """

    def __init__(self, number: int, *, each: int | None = None) -> None:
        """`number`: slots that may be held at the same time; `each`: by one party. Default all of them."""
        self._free = number
        self._each = number if each is None else each
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def one(self, party: str) -> AsyncIterator[None]:
        """Hold a slot, as soon as there is one."""
        if self._free > 0 and self._held[party] < self._each:
            self._take(party)
        else:
            await self._granted(party)
        try:
            yield
        finally:
            self._release(party)

    def _take(self, party: str) -> None:
        self._free -= 1
        self._held[party] += 1

    async def _granted(self, party: str) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(party, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(party)
            raise

    def _release(self, party: str) -> None:
        self._free += 1
        self._held[party] -= 1
        if not self._held[party]:
            del self._held[party]
        while self._free > 0:
            able = (name for name in self._waiting if self._held[name] < self._each)
            following = min(able, key=lambda name: self._held[name], default=None)
            if following is None:
                return
            queue = self._waiting.pop(following)
            granted = queue.popleft()
            if queue:
                self._waiting[following] = queue  # of equals the others go first
            if not granted.done():
                self._take(following)
                granted.set_result(None)

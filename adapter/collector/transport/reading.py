"""The reading of pages that come in: long ones few at a time, costly ones one at a time, with rests between.

Owners of pods decide how long their pages are and what it takes to parse them. Memory and the time of the
event loop belong to all, so what a namespace's pages cost is followed by a rest of that namespace: a long one
while another one's page waits, a short one while others are read at all, and none where it is the only one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from adapter.collector.transport.slots import FairSlots

INLINE_CHARACTERS = 256 * 1024
"""Longest page that is parsed on the event loop; handing a shorter one to a thread takes longer."""

LONG_PAGES, OWN_LONG_PAGES = 8, 2
"""Longer pages that are in memory at the same time, and those of one namespace among them."""

NOTICED_SECONDS = 0.005
"""CPU seconds of one page after which everything else has its turn before the next page."""

COSTLY_SECONDS = 0.02
"""CPU seconds of one page after which its namespace rests, if there are others."""

REST = 4.0
"""Length of that rest while another namespace's page waits, in the time that the page took.

Its namespace then has a fifth of the time at most.
"""

SHARED_REST = 1.0
"""Length of that rest while none waits, but others are read: half of the time is free for them."""

OTHERS_SECONDS = 60.0
"""Time since its last page for which a namespace counts as one that is read."""

LOOK_SECONDS = 0.01
"""Shortest time after which one that rests looks whether others still wait."""

Parsed = TypeVar("Parsed")


class PageReader:
    """Turns of those whose pages are read, by party: the namespace that they belong to."""

    def __init__(self) -> None:
        self._long = FairSlots(LONG_PAGES, each=OWN_LONG_PAGES)
        self._threads = FairSlots(1)
        self._busy = False
        self._costly: dict[
            str, tuple[float, float]
        ] = {}  # when a page was costly, and its CPU seconds
        self._waiting: Counter[str] = Counter()
        self._last_read: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def long_page(self, party: str) -> AsyncIterator[None]:
        """Hold the place of a page that is longer than those that are parsed on the event loop."""
        async with self._long.one(party):
            yield

    async def parsed(self, party: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
        """What a parser makes of a page, when it is its party's turn; raises what the parser raises."""
        self._waiting[party] += 1
        try:
            return await self._parsed(party, parse, text)
        finally:
            self._waiting[party] -= 1
            if not self._waiting[party]:
                del self._waiting[party]
            now = asyncio.get_running_loop().time()
            self._last_read.pop(party, None)
            self._last_read[party] = now
            # The oldest comes first.
            while now - self._last_read[oldest := next(iter(self._last_read))] > OTHERS_SECONDS:
                del self._last_read[oldest]

    async def _parsed(self, party: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
        await self._turn(party)
        if len(text) <= INLINE_CHARACTERS:
            started = time.thread_time()
            try:
                return parse(text)
            finally:
                self._spent(party, time.thread_time() - started)
        while True:
            # A thread too takes its time from the event loop.
            async with self._threads.one(party):
                # Whoever has to rest does not keep the thread from others meanwhile.
                if self._rest(party) <= 0:
                    seconds, take = await asyncio.to_thread(_timed, parse, text)
                    self._spent(party, seconds)
                    return take()
            await self._turn(party)

    def _rest(self, party: str) -> float:
        """Seconds for which a party still rests, as things are; 0 or less: none."""
        if self._left(party, REST) <= 0:
            return 0.0
        # Two that are costly do not hold each other back for longer than their share.
        if any(other != party and self._left(other, REST) <= 0 for other in self._waiting):
            return self._left(party, REST)
        since = asyncio.get_running_loop().time() - OTHERS_SECONDS
        if self._waiting.keys() - {party} or any(
            other != party and last >= since for other, last in self._last_read.items()
        ):
            return self._left(party, SHARED_REST)
        return 0.0

    def _left(self, party: str, rest: float) -> float:
        at, seconds = self._costly.get(party, (0.0, 0.0))
        return at + rest * seconds - asyncio.get_running_loop().time() if seconds else 0.0

    async def _turn(self, party: str) -> None:
        while True:
            rest = self._rest(party)
            if rest > 0:
                await asyncio.sleep(min(rest, max(self._costly[party][1], LOOK_SECONDS)))
            elif self._busy:
                await asyncio.sleep(0)
            else:
                return

    def _spent(self, party: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if seconds > NOTICED_SECONDS:
            self._busy = True
            loop.call_soon(self._done)
        if seconds > COSTLY_SECONDS:
            self._costly[party] = loop.time(), seconds
        elif self._left(party, REST) <= 0:
            self._costly.pop(party, None)

    def _done(self) -> None:
        self._busy = False


def _timed(parse: Callable[[str], Parsed], text: str) -> tuple[float, Callable[[], Parsed]]:
    """CPU seconds that a parser took, and its result or error."""
    started = time.thread_time()
    result: concurrent.futures.Future[Parsed] = concurrent.futures.Future()
    try:
        result.set_result(parse(text))
    except Exception as error:  # noqa: BLE001 - raised where the result is taken
        result.set_exception(error)
    return time.thread_time() - started, result.result

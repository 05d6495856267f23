"""The reading of pages that come in: long ones few at a time, costly ones one at a time, with rests between.

Owners of pods decide how long their pages are and what it takes to parse them. Memory and the time of the
event loop belong to all, so what a namespace's pages cost is followed by a rest of that namespace.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
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
"""CPU seconds of one page after which its namespace rests."""

REST = 4.0
"""Length of that rest, in the time that the page took: its namespace has a fifth of the time at most."""

Parsed = TypeVar("Parsed")


class Reading:
    """Turns of those whose pages are read, by party: the namespace that they belong to."""

    def __init__(self) -> None:
        self._long = FairSlots(LONG_PAGES, each=OWN_LONG_PAGES)
        self._threads = FairSlots(1)
        self._busy = False
        self._rests_until: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def long_page(self, party: str) -> AsyncIterator[None]:
        """Hold the place of a page that is longer than those that are parsed on the event loop."""
        async with self._long.one(party):
            yield

    async def parsed(self, party: str, parse: Callable[[str], Parsed], text: str) -> Parsed:
        """What a parser makes of a page, when it is its party's turn; raises what the parser raises."""
        await self._turn(party)
        if len(text) <= INLINE_CHARACTERS:
            seconds, take = _timed(parse, text)
            self._spent(party, seconds)
            return take()
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
        """Seconds for which a party still rests; 0 or less: none."""
        return self._rests_until.get(party, 0.0) - asyncio.get_running_loop().time()

    async def _turn(self, party: str) -> None:
        while True:
            rest = self._rest(party)
            if rest > 0:
                await asyncio.sleep(rest)
            elif self._busy:
                await asyncio.sleep(0)
            else:
                self._rests_until.pop(party, None)
                return

    def _spent(self, party: str, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if seconds > NOTICED_SECONDS:
            self._busy = True
            loop.call_soon(self._done)
        if seconds > COSTLY_SECONDS:
            self._rests_until[party] = loop.time() + REST * seconds

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

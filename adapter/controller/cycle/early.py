"""Reconcile cycles that start before their interval is over: who requests them, and how often they may.

A reconcile cycle plans all variants. Whoever may write an object, or serve a metrics page, can request one
again and again. So early cycles have a budget of time, in total and for each namespace that requests them:
once a namespace has spent its own, its requests wait, and those of others still start a cycle.

A tenant with several namespaces spends the total for everybody. For a namespace that rarely needs it there is
then a reserve, which one that asks all the time has no more of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable

EVERYBODY = ""
"""Stands for a namespace where a change is of no tenant alone: prices, service classes, devices."""

NAMESPACE_SHARE, NAMESPACE_SECONDS = 0.25, 5.0
"""Share of real time that early cycles requested by one namespace may take, and most seconds saved up."""

EVERYBODYS_SHARE, EVERYBODYS_SECONDS = 0.125, 2.5
"""The same for `EVERYBODY`: a tenant whose pods and tolerations change devices spends it beside its own."""

SHARE, SECONDS = 0.5, 10.0
"""The same for all namespaces together, and for the only one."""

RESERVE_SHARE, RESERVE_SECONDS = 0.125, 10.0
"""Share of real time that cycles may take beside `SHARE` once that is spent, and most seconds saved up."""

RARE_SHARE, RARE_SECONDS = 1.0 / 60.0, 10.0
"""The same for one namespace's part of this reserve: eight that ask all the time spend all of it."""

SHORTEST_WAIT = 1e-3
"""Seconds for which nothing waits: what rounding leaves of a wait would never pass on a clock that stands."""


class _Budget:
    """Seconds that cycles may take: they are saved up to a limit; what one takes beyond them is a debt."""

    def __init__(self, share: float, most: float) -> None:
        self._share, self._most = share, most
        self._left, self._at = most, 0.0

    def wait(self, now: float) -> float:
        """Seconds until a cycle may start."""
        return max(-self._saved(now), 0.0) / self._share

    def full(self, now: float) -> bool:
        """Whether all of it is there."""
        return self._saved(now) >= self._most

    def spend(self, seconds: float, now: float) -> None:
        """Take what a cycle took that ends now."""
        self._left, self._at = self._saved(now) - seconds, now

    def _saved(self, now: float) -> float:
        return min(self._left + self._share * (now - self._at), self._most)


def _budget_of(namespace: str) -> _Budget:
    if namespace == EVERYBODY:
        return _Budget(EVERYBODYS_SHARE, EVERYBODYS_SECONDS)
    return _Budget(NAMESPACE_SHARE, NAMESPACE_SECONDS)


class EarlyCycles:
    """Requests of reconcile cycles, with the namespaces that they are of."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """`clock`: monotonic real seconds; None: those of the event loop."""
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._all = _Budget(SHARE, SECONDS)
        self._reserve = _Budget(RESERVE_SHARE, RESERVE_SECONDS)
        self._each: dict[str, _Budget] = {}
        self._rare: dict[str, _Budget] = {}
        self._asking: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._shared = True

    @property
    def requested(self) -> bool:
        """Whether a reconcile cycle has been requested since the last one began."""
        return bool(self._asking)

    def serve(self, namespaces: Collection[str]) -> None:
        """Serve these namespaces: one that is alone takes no time from others, and may have all."""
        self._shared = len(namespaces) > 1

    def request(self, namespaces: Iterable[str]) -> None:
        """Ask for a cycle."""
        asking = self._asking | frozenset(namespaces)
        if asking != self._asking:
            self._asking = asking
            self._changed.set()

    def begin(self) -> frozenset[str]:
        """Begin a cycle, which serves all requests; returns the namespaces that asked."""
        asking, self._asking = self._asking, frozenset()
        return asking

    def took(self, seconds: float, asked: Iterable[str]) -> None:
        """A cycle that began early, because namespaces `asked` for it, took so long, and ends now."""
        now = self._clock()
        asked = [*asked]
        if not asked:
            return
        reserved = self._all.wait(now - seconds) > SHORTEST_WAIT
        (self._reserve if reserved else self._all).spend(seconds, now)
        self._each = {name: item for name, item in self._each.items() if not item.full(now)}
        self._rare = {name: item for name, item in self._rare.items() if not item.full(now)}
        for name in asked:
            self._each.setdefault(name, _budget_of(name)).spend(seconds, now)
            if reserved:
                rare = self._rare.setdefault(name, _Budget(RARE_SHARE, RARE_SECONDS))
                rare.spend(seconds, now)

    async def wait(self, seconds: float) -> bool:
        """Wait until a requested cycle may start, real seconds at most; returns whether it may."""
        ends_at = self._clock() + seconds
        while (left := ends_at - self._clock()) > 0.0:
            due = self._due()
            if due <= SHORTEST_WAIT:
                return True
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(due, left)):
                    await self._changed.wait()
        return False

    def _due(self) -> float:
        """Seconds until a requested reconcile cycle may start; infinite without a request."""
        now = self._clock()
        if not self._asking:
            return float("inf")
        waits = [self._each[name].wait(now) for name in self._asking if name in self._each]
        held = self._shared and len(waits) == len(self._asking)
        due = max(min(waits) if held else 0.0, self._all.wait(now))
        rare = self._asking - {EVERYBODY} if self._shared else ()
        return min([due, *(self._reserved(name, now) for name in rare)])

    def _reserved(self, name: str, now: float) -> float:
        """Seconds until this namespace may have a cycle out of the reserve."""
        own = (self._each.get(name), self._rare.get(name))
        return max(item.wait(now) for item in (self._reserve, *own) if item is not None)

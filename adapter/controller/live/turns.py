"""Turns of namespaces at what is written to the cluster, so that one with many variants delays no other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

Write = Callable[[], Awaitable[None]]

PATIENCE_SECONDS = 5.0
"""Seconds for which a reconcile cycle waits until what it decided is written, and as long for its patches and
for its Events: a slow API server, or thousands of variants, must not keep everybody from the next cycle."""

MOST_WAITING = 1000
"""Writes of one namespace that wait where each is for itself; beyond them the oldest are left out."""


def in_turn(keys: Iterable[str]) -> list[str]:
    """Keys `NAMESPACE/NAME` in another order: the first of each namespace, then the second of each."""
    seen: dict[str, int] = {}
    ranks = {}
    for key in keys:
        namespace = key.partition("/")[0]
        ranks[key] = seen[namespace] = seen.get(namespace, -1) + 1
    return sorted(ranks, key=ranks.__getitem__)


async def each(work: Sequence[Write], *, at_once: int) -> None:
    """Do all of it, a few at a time. Between two items everything else has its turn, such as the Lease.

    Tasks for all at once would all have theirs before a socket is read: 300 statuses in one go.
    """
    items = iter(work)

    async def some() -> None:
        for item in items:
            await item()
            await asyncio.sleep(0)

    await asyncio.gather(*(some() for _ in range(min(at_once, len(work)))))


class FairWrites:
    """Writes that are due, one of each namespace in turn, a few at a time.

    They continue in the background after `wait` returns. A newer write replaces one of its key that has not
    begun. One namespace never has all that may be in flight: the API server may be slow for its objects.
    """

    def __init__(self, at_once: int) -> None:
        """`at_once`: writes in flight at the same time; three quarters of them of one namespace."""
        self._at_once, self._each = at_once, max(3 * at_once // 4, 1)
        self._due: dict[str, dict[str, Write]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()
        self._error: Exception | None = None

    @property
    def waiting(self) -> int:
        """Number of writes that are due and have not begun."""
        return sum(map(len, self._due.values()))

    def replace(self, work: Mapping[str, Write]) -> None:
        """Make these the writes that are due, by key; those that waited before keep their place."""
        due: dict[str, dict[str, Write]] = {namespace: {} for namespace in self._due}
        waited = [key for namespace in self._due.values() for key in namespace if key in work]
        for key in dict.fromkeys((*waited, *work)):
            due.setdefault(key.partition("/")[0], {})[key] = work[key]
        self._due = {namespace: keys for namespace, keys in due.items() if keys}

    def add(self, key: str, write: Write) -> None:
        """Add one to those that are due; of too many of one namespace the oldest are left out."""
        due = self._due.setdefault(key.partition("/")[0], {})
        due[key] = write
        if len(due) > MOST_WAITING:
            del due[next(iter(due))]

    def stop(self) -> None:
        """Forget what is due, and end what is in flight."""
        self._due.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._error = None

    async def wait(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Write what is due; wait until that is done, at most so long: the rest goes on by itself.

        Raises:
            Exception: what a write has raised since the last call.

        """
        for _ in range(min(self._at_once - len(self._tasks), self.waiting)):
            task = asyncio.create_task(self._work(), name="writes to the cluster")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _work(self) -> None:
        while (chosen := self._next()) is not None:
            key, write = chosen
            self._busy.add(key)
            try:
                await write()
            except Exception as error:  # noqa: BLE001 - raised to who waits
                self._error = error
            finally:
                self._busy.discard(key)
            await asyncio.sleep(0)

    def _next(self) -> tuple[str, Write] | None:
        """The write whose turn it is; a newer one never overtakes that of the same key that is in flight."""
        in_flight = Counter(key.partition("/")[0] for key in self._busy)
        for namespace, due in self._due.items():
            if in_flight[namespace] >= self._each:
                continue
            key = next((key for key in due if key not in self._busy), None)
            if key is not None:
                write = due.pop(key)
                del self._due[namespace]
                if due:
                    self._due[namespace] = due  # at the end: the others have their turn first
                return key, write
        return None

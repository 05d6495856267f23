"""What the pages show: the states that the control loop publishes, as rows made once for all viewers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapter.clock import Clock
from adapter.collector.past.reader import PastReader
from adapter.controller.loop import ControlLoop
from adapter.controller.state import VariantState
from adapter.diagnostics import explain
from adapter.resources.inputs import InvalidVariant
from adapter.tasks import Pieces
from adapter.ui import rows
from adapter.ui.groups import Sums
from adapter.ui.history import History
from adapter.ui.rendering import Budget
from adapter.ui.rows import Row

FRESH_SHARE = 0.05
"""Part of one core that snapshots may take where somebody opens one page after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the pages get what they show; every call gives what holds now.

    Attributes:
        states: State of every variant, by key.
        refused: Invalid VariantAutoscalings.
        leading: Whether this process decides.
        leader: Identity of the replica that leads; empty while none is known.
        problem: Why the last cycles failed as a whole; None while they do not.
        capacity: Devices by type; None: unlimited.
        time: Unix time in seconds.
        past: Reads the past from Prometheus; None reads none.

    """

    states: Callable[[], Mapping[str, VariantState]]
    refused: Callable[[], tuple[InvalidVariant, ...]]
    leading: Callable[[], bool]
    leader: Callable[[], str]
    problem: Callable[[], str | None]
    capacity: Callable[[], Mapping[str, int] | None]
    time: Callable[[], float]
    past: PastReader | None = None


def of_loop(loop: ControlLoop, clock: Clock, leader: Callable[[], str]) -> Source:
    """The source of a control loop."""
    return Source(
        states=lambda: loop.states,
        refused=lambda: loop.refused,
        leading=lambda: loop.leading,
        leader=leader,
        problem=lambda: loop.problem,
        capacity=lambda: loop.inputs.capacity,
        time=clock.time,
        past=loop.collector.past,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The fleet at one moment.

    Attributes:
        number: Counts up.
        at: Unix time.
        states: State of every variant, by key.
        refused: Invalid VariantAutoscalings, by key.
        rows: One per variant, refusals included.
        sums: Sums over them.

    """

    number: int
    at: float
    states: Mapping[str, VariantState]
    refused: Mapping[str, InvalidVariant]
    rows: tuple[Row, ...]
    sums: Sums
    leading: bool
    leader: str
    problem: str | None
    capacity: Mapping[str, int] | None

    def document(self, key: str) -> Mapping[str, Any] | None:
        """The document of one variant, as `/variants/NAMESPACE/NAME` gives it; None where there is none."""
        if key in self.states:
            return explain.of_state(self.states[key], now=self.at)
        return explain.of_refusal(self.refused[key]) if key in self.refused else None


class Snapshots:
    """The last snapshot, made anew when states have changed and the budget allows it."""

    def __init__(
        self, source: Source, budget: Budget, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`now`: monotonic seconds, by which the budget goes."""
        self._source = source
        self._budget = budget
        self._now = now
        self._lock = asyncio.Lock()
        self._last: Snapshot | None = None
        self._made_at, self._pause = 0.0, 0.0
        self.history = History()

    async def current(self, *, fresh: bool = False) -> Snapshot:
        """The snapshot to show now.

        Args:
            fresh: True for a page that somebody opens, who does not wait for the next update.

        """
        async with self._lock:
            now = self._now()
            due = self._budget.due(now) or (fresh and now - self._made_at >= self._pause)
            if self._last is None or (due and self._changed(self._last)):
                self._budget.updated(now)
                spent = self._budget.spent
                self._last = await self._make()
                self._made_at = now
                self._pause = (self._budget.spent - spent) / FRESH_SHARE
            return self._last

    async def record(self) -> None:
        """Add the present state to the history."""
        snapshot = await self.current()
        pieces = Pieces(self._budget)
        for _ in self.history.sampling(snapshot.rows):
            await pieces.breathe()
        await pieces.rest()
        self.history.record(self._source.time(), snapshot.rows)
        pieces.end()

    def _changed(self, last: Snapshot) -> bool:
        """Whether anything that is shown is another object; states are replaced, never changed."""
        source = self._source
        states, before = source.states(), last.states
        return (
            len(states) != len(before)
            or any(before.get(key) is not state for key, state in states.items())
            or list(last.refused.values()) != list(source.refused())
            or (last.leading, last.leader, last.problem)
            != (source.leading(), source.leader(), source.problem())
        )

    async def _make(self) -> Snapshot:
        source, pieces = self._source, Pieces(self._budget)
        states, refused, now = dict(source.states()), source.refused(), source.time()
        variant_rows, sums = [], Sums()
        documents = itertools.chain(
            (explain.of_state(state, now=now) for state in states.values()),
            (explain.of_refusal(item) for item in refused),
        )
        for document in documents:
            row = rows.of_document(document)
            variant_rows.append(row)
            sums.add(row)
            await pieces.breathe()
        pieces.end()
        return Snapshot(
            number=1 if self._last is None else self._last.number + 1,
            at=now,
            states=states,
            refused={item.key: item for item in refused},
            rows=tuple(variant_rows),
            sums=sums,
            leading=source.leading(),
            leader=source.leader(),
            problem=source.problem(),
            capacity=source.capacity(),
        )

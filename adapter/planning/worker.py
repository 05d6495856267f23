"""Planning in a process of its own, so that planning a large fleet never stalls a GET.

A plan has a deadline. A worker that misses it, dies, or cannot plan is killed and started again, and the
fleet is planned without the variants that it failed for: these are set aside with the reason, and tried again
later.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import present
from adapter.planning.worker_child import (
    Child,
    PlanningError,
    WorkerBrokenError,
    WorkerDiedError,
    WorkerLateError,
)
from adapter.planning.worker_process import PIECE

log = structlog.get_logger()

DEADLINE_SECONDS = 20.0
"""Seconds that planning may take, less than the default interval of reconcile cycles."""

_FIRST_SHARE, _PART_SHARE = 0.5, 0.1
"""Shares of the deadline for a whole plan, and for one part of a fleet that could not be planned."""

QUARANTINE_SECONDS = 300.0
"""Seconds for which a variant stays set aside before it is tried again, alone."""

FIRST_LATE_SECONDS = 30.0
"""The same for one whose plan was late: on a busy machine that may be no fault of its own. Doubled each time
that it is late again, up to QUARANTINE_SECONDS, so that what never ends costs little."""

_SUSPECTED = "set aside for this cycle: planning failed for it or for variants beside it"


@dataclass(frozen=True, slots=True)
class _Quarantine:
    reason: str
    profiles: object
    until: float
    seconds: float


class PlanningWorker:
    """One worker process; started again when it dies or takes too long."""

    def __init__(
        self,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "adapter.planning.worker_process"),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a worker; its process starts with the first plan.

        Args:
            deadline_seconds: seconds that planning may take.
            command: program of the process.
            now: monotonic seconds.

        """
        self._deadline = deadline_seconds
        self._now = now
        self._child = Child(command, now)
        self._quarantine: dict[str, _Quarantine] = {}
        self._suspects: list[tuple[str, ...]] = []
        self._late: dict[str, _Quarantine] = {}
        """Those set aside because they were late, until they are planned."""

    @property
    def pid(self) -> int | None:
        """Process ID of the worker; None while there is none."""
        return self._child.pid

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        """Run `planning.plan(snapshot)` in the worker; variants that it fails for are set aside.

        Raises:
            WorkerBrokenError: the worker does not start, or ends whatever it is given.
            PlanningError: not even a plan without the variants that it failed for was possible.

        """
        try:
            return await self._plan(snapshot)
        except WorkerBrokenError:
            # What it failed for before says nothing of the variants.
            self._suspects.clear()
            raise

    async def close(self) -> None:
        """End the worker at once, whatever it is doing."""
        await self._child.close()

    async def _plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        ends_at = self._now() + self._deadline
        if self._child.distrusted:
            await self._check(snapshot)
        aside = self._held(snapshot)
        known = [variant for variant in snapshot.variants if variant.name not in aside]
        try:
            result = await self._attempt(
                replace(snapshot, variants=tuple(known)), _FIRST_SHARE * self._deadline
            )
        except WorkerBrokenError:
            raise
        except PlanningError as error:
            log.error(  # noqa: TRY400 - the reason says all
                "planning failed; planning in parts to find out for which variants",
                reason=str(error),
            )
            if known:
                self._suspects.append(tuple(variant.name for variant in known))
            result = None
        good = await self._clear(snapshot, ends_at)
        if result is None or good:
            aside = self._held(snapshot)
            known = [variant for variant in snapshot.variants if variant.name not in aside]
            rest = replace(snapshot, variants=tuple(known))
            if result is None and snapshot.capacity is not None:
                # Branch and bound may be what took too long.
                rest = replace(rest, settings=replace(snapshot.settings, solver="greedy"))
            result = await self._attempt(rest, _FIRST_SHARE * self._deadline)
        return replace(result, set_aside={**result.set_aside, **aside})

    def _held(self, snapshot: fleet.Fleet) -> dict[str, str]:
        """Variants that are not planned, with the reason; those whose time is over become suspects."""
        now = self._now()
        profiles = {variant.name: variant.profiles for variant in snapshot.variants}
        for name in self._late.keys() - profiles.keys():
            del self._late[name]
        for name, item in list(self._quarantine.items()):
            if name not in profiles:
                del self._quarantine[name]
            elif item.until <= now or item.profiles != profiles[name]:
                del self._quarantine[name]
                self._suspects.append((name,))
        parts = (tuple(name for name in part if name in profiles) for part in self._suspects)
        self._suspects = [part for part in parts if part]
        held = {name: _SUSPECTED for part in self._suspects for name in part}
        return held | {name: item.reason for name, item in self._quarantine.items()}

    async def _clear(self, snapshot: fleet.Fleet, ends_at: float) -> bool:
        """Plan the suspects in parts until the time is over; whether some of them are none any more.

        Without a capacity, parts of a fleet are sized as the whole is. Time that is left over is the next
        cycle's.
        """
        cleared = False
        by_name = {variant.name: variant for variant in snapshot.variants}
        while self._suspects and (seconds := ends_at - self._now()) > 0:
            part = self._suspects.pop()
            variants = tuple(by_name[name] for name in part)
            try:
                await self._attempt(
                    replace(snapshot, variants=variants, capacity=None),
                    min(seconds, _PART_SHARE * self._deadline),
                )
            except WorkerBrokenError:
                raise
            except PlanningError as error:
                middle = len(part) // 2
                if middle:
                    # The next cycle goes on with them where the time of this one is over.
                    self._suspects += [part[middle:], part[:middle]]
                    continue
                if isinstance(error, WorkerDiedError):
                    await self._check(snapshot)
                self._set_aside(variants[0], error)
            else:
                cleared = True
                for name in part:
                    self._late.pop(name, None)
        return cleared

    async def _check(self, snapshot: fleet.Fleet) -> None:
        """Plan nothing: a worker that fails at that too ends by itself, and no variant is to blame.

        Raises:
            WorkerBrokenError: it does.

        """
        nothing = replace(snapshot, variants=(), capacity=None)
        try:
            await self._attempt(nothing, _PART_SHARE * self._deadline)
        except WorkerDiedError as error:
            raise self._child.broken("ends without anything to plan") from error
        except WorkerBrokenError:
            raise
        except PlanningError:
            return  # late, as on a busy machine

    def _set_aside(self, variant: fleet.Variant, error: PlanningError) -> None:
        seconds = QUARANTINE_SECONDS
        late = isinstance(error, WorkerLateError)
        if late:
            before = self._late.get(variant.name)
            again = before is not None and before.profiles == variant.profiles
            seconds = min(2 * before.seconds, seconds) if before and again else FIRST_LATE_SECONDS
        why = str(error)
        item = _Quarantine(why, variant.profiles, self._now() + seconds, seconds)
        self._quarantine[variant.name] = item
        if late:
            self._late[variant.name] = item
        log.error(
            "variant set aside; the others are planned without it",
            variant=variant.name,
            why=why,
            seconds=seconds,
        )

    async def _attempt(self, snapshot: fleet.Fleet, seconds: float) -> planning.Plan:
        """One plan within that many seconds; the worker does not survive one that takes longer.

        What goes there and comes back is packed in pieces, and the event loop runs in between: packing a
        thousand variants at once would keep a GET waiting for as long as it takes.

        Raises:
            WorkerBrokenError: the worker does not start.
            PlanningError: there is none.

        """
        groups = present(snapshot.groups, {variant.name for variant in snapshot.variants})
        frames = [pickle.dumps(replace(snapshot, variants=(), groups=groups))]
        for start in range(0, len(snapshot.variants), PIECE):
            frames.append(pickle.dumps(snapshot.variants[start : start + PIECE]))
            await asyncio.sleep(0)
        answered = await self._child.exchange(frames, seconds)
        head = pickle.loads(answered[0])  # noqa: S301 - our own worker's
        if isinstance(head, str):
            raise PlanningError(f"planning it failed: {head}")
        decisions: dict[str, planning.Decision] = {}
        for piece in answered[1:]:
            decisions.update(pickle.loads(piece))  # noqa: S301 - our own worker's
            await asyncio.sleep(0)
        plan_head: planning.Plan = head
        return replace(plan_head, decisions=decisions)

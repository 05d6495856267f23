"""Planning in a process of its own, so that planning a large fleet never stalls a GET.

A plan has a deadline. A worker that misses it, dies, or cannot plan is killed and started again, and the
fleet is planned without the variants that it failed for: these are set aside with the reason, and tried again
later.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import structlog

from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.planning.groups import present
from adapter.planning.worker_process import LENGTH, PIECE, message

log = structlog.get_logger()

DEADLINE_SECONDS = 20.0
"""Seconds that planning may take, less than the default interval of reconcile cycles."""

START_SECONDS = 60.0
"""Seconds in which a new worker process must have loaded its libraries."""

_FIRST_SHARE, _PART_SHARE = 0.5, 0.1
"""Shares of the deadline for a whole plan, and for one part of a fleet that could not be planned."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
"""Seconds for which a worker that does not start is left alone: the first pause, doubled up to the cap."""

QUARANTINE_SECONDS = 300.0
"""Seconds for which a variant stays set aside before it is tried again, alone."""

_SLOW = "planning it took longer than {:g} s, or ended the planning worker; check its profile and batch size"
_SUSPECTED = "set aside for this cycle: planning failed for it or for variants beside it"


class PlanningError(RuntimeError):
    """The worker gave no plan: it took too long, died, or could not plan."""


class _WorkerDiedError(PlanningError):
    """It ended over a plan."""


class WorkerBrokenError(PlanningError):
    """The worker does not start, or ends whatever it is given: no variant's fault."""


@dataclass(frozen=True, slots=True)
class _Quarantine:
    reason: str
    profiles: object
    until: float


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
        self._command = command
        self._now = now
        self._process: asyncio.subprocess.Process | None = None
        self._quarantine: dict[str, _Quarantine] = {}
        self._suspects: list[tuple[str, ...]] = []
        self._pause = FIRST_PAUSE_SECONDS
        self._paused_until = float("-inf")
        self._broken = ""

    @property
    def pid(self) -> int | None:
        """Process ID of the worker; None while there is none."""
        return None if self._process is None else self._process.pid

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        """Run `planning.plan(snapshot)` in the worker; variants that it fails for are set aside.

        Raises:
            WorkerBrokenError: the worker does not start, or ends whatever it is given.
            PlanningError: not even a plan without the variants that it failed for was possible.

        """
        ends_at = self._now() + self._deadline
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

    async def close(self) -> None:
        """End the worker at once, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _held(self, snapshot: fleet.Fleet) -> dict[str, str]:
        """Variants that are not planned, with the reason; those whose time is over become suspects."""
        now = self._now()
        profiles = {variant.name: variant.profiles for variant in snapshot.variants}
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
                self._suspects.append(part)
                raise
            except PlanningError as error:
                middle = len(part) // 2
                if middle:
                    # The next cycle goes on with them where the time of this one is over.
                    self._suspects += [part[middle:], part[:middle]]
                    continue
                if isinstance(error, _WorkerDiedError):
                    await self._check(snapshot, part)
                self._set_aside(variants[0], str(error))
            else:
                cleared = True
        return cleared

    async def _check(self, snapshot: fleet.Fleet, part: tuple[str, ...]) -> None:
        """Plan nothing, before a variant is blamed: a worker that fails at that too ends by itself.

        Raises:
            WorkerBrokenError: it does; the part stays suspected.

        """
        nothing = replace(snapshot, variants=(), capacity=None)
        try:
            await self._attempt(nothing, _PART_SHARE * self._deadline)
        except WorkerBrokenError:
            self._suspects.append(part)
            raise
        except _WorkerDiedError as error:
            self._suspects.append(part)
            raise self._ended("ends without anything to plan") from error
        except PlanningError:
            return  # late, as on a busy machine

    def _ended(self, how: str) -> WorkerBrokenError:
        """The worker's own fault: it is not started again for a while, which grows."""
        self._broken = f"the planning worker {how}; see its output in the log, and the memory limit"
        self._paused_until = self._now() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        log.error("planning worker is broken; pausing", reason=self._broken)
        return WorkerBrokenError(self._broken)

    def _set_aside(self, variant: fleet.Variant, why: str) -> None:
        until = self._now() + QUARANTINE_SECONDS
        self._quarantine[variant.name] = _Quarantine(why, variant.profiles, until)
        log.error(
            "variant set aside; the others are planned without it", variant=variant.name, why=why
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
        if self._process is None:
            await self._start()
        try:
            async with asyncio.timeout(seconds):
                answered = await self._exchange(frames)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            late = isinstance(error, TimeoutError)
            log.warning("planning worker is late or dead; restarting it", late=late)
            await self.close()
            kind = PlanningError if late else _WorkerDiedError
            raise kind(_SLOW.format(seconds)) from error
        except BaseException:
            await self.close()  # what it would answer is of no use any more
            raise
        self._pause = FIRST_PAUSE_SECONDS
        head = pickle.loads(answered[0])  # noqa: S301 - our own worker's
        if isinstance(head, str):
            raise PlanningError(f"planning it failed: {head}")
        decisions: dict[str, planning.Decision] = {}
        for piece in answered[1:]:
            decisions.update(pickle.loads(piece))  # noqa: S301 - our own worker's
            await asyncio.sleep(0)
        plan_head: planning.Plan = head
        return replace(plan_head, decisions=decisions)

    async def _exchange(self, frames: Iterable[bytes]) -> list[bytes]:
        """Send a message to the worker and read its answer."""
        if self._process is None or self._process.stdin is None:
            raise OSError("the planning worker has ended")
        for part in message(list(frames)):
            self._process.stdin.write(part)
            await self._process.stdin.drain()
        return await self._receive()

    async def _start(self) -> None:
        """Start the process and wait until it has loaded its libraries.

        Raises:
            WorkerBrokenError: it ended, or did not become ready; or it did so a moment ago.

        """
        if self._now() < self._paused_until:
            raise WorkerBrokenError(self._broken)
        try:
            async with asyncio.timeout(START_SECONDS):
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # Ctrl-C goes to the whole process group; the parent decides when the worker ends.
                    start_new_session=True,
                )
                await self._receive()
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            late = isinstance(error, TimeoutError)
            await self.close()
            how = f"was not ready within {START_SECONDS:g} s" if late else "ended while it started"
            raise self._ended(how) from error
        except BaseException:
            await self.close()
            raise

    async def _receive(self) -> list[bytes]:
        """Read a message of the worker."""
        if self._process is None or self._process.stdout is None:
            raise OSError("the planning worker has ended")
        source = self._process.stdout

        async def number() -> int:
            (length,) = LENGTH.unpack(await source.readexactly(LENGTH.size))
            return int(length)

        return [await source.readexactly(await number()) for _ in range(await number())]

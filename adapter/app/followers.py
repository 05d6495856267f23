"""How often followers join the objects, and how the leader gives them the time to serve a target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from adapter.controller.actuator import Actuator, Consent
from adapter.controller.loop import ControlLoop
from adapter.controller.state import VariantState
from adapter.controller.status_writer import StatusWriter
from adapter.installation import MANAGED_TARGETS
from adapter.resources.watches import ClusterObjects

DEBOUNCE_SECONDS = 0.3
"""Real seconds between a change of the objects and its use, so that one update serves many changes."""

STATUS_DEBOUNCE_SECONDS = 0.05
"""Real seconds between a change of statuses and its use, so that one update serves those of a whole cycle."""

FOLLOW_SECONDS = 3 * STATUS_DEBOUNCE_SECONDS
"""Real seconds that the other replicas have to serve a target from `.status`."""

FOLLOW_MANAGED_SECONDS = 2 * DEBOUNCE_SECONDS
"""Real seconds that they have to serve one from the ConfigMap of targets, whose change is no status."""

JOIN_SECONDS = 3.0
"""Least real seconds between two joins of all objects where another replica leads: what it serves comes from
statuses and from the ConfigMap of targets, which do not wait for that.
"""


class Joins:
    """The pause between two joins of all objects."""

    def __init__(
        self, objects: ClusterObjects, loop: ControlLoop, *, changed: asyncio.Event
    ) -> None:
        """`changed`: set at every change of the objects; `loop`: knows whether this replica decides."""
        self._objects = objects
        self._loop = loop
        self._changed = changed
        self._at = float("-inf")
        self._targets: Mapping[str, Any] | None = None

    def note(self) -> None:
        """A join begins now."""
        self._targets = self._objects.config_map(MANAGED_TARGETS)
        if self._objects.synced:  # until then every list that arrives counts
            self._at = asyncio.get_running_loop().time()

    def forget(self) -> None:
        """The next change is joined at once."""
        self._at = float("-inf")

    async def pause(self) -> None:
        """Wait until a follower may join again; not where targets of managed HPAs have changed."""
        loop = asyncio.get_running_loop()
        while not self._loop.leading and self._objects.config_map(MANAGED_TARGETS) is self._targets:
            left = self._at + JOIN_SECONDS - loop.time()
            if left <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()


class Announcement:
    """Targets that start from zero, told to the other replicas before the scale target is patched."""

    def __init__(
        self,
        reporter: StatusWriter,
        actuator: Actuator,
        objects: ClusterObjects,
        *,
        write_managed: Callable[[], Awaitable[None]],
    ) -> None:
        """`write_managed`: writes the ConfigMap of targets of variants without an object."""
        self._reporter = reporter
        self._actuator = actuator
        self._objects = objects
        self._write_managed = write_managed

    async def make(self, states: Mapping[str, VariantState]) -> dict[str, Consent]:
        """Write these targets, and wait until the other replicas serve them.

        An HPA that queries one of these must not get the former zero: it would scale down again. Who allows
        the patches that follow is read meanwhile.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(states), name="targets for the followers")
            read = group.create_task(
                self._actuator.consents(states, frozenset(states)), name="consents"
            )
        return read.result()

    async def _write(self, states: Mapping[str, VariantState]) -> None:
        managed = any(self._objects.variant(key) is None for key in states)
        await self._reporter.write_now(states)
        if managed:
            await self._write_managed()
        await asyncio.sleep(FOLLOW_MANAGED_SECONDS if managed else FOLLOW_SECONDS)

"""How often followers join the objects, and how the leader gives them the time to serve a target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import structlog

from adapter.controller.actuator import Actuator, Consent
from adapter.controller.loop import ControlLoop
from adapter.controller.state import VariantState
from adapter.controller.status_writer import StatusWriter
from adapter.installation import MANAGED_TARGETS
from adapter.kube.scale import Reference
from adapter.resources import stored_status, watches
from adapter.resources.watches import ClusterObjects

log = structlog.get_logger()

_Replicas = tuple[int, int]
"""Present and desired replicas of a scale target."""

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
statuses, from Deployments' replicas and from the ConfigMap of targets, which do not wait for that.
"""

POD_JOIN_SECONDS = 15.0
"""The same where nothing but pods changed, which only the leader scrapes."""

REST_FACTOR = 3.0
"""The leader waits this many times the duration of a join before the next one: objects that change without
end, such as the labels of a pod, then take a quarter of its time."""

MOST_REST_SECONDS = 3.0
"""Longest such wait, real seconds."""

QUIET_JOIN_SECONDS = 60.0
"""Most real seconds between two joins where another replica leads and nothing has changed."""


class Joins:
    """The pause between two joins of all objects."""

    def __init__(
        self, objects: Callable[[], ClusterObjects], loop: ControlLoop, *, changed: asyncio.Event
    ) -> None:
        """Make it.

        Args:
            objects: gives what is watched.
            loop: knows whether this replica decides.
            changed: set at every change of the objects.

        """
        self._objects = objects
        self._loop = loop
        self._changed = changed
        self._at = float("-inf")
        self._rested = float("-inf")
        self._soon = False
        self._targets: Mapping[str, Any] | None = None

    def request(self) -> None:
        """Something has changed that a join shows."""
        self._soon = True
        self._changed.set()

    def request_for_pods(self) -> None:
        """Pods have changed: a join is due soon only where they alone show that a target was scaled."""
        self._soon = self._soon or self._objects().reads_scales
        self._changed.set()

    @property
    def due(self) -> bool:
        """Whether a join is due although nothing has changed."""
        now = asyncio.get_running_loop().time()
        return self._loop.leading or now - self._at >= QUIET_JOIN_SECONDS

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Note when a join begins and ends: enter it around one."""
        loop = asyncio.get_running_loop()
        self._soon = False
        self._targets = self._managed()
        begun = loop.time()
        if self._objects().synced:  # until then every list that arrives counts
            self._at = begun
        try:
            yield
        finally:
            ended = loop.time()
            self._rested = ended + min(REST_FACTOR * (ended - begun), MOST_REST_SECONDS)

    def forget(self) -> None:
        """The next change is joined at once."""
        self._at = float("-inf")

    async def pause(self) -> None:
        """Wait until objects may be joined again.

        A follower does not wait where targets of managed HPAs have changed.
        """
        loop = asyncio.get_running_loop()
        if self._loop.leading:
            await asyncio.sleep(self._rested - loop.time())
        while not self._loop.leading and self._managed() is self._targets:
            pause = JOIN_SECONDS if self._soon else POD_JOIN_SECONDS
            seconds = self._at + pause - loop.time()
            if seconds <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    def _managed(self) -> Mapping[str, Any] | None:
        return self._objects().config_map(MANAGED_TARGETS)


class LiveChanges:
    """What the leader and the autoscalers change, served by the others without a join of all objects."""

    def __init__(self, loop: ControlLoop, *, join: Callable[[], object]) -> None:
        """`join`: requests a join, for what cannot be applied alone."""
        self._loop = loop
        self._join = join
        self._statuses: dict[str, tuple[stored_status.Published | None, str]] = {}
        self._scaled: dict[tuple[str, Reference], tuple[_Replicas, _Replicas]] = {}
        self._changed = asyncio.Event()

    def note_status(self, item: Mapping[str, Any]) -> None:
        """Keep what the status of a variant holds, of which nothing else has changed."""
        if not self._loop.leading:
            metadata, status = item["metadata"], item.get("status")
            key = f"{metadata.get('namespace')}/{metadata['name']}"
            self._statuses[key] = (stored_status.published(status), stored_status.stored(status))
            self._changed.set()

    def note_scaled(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Keep the replicas of a Deployment of which nothing else has changed; a leader joins its pods."""
        if self._loop.leading:
            self._join()
            return
        metadata = after["metadata"]
        target = (str(metadata.get("namespace")), Reference(name=str(metadata["name"])))
        first = self._scaled.get(target, (watches.replicas_of(before),))[0]
        self._scaled[target] = (first, watches.replicas_of(after))
        self._changed.set()

    async def follow(self) -> None:
        """Serve them, until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(STATUS_DEBOUNCE_SECONDS)
            self._changed.clear()
            statuses, self._statuses = self._statuses, {}
            scaled, self._scaled = self._scaled, {}
            try:
                self._loop.live.follow_statuses(statuses)
                if scaled and not self._loop.live.follow_scaled(scaled):
                    self._join()
            except Exception:
                log.exception("changes not applied alone; applying all objects anew")
                self._join()


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

    async def make(
        self, states: Mapping[str, VariantState]
    ) -> tuple[frozenset[str], dict[str, Consent]]:
        """Write these targets, and wait until the other replicas serve them.

        An HPA that queries one of these must not get the former zero: it would scale down again. Who allows
        the patches that follow is read meanwhile.

        Returns:
            Keys of the variants that this could be done for within some seconds, and the consents.

        """
        async with asyncio.TaskGroup() as group:
            told = group.create_task(self._write(states), name="targets for the followers")
            read = group.create_task(
                self._actuator.consents(states, frozenset(states)), name="consents"
            )
        return told.result(), read.result()

    async def _write(self, states: Mapping[str, VariantState]) -> frozenset[str]:
        managed = any(self._objects.variant(key) is None for key in states)
        told = await self._reporter.write_now(states)
        if managed:
            await self._write_managed()
        await asyncio.sleep(FOLLOW_MANAGED_SECONDS if managed else FOLLOW_SECONDS)
        return told

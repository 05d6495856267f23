"""A collection of a cluster as a dictionary that follows it: list, then watch, for as long as it takes.

A watch that ends is resumed from where it was, bookmarks included; one whose version is too old (410) is
listed anew; a cluster that does not answer is asked again after a growing, jittered pause. What was known
stays known.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import structlog

from adapter.kube.client import ApiError

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts while the cluster does not answer."""

Object = Mapping[str, Any]


class Source(Protocol):
    """Where objects come from: `cluster.Cluster`, or a stand-in."""

    async def list_objects(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, and the version to watch from."""

    def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """Events after that version."""


class Informer:
    """One collection, by (namespace, name).

    Attributes:
        path: of the collection.
        synced: set once the first list is in.
        problem: why it cannot be followed now; empty while it can.

    """

    def __init__(
        self,
        source: Source,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        changed: Callable[[], None] = lambda: None,
        trim: Callable[[Object], Object] = lambda item: item,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self.path = path
        self._trim = trim
        self._query = tuple(query)
        self._changed = changed
        self._jitter = jitter
        self._objects: dict[tuple[str, str], Object] = {}
        self.synced = asyncio.Event()
        self.problem = ""

    @property
    def objects(self) -> Mapping[tuple[str, str], Object]:
        """What is known now."""
        return MappingProxyType(self._objects)

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        version, pause = "", FIRST_PAUSE
        while True:
            try:
                if not version:
                    version = await self._list()
                async for event in self._source.watch_objects(self.path, version, self._query):
                    version = self._take(event) or version
                    pause = FIRST_PAUSE
                    self._well()
                self._well()
            except ApiError as error:
                if error.gone:
                    # Changes were missed: only a list knows what is gone.
                    version = ""
                    log.info("watch too old; listing anew", path=self.path)
                elif self.problem != str(error):
                    log.warning("cluster does not answer", error=str(error))
                if not error.gone:
                    self.problem = str(error)
                    pause = min(2 * pause, LONGEST_PAUSE)
                # Not all replicas of everyone at once, when the cluster is back.
                await asyncio.sleep(pause * (0.5 + self._jitter() / 2))

    def _well(self) -> None:
        if self.problem:
            log.info("cluster answers again", path=self.path)
        self.problem = ""

    async def _list(self) -> str:
        items, version = await self._source.list_objects(self.path, self._query)
        found: dict[tuple[str, str], Object] = {_key(item): self._trim(item) for item in items}
        if found != self._objects or not self.synced.is_set():
            self._objects = found
            self.synced.set()
            self._changed()
        return version

    def _take(self, event: Mapping[str, Any]) -> str:
        """Apply an event; gives its version."""
        found = event.get("object") or {}
        key = _key(found)
        if event.get("type") == "DELETED":
            self._objects.pop(key, None)
            self._changed()
        elif event.get("type") in {"ADDED", "MODIFIED"}:
            self._objects[key] = self._trim(found)
            self._changed()
        return str((found.get("metadata") or {}).get("resourceVersion") or "")


def _key(item: Object) -> tuple[str, str]:
    metadata = item.get("metadata") or {}
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")

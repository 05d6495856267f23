"""A local copy of a collection of a cluster: list, then watch, until cancelled.

A watch that ends is resumed from the last resource version seen, bookmarks included; an expired one (410) is
followed by a new list; failed requests are retried with exponential back-off and jitter, and not before
Retry-After. Watches that end or expire soon after they began are retried with the same back-off. Until then
the last copy stays in use.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from adapter import logs
from adapter.kube import errors
from adapter.kube.bodies import pages

log = logs.LazyLogger()

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0
"""Seconds between attempts while requests fail: the first, and the cap."""

LONGEST_ABSENT = 300.0
"""The same cap while the cluster has no such collection at all, of those that not every cluster has."""

TRANSIENT_SECONDS = 60.0
"""Seconds for which a refusal of a collection that could be read before may pass by itself: an API server
that has just started refuses what its RBAC rules allow until it has read them.
"""

TURN = 100
"""Objects of a list, or events of a watch, that are read before everything else has its turn."""

MOST_LABELS, MOST_OWNERS = 128, 64
"""Most labels and owner references of an object with a namespace that are kept, its controller among them:
few have more than forty, and an API server bounds neither. Nodes, which have hundreds, are the operator's."""

MOST_NAME = 254
"""Characters that are kept of names and kinds of other objects where an API server bounds none: one more than
a name may have, so that what is cut off names nothing that exists."""

_OF_OWNERS = ("kind", "name", "uid", "controller")
"""Fields of owner references that are read."""

_NOT_TAKEN = frozenset({400, 414})
"""Statuses by which a watch from a resource version is refused that is none, or too long for a URL."""

SAID_SECONDS = 600.0
"""Seconds for which that is said of no other object of a namespace: its pods may come and go without end."""

_MOST = {"labels": MOST_LABELS, "ownerReferences": MOST_OWNERS}
"""Fields of metadata of which so many entries are kept."""

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Annotation with a copy of the object."""

Object = Mapping[str, Any]


class Source(Protocol):
    """A Kubernetes API to list and watch: `client.Cluster` is one."""

    def list_pages(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[pages.Page]:
        """List a collection page by page."""

    def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        """Watch a collection: events after that resource version."""


class Informer:
    """The objects of one collection, by (namespace, name).

    Attributes:
        path: URL path of the collection.
        synced: Set once the first list has arrived.
        error: Error of the last list or watch; None while they work.

    """

    def __init__(
        self,
        source: Source,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        changed: Callable[[], None] = lambda: None,
        trim: Callable[[Object], Object] = lambda item: item,
        same: Callable[[Object, Object], bool] = lambda _before, _after: False,
        noted: Callable[[Object, Object], None] = lambda _before, _after: None,
        jitter: Callable[[], float] = random.random,
        optional: bool = False,
    ) -> None:
        """Make an informer; `run` starts it.

        Args:
            source: API to list and watch.
            path: URL path of the collection.
            query: label or field selectors of the requests.
            changed: called after every change of the copy.
            trim: applied to every object before it is kept, to save memory.
            same: whether an object that is replaced by another version of it is no change.
            noted: called with both versions instead of `changed`.
            jitter: random number from 0 to 1 for the back-off.
            optional: whether a cluster without the collection lacks nothing; it is looked for now and then.

        """
        self._source = source
        self.path = path
        self._trim = trim
        self._query = tuple(query)
        self._changed = changed
        self._same = same
        self._noted = noted
        self._jitter = jitter
        self._optional = optional
        self._objects: dict[tuple[str, str], Object] = {}
        self._cut: set[tuple[str, str]] = set()
        self._said_cut: dict[str, float] = {}
        self.synced = asyncio.Event()
        self._failing_since: float | None = None
        self._absent = False
        self.error: errors.ApiError | None = None

    @property
    def problem(self) -> str:
        """Message of the error; empty while there is none."""
        return str(self.error or "")

    @property
    def lasting(self) -> errors.ApiError | None:
        """The error, unless it is a refusal that may pass by itself; None where there is none."""
        if isinstance(self.error, errors.Forbidden) and self.synced.is_set():
            since = self._failing_since
            now = asyncio.get_running_loop().time()
            if since is not None and now - since < TRANSIENT_SECONDS:
                return None
        return self.error

    @property
    def objects(self) -> Mapping[tuple[str, str], Object]:
        """The current copy, read-only."""
        return MappingProxyType(self._objects)

    async def run(self) -> None:
        """List and watch until cancelled."""
        loop = asyncio.get_running_loop()
        version, backoff = "", FIRST_BACKOFF
        while True:
            started_at, least, ended = loop.time(), 0.0, False
            try:
                if not version:
                    version = await self._list()
                number = 0
                async for event in self._source.watch_objects(self.path, version, self._query):
                    version = self._apply(event) or version
                    self._recovered()
                    number += 1
                    if number % TURN == 0:
                        # Events that are there already come without a wait in between.
                        await asyncio.sleep(0)
                self._recovered()
                ended = True
            except errors.Gone:
                # Events were missed: only a list shows which objects were deleted.
                version = ""
                log.info("watch expired; relisting", path=self.path)
            except errors.ApiError as error:
                least = self._failed(error)
                if error.code in _NOT_TAKEN:
                    version = ""  # as long as it is sent again, the answer is the same
            except Exception as error:
                # An object of an unexpected form must not end the service.
                log.exception("list or watch failed; relisting with back-off", path=self.path)
                version = ""
                problem = f"{self.path}: an object of an unexpected form ({type(error).__name__})"
                self.error = errors.ApiError(problem, path=self.path)
            if loop.time() - started_at >= backoff:
                backoff = FIRST_BACKOFF
                if ended:
                    continue
            # Jitter keeps all replicas from coming back at the same moment.
            await asyncio.sleep(max(backoff * (0.5 + self._jitter() / 2), least))
            backoff = min(2 * backoff, LONGEST_ABSENT if self._absent else LONGEST_BACKOFF)

    def _failed(self, error: errors.ApiError) -> float:
        """Keep the error of a request; gives the least seconds until the next one."""
        absent, self._absent = self._absent, self._optional and isinstance(error, errors.NotFound)
        if self._absent and not absent:
            log.info(
                "the cluster has no such objects; looking for them now and then", path=self.path
            )
        elif self.problem != str(error) and not self._absent:
            log.warning("list or watch failed; retrying with back-off", error=str(error))
        if self._failing_since is None:
            self._failing_since = asyncio.get_running_loop().time()
        self.error = error
        if isinstance(error, errors.Throttled):
            return min(error.retry_after, LONGEST_BACKOFF)
        return 0.0

    def _recovered(self) -> None:
        if self.error is not None:
            log.info("list and watch work again", path=self.path)
        self.error = self._failing_since = None
        self._absent = False

    async def _list(self) -> str:
        objects: dict[tuple[str, str], Object] = {}
        version, number = "", 0
        async for page in self._source.list_pages(self.path, self._query):
            version = page.version
            for item in page.items:
                self._keep(objects, item)
                number += 1
                if number % TURN == 0:
                    await asyncio.sleep(0)
        self._cut.intersection_update(objects)
        if objects != self._objects or not self.synced.is_set():
            self._objects = objects
            self.synced.set()
            self._changed()
        return version

    def _apply(self, event: Mapping[str, Any]) -> str:
        """Apply an event; give its resource version."""
        item = event.get("object") or {}
        if event.get("type") == "DELETED":
            self._objects.pop(_key(item), None)
            self._cut.discard(_key(item))
            self._changed()
        elif event.get("type") in {"ADDED", "MODIFIED"}:
            before = self._objects.get(_key(item))
            self._keep(self._objects, item)
            after = self._objects.get(_key(item))
            if before is not None and after is not None and self._same(before, after):
                self._noted(before, after)
            else:
                self._changed()
        return str(_metadata(item).get("resourceVersion") or "")

    def _keep(self, objects: dict[tuple[str, str], Object], item: Object) -> None:
        """Put an object among the others; one that cannot be read is left out, and ends nothing."""
        key = _key(item)
        objects.pop(key, None)
        try:
            objects[key] = kept(item, self._trim)
            self._note_cut(key, item)
        except Exception:
            log.exception("object cannot be read; leaving it out", path=self.path, object=key)

    def _note_cut(self, key: tuple[str, str], item: Object) -> None:
        """Say of an object that a part of its labels or owners is not read: a selector may need it."""
        numbers = _cut_off(item)
        if not numbers:
            self._cut.discard(key)
        elif key not in self._cut:
            self._cut.add(key)
            now = asyncio.get_running_loop().time()
            said = {name: at for name, at in self._said_cut.items() if now - at < SAID_SECONDS}
            if key[0] not in said:
                said[key[0]] = now
                log.warning(
                    "object has more labels or owner references than are read; reading a part of them,"
                    " as of others of its namespace, of which nothing is said for some minutes",
                    path=self.path,
                    object=key,
                    **numbers,
                )
            self._said_cut = said


def _cut_off(item: Object) -> dict[str, int]:
    """Numbers of labels and owner references of an object of which only a part is kept."""
    metadata = _metadata(item)
    if not metadata.get("namespace"):
        return {}
    numbers = {name: len(metadata.get(name) or ()) for name, most in _MOST.items()}
    return {name: number for name, number in numbers.items() if number > _MOST[name]}


def kept(item: Object, trim: Callable[[Object], Object]) -> Object:
    """What the copy has of an object; TypeError where its metadata have another form than all have."""
    return trim(_lean(item))


def _lean(item: Object) -> Object:
    """The object without bookkeeping that nothing here reads and that may be most of it."""
    metadata = item.get("metadata")
    if metadata is None:
        return item
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: must be an object, not {type(metadata).__name__}")
    for field in ("labels", "annotations"):
        values = metadata.get(field)
        if values is not None and not _are_texts(values):
            raise TypeError(f"metadata.{field}: must be texts by name")
    kept = {name: value for name, value in metadata.items() if name not in _UNREAD}
    if kept.get("namespace"):
        if len(kept.get("labels") or ()) > MOST_LABELS:
            kept["labels"] = dict(itertools.islice(kept["labels"].items(), MOST_LABELS))
        if len(kept.get("ownerReferences") or ()) > MOST_OWNERS:
            # The one that says whose the object is, of which there is one at most, may be any of them.
            owners = sorted(kept["ownerReferences"], key=lambda owner: not owner.get("controller"))
            kept["ownerReferences"] = owners[:MOST_OWNERS]
    if kept.get("ownerReferences"):
        kept["ownerReferences"] = [short(owner, _OF_OWNERS) for owner in kept["ownerReferences"]]
    notes = kept.get("annotations")
    if isinstance(notes, Mapping) and _LAST_APPLIED in notes:
        kept["annotations"] = {key: note for key, note in notes.items() if key != _LAST_APPLIED}
    return {**item, "metadata": kept}


def short(reference: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """These fields of a reference to another object, of texts the first 254 characters."""
    named = {name: reference[name] for name in fields if name in reference}
    return {
        name: value[:MOST_NAME] if isinstance(value, str) else value
        for name, value in named.items()
    }


def same_but_status(before: Object, after: Object) -> bool:
    """Whether two versions of an object differ in nothing but bookkeeping and status."""
    return _essence(before, _BOOKKEEPING) == _essence(after, _BOOKKEEPING)


def same_but_scale(before: Object, after: Object) -> bool:
    """Whether two versions of a workload differ in nothing but bookkeeping, status and spec.replicas."""
    return _unscaled(before) == _unscaled(after)


_UNREAD = frozenset({"managedFields", "finalizers"})
_BOOKKEEPING = frozenset({"resourceVersion", "managedFields"})
_BOOKKEEPING_OF_SCALED = _BOOKKEEPING | {"generation"}


def _unscaled(item: Object) -> object:
    spec = {name: value for name, value in (item.get("spec") or {}).items() if name != "replicas"}
    return _essence({**item, "spec": spec}, _BOOKKEEPING_OF_SCALED)


def _essence(item: Object, bookkeeping: frozenset[str]) -> object:
    metadata = {
        name: value
        for name, value in (item.get("metadata") or {}).items()
        if name not in bookkeeping
    }
    rest = {name: value for name, value in item.items() if name not in {"metadata", "status"}}
    return metadata, rest


def _key(item: Object) -> tuple[str, str]:
    metadata = _metadata(item)
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def _metadata(item: Object) -> Object:
    metadata = item.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _are_texts(values: object) -> bool:
    return isinstance(values, Mapping) and all(isinstance(text, str) for text in values.values())

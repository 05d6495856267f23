"""Watches of the in-memory Kubernetes API: events by selector, bookmarks, and 410 for compacted versions."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping

from aiohttp import web

from tests.fakes.kubernetes_objects import Change, Object, ObjectStore, ResourcePath, selected

BOOKMARK_SECONDS = 0.4


async def watch(
    store: ObjectStore,
    path: ResourcePath,
    request: web.Request,
    *,
    streams: set[asyncio.Task[None]],
    bookmarked: Callable[[], None],
) -> web.StreamResponse:
    """Stream events from the request's resource version on, until the task in `streams` is cancelled."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    task = asyncio.create_task(_events(store, path, request, response, bookmarked))
    streams.add(task)
    try:
        # Cancelled by a test: the watch simply ends. The client's own end cancels this handler instead.
        await asyncio.wait({task})
        if not task.cancelled():
            # A client that went away while an event was written is no fault of this server.
            with contextlib.suppress(ConnectionResetError):
                task.result()
    finally:
        task.cancel()
        streams.discard(task)
    return response


async def _events(
    store: ObjectStore,
    path: ResourcePath,
    request: web.Request,
    response: web.StreamResponse,
    bookmarked: Callable[[], None],
) -> None:
    since = int(request.query["resourceVersion"])

    async def send(kind: str, item: Object) -> None:
        await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    loop = asyncio.get_running_loop()
    marked_at = loop.time()
    while True:
        changed, seen = store.changed, store.version
        if since < store.oldest - 1:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await send("ERROR", status)
            return
        for change in list(store.history):
            if change.version <= since or change.collection != path.collection:
                continue
            since = change.version
            kind = event_type(change, path, request.query)
            if kind is not None:
                await send(kind, change.item)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await changed.wait()
        if loop.time() - marked_at > BOOKMARK_SECONDS:
            since, marked_at = max(since, seen), loop.time()
            bookmarked()
            await send("BOOKMARK", {"metadata": {"resourceVersion": str(since)}})


def event_type(change: Change, path: ResourcePath, query: Mapping[str, str]) -> str | None:
    """How a change looks through the selectors of a watch; None where it is not seen."""
    namespace = change.item["metadata"].get("namespace", "")
    if path.namespace not in {"", namespace}:
        return None
    now = selected(change.item, query) and change.kind != "DELETED"
    was = change.before is not None and selected(change.before, query)
    if now:
        return "MODIFIED" if was else "ADDED"
    return "DELETED" if was else None

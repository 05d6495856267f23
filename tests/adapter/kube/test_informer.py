"""The informer follows a real HTTP API through pages, bookmarks, expiry, outages and throttling."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from structlog.testing import capture_logs

from adapter.kube import client, errors, informer
from adapter.kube.bodies import pages

pytestmark = pytest.mark.virtual_time

PATH = "/apis/llmd.ai/v1alpha1/variantautoscalings"


@dataclass
class Api:
    """One collection with its history, as kube-apiserver serves it."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 1
    oldest: int = 0
    refuse: int = 0
    lists: int = 0
    watched_from: list[int] = field(default_factory=list)
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, name: str, value: int) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        metadata = {"name": name, "namespace": "ns", "resourceVersion": str(self.version)}
        self.objects[name] = {"metadata": metadata, "value": value}
        self.history.append((self.version, kind, self.objects[name]))
        self.changed.set()

    def delete(self, name: str) -> None:
        self.version += 1
        gone = self.objects.pop(name)
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
        self.history.append((self.version, "DELETED", gone))
        self.changed.set()

    def end_watches(self) -> None:
        """End the watches that are open now; new ones stay open."""
        self.cut.set()
        self.cut = asyncio.Event()

    def bookmark(self) -> None:
        self.version += 1
        item = {"metadata": {"resourceVersion": str(self.version)}}
        self.history.append((self.version, "BOOKMARK", item))
        self.changed.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self.refuse:
            return web.json_response({"kind": "Status", "message": "not now"}, status=self.refuse)
        if request.query.get("watch") == "true":
            return await self.watch(request)
        self.lists += 1
        names = sorted(self.objects)
        start = int(request.query.get("continue", "0"))
        end = start + int(request.query["limit"])
        metadata = {"resourceVersion": str(self.version)}
        if end < len(names):
            metadata["continue"] = str(end)
        items = [self.objects[name] for name in names[start:end]]
        return web.json_response({"items": items, "metadata": metadata})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        at = int(request.query["resourceVersion"])
        cut = self.cut
        self.watched_from.append(at)
        response = web.StreamResponse()
        await response.prepare(request)

        async def send(kind: str, item: dict[str, Any]) -> None:
            text = json.dumps({"type": kind, "object": item}) + "\n"
            half = len(text) // 2
            await response.write(text[:half].encode())
            await response.write(text[half:].encode())

        if at < self.oldest:
            await send("ERROR", {"code": 410, "message": "too old resource version"})
            return response
        while not cut.is_set():
            self.changed.clear()
            for version, kind, item in [entry for entry in self.history if entry[0] > at]:
                await send(kind, item)
                at = version
            waits = [asyncio.ensure_future(event.wait()) for event in (self.changed, cut)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return response


@dataclass
class Followed:
    """An informer at work."""

    api: Api
    informer: informer.Informer
    changes: list[int]

    def values(self) -> dict[str, int]:
        return {name: item["value"] for (_, name), item in self.informer.objects.items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(500):
            while not condition():  # noqa: ASYNC110 - the informer tells nobody but its owner
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def following(folder: Path, api: Api) -> AsyncIterator[Followed]:
    app = web.Application()
    app.router.add_get(PATH, api.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    changes: list[int] = []
    async with client.connected(folder / "kubeconfig") as source:
        pods = informer.Informer(
            source, PATH, changed=lambda: changes.append(1), jitter=lambda: 0.0
        )
        task = asyncio.create_task(pods.run())
        try:
            yield Followed(api, pods, changes)
        finally:
            task.cancel()
            api.end_watches()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await runner.cleanup()


async def test_it_lists_then_follows(tmp_path: Path) -> None:
    """What is there, what comes, what changes and what goes; every change is told."""
    api = Api()
    api.put("a", 1)
    async with following(tmp_path, api) as seen:
        await seen.informer.synced.wait()
        assert seen.values() == {"a": 1}
        api.put("b", 2)
        api.put("a", 3)
        await seen.until(lambda: seen.values() == {"a": 3, "b": 2})
        api.delete("a")
        await seen.until(lambda: seen.values() == {"b": 2})
        assert len(seen.changes) == 4
        assert (api.lists, len(api.watched_from)) == (1, 1)


async def test_long_lists_come_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More objects than a page holds are all there."""
    monkeypatch.setattr(pages, "FIRST", 10)
    monkeypatch.setattr(pages, "MOST", 10)
    api = Api()
    for number in range(25):
        api.put(f"v{number:02}", number)
    async with following(tmp_path, api) as seen:
        await seen.informer.synced.wait()
        assert len(seen.values()) == 25
        assert api.lists == 3


async def test_a_watch_that_ends_is_resumed_from_its_bookmark(tmp_path: Path) -> None:
    """Not listed again, and not from the version of the list: from the last that was heard of."""
    api = Api()
    api.put("a", 1)
    async with following(tmp_path, api) as seen:
        await seen.until(lambda: len(api.watched_from) == 1)
        api.bookmark()
        api.bookmark()
        last = api.version
        await asyncio.sleep(0.1)  # virtual: the bookmarks have arrived
        api.oldest = last
        api.end_watches()
        await seen.until(lambda: len(api.watched_from) == 2)
        assert api.watched_from[-1] == last
        api.put("b", 2)
        await seen.until(lambda: seen.values() == {"a": 1, "b": 2})
        assert api.lists == 1


async def test_a_version_that_is_too_old_is_listed_anew(tmp_path: Path) -> None:
    """After 410 the list tells what was deleted meanwhile."""
    api = Api()
    api.put("a", 1)
    api.put("b", 2)
    async with following(tmp_path, api) as seen:
        await seen.until(lambda: len(seen.values()) == 2)
        api.refuse = 503
        api.end_watches()
        await seen.until(lambda: "503" in seen.informer.problem)
        api.delete("a")
        api.put("c", 3)
        api.oldest = api.version
        assert seen.values() == {"a": 1, "b": 2}  # what was known stays known
        api.refuse = 0
        await seen.until(lambda: seen.values() == {"b": 2, "c": 3})
        await seen.until(lambda: not seen.informer.problem or "410" not in seen.informer.problem)
        assert api.lists == 2


@pytest.mark.parametrize("status", [429, 500, 403])
async def test_a_cluster_that_refuses_is_asked_again(tmp_path: Path, status: int) -> None:
    """Throttled, broken or forbidden: the problem is told, and the next attempt may work."""
    api = Api(refuse=status)
    async with following(tmp_path, api) as seen:
        await seen.until(lambda: str(status) in seen.informer.problem)
        assert "not now" in seen.informer.problem
        assert not seen.informer.synced.is_set()
        api.put("a", 1)
        api.refuse = 0
        await seen.until(lambda: seen.values() == {"a": 1})


class Refusing:
    """A source that refuses with 403 while it is told to, and else lists one object and watches."""

    refused = False

    async def list_pages(
        self,
        path: str,
        query: object = (),  # noqa: ARG002 - of the protocol
    ) -> AsyncIterator[pages.Page]:
        self._check(path)
        yield pages.Page([{"metadata": {"name": "a", "namespace": "ns"}}], "1")

    async def watch_objects(
        self,
        path: str,
        version: str,
        query: object = (),  # noqa: ARG002 - of the protocol
    ) -> AsyncIterator[dict[str, Any]]:
        while True:
            self._check(path)
            await asyncio.sleep(1)
            yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}

    def _check(self, path: str) -> None:
        if self.refused:
            raise errors.Forbidden(f"{path}: 403 forbidden", path=path, code=403)


@contextlib.asynccontextmanager
async def followed(source: Refusing) -> AsyncIterator[informer.Informer]:
    one = informer.Informer(source, PATH)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()


async def test_a_refusal_after_a_restart_may_pass() -> None:
    """What could be read is refused for a while by an API server that starts; only a lasting one is told."""
    source = Refusing()
    async with followed(source) as one:
        await asyncio.sleep(1)
        assert (one.synced.is_set(), one.error) == (True, None)
        source.refused = True
        await asyncio.sleep(10)
        assert one.error is not None
        assert one.lasting is None
        source.refused = False
        await asyncio.sleep(40)
        assert one.lasting is None
        assert one.problem == ""
        source.refused = True
        await asyncio.sleep(informer.TRANSIENT_SECONDS + 10)
        assert one.lasting is one.error is not None


async def test_a_refusal_from_the_start_is_told_at_once() -> None:
    """What could never be read is a missing permission."""
    source = Refusing()
    source.refused = True
    async with followed(source) as one:
        await asyncio.sleep(1)
        assert one.lasting is not None


class Odd(Refusing):
    """A source with objects of forms that Kubernetes does not allow, in its list and its events."""

    FORMS = ("x", [1], {"annotations": [1]}, {"labels": "x"}, {"labels": {"a": ["b"]}})

    async def list_pages(
        self,
        path: str,
        query: object = (),
    ) -> AsyncIterator[pages.Page]:
        async for page in super().list_pages(path, query):
            yield pages.Page([*({"metadata": form} for form in self.FORMS), *page.items], "1")

    async def watch_objects(
        self,
        path: str,
        version: str,
        query: object = (),
    ) -> AsyncIterator[dict[str, Any]]:
        for form in self.FORMS:
            yield {"type": "ADDED", "object": {"metadata": form}}
        yield {"type": "ADDED", "object": {"metadata": {"name": "b", "namespace": "ns"}}}
        async for event in super().watch_objects(path, version, query):
            yield event


async def test_an_object_of_an_impossible_form_is_left_out_alone() -> None:
    """One whose metadata is a text would end the list for as long as it is there."""
    async with followed(Odd()) as one:
        await asyncio.sleep(1)
        assert one.problem == ""
        assert one.objects.keys() == {("ns", "a"), ("ns", "b")}


class Without:
    """An API that does not have the collection, and may not let it be read later."""

    def __init__(self) -> None:
        self.lists, self.code = 0, 404

    async def list_pages(self, path: str, _: object = ()) -> AsyncIterator[pages.Page]:
        self.lists += 1
        kind = errors.NotFound if self.code == 404 else errors.Forbidden
        raise kind(f"{path}: HTTP {self.code}", path=path, code=self.code)
        yield

    async def watch_objects(
        self, path: str, version: str, _: object = ()
    ) -> AsyncIterator[dict[str, Any]]:
        raise AssertionError((path, version))
        yield


@pytest.mark.parametrize(
    ("optional", "level", "most"), [(True, "info", 40), (False, "warning", 400)]
)
async def test_a_collection_that_not_every_cluster_has(
    level: str, most: int, *, optional: bool
) -> None:
    """Said once and no warning, and looked for every few minutes; what is refused later is a warning."""
    api = Without()
    followed = informer.Informer(api, PATH, jitter=lambda: 0.0, optional=optional)
    with capture_logs() as logs:
        task = asyncio.create_task(followed.run())
        await asyncio.sleep(3600)
        assert most / 2 < api.lists <= most
        assert [item["log_level"] for item in logs] == [level]
        api.code = 403
        await asyncio.sleep(600)
        assert [item["log_level"] for item in logs] == [level, "warning"]
        task.cancel()

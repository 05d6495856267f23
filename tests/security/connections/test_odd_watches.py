"""Lines of a watch of every odd shape: the objects that come after them are read all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapter import tasks
from adapter.kube import client, errors, informer
from adapter.kube.bodies import pages
from tests.fakes.cluster_world import until

PODS = "/api/v1/pods"


def event(kind: str, document: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": document}).encode()


def pod(name: str, **more: Any) -> dict[str, Any]:
    """A pod with a resource version."""
    return {"metadata": {"namespace": "a", "name": name, "resourceVersion": "5", **more}}


GOOD, LAST = event("ADDED", pod("first", uid="1")), event("ADDED", pod("last"))
ODD: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16-le"),
    "half a character": GOOD.replace(b"first", b"fi\xc3"),
    "half a pair": GOOD.replace(b"first", b"\\ud800"),
    "a number of 5,000 digits": GOOD.replace(b'"5"', b"9" * 5000),
    "not a number": GOOD.replace(b'"5"', b"NaN"),
    "keys twice": b'{"type": "ERROR", ' + GOOD[1:],
    "brackets": b'{"type": "ADDED", "object": ' + b'{"a": ' * 50_000,
    "a bookmark of version null": event("BOOKMARK", {"metadata": {"resourceVersion": None}}),
    "a bookmark of a list": event("BOOKMARK", {"metadata": {"resourceVersion": [1]}}),
    "a bookmark of a large number": event("BOOKMARK", {"metadata": {"resourceVersion": 10**300}}),
    "a bookmark of blanks": event("BOOKMARK", {"metadata": {"resourceVersion": " \r\n&watch=0#"}}),
    "a bookmark without metadata": event("BOOKMARK", {}),
    "an error of code true": event("ERROR", {"code": True}),
    "an error of code -1": event("ERROR", {"code": -1}),
    "an error of code 10^300": event("ERROR", {"code": 10**300}),
    "an error of a text": event("ERROR", {"code": "410", "message": ["\n"] * 10_000}),
    "an error of code 200": event("ERROR", {"code": 200}),
    "an error of code 429": event("ERROR", {"code": 429, "details": {"retryAfterSeconds": 10**9}}),
    "a type of its own": event("SURPRISE", pod("first")),
    "deleted and never seen": event("DELETED", pod("never")),
    "deleted without a name": event("DELETED", {"metadata": None}),
    "another object of the name": GOOD + b"\n" + event("MODIFIED", pod("first", uid="2")),
    "a namespace that is none": event("MODIFIED", pod("first", namespace={"a": [1]})),
    "a name that is none": event("ADDED", pod(["x"])),  # type: ignore[arg-type]
    "metadata of another form": event("ADDED", {"metadata": [[1]]}),
    "labels of another form": event("ADDED", pod("first", labels=[1], annotations={"a": 1})),
    "blank lines": b"\n\r\n\n",
}


@contextlib.asynccontextmanager
async def following(
    serve: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[tuple[informer.Informer, asyncio.Task[None]]]:
    """An informer of pods, and its task, on an API that answers so."""
    app = web.Application()
    app.router.add_get(PODS, serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def authorize(_: dict[str, str]) -> None:
        return None

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        server = f"http://127.0.0.1:{runner.addresses[0][1]}"
        api = client.Cluster(client.Connection(session=session, server=server, authorize=authorize))
        follower = informer.Informer(api, PODS)
        task = asyncio.create_task(follower.run())
        stack.push_async_callback(tasks.cancel, task)
        yield follower, task


@pytest.mark.virtual_time
@pytest.mark.parametrize("shape", ODD)
async def test_what_comes_after_an_odd_line_is_read(shape: str) -> None:
    """Whether the line is left out, or the watch begins again; soon, and without a flood of requests."""
    requests: list[str] = []

    async def serve(request: web.Request) -> web.StreamResponse:
        version = request.query.get("resourceVersion", "")
        requests.append(version)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "4"}, "items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        if sum(map(bool, requests)) == 1:
            await response.write(ODD[shape] + b"\n")
        # Half a line comes on its own, cut within a character.
        await response.write(LAST[:30])
        await asyncio.sleep(0.1)
        await response.write(LAST[30:] + b"\n")
        await asyncio.sleep(3600)
        return response

    async with following(serve) as (follower, task):
        started = asyncio.get_running_loop().time()
        await until(lambda: ("a", "last") in follower.objects)
        waited = asyncio.get_running_loop().time() - started
        await asyncio.sleep(1.0)
        assert not task.done()
        assert follower.objects["a", "last"]["metadata"]["name"] == "last"
        assert len(requests) <= 5
        assert waited <= 61.0


@pytest.mark.virtual_time
@pytest.mark.parametrize("token", ["same", ""])
async def test_a_list_without_end_is_not_hammered(token: str) -> None:
    """Each page has no objects and a `continue` token, the same one or a new one."""
    requests: list[str] = []

    async def serve(_: web.Request) -> web.Response:
        requests.append(token or str(len(requests)))
        return web.json_response({"metadata": {"continue": requests[-1]}, "items": []})

    async with following(serve) as (follower, _):
        await asyncio.sleep(30.0)
        assert 2 <= len(requests) <= 62
        assert bool(follower.problem) is bool(token)


class Refusing:
    """An API that refuses to watch from a resource version that is no number."""

    def __init__(self) -> None:
        self.listed = 0

    async def list_pages(self, _: str, __: object = ()) -> AsyncIterator[pages.Page]:
        self.listed += 1
        yield pages.Page([pod(f"p{self.listed}")], "5")

    async def watch_objects(
        self, path: str, version: str, _: object = ()
    ) -> AsyncIterator[dict[str, Any]]:
        if not version.isdecimal():
            raise errors.of_status(400, f"{path}: invalid resource version", path=path)
        yield {"type": "ADDED", "object": pod("first", resourceVersion="none")}


@pytest.mark.virtual_time
async def test_a_version_that_is_refused_is_not_sent_for_ever() -> None:
    """The watch sent it again and again, and no change of the collection was seen any more."""
    api = Refusing()
    watched = informer.Informer(api, PODS)
    running = asyncio.create_task(watched.run())
    await until(lambda: ("a", "p2") in watched.objects)
    running.cancel()

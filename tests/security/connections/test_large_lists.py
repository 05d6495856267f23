"""Collections that tenants made large: memory while they are read, and of the copy that is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapter import tasks
from adapter.kube import client, informer
from adapter.kube.bodies import pages
from adapter.resources import pods

MIB = 2**20


def fat(number: int, kibibytes: int) -> dict[str, Any]:
    """A pod with that much of environment, and as much of bookkeeping."""
    text = f"{number:04d}" * 256
    copies = [{"name": f"E{at}", "value": f"{at}{text}"} for at in range(kibibytes)]
    return {
        "metadata": {
            "name": f"p{number}",
            "namespace": "n",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": json.dumps(copies),
                "llmd.ai/x": "1",
            },
            "managedFields": [{"manager": "x", "fieldsV1": {f"f:{at}": text for at in range(4)}}],
        },
        "spec": {"containers": [{"name": "c", "env": copies}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }


class Served:
    """An API with a list of objects; it keeps the number of objects and bytes of each page."""

    def __init__(self, count: int, kibibytes: int, *, small: int = 0) -> None:
        """`small`: so many objects at the beginning have nothing in them."""
        self.count, self.kibibytes, self.small = count, kibibytes, small
        self.pages: list[tuple[int, int]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return web.Response()
        begin = int(request.query.get("continue", "0"))
        end = min(self.count, begin + int(request.query["limit"]))
        body = json.dumps(
            {
                "items": [
                    fat(number, 0 if number < self.small else self.kibibytes)
                    for number in range(begin, end)
                ],
                "metadata": {
                    "resourceVersion": "7",
                    "continue": str(end) if end < self.count else "",
                },
            }
        )
        self.pages.append((end - begin, len(body)))
        return web.Response(text=body, content_type="application/json")


@contextlib.asynccontextmanager
async def served(api: Served) -> AsyncIterator[client.Cluster]:
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def authorize(_: dict[str, str]) -> None:
        return None

    try:
        async with aiohttp.ClientSession() as session:
            yield client.Cluster(
                client.Connection(session=session, server=server, authorize=authorize)
            )
    finally:
        await runner.cleanup()


async def test_a_list_is_never_in_memory_as_a_whole() -> None:
    """400 pods of 60 KiB are 24 MiB; of them a page or two are held, and what is kept of each."""
    api = Served(count=400, kibibytes=30)
    async with served(api) as cluster:
        follower = informer.Informer(cluster, "/api/v1/pods", trim=pods.trimmed)
        tracemalloc.start()
        try:
            task = asyncio.create_task(follower.run())
            await follower.synced.wait()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await tasks.cancel(task)
    assert len(follower.objects) == 400
    sent = sum(length for _, length in api.pages)
    assert sent > 24 * MIB
    # A page is there as bytes, text and objects, on both sides; a whole list would be four times itself.
    assert peak < 2 * sent
    # Later ones are as large as wanted.
    assert all(length < 2 * pages.WANTED_BYTES for _, length in api.pages[1:])


@pytest.mark.parametrize("small", [0, 300])
async def test_pages_that_are_too_long_are_not_read(small: int) -> None:
    """40 pods of 300 KiB, first or after 300 small ones, of which a page was small: all come, few at once."""
    api = Served(count=small + 40, kibibytes=150, small=small)
    async with served(api) as cluster:
        names, read = [], []
        async for page in cluster.list_pages("/api/v1/pods"):
            names += [item["metadata"]["name"] for item in page.items]
            read.append(sum(len(json.dumps(item)) for item in page.items))
    assert names == [f"p{number}" for number in range(small + 40)]
    assert max(read) < pages.MOST_BYTES
    assert max(length for _, length in api.pages) > pages.MOST_BYTES  # the attack is one


async def test_one_object_may_be_longer_than_a_page() -> None:
    """It comes alone."""
    api = Served(count=2, kibibytes=4500)
    async with served(api) as cluster:
        items, _ = await cluster.list_objects("/api/v1/pods")
    assert [item["metadata"]["name"] for item in items] == ["p0", "p1"]


async def test_small_objects_come_in_large_pages() -> None:
    """2,000 pods take no more than the seven requests that pages of 100, 200, 400 and 500 need."""
    api = Served(count=2000, kibibytes=0)
    async with served(api) as cluster:
        items, version = await cluster.list_objects("/api/v1/pods")
    assert [item["metadata"]["name"] for item in items] == [f"p{n}" for n in range(2000)]
    assert version == "7"
    assert len(api.pages) <= 7


async def test_the_copy_has_no_bookkeeping() -> None:
    """Neither fields' managers nor the copy that kubectl keeps; what is read stays."""
    api = Served(count=1, kibibytes=1)
    async with served(api) as cluster:
        follower = informer.Informer(cluster, "/api/v1/pods")
        task = asyncio.create_task(follower.run())
        await follower.synced.wait()
        await tasks.cancel(task)
    (kept,) = follower.objects.values()
    assert kept["metadata"] == {
        "name": "p0",
        "namespace": "n",
        "annotations": {"llmd.ai/x": "1"},
    }
    assert kept["spec"] == fat(0, 1)["spec"]

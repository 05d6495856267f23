"""Other sites in the same browser: they can neither read the pages of the port nor send forms to them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from adapter.ui import events, guard
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import until

pytestmark = pytest.mark.virtual_time

PATHS = ("/ui", "/ui/", "/ui/what-if", "/ui/variants/team-a/v", "/ui/static/page.js")


async def test_foreign_names_and_sites_are_refused(tmp_path: Path) -> None:
    """A name that resolves to loopback, a foreign form, and a foreign image; the page itself may."""
    async with worlds.running(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        own = endpoints.metrics_url
        port = URL(own).port
        async with aiohttp.ClientSession() as session:

            async def status(method: str, path: str, **headers: str) -> int:
                fields = {name.replace("_", "-"): value for name, value in headers.items()}
                async with session.request(method, own + path, headers=fields) as response:
                    for name, value in guard.HEADERS.items():
                        if name != "Cache-Control" and response.status != 405:
                            assert response.headers[name] == value
                    return response.status

            for path in PATHS:
                assert await status("GET", path) == 200
                for host in (
                    f"evil.example:{port}",
                    "localhost.evil.example",
                    "127.0.0.1.evil",
                    "[",
                ):
                    assert await status("GET", path, Host=host) == 403
                for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
                    assert await status("GET", path, Host=host) == 200
                image = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"}
                assert await status("GET", path, **image) == 403
                link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
                assert await status("GET", path, **link) == 200
            for headers in (
                {},
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Origin": "http://["},
                {"Origin": f"http://localhost:{port}"},
                {"Origin": own, "Sec_Fetch_Site": "cross-site"},
                {"Sec_Fetch_Site": "same-site"},
                {"Origin": f"http://127.0.0.1:{port}@evil.example"},
            ):
                assert await status("POST", "/ui/what-if", **headers) == 403, headers
            assert await status("POST", "/ui/what-if", Origin=own) in {200, 400}
            assert await status("POST", "/ui", Origin=own) == 405


async def test_streams_are_bounded_and_end_with_the_program(tmp_path: Path) -> None:
    """As many pages as there may be get their updates; the next one is told not to try again."""
    async with worlds.running(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"{endpoints.metrics_url}/ui/events"
            opened = [await session.get(url) for _ in range(events.MOST_STREAMS)]
            assert {item.status for item in opened} == {200}
            assert opened[0].headers["Content-Type"] == "text/event-stream; charset=utf-8"
            async with session.get(url) as one_more:
                assert one_more.status == 204
            opened.pop().close()
            async with asyncio.timeout(500):
                while (again := await session.get(url)).status != 200:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.1)
            again.close()
            async with asyncio.timeout(500):
                assert await opened[0].content.readuntil(b"\n\n") == b"retry: 5000\n\n"
                while b"event: tick" not in await opened[0].content.readuntil(b"\n\n"):
                    world.load["v"] = world.load.get("v", 0.0) + 60.0
            for item in opened:
                item.close()


async def test_one_address_does_not_take_the_pages_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest stream of the address with most ends for another's first one; not the other way round."""
    monkeypatch.setattr(events, "MOST_STREAMS", 4)
    streams = events.Streams()
    app = web.Application()
    app.router.add_get("/", streams.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    connectors = (aiohttp.TCPConnector(local_addr=(f"127.0.0.{end}", 0)) for end in (1, 2))
    many, few = (aiohttp.ClientSession(connector=connector) for connector in connectors)

    async def refused(session: aiohttp.ClientSession) -> bool:
        async with session.get(url) as response:
            return response.status == 204

    async with many, few:
        opened = [await many.get(url) for _ in range(4)]
        assert await refused(many)
        others = [await few.get(url) for _ in range(2)]
        assert [item.status for item in others] == [200, 200]
        assert await refused(few)  # both have as many
        assert await refused(many)
        for item in opened[:2]:
            assert await item.content.read() == b"retry: 5000\n\n"  # ended
        assert len(streams) == 4
        streams.tick(7)
        for item in (*opened[2:], *others):
            assert await item.content.readuntil(b"\n\n") == b"retry: 5000\n\n"
            assert await item.content.readuntil(b"\n\n") == events.TICK.format(7).encode()
        for item in (*opened, *others):
            item.close()
    await runner.cleanup()


async def test_a_client_that_does_not_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to it fills its connection, and after the time to take it the stream is closed."""
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(events, "RETRY_MS", int("9" * 4000))
    async with worlds.running(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        url = URL(endpoints.metrics_url)
        reader, writer = await asyncio.open_connection(url.host, url.port, limit=1)
        writer.write(f"GET /ui/events HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n\r\n".encode())
        streams = endpoints._metrics._pages._streams
        await until(lambda: len(streams) == 1)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # as a client that hangs
        big = ":" + "x" * 1_000_000 + "\n\n"
        monkeypatch.setattr(events, "TICK", big)
        for _ in range(40):
            streams.tick(1)
            await asyncio.sleep(0.05)
        await until(lambda: len(streams) == 0)
        writer.close()

"""Forty gateways of one tenant that are slow, endless, large or broken: nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from adapter.app import gateways as app_gateways
from tests.adapter.app.test_waking import PATIENT, PROMISED_SECONDS, REAL, at_zero, replicas
from tests.fakes import cluster_world as worlds
from tests.fakes.cluster_world import until
from tests.security.test_addresses import serving

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
LINE = b'llm_d_epp_request_total{model_name="m%d"} 1\n'
SERIES = b"".join(LINE % number for number in range(4000))
HOSTILE: dict[str, tuple[int, bytes, bytes]] = {
    "silent": (12, b"", b""),
    "trickling": (12, OK + b"Content-Length: 100000\r\n\r\n", b"#"),
    "redirecting": (
        6, b"HTTP/1.1 307 Moved\r\nLocation: /metrics\r\nContent-Length: 0\r\n\r\n", b"",
    ),
    "malformed": (6, OK + b"Content-Length: 9\r\n\r\nq{a='b} \xff", b""),
    "endless": (1, OK + b"\r\n", (b"#" * 99 + b"\n") * 1000),
    "interim": (1, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "16 MiB": (1, OK + b"Content-Length: 16777216\r\n\r\n", b"# of many\n" * 10_000),
    "costly": (1, OK + b"Content-Length: %d\r\n\r\n" % len(SERIES) + SERIES, b""),
}  # fmt: skip
"""How many there are of each kind, what each answers, and what it sends afterwards without end."""

TRICKLE_SECONDS = 1.0
"""Seconds between two single bytes."""


@contextlib.asynccontextmanager
async def hostile() -> AsyncIterator[tuple[list[str], set[str]]]:
    """Servers of every kind, by URL, and the kinds that were asked."""
    asked: set[str] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def answer(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, head, endless = HOSTILE[kind]
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                asked.add(kind)
                writer.write(head)
                while endless:
                    writer.write(endless)
                    await writer.drain()
                    await asyncio.sleep(TRICKLE_SECONDS if len(endless) == 1 else 0)
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for kind, (number, *_) in HOSTILE.items():
            for _ in range(number):
                server = await asyncio.start_server(functools.partial(answer, kind), "127.0.0.1", 0)
                stack.callback(server.close)
                urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics")
        try:
            yield urls, asked
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks)


@pytest.mark.virtual_time
@pytest.mark.parametrize("owner", ["team-b", ""])
async def test_another_variants_requests_do_not_wait(tmp_path: Path, owner: str) -> None:
    """It starts as quickly as ever, and its target follows its load within a few cycles.

    The gateways are another namespace's, or of those that the operator names for all.
    """
    async with worlds.running(tmp_path, actuate=True) as world, hostile() as (urls, asked):
        at_zero(world, "v")
        gateways = (*((owner, url) for url in urls), ("team-a", world.gateway))
        loop = asyncio.get_running_loop()
        settings = replace(PATIENT, interval=worlds.LOOP.interval)
        async with world.replica("a", loop=settings, gateways=gateways, **REAL):
            await until(lambda: world.desired() == 0)
            await until(lambda: asked == HOSTILE.keys())
            await asyncio.sleep(3.0)
            world.waiting, asked_at = 1, loop.time()
            await until(lambda: replicas(world) > 0)
            assert loop.time() - asked_at <= PROMISED_SECONDS
            world.waiting, world.load["v"], asked_at = 0, 240.0, loop.time()
            await until(lambda: (world.desired() or 0) > 1)
            cycles = (loop.time() - asked_at) * worlds.SPEED / settings.interval
            assert cycles <= 3


MANY = 64
"""Pickers of one namespace."""

JOINING_SECONDS = 0.02
"""CPU seconds that it takes to join what all gateways show, in these tests."""


MOST_READINGS = 100.0
"""Of all of them in a second; each on its own would be read 6.7 times in that."""

SECONDS = 3.0
"""Of the event loop, in which readings and joinings are counted."""


@pytest.mark.virtual_time
async def test_many_pickers_of_one_namespace_take_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share its readings, and what costs much to join is joined seldom; a variant still starts soon."""
    joined: list[float] = []

    def thread_time() -> float:
        joined.append(asyncio.get_running_loop().time())
        return JOINING_SECONDS * len(joined)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="llm_d_epp_ready 1\n")

    monkeypatch.setattr(app_gateways, "time", SimpleNamespace(thread_time=thread_time))
    async with worlds.running(tmp_path, actuate=True) as world, serving(page) as (url, requested):
        at_zero(world, "v")
        pickers = tuple(("team-a", f"{url}/{number}") for number in range(MANY))
        loop, gateways = asyncio.get_running_loop(), (*pickers, ("", world.gateway))
        async with world.replica("a", loop=PATIENT, gateways=gateways, **REAL):
            await until(lambda: world.desired() == 0 and len(set(requested)) == MANY)
            read, joinings = len(requested), len(joined)
            await asyncio.sleep(SECONDS)
            assert MANY <= len(requested) - read <= MOST_READINGS * SECONDS
            # The clock is read before and after each.
            assert len(joined) - joinings <= 2 * (SECONDS * 0.1 / JOINING_SECONDS + 1)
            world.waiting, asked_at = 1, loop.time()
            await until(lambda: replicas(world) > 0)
            assert loop.time() - asked_at <= PROMISED_SECONDS + JOINING_SECONDS / 0.1

"""Requests that never end: bodies, headers and pipelines of strangers; connections that are half closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import tracemalloc
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from adapter.tls.connections import CONNECTIONS
from adapter.tls.listener import listening
from tests.fakes.cluster_world import until
from tests.security.test_strangers import HEALTH, serving, status

MIB = 2**20
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
POST = b"POST /apis HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG_HEADER = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "


async def sent_until_closed(
    writer: asyncio.StreamWriter, head: bytes, piece: bytes, most: int
) -> int:
    """Bytes that the server took before it closed the connection, or all that were to be sent."""
    writer.write(head)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            await asyncio.sleep(0.01)
    return sent


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("head", "piece", "most"),
    [
        pytest.param(POST, CHUNK, 200 * MIB, id="body"),
        pytest.param(LONG_HEADER, b"x" * 0x10000, 64 * MIB, id="header"),
        pytest.param(
            HEALTH.removesuffix(b"\r\n"), b"X-Y: z\r\n" * 8192, 64 * MIB, id="many-headers"
        ),
    ],
)
async def test_a_request_without_end_is_ended(
    head: bytes, piece: bytes, most: int, tmp_path: Path
) -> None:
    """Within seconds, in little memory, while others are answered."""
    async with serving(tmp_path) as server:
        _, writer = await server.connect()
        tracemalloc.start()
        try:
            sending = asyncio.create_task(sent_until_closed(writer, head, piece, most))
            while not sending.done():
                assert await server.status("/version", "alice") == 200
                await asyncio.sleep(0.2)
            assert await sending < most
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()
            writer.transport.abort()


@pytest.mark.virtual_time
async def test_heads_that_do_not_end_take_little_memory(tmp_path: Path) -> None:
    """One of a MiB takes five: one character can make a text four times as long; 250 strangers 1.3 GiB."""
    line = b"X-Y: " + b"y" * 7900 + "\N{GRINNING FACE}".encode() + b"\r\n"
    async with serving(tmp_path) as server:
        tracemalloc.start()
        try:
            strangers = [await server.connect() for _ in range(4)]
            for _, writer in strangers:
                writer.write(HEALTH.removesuffix(b"\r\n") + line * 126)
            await asyncio.sleep(1)
            assert tracemalloc.get_traced_memory()[0] < 8 * MIB
            assert await server.status("/version", "alice") == 200
        finally:
            tracemalloc.stop()
            for _, writer in strangers:
                writer.transport.abort()


@pytest.mark.virtual_time
async def test_what_comes_behind_an_answer_is_not_read(tmp_path: Path) -> None:
    """Chunks of a byte, a MiB of them at once, took the time of all for as long as they came."""
    chunks = b"1\r\nx\r\n2\r\n\r\n\r\n" * 3000  # blank lines among them, by which a request ends
    async with serving(tmp_path) as server:
        reader, writer = await server.connect()
        assert await sent_until_closed(writer, POST, chunks, 64 * MIB) < 16 * MIB
        assert (await reader.readline()).split()[1] == b"403"
        writer.transport.abort()


@pytest.mark.virtual_time
async def test_requests_that_are_no_http_leave_no_memory(tmp_path: Path) -> None:
    """The frames of their errors held a MiB of each connection, in cycles, long after its end."""
    async with serving(tmp_path) as server:
        tracemalloc.start()
        gc.disable()
        try:
            for _ in range(30):
                reader, writer = await server.connect()
                writer.write(HEALTH + b"a\r\n\r\n" * 50_000)
                with contextlib.suppress(OSError):
                    await reader.read()
                writer.transport.abort()
            await asyncio.sleep(10)
            assert tracemalloc.get_traced_memory()[0] < 8 * MIB
        finally:
            gc.enable()
            tracemalloc.stop()


async def test_a_user_of_hundreds_of_groups_is_answered(tmp_path: Path) -> None:
    """A front proxy sends a header for each; the whole request is bounded instead."""
    head = HEALTH.removesuffix(b"\r\n") + b"X-Remote-Group: cn=team,ou=groups\r\n" * 400
    async with serving(tmp_path) as server:
        for request in (head + b"\r\n", head + b"X-Y: z\r\n" * 5 + b"\r\n"):
            reader, writer = await server.connect("alice")
            assert await status(reader, writer, request) == 200
            writer.close()


@pytest.mark.virtual_time
async def test_a_pipeline_is_answered_in_order_within_bounds(tmp_path: Path) -> None:
    """Of 50,000 requests at once no more wait than are read ahead; all get their answers."""
    async with serving(tmp_path) as server:
        reader, writer = await server.connect("alice")
        assert await status(reader, writer) == 200
        tracemalloc.start()
        try:
            writer.write(HEALTH * 50_000)
            for _ in range(1000):
                assert await status(reader, writer, b"") == 200
            # 1.7 MiB of them wait on our own side.
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
            assert await server.status("/version", "alice") == 200
        finally:
            tracemalloc.stop()
            writer.transport.abort()


async def test_clients_that_go_are_one_line_of_the_log(tmp_path: Path) -> None:
    """Each would be a traceback: the server writes to a connection that is closed already."""
    request = b"POST /apis HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    async with serving(tmp_path) as server:
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                reader, writer = await server.connect()
                writer.write(request)
                writer.close()
                with contextlib.suppress(OSError):
                    await reader.read()
                    await writer.wait_closed()
            await until(lambda: logs)
            assert await server.status("/version", "alice") == 200
    assert [log["event"] for log in logs] == ["clients closed connections before their answers"]


@pytest.mark.parametrize("path", [b"/version", b"/no/such/path"])
async def test_an_expectation_that_is_no_text_is_refused(tmp_path: Path, path: bytes) -> None:
    """The server would quote it, which no encoding can, and log a traceback for each."""
    request = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nExpect: \xff\r\n\r\n"
    async with serving(tmp_path) as server:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                reader, writer = await server.connect()
                assert await status(reader, writer, request) == 417
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            assert await server.status("/version", "alice") == 200
    assert logs == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "br", "zstd"])
async def test_what_a_request_packs_is_not_unpacked(coding: str) -> None:
    """A body of zeros that was packed a thousandfold is as many bytes as were sent, whatever its coding."""
    packed = gzip.compress(bytes(16 * MIB))
    read: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        read.append(len(await request.read()))
        return web.Response()

    app = web.Application()
    app[CONNECTIONS] = []
    app.router.add_post("/", answer)
    async with listening(app, host="127.0.0.1", port=0, certificates=None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: {coding}\r\nContent-Length: {len(packed)}"
        writer.write(head.encode() + b"\r\n\r\n" + packed)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert read == [len(packed)]


async def test_requests_that_fail_are_one_traceback_in_the_log() -> None:
    """Whoever has found a request that nobody foresaw can send it again and again."""

    async def handle(_: web.Request) -> web.StreamResponse:
        raise KeyError

    application = web.Application()
    application[CONNECTIONS] = []
    application.router.add_get("/", handle)
    with structlog.testing.capture_logs() as logs:
        async with listening(application, host="127.0.0.1", port=0, certificates=None) as port:
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                assert await status(reader, writer, request) == 500
                writer.close()
    assert [(log["event"], log["problem"]) for log in logs] == [("requests failed", "KeyError")]
    assert isinstance(logs[0]["exc_info"], KeyError)


@pytest.mark.virtual_time
async def test_who_has_asked_may_shut_down_its_sending_side() -> None:
    """The answer comes, then the end; who leaves a stream that way, or has not asked, gets the end."""
    held: list[asyncio.Event] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        held.append(asyncio.Event())
        if request.path == "/stream":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
            await held[-1].wait()
            return response
        await held[-1].wait()
        return web.Response(text="answer")

    application = web.Application()
    application[CONNECTIONS] = []
    application.router.add_get("/{path:.*}", handle)

    async def asked(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        return reader, writer

    async with listening(application, host="127.0.0.1", port=0, certificates=None) as port:
        reader, writer = await asked(port, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        writer.write_eof()
        await until(lambda: held)
        await asyncio.sleep(0.05)  # the end is read as well
        held.pop().set()
        assert (await reader.read()).endswith(b"answer")
        writer.close()
        for request in (b"", b"GET /a HTT", b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asked(port, request)
            if b"stream" in request:
                await reader.readuntil(b"x\r\n")
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        assert len(held) == 1

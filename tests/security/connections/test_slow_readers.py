"""Clients that ask for much and take nothing: memory is bounded, they are closed, and others are answered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from adapter.apiserver import responses
from adapter.errors import StartupError
from adapter.tls import connections, listener, slow_readers
from adapter.tls.certificates import Certificates
from adapter.tls.connections import CONNECTIONS, ConnectionLimits
from tests.fakes import kubernetes_stand_in as stand_ins
from tests.security.test_strangers import Server, status

BODY_BYTES = 6 * 2**20
BODY = random.Random(1).randbytes(BODY_BYTES)  # noqa: S311 - no secrets
LIMITS = ConnectionLimits(connections=20, unauthenticated=20)
PIECE, SLOW = 16384, 30_000
"""Bytes that a slow client takes at once, and in a second."""

REQUEST = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
ZIPPED = REQUEST.replace(b"Host:", b"Accept-Encoding: gzip\r\nHost:")
MADE = REQUEST.replace(b"/long", b"/made")
STREAM = REQUEST.replace(b"/long", b"/stream")


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Server, web.Application]]:
    """A server with one long answer and a short one."""
    issued = stand_ins.certificates(folder)
    certificates = Certificates(
        folder / "serving.crt", folder / "serving.key", issued.authorities["ca"].cert_pem
    )

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/long":
            return responses.of_bytes(request, BODY, "application/json")
        if request.path == "/made":
            return web.Response(body=bytes(BODY_BYTES))
        if request.path == "/stream":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(bytes(slow_readers.PIECE_BYTES))
        return web.Response(text="ok")

    application = web.Application()
    application[CONNECTIONS] = []
    application.router.add_get("/{path:.*}", answer)
    async with listener.listening(
        application, host="127.0.0.1", port=0, certificates=certificates, limits=LIMITS
    ) as port:
        yield Server(port, folder, []), application


async def lazy(server: Server, request: bytes) -> asyncio.StreamWriter:
    """A client that asks for a long answer ten times, on one connection, and never reads."""
    receiver = socket.socket()
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receiver.setblocking(False)
    await asyncio.get_running_loop().sock_connect(receiver, ("127.0.0.1", server.port))
    _, writer = await asyncio.open_connection(
        sock=receiver, ssl=server.context("alice"), server_hostname="localhost", limit=1024
    )
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request * 10)
    return writer


def held(application: web.Application) -> list[int]:
    """Bytes that wait to be sent, by connection."""
    (accepted,) = application[CONNECTIONS]
    protocols = [item.protocol for item in accepted._all if item.protocol is not None]
    return [
        protocol.transport.get_write_buffer_size()
        for protocol in protocols
        if protocol.transport is not None
    ]


@pytest.mark.virtual_time
@pytest.mark.parametrize("request_line", [REQUEST, ZIPPED, MADE], ids=["shared", "zipped", "made"])
async def test_who_takes_nothing_holds_little_and_is_closed(
    tmp_path: Path, request_line: bytes
) -> None:
    """Of 6 MiB that each of ten clients asked for, less than 384 KiB wait; after 30 s they are closed."""
    async with serving(tmp_path) as (server, application):
        clients = [await lazy(server, request_line) for _ in range(10)]
        await asyncio.sleep(5)
        waiting = held(application)
        assert len(waiting) == 10
        assert max(waiting) > connections.BUFFER_BYTES  # the attack is one
        assert max(waiting) < 6 * connections.BUFFER_BYTES
        assert await server.status("/short", "alice") == 200
        await asyncio.sleep(LIMITS.write_seconds * (1 + 2 / connections.LOOKS))
        assert not any(held(application))
        assert await server.status("/short", "alice") == 200
        for writer in clients:
            writer.transport.abort()


@pytest.mark.virtual_time
async def test_answers_that_are_kept_for_slow_clients_have_a_limit_together(tmp_path: Path) -> None:
    """Of 18 clients with 6 MiB each, those that took nothing for longest go at once, and no other."""
    async with serving(tmp_path) as (server, application):
        reader, writer = await server.connect("alice")
        clients = [await lazy(server, MADE) for _ in range(18)]
        await asyncio.sleep(1)
        assert len(held(application)) == 1 + slow_readers.KEPT_BYTES // BODY_BYTES + 1
        assert await status(reader, writer, MADE) == 200
        for item in clients:
            item.transport.abort()
        writer.close()


@pytest.mark.virtual_time
async def test_a_stream_keeps_nothing_of_the_answer_before_it(tmp_path: Path) -> None:
    """On a connection that took a long answer; ten clients that take none have less than the limit."""
    async with serving(tmp_path) as (server, application):
        reader, writer = await server.connect("alice")
        assert await status(reader, writer, MADE) == 200
        writer.write(STREAM)
        await asyncio.sleep(1)
        assert min(held(application)) > connections.BUFFER_BYTES  # it is waited for
        clients = [await lazy(server, MADE) for _ in range(11)]
        await asyncio.sleep(1)
        assert len(held(application)) == 1 + 11
        for item in (*clients, writer):
            item.transport.abort()


@pytest.mark.virtual_time
async def test_a_zipped_answer_is_whole(tmp_path: Path) -> None:
    """What is compressed in pieces is what was to be sent."""
    async with serving(tmp_path) as (server, _):
        reader, writer = await server.connect("alice")
        writer.write(ZIPPED.replace(b"Host:", b"Connection: close\r\nHost:"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Content-Encoding: gzip" in head
        assert b"Transfer-Encoding: chunked" in head
        zipped = bytearray()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            zipped += await reader.readexactly(size)
            await reader.readexactly(2)
        assert gzip.decompress(zipped) == BODY
        writer.close()


@pytest.mark.virtual_time
async def test_who_reads_on_gets_all(tmp_path: Path) -> None:
    """A client that takes its time over each piece, and pauses in between, is not closed."""
    async with serving(tmp_path) as (server, _):
        reader, writer = await server.connect("alice")
        assert await status(reader, writer, REQUEST) == 200
        await asyncio.sleep(2 * LIMITS.write_seconds)
        assert await status(reader, writer, REQUEST) == 200
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < BODY_BYTES:
            taken += len(await reader.readexactly(min(2**20, BODY_BYTES - taken)))
            await asyncio.sleep(LIMITS.write_seconds / 10)
        writer.close()


@pytest.mark.virtual_time
async def test_who_reads_slowly_but_on_and_on_gets_all(tmp_path: Path) -> None:
    """A client whose buffer is full at every look, and that takes 30 KB of each second, is not closed."""
    async with serving(tmp_path) as (server, _application):
        context = server.context("alice")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=context, limit=4096
        )
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(BODY_BYTES // PIECE):
            await reader.readexactly(PIECE)
            await asyncio.sleep(PIECE / SLOW)
        writer.close()


async def test_no_look_is_left_of_a_listener_without_an_address() -> None:
    """Where the port is taken, nothing of the second listener goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        application = web.Application()
        application[CONNECTIONS] = []
        with pytest.raises(StartupError, match="cannot listen"):
            async with listener.listening(
                application,
                host="127.0.0.1",
                port=taken.getsockname()[1],
                certificates=None,
                limits=LIMITS,
            ):
                pass
    (connections_of_it,) = application[CONNECTIONS]
    assert connections_of_it._next_look.cancelled()

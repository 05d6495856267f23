"""Another adapter whose answers are odd: each is an answer to one request, or status 503."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.adapter.apiserver.test_delegation import BASE, before
from tests.fakes import kubernetes_stand_in as stand_ins

NULL = b"Content-Length: 4\r\n\r\nnull"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(b"101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 503),
        pytest.param(b"99 Odd\r\n" + NULL, 503),
        pytest.param(b"999 Odd\r\n" + NULL, 503),
        pytest.param(b"200 OK\r\nContent-Type: a\x7fb\r\n" + NULL, 200),
        pytest.param(b"200 OK\r\nContent-Type: \xe9\r\n" + NULL, 200),
        pytest.param(b"200 OK\r\nContent-Length: 2\r\n" + NULL, 503),
    ],
    ids=["upgrade", "status-99", "status-999", "control-character", "no-utf-8", "two-lengths"],
)
async def test_what_is_relayed_is_one_whole_answer(
    answer: bytes, status: int, tmp_path: Path
) -> None:
    """A status below 200 reached the front proxy, and a header that cannot be sent ended its connection."""
    stand_ins.certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "serving.crt", tmp_path / "serving.key")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, before(tmp_path, f"https://127.0.0.1:{port}") as pair:
        assert (await pair.get(f"{BASE}/namespaces/ns/odd"))[0] == status

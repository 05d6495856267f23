"""Floods of connections to KEDA's port: whoever holds them, the next caller gets in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from adapter.keda import relay, requests, server
from adapter.keda.protocol import externalscaler_pb2 as messages
from adapter.keda.service import Context, ExternalScaler
from adapter.store import Changes
from tests.fakes.cluster_world import until
from tests.fakes.keda_operator import SERVER, Certificates, reference


class Targets:
    """Every variant has two replicas."""

    changes = Changes()

    def answer(self, _: str, __: str) -> tuple[int, bool]:
        return 2, True

    def waking(self, _: str, __: str) -> bool:
        return False


class Scaler(ExternalScaler):
    """Notes the addresses of its callers."""

    def __init__(self) -> None:
        super().__init__(Targets(), auth=None)  # type: ignore[arg-type] # of two methods
        self.callers: list[str] = []

    async def IsActive(  # noqa: N802 - KEDA's name
        self, request: messages.ScaledObjectRef, context: Context
    ) -> messages.IsActiveResponse:
        self.callers.append(self.address(context))
        return await super().IsActive(request, context)


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[int, Certificates, Scaler]]:
    certificates, scaler = Certificates(folder / "keda"), Scaler()
    options = certificates.options()
    assert options.certificate is not None
    assert options.key is not None
    async with server.listening(
        scaler, options, certificate=options.certificate, key=options.key
    ) as port:
        yield port, certificates, scaler


async def active(certificates: Certificates, port: int) -> Any:
    async with certificates.channel(f"127.0.0.1:{port}") as stub:
        return (await stub.IsActive(reference())).result


async def test_idle_connections_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that say nothing or no TLS go first; a caller that is at work stays, and a new one gets in."""
    monkeypatch.setattr(relay, "CONNECTIONS", 8)
    async with serving(tmp_path) as (port, certificates, scaler):
        async with certificates.channel(f"127.0.0.1:{port}") as stub:
            held = []
            for number in range(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                if number % 2:
                    writer.write(b"no TLS")
                held.append((reader, writer))
                assert (await stub.IsActive(reference())).result
            assert await active(certificates, port)
        assert await held[0][0].read() == b""
        assert set(scaler.callers) == {"127.0.0.1"}
        for _, writer in held:
            writer.close()


async def test_the_address_with_most_connections_loses_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However idle another address's only connection is."""
    monkeypatch.setattr(relay, "CONNECTIONS", 4)
    async with serving(tmp_path) as (port, _, _scaler):
        quiet, writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=("127.0.0.9", 0)
        )
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        for reader, _ in flood[:8]:
            assert await reader.read() == b""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await quiet.read()
        for other in (writer, *(item for _, item in flood)):
            other.close()


@pytest.mark.virtual_time
async def test_what_an_address_sends_is_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all its connections together; another address is not held back by it."""
    monkeypatch.setattr(relay, "RATE", 10_000)
    monkeypatch.setattr(relay, "BURST_BYTES", 20_000)
    taken: list[int] = []

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            taken.append(len(data))
        writer.close()

    inner = await asyncio.start_server(sink, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    async with (
        inner,
        relay.Relay(inner.sockets[0].getsockname()[1]).listening("127.0.0.1", 0) as port,
    ):
        flood = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in flood:
            writer.write(bytes(100_000))
        began = loop.time()
        await until(lambda: sum(taken) >= 100_000)
        assert loop.time() - began > 6.0
        before = sum(taken)
        _, other = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
        other.write(bytes(20_000))
        began = loop.time()
        await until(lambda: sum(taken) - before >= 20_000)
        assert loop.time() - began < 2.0
        for writer in (*(item for _, item in flood), other):
            writer.transport.abort()


async def calls(
    certificates: Certificates, port: int, stack: contextlib.AsyncExitStack, number: int
) -> list[Any]:
    """Calls that have begun, and send nothing."""
    options = (("grpc.ssl_target_name_override", SERVER), ("grpc.use_local_subchannel_pool", 1))
    credentials = certificates.credentials(certificates.client)
    channel = await stack.enter_async_context(
        aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)
    )
    method = channel.stream_stream("/externalscaler.ExternalScaler/StreamIsActive")
    return [method() for _ in range(number)]


async def test_calls_that_send_no_request_hold_no_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers alone held all places of calls, for ever; gRPC asks nobody for a token before the request."""
    monkeypatch.setattr(server, "STREAMS", 24)
    monkeypatch.setattr(server, "CALLS", 8)
    monkeypatch.setattr(requests, "AWAITED", 16)
    monkeypatch.setattr(requests, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(Scaler, "address", lambda _, context: context.peer())
    async with serving(tmp_path) as (port, certificates, _), contextlib.AsyncExitStack() as stack:
        silent = await calls(certificates, port, stack, 40)
        async with asyncio.timeout(20):
            await until(lambda: sum(call.done() for call in silent) >= 24)
            assert await active(certificates, port)  # of another address
            codes = Counter([await call.code() for call in silent])
        assert codes == {
            grpc.StatusCode.RESOURCE_EXHAUSTED: 24,
            grpc.StatusCode.INVALID_ARGUMENT: 16,
        }


HANDSHAKES = """
import asyncio, sys
from pathlib import Path
import adapter.app.options
from tests.security.connections.test_keda_floods import serving

async def main():
    async with serving(Path(sys.argv[1])) as (port, _, _scaler):
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"no TLS" * 50)
            await reader.read()
            writer.transport.abort()

asyncio.run(main())
"""


def test_failed_handshakes_are_no_lines_of_the_log(tmp_path: Path) -> None:
    """In a process of its own: gRPC reads how much it says once."""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", HANDSHAKES, str(tmp_path)],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "external scaler for KEDA is open" in done.stdout
    assert done.stderr == ""

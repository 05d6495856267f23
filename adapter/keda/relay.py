"""Connections to the port of the external scaler: accepted here, relayed to gRPC, and shared fairly.

gRPC refuses connections beyond its limit, whatever their source. A client that opened that many idle ones
would lock KEDA out. At the limit this relay closes the longest idle connection of the address that has most
of them, and accepts the new one. Bytes are relayed unread: TLS is between the caller and gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from adapter.tls.listener import BACKLOG

log = structlog.get_logger()

CONNECTIONS = 240
"""Connections at most: fewer than gRPC accepts."""

PIECE_BYTES = 64 * 1024
"""Bytes that are relayed at once to a caller."""

TAKEN_BYTES = 4 * 1024
"""Bytes that are taken from a caller at once: some 100 calls that are begun and given up."""

RATE = 512 * 1024
"""Bytes per second that all connections of an address may send for long. A call of KEDA has some 300."""

BURST_BYTES = 2**20
"""Bytes that they may send at once after they sent little: the streams of 4,000 ScaledObjects."""

LOG_SECONDS = 60.0
"""Seconds between two log messages about closed connections."""


class _Connection:
    """One accepted connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.address = str(writer.get_extra_info("peername", ("",))[0])
        self.moved_at = asyncio.get_running_loop().time()
        self.task = asyncio.current_task()

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Allowances:
    """What the callers of each address may send.

    Every call costs time of the event loop, even one that is given up with the next bytes: limits on calls
    count only those in progress.
    """

    def __init__(self) -> None:
        self._spent_until: dict[str, float] = {}

    def wait(self, address: str, count: int, *, now: float) -> float:
        """Take so many bytes of an address into account; seconds until the next may be taken from it."""
        self._spent_until = {key: until for key, until in self._spent_until.items() if until > now}
        until = max(self._spent_until.get(address, now), now) + count / RATE
        self._spent_until[address] = until
        return max(until - now - BURST_BYTES / RATE, 0.0)


class Relay:
    """Relays connections to a port of loopback."""

    def __init__(self, port: int) -> None:
        """`port`: where gRPC listens."""
        self._port = port
        self._all: dict[_Connection, None] = {}  # in the order in which they were accepted
        self._addresses: dict[int, str] = {}
        self._allowances = Allowances()
        self._closed = 0
        self._logged_at = float("-inf")

    def address(self, port: int) -> str:
        """Address of the caller whose bytes come to gRPC from that port; empty where it is gone."""
        return self._addresses.get(port, "")

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[int]:
        """Relay what comes to an address until the context ends; give the port.

        Raises:
            OSError: the address cannot be used.

        """
        # Both families where all addresses are meant.
        where = None if host in {"", "::"} else host
        server = await asyncio.start_server(
            self._serve, where, port, limit=TAKEN_BYTES, backlog=BACKLOG
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.sleep(0)  # what was accepted last begins
            tasks = [item.task for item in self._all if item.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer)
        self._all[connection] = None
        self._make_room()
        try:
            first = await reader.read(TAKEN_BYTES)
            if first:
                await self._relay(connection, reader, first)
        except (OSError, asyncio.CancelledError):
            pass  # either side has ended it, or another connection needs its place
        finally:
            self._all.pop(connection, None)
            writer.transport.abort()

    async def _relay(
        self, connection: _Connection, reader: asyncio.StreamReader, first: bytes
    ) -> None:
        opening = asyncio.ensure_future(
            asyncio.open_connection("127.0.0.1", self._port, limit=PIECE_BYTES)
        )
        try:
            inner_reader, inner = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # It may still open after this task has ended, and nothing else would close it.
            opening.add_done_callback(_abort)
            raise
        port = inner.get_extra_info("sockname")[1]
        self._addresses[port] = connection.address

        async def inwards() -> None:
            data = first
            loop = asyncio.get_running_loop()
            while data:
                connection.moved_at = loop.time()
                inner.write(data)
                await inner.drain()
                wait = self._allowances.wait(connection.address, len(data), now=loop.time())
                await asyncio.sleep(wait)
                data = await reader.read(TAKEN_BYTES)

        async def outwards() -> None:
            while data := await inner_reader.read(PIECE_BYTES):
                connection.writer.write(data)
                await connection.writer.drain()

        both = {asyncio.ensure_future(inwards()), asyncio.ensure_future(outwards())}
        try:
            done, _ = await asyncio.wait(both, return_when="FIRST_COMPLETED")
            for task in done:
                task.result()
        finally:
            # Nothing here may wait first: this task itself may be cancelled meanwhile.
            inner.transport.abort()
            del self._addresses[port]
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    def _make_room(self) -> None:
        """Close one connection where there are too many."""
        if len(self._all) <= CONNECTIONS:
            return
        by_address: dict[str, list[_Connection]] = {}
        for connection in self._all:
            by_address.setdefault(connection.address, []).append(connection)
        most = max(by_address.values(), key=len)
        idle = min(most, key=lambda connection: connection.moved_at)
        del self._all[idle]
        idle.close()
        self._closed += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning(
                "connection limit of the KEDA port reached; closing idle ones of the address with most",
                closed=self._closed,
                limit=CONNECTIONS,
            )
            self._closed, self._logged_at = 0, now


def _abort(opening: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].transport.abort()

"""Accepted connections, in bounded number and memory: who has not authenticated makes room for others.

A TLS connection takes some 300 KiB from its first byte on, so it is counted from accept, and its TLS state is
made when a first byte is there. Connections that have not authenticated, by a client certificate or a request
with a valid token, have a limit of their own. Beyond it one of the address with most of them is closed: first
one that stands still for a second, and of these one that finished its handshake without valid credentials,
then one that said nothing, then one in its handshake; of equals the oldest. So a flood, even from the front
proxy's own address, does not push the front proxy out of its handshake. Connections with a token make room
for those with a certificate, since every pod has a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import resource
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from adapter.tls.slow_readers import Noting, Progress, too_many

log = structlog.get_logger()

ACCEPTS_PER_TURN = 64
"""Connections accepted before other work of the event loop has its turn."""

PAUSE_SECONDS = 0.5
"""Seconds without accepting after the process has run out of file descriptors."""

STILL_SECONDS = 1.0
"""Seconds after which a connection that has come no further goes before those that have."""

BUFFER_BYTES = 64 * 1024
"""Bytes that wait to be sent on one connection before whoever writes waits too."""

LOOKS = 5
"""How often within `write_seconds` it is seen whether a client takes what is sent."""

LOG_SECONDS = 60.0
"""Seconds between two log messages about closed connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: Connections that are open at the same time. Default 1,000.
        unauthenticated: Connections among them without a client certificate or an accepted token; beyond it
            the oldest of them is closed. Default 250.
        handshake_seconds: Seconds for the first byte and, after it, for the TLS handshake. Default 10.
        idle_seconds: Seconds for a whole request to arrive, on a new connection or after the last request.
            Default 100, more than the 90 s after which kube-apiserver closes: requests fail where the server
            closes first.
        drain_seconds: Seconds for requests in flight to finish when the server ends. Default 10.
        shutdown_seconds: Seconds for the TLS shutdown of a connection. Default 2.
        write_seconds: Seconds for a client to take what waits to be sent to it, some 256 KiB; whoever takes
            that again and again may take as long as it likes. Default 30.

    """

    connections: int = 1000
    unauthenticated: int = 250
    handshake_seconds: float = 10.0
    idle_seconds: float = 100.0
    drain_seconds: float = 10.0
    shutdown_seconds: float = 2.0
    write_seconds: float = 30.0


DEFAULT_LIMITS = ConnectionLimits()

CONNECTIONS: web.AppKey[list[Connections]] = web.AppKey("connections", list)
"""The connections of every listener of an application, for the handler that authenticates requests."""


class _Stage(enum.IntEnum):
    """How far a connection has come, in the order in which connections are closed."""

    UNAUTHENTICATED = 0
    SILENT = 1
    HANDSHAKE = 2
    TOKEN = 3
    CERTIFICATE = 4


class _Connection:
    """One accepted connection."""

    def __init__(self, accepted: socket.socket, address: str) -> None:
        self.socket: socket.socket | None = accepted
        self.address = address
        self.stage = _Stage.SILENT
        self.since = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None
        self.protocol: RequestHandler | None = None
        self.progress = Progress()

    def reach(self, stage: _Stage) -> None:
        """Note that the connection has come that far."""
        self.stage, self.since = stage, asyncio.get_running_loop().time()

    def rank(self, now: float) -> tuple[bool, _Stage]:
        """Order in which connections are closed."""
        moves = self.stage >= _Stage.TOKEN or now - self.since < STILL_SECONDS
        return moves, self.stage

    @property
    def open(self) -> bool:
        if self.task is None or not self.task.done():
            return True
        return self.protocol is not None and self.protocol.transport is not None

    def close(self) -> None:
        """Close it at once, whatever it is doing."""
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
        if self.protocol is not None and self.protocol.transport is not None:
            self.protocol.transport.abort()
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Connections:
    """The connections of one listener."""

    def __init__(
        self, server: web.Server, *, context: ssl.SSLContext | None, limits: ConnectionLimits
    ) -> None:
        """`context`: TLS of the connections; None: they are plain."""
        self._server = server
        self._context = context
        self._limits = limits
        self._all: dict[_Connection, None] = {}  # in the order in which they were accepted
        self._by_protocol: dict[asyncio.BaseProtocol, _Connection] = {}
        self._closed = 0
        self._logged_at = float("-inf")
        loop = asyncio.get_running_loop()
        self._next_look = loop.call_later(limits.write_seconds / LOOKS, self._look)

    def __len__(self) -> int:
        """Number of open connections."""
        self._prune()
        return len(self._all)

    def authenticated(self, protocol: asyncio.BaseProtocol) -> None:
        """Note that a request of this connection was authenticated."""
        connection = self._by_protocol.get(protocol)
        if connection is not None:
            connection.reach(max(connection.stage, _Stage.TOKEN))

    def answering(self, protocol: asyncio.BaseProtocol, length: int) -> None:
        """Note that an answer begins; make room for a long one, of so many bytes, among those that wait."""
        connection = self._by_protocol.get(protocol)
        if connection is None:
            return
        connection.progress.answer_bytes = length
        connection.progress.asked = False
        if length:
            self._close_too_many(connection)

    def _close_too_many(self, beside: _Connection) -> None:
        """Close those that have been waited for longest, while too much is kept beside one of them."""
        others = {item.progress: item for item in self._all if item is not beside}
        self._close_slow([others[progress] for progress in too_many(others)])

    def accept(self, listening: socket.socket) -> None:
        """Accept what waits on a listening socket; called when there is something."""
        loop = asyncio.get_running_loop()
        fresh = []
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                self._exhausted(loop, listening, error)
                break
            accepted.setblocking(False)
            _keep_little_unsent(accepted)
            connection = _Connection(accepted, str(address[0]))
            self._all[connection] = None
            fresh.append(connection)
        self._make_room()
        for connection in fresh:
            if connection in self._all:
                connection.task = loop.create_task(self._serve(connection), name="connection")

    def close(self) -> None:
        """Close the connections that have not finished their handshake; the others end by themselves."""
        self._next_look.cancel()
        for connection in list(self._all):
            if connection.task is not None and not connection.task.done():
                connection.close()

    async def _serve(self, connection: _Connection) -> None:
        accepted = connection.socket
        assert accepted is not None  # noqa: S101 - set until this task hands it on
        limits = self._limits

        def protocol() -> Noting:
            connection.protocol = made = self._server()
            self._by_protocol[made] = connection
            # A buffer may have had room for a moment when the next answer began, and was not counted then.
            full = partial(self._close_too_many, connection)
            seconds = limits.idle_seconds if self._context is None else 0.0
            return Noting(connection.progress, made, full, half_open_seconds=seconds)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.handshake_seconds):
                await _readable(accepted)
            connection.socket = None
            connection.reach(_Stage.HANDSHAKE)
            transport, _ = await loop.connect_accepted_socket(
                protocol,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=limits.handshake_seconds if self._context else None,
                ssl_shutdown_timeout=limits.shutdown_seconds if self._context else None,
            )
        except (OSError, TimeoutError, ssl.SSLError):
            # Scanners, health checks of load balancers and clients that distrust us are everyday life.
            accepted.close()
            self._forget(connection)
            return
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        if transport.get_extra_info("peercert"):
            connection.reach(_Stage.CERTIFICATE)
        elif connection.stage is _Stage.HANDSHAKE:
            connection.reach(_Stage.UNAUTHENTICATED)

    def _look(self) -> None:
        """Close connections whose clients do not take what is sent: each holds a request and its answer."""
        loop, seconds = asyncio.get_running_loop(), self._limits.write_seconds
        slow = [item for item in self._all if item.progress.takes_nothing(loop.time(), seconds)]
        self._close_slow(slow)
        self._next_look = loop.call_later(seconds / LOOKS, self._look)

    def _close_slow(self, connections: Sequence[_Connection]) -> None:
        for connection in connections:
            self._forget(connection)
        if connections:
            log.warning("clients do not take their answers; closed", connections=len(connections))

    def _make_room(self) -> None:
        """Close connections while there are too many."""
        limits = self._limits
        if len(self._all) <= min(limits.connections, limits.unauthenticated):
            return
        self._prune()
        _note_speakers(self._all)
        strangers = [item for item in self._all if item.stage < _Stage.TOKEN]
        closed = _first_to_go(strangers, len(strangers) - limits.unauthenticated)
        gone = set(closed)
        # Where clients with certificates hold all slots, there is nobody to close for a further one of them.
        rest = [i for i in self._all if i.stage < _Stage.CERTIFICATE and i not in gone]
        closed += _first_to_go(rest, len(self._all) - len(closed) - limits.connections)
        for connection in closed:
            self._forget(connection)
        self._report(len(closed))

    def _prune(self) -> None:
        for connection in [item for item in self._all if not item.open]:
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        self._all.pop(connection, None)
        if connection.protocol is not None:
            self._by_protocol.pop(connection.protocol, None)
        connection.close()

    def _report(self, closed: int) -> None:
        self._closed += closed
        now = asyncio.get_running_loop().time()
        if self._closed and now - self._logged_at >= LOG_SECONDS:
            log.warning(
                "connection limit reached; closing those that have not authenticated",
                closed=self._closed,
                limit=self._limits.connections,
                unauthenticated_limit=self._limits.unauthenticated,
            )
            self._closed, self._logged_at = 0, now

    def _exhausted(
        self, loop: asyncio.AbstractEventLoop, listening: socket.socket, error: OSError
    ) -> None:
        """Out of file descriptors: give one back, and accept again a little later."""
        self._prune()
        for connection in _first_to_go(
            [item for item in self._all if item.stage < _Stage.CERTIFICATE], 1
        ):
            self._forget(connection)
        now = loop.time()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning("connections cannot be accepted; retrying", error=error.strerror)
            self._logged_at = now
        loop.remove_reader(listening)
        loop.call_later(PAUSE_SECONDS, self._resume, loop, listening)

    def _resume(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            loop.add_reader(listening, self.accept, listening)


def _note_speakers(connections: Iterable[_Connection]) -> None:
    """Move silent connections whose first byte waits to be read on to their handshake."""
    silent = {
        item.socket.fileno(): item
        for item in connections
        if item.stage is _Stage.SILENT and item.socket is not None
    }
    poll = select.poll()
    for descriptor in silent:
        poll.register(descriptor, select.POLLIN)
    for descriptor, _ in poll.poll(0):
        silent[descriptor].reach(_Stage.HANDSHAKE)


def _first_to_go(connections: list[_Connection], count: int) -> list[_Connection]:
    """So many of some connections, given in the order of their age, that are closed first."""
    if count <= 0:
        return []
    by_address: dict[str, list[_Connection]] = {}
    now = asyncio.get_running_loop().time()
    # The last of an address goes first: of the lowest rank the oldest.
    youngest_first = connections[::-1]
    for item in sorted(youngest_first, key=lambda item: item.rank(now), reverse=True):
        by_address.setdefault(item.address, []).append(item)
    number = min(count, len(connections))
    return [max(by_address.values(), key=len).pop() for _ in range(number)]


async def _readable(waiting: socket.socket) -> None:
    """Wait for the first byte, without reading it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    descriptor = waiting.fileno()
    loop.add_reader(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _keep_little_unsent(accepted: socket.socket) -> None:
    """Let the kernel keep little that is not on its way, and ask for more as soon as that is gone.

    It grows its buffer to MiBs otherwise, and asks when a third is free, which takes slow clients minutes.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on every system
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, BUFFER_BYTES)


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in {hard, resource.RLIM_INFINITY}:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning(
            "file limit not raised; going on with the present one", limit=soft, error=str(error)
        )

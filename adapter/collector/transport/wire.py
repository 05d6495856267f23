"""Connections that take in a bounded number of bytes: before a response, and of one.

A server may send more than a response: interim responses, blank lines or chunk extensions without end. Each
byte of these costs time, and none of them appears in the body, so that a limit on the body does not bound
them: the bytes of the connection are counted below HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEAD_BYTES = 128 * 1024
"""Most bytes after a request until the head of its response is complete; the beginning of the body counts."""

PIECE_BYTES = 32 * 1024
"""Most bytes that are taken in at once: everything else has its turn in between."""

TOO_MUCH = "more was sent than a response may have"


class TooMuchError(ConnectionAbortedError):
    """More bytes came than a response may have; the connection is closed."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNABORTED, TOO_MUCH)


def too_much(error: BaseException | None) -> bool:
    """Whether that ended a connection, as the error itself or behind it."""
    while error is not None:
        if isinstance(error, TooMuchError):
            return True
        error = error.__cause__ or error.__context__
    return False


class MeteredSocket(socket.socket):
    """A socket that takes in so many bytes after it has sent something, and refuses further ones.

    Attributes:
        left: Bytes that may still come.

    """

    def __init__(self, family: int = -1, kind: int = -1, protocol: int = -1) -> None:
        super().__init__(family, kind, protocol)
        self.left = HEAD_BYTES

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive what there is, at most one piece.

        Raises:
            TooMuchError: more came than may.

        """
        data = super().recv(min(bufsize, PIECE_BYTES), flags)
        self._take(len(data))
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive what there is into a buffer, at most one piece.

        Raises:
            TooMuchError: more came than may.

        """
        size = memoryview(buffer).nbytes
        received = super().recv_into(buffer, min(nbytes or size, size, PIECE_BYTES), flags)
        self._take(received)
        return received

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send; a request may have a response."""
        self.left = HEAD_BYTES
        return super().send(data, flags)

    def _take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise TooMuchError


_OPEN: weakref.WeakValueDictionary[int, MeteredSocket] = weakref.WeakValueDictionary()
"""Metered sockets by file descriptor: the transport of a connection shows no more of its socket."""


def _metered(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = MeteredSocket(family, kind, protocol)
    _OPEN[made.fileno()] = made
    return made


def connector() -> aiohttp.TCPConnector:
    """A connector of metered connections, in unlimited number."""
    return aiohttp.TCPConnector(limit=0, socket_factory=_metered)


@contextlib.contextmanager
def body_of(response: aiohttp.ClientResponse, limit: int) -> Iterator[None]:
    """Let that many bytes more come, for the body of a response; afterwards only as many as before one."""
    connection = response.connection  # none where the whole body is there already
    transport = None if connection is None else connection.transport
    plain = None if transport is None else transport.get_extra_info("socket")
    metered = None if plain is None else _OPEN.get(plain.fileno())
    if metered is None:
        yield
        return
    metered.left += limit
    try:
        yield
    finally:
        metered.left = min(metered.left, HEAD_BYTES)

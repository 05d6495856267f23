"""HTTP requests to a port of a pod that listens on loopback, through the API server's port-forward.

Unlike the pod proxy it needs no credentials of the pod, only the right to forward ports. The
WebSocket subprotocol `v4.channel.k8s.io` has a channel of data and one of errors: each message begins
with the number of its channel, and the first message of each channel holds the port.
https://kubernetes.io/docs/reference/using-api/api-concepts/#pod-exec-attach-and-port-forward
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp

from adapter.kube import errors, paths
from adapter.kube.client import Cluster

PROTOCOL = "v4.channel.k8s.io"

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of a response that are read."""

_DATA, _ERRORS = 0, 1
_PORT_BYTES = 2


@dataclass(frozen=True, slots=True)
class Response:
    """Status and body of a response."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Channel:
    """What came on one channel, the port at its beginning included."""

    received: bytearray = field(default_factory=bytearray)

    @property
    def content(self) -> bytes:
        return bytes(self.received[_PORT_BYTES:])


async def get(
    cluster: Cluster,
    *,
    namespace: str,
    pod: str,
    port: int,
    path: str,
    seconds: float,
) -> Response:
    """Send a GET request to a pod's port.

    Args:
        cluster: API server.
        namespace: namespace of the pod.
        pod: name of the pod.
        port: port that the pod listens on, without TLS.
        path: URL path of the request.
        seconds: deadline.

    Raises:
        ApiError: the API server refused, nothing listens there, or there was no response in time.

    """
    url = paths.item("v1", "pods", pod, namespace=namespace, subresource="portforward")
    try:
        async with (
            asyncio.timeout(seconds),
            cluster.websocket(url, query=(("ports", str(port)),), protocol=PROTOCOL) as socket,
        ):
            head = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
            await socket.send_bytes(bytes([_DATA]) + head.encode("ascii"))
            return await _response(socket, url)
    except TimeoutError as error:
        raise errors.Unavailable(f"{url}: no response within {seconds:g} s", path=url) from error


async def _response(socket: aiohttp.ClientWebSocketResponse, url: str) -> Response:
    channels = {_DATA: _Channel(), _ERRORS: _Channel()}
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel = channels.get(message.data[0])
        if channel is None:
            continue
        channel.received += message.data[1:]
        if len(channel.received) > BODY_LIMIT:
            raise errors.Unavailable(f"{url}: the response is too long", path=url)
        problem = channels[_ERRORS].content
        if problem:
            text = problem[:500].decode(errors="replace").strip()
            raise errors.Unavailable(f"{url}: {text}", path=url)
        response = _parsed(channels[_DATA].content, url)
        if response is not None:
            return response
    raise errors.Unavailable(f"{url}: the connection ended before the response", path=url)


def _parsed(data: bytes, url: str) -> Response | None:
    """The response in what came so far; None while it is incomplete."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    status_line, *lines = head.split(b"\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in lines)
    }
    parts, length = status_line.split(b" ", 2), fields.get(b"content-length", b"")
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise errors.Unavailable(f"{url}: the pod's port does not speak HTTP", path=url)
    if not length.isdigit() or len(length) > 9:
        raise errors.Unavailable(f"{url}: the response has no length", path=url)
    if len(body) < int(length):
        return None
    return Response(int(parts[1]), body[: int(length)])

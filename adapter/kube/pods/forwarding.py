"""A connection to a port of a pod, carried by the API server's port-forward: both directions, byte by byte.

`port_forward` sends one request; this carries whatever a client and the pod say, such as a browser's requests
and a stream of events.
"""

from __future__ import annotations

import asyncio

import aiohttp

from adapter import tasks
from adapter.kube import errors, paths
from adapter.kube.client import Cluster
from adapter.kube.pods.port_forward import PROTOCOL

PIECE_BYTES = 32 * 1024
"""Bytes of one message at most."""

_DATA, _ERRORS = 0, 1
_PORT_BYTES = 2


async def carry(
    cluster: Cluster,
    *,
    namespace: str,
    pod: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Carry one connection until either side ends it.

    Args:
        cluster: API server.
        namespace: namespace of the pod.
        pod: name of the pod.
        port: port that the pod listens on, without TLS.
        reader: what the client sends.
        writer: what it gets.

    Raises:
        ApiError: the API server refused, or nothing listens there.

    """
    url = paths.item("v1", "pods", pod, namespace=namespace, subresource="portforward")
    async with cluster.websocket(url, query=(("ports", str(port)),), protocol=PROTOCOL) as socket:
        sending = asyncio.create_task(_send(reader, socket), name="send to the pod")
        try:
            await _receive(socket, writer, url)
        finally:
            await tasks.cancel(sending)


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    try:
        while piece := await reader.read(PIECE_BYTES):
            await socket.send_bytes(bytes([_DATA]) + piece)
    finally:
        # The protocol has no half-closed connection.
        await socket.close()


async def _receive(
    socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter, url: str
) -> None:
    heads = {_DATA: _PORT_BYTES, _ERRORS: _PORT_BYTES}
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, piece = message.data[0], message.data[1:]
        if channel not in heads:
            continue
        # The first bytes of each channel are the port.
        skipped = min(heads[channel], len(piece))
        heads[channel] -= skipped
        piece = piece[skipped:]
        if not piece:
            continue
        if channel == _ERRORS:
            text = piece[:500].decode(errors="replace").strip()
            raise errors.Unavailable(f"{url}: {text}", path=url)
        writer.write(piece)
        await writer.drain()

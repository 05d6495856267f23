"""Port-forward of the in-memory Kubernetes API: a WebSocket that carries a connection to a pod's port."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import WSMsgType, web

PROTOCOL = "v4.channel.k8s.io"
PIECE = 1000
"""Bytes per message at most: responses come in parts, as they do in a cluster."""


async def forward(request: web.Request, address: tuple[str, int] | None) -> web.StreamResponse:
    """Forward the port that the query names to an address; None refuses as a pod where nothing listens."""
    port = int(request.query["ports"])
    socket = web.WebSocketResponse(protocols=(PROTOCOL,))
    await socket.prepare(request)
    head = port.to_bytes(2, "little")
    for channel in (b"\0", b"\1"):
        await socket.send_bytes(channel + head)
    try:
        if address is None:
            raise ConnectionRefusedError("Connection refused")
        reader, writer = await asyncio.open_connection(*address)
    except OSError as error:
        await socket.send_bytes(b"\1" + f"error forwarding port {port}: {error}".encode())
        await socket.close()
        return socket
    sending = asyncio.create_task(_send(reader, socket))
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data[:1] == b"\0":
                writer.write(message.data[1:])
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        writer.close()
    return socket


async def _send(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    while piece := await reader.read(PIECE):
        await socket.send_bytes(b"\0" + piece)
    await socket.close()

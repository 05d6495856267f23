"""Clients that ask the running program for much, and take nothing of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter

import programs
from programs import Cluster, Watcher, require, until


async def slow_readers(cluster: Cluster) -> str:
    """240 clients of each port ask for long answers and updates without end, and read nothing."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        context, files = programs.front_proxy(cluster.world), program.descriptors()
        before = program.memory_mib()
        api = [(program.port, path, context) for path in ("/openapi/v2", "/openapi/v3", "/metrics")]
        plain = [
            (program.metrics_port, path, None) for path in ("/metrics", "/variants", "/ui/events")
        ]
        async with Watcher(cluster, program).watching() as watcher:
            askers = [
                asyncio.create_task(_ask_and_read_nothing(*item))
                for _ in range(80)
                for item in (*api, *plain)
            ]
            opened = await until(lambda: program.descriptors() > files + 400, "400 connections")
            grown = program.memory_mib() - before
            seconds = await until(
                lambda: program.descriptors() < files + 10, "closed connections", seconds=90.0
            )
            ends = Counter(await asyncio.gather(*askers))
        require(grown < 200, f"memory grew by {grown:.0f} MiB")
        return f"all closed after {opened + seconds:.0f} s; {grown:+.0f} MiB; {dict(ends)} {watcher.served()}"


async def _ask_and_read_nothing(port: int, path: str, context: ssl.SSLContext | None) -> str:
    """Send requests on one connection without reading until it is closed; give how it ended."""
    taking = socket.socket()
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(taking, ("127.0.0.1", port))
        host = "localhost" if context else None
        _, writer = await asyncio.open_connection(
            sock=taking, ssl=context, server_hostname=host, limit=1024
        )
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n"
            writer.write(
                f"{head}X-Remote-User: a\r\nX-Remote-Group: system:masters\r\n\r\n".encode() * 100
            )
            await writer.drain()
            if writer.transport.is_closing():
                return "closed"
            await asyncio.sleep(1.0)
    except OSError as error:
        return type(error).__name__
    finally:
        taking.close()

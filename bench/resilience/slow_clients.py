"""Clients that ask the running program for much, and take nothing of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Iterable

import programs
from programs import Cluster, Watcher, require, until

from adapter.ui import events

CLIENTS = 80
"""Of each path."""

SECONDS = 120.0
"""CPU seconds of the server within which those with an answer to take are closed: 30 s after the buffer of
each is full. Those of the wall would say how busy the machine is: thousands of answers are made before."""

MOST_MIB = 300
"""MiB by which memory may grow: 64 of long answers at each port, of each connection some 256 KiB that wait
to be sent, and 300 KiB of TLS at one port."""


async def slow_readers(cluster: Cluster) -> str:
    """240 clients of each port ask for answers and updates without end, and read nothing."""
    async with cluster.program("a") as program:
        await cluster.serves(program)
        context, files = programs.front_proxy(cluster.world), program.descriptors()
        before = most = program.memory_mib()
        answers = [
            *((program.port, path, context) for path in ("/openapi/v2", "/openapi/v3", "/metrics")),
            *((program.metrics_port, path, None) for path in ("/metrics", "/variants")),
        ]
        streams = [(program.metrics_port, "/ui/events", None)]
        async with Watcher(cluster, program).watching() as watcher:
            asked = _asking(answers)
            updated = _asking(streams)
            await until(
                lambda: program.descriptors() > files + 400, "400 connections",
                seconds=SECONDS, clock=program.cpu_seconds,
            )  # fmt: skip

            def closed() -> bool:
                nonlocal most
                most = max(most, program.memory_mib())
                return all(task.done() for task in asked)

            seconds = await until(
                closed, "closed connections", seconds=SECONDS, clock=program.cpu_seconds
            )
            # The kernel takes the few bytes of a stream for its client: there are few of them instead.
            most_left = files + events.MOST_STREAMS + 10
            await until(
                lambda: program.descriptors() <= most_left, "few streams",
                seconds=SECONDS, clock=program.cpu_seconds,
            )  # fmt: skip
            left = program.descriptors() - files
            ends = Counter(task.result() for task in asked)
        for task in updated:
            task.cancel()
        await asyncio.gather(*updated, return_exceptions=True)
        require(most - before < MOST_MIB, f"memory grew by {most - before:.0f} MiB")
        return (
            f"closed after {seconds:.0f} s: {dict(ends)}; {left} files more, most of them streams; at most"
            f" {most - before:+.0f} MiB; {watcher.served()}"
        )


def _asking(paths: Iterable[tuple[int, str, ssl.SSLContext | None]]) -> list[asyncio.Task[str]]:
    return [
        asyncio.create_task(_ask_and_read_nothing(*item)) for item in paths for _ in range(CLIENTS)
    ]


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

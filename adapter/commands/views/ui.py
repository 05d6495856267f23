"""`variant-adapter ui`: the page of the fleet in the browser, through a port that the API server forwards."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import webbrowser
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from adapter import errors
from adapter.commands import flags, kubeconfig
from adapter.commands.views import leader
from adapter.logs import printable

if TYPE_CHECKING:
    from adapter.kube.client import Cluster

PATH = "/ui"

MOST_CONNECTIONS = 32
"""Connections that are carried at the same time; a browser opens six and one for updates."""

LEADER_SECONDS = 5.0
"""Seconds for which the leader counts as known."""


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Opens the page of the fleet in the browser: variants with load, latencies beside SLO and"
        " prediction, history, and what-if. The adapter that holds the Lease answers, through a port on"
        " loopback that the API server forwards with your own rights, until Ctrl-C."
    )
    command.add_argument(
        "--port",
        type=flags.port,
        default=0,
        metavar="PORT",
        help="Port on 127.0.0.1 to listen on; 0 picks a free one. Default 0",
    )
    command.add_argument(
        "--no-browser", action="store_true", help="Print the address without opening a browser"
    )
    leader.add_flags(command)
    kubeconfig.add_flags(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Forward until Ctrl-C."""
    if args.url:
        _show(args.url.rstrip("/") + PATH, browser=not args.no_browser)
        return 0
    return kubeconfig.call(args, lambda cluster: _forward(cluster, args))


def _show(url: str, *, browser: bool) -> None:
    print(printable(f"Page of the fleet: {url}"), flush=True)
    if browser and not webbrowser.open(url):
        print("No browser opened; open the address yourself", flush=True)


async def _forward(cluster: Cluster, args: argparse.Namespace) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop.set)
    forwarder = Forwarder(cluster, args)
    async with forwarder.open():
        await forwarder.check()
        await asyncio.to_thread(_show, forwarder.url, browser=not args.no_browser)
        print("Ctrl-C ends", flush=True)
        await stop.wait()
    return 0


class Forwarder:
    """A port on loopback whose connections end at the leader's metrics port.

    Attributes:
        url: Address of the page.

    """

    def __init__(self, cluster: Cluster, args: argparse.Namespace) -> None:
        """`args`: flags of `leader.add_flags`, and `port`."""
        self._cluster = cluster
        self._args = args
        self._pod = ""
        self._known_until = float("-inf")
        self._connections: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen until the context ends, then end all connections.

        Raises:
            StartupError: The port is in use.

        """
        port = self._args.port
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        except OSError as error:
            raise errors.StartupError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another port with --port"
            ) from error
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PATH}"
        try:
            yield
        finally:
            server.close()
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def check(self) -> None:
        """Look whether the leader serves the page.

        Raises:
            InputError: It does not, or it cannot be reached.

        """
        from adapter.kube.errors import ApiError  # noqa: PLC0415 - `--help` needs none of what answers
        from adapter.kube.pods import port_forward  # noqa: PLC0415

        namespace, pod = self._args.config_namespace, await self._leader()
        try:
            response = await port_forward.get(
                self._cluster,
                namespace=namespace,
                pod=pod,
                port=self._args.metrics_port,
                path=PATH,
                seconds=leader.TIMEOUT_SECONDS,
            )
        except ApiError as error:
            raise errors.InputError(kubeconfig.explained(error)) from error
        if response.status != 200:
            raise errors.InputError(
                f"pod {namespace}/{pod}: its metrics port answers {response.status} at {PATH}; does it run a"
                " version that has the page?"
            )

    async def _leader(self) -> str:
        now = asyncio.get_running_loop().time()
        if now >= self._known_until:
            self._pod = await leader.leading_pod(self._cluster, self._args)
            self._known_until = now + LEADER_SECONDS
        return self._pod

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from adapter.kube.errors import ApiError  # noqa: PLC0415 - see `check`
        from adapter.kube.pods import forwarding  # noqa: PLC0415

        try:
            await forwarding.carry(
                self._cluster,
                namespace=self._args.config_namespace,
                pod=await self._leader(),
                port=self._args.metrics_port,
                reader=reader,
                writer=writer,
            )
        except (ApiError, errors.InputError) as error:
            self._known_until = float("-inf")
            print(printable(f"connection ended: {error}"), flush=True)
            text = f"{error}\n".encode()
            head = (
                f"HTTP/1.1 502 Bad Gateway\r\nContent-Length: {len(text)}\r\nConnection: close\r\n"
            )
            with contextlib.suppress(OSError):
                writer.write(
                    f"{head}Content-Type: text/plain; charset=utf-8\r\n\r\n".encode() + text
                )
                await writer.drain()
        except OSError:
            return  # the browser is gone

"""`variant-adapter serve`: the external metrics API server and the control loop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from adapter.commands import flags
from adapter.settings.declaration import resolve
from adapter.settings.groups import GROUPS
from adapter.settings.serving import Serving

if TYPE_CHECKING:
    from adapter.app.options import ServeOptions


def register(command: argparse.ArgumentParser) -> None:
    """Add the command and its flags."""
    command.description = (
        "Reads variants from a cluster (or from a folder, with --variants), scrapes their model servers,"
        " decides how many replicas each needs, and serves that as an external metric over TLS. Durations are"
        " written like 15s or 1m30s. All settings with their ConfigMap keys: docs/configuration.md."
    )
    flags.add(command, *GROUPS)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    # The server takes a second to load, and `--help` does not need it.
    from adapter import logs  # noqa: PLC0415
    from adapter.app import flag_options  # noqa: PLC0415

    options = flag_options.options_of(args)
    server = resolve(Serving, vars(args))
    logs.configure(server.log_format)
    asyncio.run(_serve(options, server.shutdown_delay))
    return 0


async def _serve(options: ServeOptions, delay: float) -> None:
    from adapter.app import serving  # noqa: PLC0415 - see `run`
    from adapter.clock import Clock  # noqa: PLC0415

    stop, started = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def serve() -> None:
        async with serving.serving(options, clock=Clock()) as endpoints:
            started.set()
            await stop.wait()
            # Not ready first, so that no new client is sent here; until the end all requests are served.
            endpoints.begin_shutdown()
            await asyncio.sleep(delay)

    served = asyncio.create_task(serve(), name="serve")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({served, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not started.is_set() and not served.done():
        # A start may wait for the cluster without end.
        served.cancel()
    stopped.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await served

"""Composition root: builds every part and runs the named tasks, for a folder of objects or in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import structlog

from adapter import errors
from adapter import store as targets
from adapter.app import in_cluster
from adapter.app.config import use_config
from adapter.app.endpoints import Front
from adapter.app.options import ServeOptions
from adapter.auth import authentication, authorization, delegated
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.controller.loop import ControlLoop
from adapter.planning import worker
from adapter.resources import folder, inputs

log = structlog.get_logger()

FOLDER_POLL_SECONDS = 1.0
"""Seconds between two checks of the folder: polling detects every kind of change on every file system."""


@contextlib.asynccontextmanager
async def serving(options: ServeOptions, *, clock: Clock) -> AsyncIterator[Front]:
    """Run the adapter until the context ends.

    Raises:
        InputError: The folder cannot be read.
        StartupError: The port is in use, the certificate is unreadable, or the cluster gives no access.

    """
    store = targets.TargetStore()
    planner = worker.PlanningWorker()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(planner.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        collector = Collector(session=session, clock=clock, settings=options.loop.collection)
        stack.callback(collector.close)
        loop = ControlLoop(
            collector=collector,
            store=store,
            clock=clock,
            planner=planner.plan,
            settings=options.loop,
            leading=options.installation is None,
        )
        front = Front(options=options, loop=loop, store=store, clock=clock)
        await stack.enter_async_context(front.open_metrics())
        if options.installation is not None:
            parts = in_cluster.running(
                options, options.installation, front=front, session=session, clock=clock
            )
        elif options.variants is not None:
            parts = _of_folder(options, options.variants, front=front, clock=clock)
        else:
            raise errors.StartupError("neither a folder nor a cluster to read variants from")
        await stack.enter_async_context(parts)
        settle_heap()
        yield front


def settle_heap() -> None:
    """Exempt what is loaded from garbage collection, and collect less often.

    A Prometheus answer about thousands of pods is tens of thousands of short-lived objects: with Python's
    default thresholds, half of the time for it would be spent searching them for cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@contextlib.asynccontextmanager
async def _of_folder(
    options: ServeOptions, path: Path, *, front: Front, clock: Clock
) -> AsyncIterator[None]:
    """Serve the variants of a folder."""
    loop = front.loop
    found = folder.read(path)
    credentials = local_auth.prepare(options.certificates, host=options.host)
    use_config(loop, options, found)
    _report(found)
    loop.apply_inputs(found)
    async with contextlib.AsyncExitStack() as stack:
        who = await _gate(stack, options, credentials)
        await stack.enter_async_context(front.open(who, {}))
        front.show_credentials(
            kubeconfig=credentials.write_kubeconfig(front.url), ca_file=credentials.ca_file
        )
        log.info(
            "serving",
            url=front.url,
            kubeconfig=str(front.kubeconfig or ""),
            variants=len(loop.states),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_watch(options, path, loop, found, clock), name="watch folder"),
                group.create_task(loop.run(), name="control loop"),
            ]
            yield
            for task in tasks:
                task.cancel()


async def _gate(
    stack: contextlib.AsyncExitStack, options: ServeOptions, credentials: local_auth.Credentials
) -> delegated.Gate:
    """Authentication and authorization: delegated to a cluster, or by local certificates."""
    if options.cluster is None:
        return delegated.Gate(
            certificates=credentials.certificates,
            authenticator=authentication.Authenticator(credentials.identity),
            policy=authorization.LocalPolicy(),
        )
    return await stack.enter_async_context(
        delegated.of_cluster(
            kubeconfig=options.cluster.kubeconfig,
            certificate=credentials.certificates.certificate,
            key=credentials.certificates.key,
        )
    )


def _report(found: inputs.Contents) -> None:
    for problem in found.problems:
        log.error("invalid object; ignored until it is fixed", problem=problem)
    if not found.variants:
        log.error("no valid VariantAutoscaling in the folder; serving none until there is one")


async def _watch(
    options: ServeOptions,
    path: Path,
    loop: ControlLoop,
    found: inputs.Contents,
    clock: Clock,
) -> None:
    """Read the folder again whenever a file changed; keep the last snapshot while it cannot be read."""
    unreadable = ""
    while True:
        await asyncio.sleep(max(clock.real_seconds(FOLDER_POLL_SECONDS), 0.1))
        if await asyncio.to_thread(folder.digest, path) == found.digest:
            continue
        try:
            changed = await asyncio.to_thread(folder.read, path)
        except errors.InputError as error:
            if str(error) != unreadable:
                log.warning("folder unreadable; keeping the last snapshot", error=str(error))
            unreadable = str(error)
            continue
        unreadable = ""
        if changed.problems != found.problems:
            _report(changed)
        found = changed
        use_config(loop, options, found)
        loop.apply_inputs(found)

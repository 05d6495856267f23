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
from adapter.app.endpoints import Endpoints
from adapter.app.options import ServeOptions
from adapter.auth import authentication, authorization, delegated
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.controller.loop import ControlLoop
from adapter.kube import client
from adapter.planning import worker
from adapter.resources import folder, inputs

log = structlog.get_logger()

FOLDER_POLL_SECONDS = 1.0
"""Seconds between looks at the folder: polling sees every kind of change on every file system."""


@contextlib.asynccontextmanager
async def serving(options: ServeOptions, *, clock: Clock) -> AsyncIterator[Endpoints]:
    """Run the adapter until the context ends.

    Raises:
        InputError: the folder cannot be read.
        StartupError: port in use, certificate unreadable, no access to a cluster.

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
        front = Endpoints(options=options, loop=loop, store=store, clock=clock)
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
    """Leave what was loaded out of garbage collection, and collect less often.

    An answer of Prometheus about thousands of pods is tens of thousands of objects that live for a moment:
    with Python's thresholds half of the time for it would go into looking for cycles among them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@contextlib.asynccontextmanager
async def _of_folder(
    options: ServeOptions, path: Path, *, front: Endpoints, clock: Clock
) -> AsyncIterator[None]:
    """Variants of a folder."""
    loop = front.loop
    found = folder.read(path)
    credentials = local_auth.prepare(options.certificates, host=options.host)
    use_config(loop, options, found)
    _report(found)
    loop.use(found)
    async with contextlib.AsyncExitStack() as stack:
        auth = await _auth(stack, options, credentials)
        await stack.enter_async_context(front.open(auth, credentials=credentials))
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


async def _auth(
    stack: contextlib.AsyncExitStack, options: ServeOptions, credentials: local_auth.Credentials
) -> delegated.Auth:
    """Authentication and authorization by a cluster, or by the local authorities."""
    if options.cluster is None:
        return delegated.Auth(
            certificates=credentials.certificates,
            authenticator=authentication.Authenticator(credentials.identity),
            policy=authorization.LocalPolicy(),
        )
    cluster = await stack.enter_async_context(client.connected(options.cluster.kubeconfig))
    return await stack.enter_async_context(
        delegated.delegated_auth(
            cluster,
            certificate=credentials.certificates.certificate,
            key=credentials.certificates.key,
        )
    )


def _report(found: inputs.Contents) -> None:
    for problem in found.problems:
        log.error("left out", problem=problem)
    if not found.variants:
        log.error("no usable VariantAutoscaling in the folder; serving none until there is one")


async def _watch(
    options: ServeOptions,
    path: Path,
    loop: ControlLoop,
    found: inputs.Contents,
    clock: Clock,
) -> None:
    """Read the folder again whenever a file changed; keep the last reading while it cannot be read."""
    unreadable = ""
    while True:
        await asyncio.sleep(max(clock.real_seconds(FOLDER_POLL_SECONDS), 0.1))
        if await asyncio.to_thread(folder.digest, path) == found.digest:
            continue
        try:
            changed = await asyncio.to_thread(folder.read, path)
        except errors.InputError as error:
            if str(error) != unreadable:
                log.warning("folder unreadable; the last reading stays in use", error=str(error))
            unreadable = str(error)
            continue
        unreadable = ""
        if changed.problems != found.problems:
            _report(changed)
        found = changed
        use_config(loop, options, found)
        loop.use(found)

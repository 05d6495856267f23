"""Composition root: builds every part and runs the named tasks, for a folder of objects or in a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import structlog

from adapter import errors, tasks
from adapter import store as targets
from adapter.app import in_cluster
from adapter.app.config import Configuration
from adapter.app.endpoints import Endpoints
from adapter.app.options import ServeOptions
from adapter.auth import authentication, authorization, delegated
from adapter.auth import local as local_auth
from adapter.clock import Clock
from adapter.collector.collector import Collector
from adapter.collector.transport import wire
from adapter.controller.loop import ControlLoop
from adapter.controller.reconciler import Planner
from adapter.kube import client
from adapter.planning import worker
from adapter.resources import folder, inputs
from adapter.tls.connections import raise_file_limit
from adapter.ui.scenarios import LastPlan

log = structlog.get_logger()

LEAST_DEADLINE_SECONDS = 5.0
"""Shortest deadline of a plan, whatever the interval: the worker has a low priority."""

GARBAGE_SECONDS = 5.0
"""Seconds between two garbage collections of what is new: of 1,000 variants a minute's takes some tenths of a
second, in which nothing else runs.
"""

FULL_COLLECTIONS = 120
"""Every so many of them is one of everything: with the objects of 1,000 variants it takes a quarter of a
second, in which nothing else runs.
"""

FOLDER_POLL_SECONDS = 1.0
"""Seconds between two checks of the folder: polling detects every kind of change on every file system."""


@contextlib.asynccontextmanager
async def serving(
    options: ServeOptions, *, clock: Clock, planner: Planner | None = None
) -> AsyncIterator[Endpoints]:
    """Run the adapter until the context ends.

    Args:
        options: What to serve.
        clock: Time of the control loop.
        planner: Makes plans; without one a worker process does.

    Raises:
        InputError: The folder cannot be read.
        StartupError: The port is in use, the certificate is unreadable, or the cluster gives no access.

    """
    raise_file_limit()
    store = targets.TargetStore()
    async with contextlib.AsyncExitStack() as stack:
        given = planner
        if planner is None:
            # A worker that does not answer is noticed within one interval.
            seconds = max(clock.real_seconds(options.loop.interval) * 2 / 3, LEAST_DEADLINE_SECONDS)
            process = worker.PlanningWorker(deadline_seconds=min(seconds, worker.DEADLINE_SECONDS))
            stack.push_async_callback(process.close)
            planner = process.plan
        # Variants limit scrapes: a limit here would let slow pods keep out all. Cookies would reach others.
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=wire.connector(), cookie_jar=aiohttp.DummyCookieJar())
        )
        collector = Collector(session=session, clock=clock, settings=options.loop.collection)
        stack.callback(collector.close)
        last = LastPlan(planner)
        loop = ControlLoop(
            collector=collector,
            store=store,
            clock=clock,
            planner=last,
            settings=options.loop,
            leading=options.installation is None,
        )
        endpoints = Endpoints(
            options=options, loop=loop, store=store, clock=clock, last=last, planner=given
        )
        await stack.enter_async_context(endpoints.open_metrics())
        if options.installation is not None:
            parts = in_cluster.running(
                options, options.installation, endpoints=endpoints, session=session, clock=clock
            )
        elif options.variants is not None:
            parts = _of_folder(options, options.variants, endpoints=endpoints, clock=clock)
        else:
            raise errors.StartupError("neither a folder nor a cluster to read variants from")
        await stack.enter_async_context(parts)
        settle_heap()
        collecting = asyncio.create_task(_collect_garbage(), name="collect garbage")
        stack.push_async_callback(tasks.cancel, collecting)
        yield endpoints


def settle_heap() -> None:
    """Exempt what is loaded from garbage collection, and collect less often.

    A Prometheus answer about thousands of pods is tens of thousands of short-lived objects: with Python's
    default thresholds, half of the time for it would be spent searching them for cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _collect_garbage() -> None:
    """Collect what ended connections and tasks leave, until cancelled: the thresholds alone take hours."""
    collected_at, number = time.monotonic(), 0
    while True:
        await asyncio.sleep(GARBAGE_SECONDS)
        # In tests the event loop's time runs faster than that of the machine.
        if time.monotonic() - collected_at >= GARBAGE_SECONDS:
            number += 1
            collect_garbage(number)
            collected_at = time.monotonic()


def collect_garbage(number: int) -> None:
    """Collect what is new since the last time, or everything every so many times.

    What is still there is exempt until then, also from collections that the thresholds start.
    """
    if number % FULL_COLLECTIONS == 0:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextlib.asynccontextmanager
async def _of_folder(
    options: ServeOptions, path: Path, *, endpoints: Endpoints, clock: Clock
) -> AsyncIterator[None]:
    """Serve the variants of a folder."""
    loop = endpoints.loop
    snapshot = folder.read(path)
    credentials = local_auth.prepare(options.certificates, host=options.host)
    configuration = Configuration(options, os.environ)
    configuration.apply(loop, snapshot)
    _report(snapshot)
    async with contextlib.AsyncExitStack() as stack:
        auth = await _auth(stack, options, credentials)
        await stack.enter_async_context(endpoints.open(auth, credentials=credentials))
        log.info(
            "serving",
            url=endpoints.url,
            metrics_url=endpoints.metrics_url,
            kubeconfig=str(endpoints.kubeconfig or ""),
            variants=len(loop.states),
        )
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(
                    _watch(configuration, path, loop, snapshot, clock), name="watch folder"
                ),
                group.create_task(loop.run(), name="control loop"),
            ]
            yield
            for task in running:
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


def _report(snapshot: inputs.Inputs) -> None:
    for problem in snapshot.problems:
        log.error("invalid object or field; not used until it is fixed", problem=problem)
    if not snapshot.variants:
        log.error("no valid VariantAutoscaling in the folder; serving none until there is one")


async def _watch(
    configuration: Configuration,
    path: Path,
    loop: ControlLoop,
    snapshot: inputs.Inputs,
    clock: Clock,
) -> None:
    """Read the folder again whenever a file changed; keep the last snapshot while it cannot be read."""
    unreadable = ""
    while True:
        await asyncio.sleep(max(clock.real_seconds(FOLDER_POLL_SECONDS), 0.1))
        if await asyncio.to_thread(folder.digest, path) == snapshot.digest:
            continue
        try:
            changed = await asyncio.to_thread(folder.read, path, last_good=snapshot.last_good)
        except errors.InputError as error:
            if str(error) != unreadable:
                log.warning("folder unreadable; keeping the last snapshot", error=str(error))
            unreadable = str(error)
            continue
        unreadable = ""
        if changed.problems != snapshot.problems:
            _report(changed)
        snapshot = changed
        configuration.apply(loop, snapshot)

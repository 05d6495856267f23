"""Composition root of `serve --variants DIR`: builds every part and runs the named tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import structlog
from prometheus_client import CollectorRegistry

from adapter import (
    api,
    contents,
    delegation,
    duration,
    errors,
    folder,
    gate,
    identity,
    listener,
    pki,
    targets,
    telemetry,
    worker,
)
from adapter.clock import Clock
from adapter.loop import ControlLoop, LoopSettings

log = structlog.get_logger()

FOLDER_POLL_SECONDS = 1.0
"""Seconds between looks at the folder: polling sees every kind of change on every file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterIdentities:
    """A cluster that reviews tokens and access; without a kubeconfig the one that this pod runs in."""

    kubeconfig: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `serve` was told.

    Attributes:
        interval: seconds between passes; None leaves it to `GLOBAL_OPT_INTERVAL`, else 60.
        scale_to_zero: None leaves it to `WVA_SCALE_TO_ZERO`, else off.
        certificates: certificate files; see `pki.Files`.
        limits: of connections.
        delegate: another adapter that is asked for metrics that are not ours.
        cluster: whose word counts on who may ask; None: the local authorities'.

    """

    variants: Path
    host: str
    port: int
    certificates: pki.Files
    loop: LoopSettings
    interval: float | None = None
    scale_to_zero: bool | None = None
    limits: listener.Limits = listener.DEFAULT_LIMITS
    delegate: delegation.DelegateOptions | None = None
    cluster: ClusterIdentities | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    url: str
    kubeconfig: Path | None
    ca_file: Path | None
    loop: ControlLoop
    drain: listener.Drain


@contextlib.asynccontextmanager
async def serving(options: ServeOptions, *, clock: Clock) -> AsyncIterator[Running]:
    """Run the adapter until the context ends.

    Raises:
        InputError: the folder cannot be read.
        StartupError: port in use, certificate unreadable.

    """
    found = folder.read(options.variants)
    credentials = pki.prepare(options.certificates, host=options.host)
    store = targets.TargetStore()
    planner = worker.PlanningWorker()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(planner.close)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        loop = ControlLoop(
            session=session,
            store=store,
            clock=clock,
            planner=planner.plan,
            settings=_loop_settings(options, found),
        )
        _report(found)
        loop.use(found)
        who = await _gate(stack, options, credentials)
        drain = listener.Drain()
        delegate = None
        if options.delegate is not None:
            delegate = await stack.enter_async_context(delegation.delegating(options.delegate))
        registry = CollectorRegistry()
        registry.register(
            telemetry.VariantCollector(lambda: loop.states, lambda: loop.tuning.states)
        )
        application = api.application(
            store=store,
            authenticator=who.authenticator,
            policy=who.policy,
            readiness={"ping": lambda: None, "shutdown": drain.check},
            metrics_registry=registry,
            delegate=delegate,
        )
        port = await stack.enter_async_context(
            listener.listening(
                application,
                host=options.host,
                port=options.port,
                certificates=who.certificates,
                limits=options.limits,
            )
        )
        url = f"https://{options.host}:{port}"
        kubeconfig = credentials.write_kubeconfig(url)
        log.info("serving", url=url, kubeconfig=str(kubeconfig or ""), variants=len(loop.states))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_watch(options, loop, found, clock), name="watch folder"),
                group.create_task(loop.run(), name="control loop"),
            ]
            yield Running(
                url=url,
                kubeconfig=kubeconfig,
                ca_file=credentials.ca_file,
                loop=loop,
                drain=drain,
            )
            for task in tasks:
                task.cancel()


async def _gate(
    stack: contextlib.AsyncExitStack, options: ServeOptions, credentials: pki.Credentials
) -> gate.Gate:
    """Who may ask, by the cluster's word or by the local authorities'."""
    if options.cluster is None:
        return gate.Gate(
            certificates=credentials.certificates,
            authenticator=identity.Authenticator(credentials.identity),
            policy=identity.LocalPolicy(),
        )
    return await stack.enter_async_context(
        gate.of_cluster(
            kubeconfig=options.cluster.kubeconfig,
            certificate=credentials.certificates.certificate,
            key=credentials.certificates.key,
        )
    )


def _loop_settings(options: ServeOptions, found: contents.Contents) -> LoopSettings:
    """Flags win over the ConfigMap; what the ConfigMap gets wrong is reported and left at default."""
    settings, config = options.loop, found.config
    interval = options.interval
    if interval is None and "GLOBAL_OPT_INTERVAL" in config:
        try:
            interval = duration.seconds(config["GLOBAL_OPT_INTERVAL"])
        except ValueError as error:
            log.warning("ConfigMap: data.GLOBAL_OPT_INTERVAL ignored", error=str(error))
    to_zero = options.scale_to_zero
    if to_zero is None:
        text = config.get("WVA_SCALE_TO_ZERO", "false").lower()
        if text not in {"true", "false"}:
            log.warning("ConfigMap: data.WVA_SCALE_TO_ZERO must be true or false", value=text)
        to_zero = text == "true"
    return replace(settings, interval=interval or settings.interval, scale_to_zero=to_zero)


def _report(found: contents.Contents) -> None:
    for problem in found.problems:
        log.error("left out", problem=problem)
    if not found.variants:
        log.error("no usable VariantAutoscaling in the folder; serving none until there is one")


async def _watch(
    options: ServeOptions, loop: ControlLoop, found: contents.Contents, clock: Clock
) -> None:
    """Read the folder again whenever a file changed; keep the last reading while it cannot be read."""
    unreadable = ""
    while True:
        await asyncio.sleep(max(clock.real_seconds(FOLDER_POLL_SECONDS), 0.1))
        if await asyncio.to_thread(folder.digest, options.variants) == found.digest:
            continue
        try:
            changed = await asyncio.to_thread(folder.read, options.variants)
        except errors.InputError as error:
            if str(error) != unreadable:
                log.warning("folder unreadable; the last reading stays in use", error=str(error))
            unreadable = str(error)
            continue
        unreadable = ""
        if changed.problems != found.problems:
            _report(changed)
        found = changed
        loop.settings = _loop_settings(options, found)
        loop.use(found)

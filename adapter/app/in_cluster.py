"""`serve` in a cluster: watches, leader election, status, actuation and certificates, put together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import structlog

from adapter import errors
from adapter.app.config import Configuration
from adapter.app.endpoints import Endpoints
from adapter.app.managed_targets import ManagedTargets
from adapter.app.options import Installation, ServeOptions
from adapter.auth import delegated
from adapter.clock import Clock
from adapter.collector import gateway
from adapter.controller.actuator import Actuator
from adapter.controller.status_writer import StatusWriter
from adapter.kube.client import Cluster, connected
from adapter.kube.leader_election import Leadership
from adapter.kube.lease import KubernetesLease
from adapter.kube.scale import Scales
from adapter.resources import inputs
from adapter.resources.watches import ClusterObjects
from adapter.resources.wva import managed
from adapter.tls.certificate_secret import CertificateKeeper

log = structlog.get_logger()

DEBOUNCE_SECONDS = 0.3
"""Real seconds between a change of the objects and its use, so that one update serves many changes."""

FOLLOW_SECONDS = 2 * DEBOUNCE_SECONDS
"""Real seconds that the other replicas have to serve a target from `.status`."""

REFRESH_SECONDS = 15.0
"""Most real seconds between two updates, for what is not watched."""

SYNC_SECONDS = 30.0
"""Most real seconds that a new leader waits for its watches to sync."""


@contextlib.asynccontextmanager
async def running(
    options: ServeOptions,
    installation: Installation,
    *,
    endpoints: Endpoints,
    session: aiohttp.ClientSession,
    clock: Clock,
) -> AsyncIterator[None]:
    """Run until the context ends, then release the lease.

    Raises:
        StartupError: The cluster gives no access, the port is in use, or the certificate is unreadable.

    """
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(connected(installation.kubeconfig))
        site = _Site(
            options, installation, endpoints=endpoints, session=session, clock=clock, api=cluster
        )
        certificate, key = await site.certificate()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(site.objects.run(), name="watch objects"),
                group.create_task(site.follow(), name="follow objects"),
            ]
            try:
                auth = await stack.enter_async_context(
                    delegated.delegated_auth(
                        cluster, certificate=certificate, key=key, start_seconds=None
                    )
                )
                await stack.enter_async_context(
                    endpoints.open(
                        auth,
                        checks={"objects": site.readiness},
                        leader=lambda: site.leadership.leader,
                    )
                )
                log.info("serving", url=endpoints.url, identity=installation.identity)
                tasks.append(group.create_task(site.elect(), name="election"))
                if site.keeper is not None:
                    tasks.append(group.create_task(site.keeper.run(), name="keep certificates"))
                yield
            finally:
                for task in tasks:
                    task.cancel()


class _Site:
    """The parts of one replica and the flow between them."""

    def __init__(
        self,
        options: ServeOptions,
        installation: Installation,
        *,
        endpoints: Endpoints,
        session: aiohttp.ClientSession,
        clock: Clock,
        api: Cluster,
    ) -> None:
        self._options = options
        self._configuration = Configuration(options, os.environ)
        self._installation = installation
        self._endpoints = endpoints
        self._loop = endpoints.loop
        self._clock = clock
        self._changed = asyncio.Event()
        self._reported: list[str] = []
        self.objects = ClusterObjects(api, installation.scope, changed=self._changed.set)
        namespace = installation.scope.config_namespace
        self.leadership = Leadership(
            KubernetesLease(api, namespace=namespace, name=installation.lease_name),
            identity=installation.identity,
            times=installation.lease,
        )
        self._gateways = gateway.Gateways(
            session, installation.gateways, installation.gateway_access
        )
        self._actuator = Actuator(
            Scales(api), default=installation.actuate_scale, leads=self._leads
        )
        self._managed = ManagedTargets(
            api,
            namespace=namespace,
            watched=lambda: self.objects.config_map(managed.TARGETS),
            leads=self._leads,
            refresh_seconds=clock.real_seconds(options.loop.time_to_live) / 3,
        )
        self._reporter = StatusWriter(
            api,
            identity=installation.identity,
            watched=self.objects.variant,
            leads=self._leads,
            refresh_seconds=clock.real_seconds(options.loop.time_to_live) / 3,
            owner_references=installation.owner_references,
            now=clock.time,
        )
        self.keeper = (
            None
            if installation.certificates is None
            else CertificateKeeper(
                api,
                installation.certificates,
                folder=options.certificates.state,
                leads=self._leads,
                now=lambda: datetime.fromtimestamp(clock.time(), UTC),
            )
        )

    def _leads(self) -> bool:
        return self.leadership.leads

    def readiness(self) -> str | None:
        """What is not synced yet; None once the variants are known, on leader and followers alike."""
        return self.objects.readiness()

    async def certificate(self) -> tuple[Path, Path]:
        """Files of the serving certificate: given by flags, or kept in the Secret."""
        if self.keeper is not None:
            return await self.keeper.prepare()
        files = self._options.certificates
        if files.certificate is None or files.key is None:
            raise errors.StartupError(
                "no serving certificate: give --tls-cert-file and --tls-private-key-file,"
                " or --certificate-secret"
            )
        return files.certificate, files.key

    async def follow(self) -> None:
        """Apply changes of the objects, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            await self._sync()

    async def _sync(self) -> None:
        try:
            await self._apply_objects()
        except Exception as error:
            # One odd object must not end the service.
            log.exception("sync failed; keeping the last snapshot until the next change")
            self._loop.hold_inputs(error)

    async def _apply_objects(self) -> None:
        if self.objects.readiness() is not None:
            return  # a partial snapshot would withdraw the targets of the rest
        await self.objects.refresh_scales()
        snapshot = await self.objects.inputs()
        self._report(snapshot)
        self._configuration.apply(self._loop, snapshot)
        self._loop.apply_inputs(snapshot)

    def _report(self, snapshot: inputs.Inputs) -> None:
        for problem in snapshot.problems:
            if problem not in self._reported:
                log.error("invalid object; ignored until it is fixed", problem=problem)
        for problem in self.objects.problems:
            if problem not in self._reported:
                log.error("objects not readable; retrying", problem=problem)
        self._reported = [*snapshot.problems, *self.objects.problems]

    async def elect(self) -> None:
        """Take part in leader election, until cancelled."""
        await self.leadership.run(self._lead)

    async def _lead(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                while not self.objects.synced:  # noqa: ASYNC110 - several events
                    await asyncio.sleep(0.1)
        self._loop.start_leading()
        self._reporter.start_leading()
        if self.keeper is not None:
            self.keeper.sync_now()
        try:
            await self._sync()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._loop.run(self._after_cycle), name="control loop")
                if self._installation.gateways:
                    group.create_task(self._watch_gateways(), name="watch gateways")
        finally:
            self._loop.stop_leading()
            self._changed.set()

    async def _after_cycle(self) -> None:
        to_wake = self._loop.variants_to_start()
        if to_wake:
            # An HPA that queries another replica must not get the former zero: it would scale down again.
            await self._reporter.write(self._loop.states, self._loop.refused)
            await asyncio.sleep(FOLLOW_SECONDS)
        unapplied = await self._actuator.act(self._loop.states, to_wake)
        await self._reporter.write(self._loop.states, self._loop.refused, unapplied=unapplied)
        states = self._loop.states
        await self._managed.write(
            {key: states[key] for key in states if self.objects.variant(key) is None}
        )

    async def _watch_gateways(self) -> None:
        """Scrape the gateways, until cancelled: requests for a model without replicas wait for no cycle."""
        while True:
            now = self._clock.monotonic()
            try:
                demand = await self._gateways.demand(self._loop.gateway_window, now=now)
                self._loop.set_gateway_demand(demand)
            except Exception:
                log.exception("gateways not read; retrying at the next scrape")
            await self._clock.sleep(self._installation.gateway_seconds)

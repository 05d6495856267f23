"""`serve` in a cluster: watches, leader election, status, actuation and certificates, put together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import aiohttp
import structlog

from adapter import errors
from adapter.app.config import Configuration
from adapter.app.endpoints import Endpoints
from adapter.app.followers import DEBOUNCE_SECONDS, Announcement, Joins, LiveChanges
from adapter.app.gateways import GatewayWatch
from adapter.app.managed_targets import ManagedTargets
from adapter.app.options import Installation, ServeOptions
from adapter.auth import delegated
from adapter.clock import Clock
from adapter.controller.actuator import Actuator, Consent
from adapter.controller.status_writer import StatusWriter
from adapter.installation import MANAGED_TARGETS
from adapter.kube.client import Cluster, connected
from adapter.kube.election.thread import ElectionThread
from adapter.kube.leader_election import Leadership, LeaseApi
from adapter.kube.lease import KubernetesLease
from adapter.kube.scale import Scales
from adapter.resources.watches import ClusterObjects, Listeners
from adapter.tls.certificate_secret import CertificateKeeper, OwnCertificates

log = structlog.get_logger()

FIRST_STATUSES = 32
"""Statuses that are written together before it is known whether the first cycle has ended."""

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
                group.create_task(site.live.follow(), name="follow statuses and replicas"),
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
                log.info(
                    "serving",
                    url=endpoints.url,
                    metrics_url=endpoints.metrics_url,
                    identity=installation.identity,
                )
                tasks.append(group.create_task(site.elect(), name="election"))
                tasks.append(group.create_task(site.gateways.run(), name="watch gateways"))
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
        self._problems = _Problems()
        self._applied = False
        self._joins = Joins(lambda: self.objects, self._loop, changed=self._changed)
        self.live = LiveChanges(self._loop, join=self._joins.request)
        listeners = Listeners(
            changed=self._joins.request,
            status_changed=self.live.note_status,
            scaled=self.live.note_scaled,
            pods_changed=self._joins.request_for_pods,
        )
        self.objects = ClusterObjects(api, installation.scope, listeners)
        self._election = _election(installation, api)
        self.leadership = self._election.leadership
        self.gateways = GatewayWatch(
            session,
            installation,
            loop=self._loop,
            clock=clock,
            wake=self._wake,
            always=options.keda is not None,
        )
        self._actuator = self._make_actuator(Scales(api))
        self._managed = ManagedTargets(
            api,
            namespace=installation.scope.config_namespace,
            watched=lambda: self.objects.config_map(MANAGED_TARGETS),
            leads=self._leads,
            transitions=lambda: self.leadership.transitions,
            refresh_seconds=clock.real_seconds(options.loop.time_to_live) / 3,
        )
        self._reporter = StatusWriter(
            api,
            identity=installation.identity,
            watched=self.objects.variant,
            leads=self._leads,
            refresh_seconds=clock.real_seconds(options.loop.time_to_live) / 3,
            transitions=lambda: self.leadership.transitions,
            owner_references=installation.owner_references,
            now=clock.time,
        )
        parts = (self._reporter, self._actuator, self.objects)
        self._announcement = Announcement(*parts, write_managed=self._write_managed)
        self.keeper = self._make_keeper(api, installation.certificates)

    def _make_actuator(self, scales: Scales) -> Actuator:
        return Actuator(
            scales,
            default=self._installation.actuate_scale,
            leads=self._leads,
            transitions=lambda: self.leadership.transitions,
        )

    def _make_keeper(
        self, api: Cluster, certificates: OwnCertificates | None
    ) -> CertificateKeeper | None:
        """What keeps the serving certificate; None where it was given."""
        if certificates is None:
            return None
        return CertificateKeeper(
            api,
            certificates,
            folder=self._options.certificates.state,
            leads=self._leads,
            now=lambda: datetime.fromtimestamp(self._clock.time(), UTC),
        )

    def _leads(self) -> bool:
        return self.leadership.leads

    def readiness(self) -> str | None:
        """What is not synced yet; None once the variants are known, on leader and followers alike."""
        unread = self.objects.readiness()
        return unread or (None if self._applied else "the objects have not been applied yet")

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
            changed = self._changed.is_set()
            if changed:
                await self._joins.pause()
            self._changed.clear()
            await self._sync(changed=changed or self._joins.due)

    async def _sync(self, *, changed: bool = True) -> None:
        """Apply the objects, where they or what is not watched have changed."""
        if self.objects.readiness() is not None:
            return  # a partial snapshot would withdraw the targets of the rest
        try:
            if await self.objects.refresh_scales() or changed:
                await self._apply_objects()
            else:
                self._loop.live.withdraw_ended()
                self._problems.report(self.objects.problems)
        except Exception as error:
            # One odd object must not end the service.
            log.exception("sync failed; keeping the last snapshot until the next change")
            self._loop.hold_inputs(error)
            self._joins.forget()
        else:
            self._applied = True

    async def _apply_objects(self) -> None:
        with self._joins.one():
            snapshot = await self.objects.inputs()
            self._problems.use_objects(snapshot.problems)
            self._problems.report(self.objects.problems)
            self.gateways.use(snapshot.gateways if self._installation.discover_gateways else ())
            self._configuration.apply(self._loop, snapshot)

    async def elect(self) -> None:
        """Take part in leader election, until cancelled."""
        await self._election.run(self._lead)

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
                group.create_task(self._write_first_statuses(), name="first statuses")
                await self._loop.run(self._after_cycle)
        finally:
            self._loop.stop_leading()
            self._reporter.stop()
            self._joins.forget()
            self._joins.request()

    async def _write_first_statuses(self) -> None:
        """Write at once what needs no metrics; the first cycle, after two scrapes, writes the rest."""
        before = self._loop.cycles
        try:
            await self._reporter.write({}, self._loop.refused)
            untold = [
                key
                for key in self._loop.states
                if not (self.objects.variant(key) or {}).get("status")
            ]
            for start in range(0, len(untold), FIRST_STATUSES):
                if self._loop.cycles != before:
                    return
                states = self._loop.states
                part = untold[start : start + FIRST_STATUSES]
                await self._reporter.write_now({key: states[key] for key in part if key in states})
                await self._reporter.record_events()
        except Exception:
            log.exception("first statuses not written; the first reconcile cycle writes them")

    async def _after_cycle(self) -> None:
        self._actuator.keep(self._loop.states.keys())
        starting = self._loop.groups.starting(self._loop.states)
        to_wake = self._loop.waking.variants | starting
        consents: Mapping[str, Consent] = {}
        if to_wake:
            states = self._loop.states
            to_wake, consents = await self._announcement.make(
                {key: states[key] for key in to_wake & states.keys()}
            )
        unapplied = await self._actuator.act(self._loop.states, to_wake, consents)
        await self._reporter.write(self._loop.states, self._loop.refused, unapplied=unapplied)
        await self._write_managed()

    async def _wake(self, keys: frozenset[str]) -> None:
        """Start variants at zero at once: the target first, on all replicas, then the scale target."""
        states = self._loop.live.wake(keys)
        if not states:
            return
        told, consents = await self._announcement.make(states)
        await self._actuator.act({key: states[key] for key in told}, told, consents)
        await self._reporter.record_events()

    async def _write_managed(self) -> None:
        states = self._loop.states
        await self._managed.write(
            {key: states[key] for key in states if self.objects.variant(key) is None}
        )


class _Problems:
    """Logs each problem once while it lasts."""

    def __init__(self) -> None:
        self._of_objects: tuple[str, ...] = ()
        self._reported: frozenset[str] = frozenset()

    def use_objects(self, problems: Iterable[str]) -> None:
        """Replace the problems of the objects by those of the last join."""
        self._of_objects = tuple(problems)

    def report(self, unreadable: Iterable[str]) -> None:
        """Log those that are new, of objects and of reading them."""
        unreadable = tuple(unreadable)
        for problem in self._of_objects:
            if problem not in self._reported:
                log.error("invalid object or field; not used until it is fixed", problem=problem)
        for problem in unreadable:
            if problem not in self._reported:
                log.error("objects not readable; retrying", problem=problem)
        self._reported = frozenset((*self._of_objects, *unreadable))


class _Election(Protocol):
    """Takes part in leader election."""

    @property
    def leadership(self) -> Leadership:
        """Part that this replica has in it."""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever this replica leads, until cancelled."""


@dataclass(frozen=True, slots=True)
class _ElectionHere:
    leadership: Leadership

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        await self.leadership.run(work)


def _election(installation: Installation, api: Cluster) -> _Election:
    """Leader election in a thread with a client of its own, or in the present event loop.

    A client's session belongs to the event loop that opened it, and the thread's loop is another one.
    """
    identity, times = installation.identity, installation.lease

    def lease(cluster: Cluster) -> KubernetesLease:
        namespace = installation.scope.config_namespace
        return KubernetesLease(cluster, namespace=namespace, name=installation.lease_name)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[LeaseApi]:
        async with connected(installation.kubeconfig) as cluster:
            yield lease(cluster)

    if installation.own_thread:
        return ElectionThread(opened, identity=identity, times=times)
    return _ElectionHere(Leadership(lease(api), identity=identity, times=times))

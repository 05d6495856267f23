"""`serve` in a cluster: watches, election, status, actuation and certificates, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import structlog

from adapter import errors
from adapter.app.config import use_config
from adapter.app.endpoints import Endpoints
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
from adapter.tls.certificate_secret import CertificateKeeper

log = structlog.get_logger()

DEBOUNCE_SECONDS = 0.3
"""That a change waits for more of them."""

FOLLOW_SECONDS = 2 * DEBOUNCE_SECONDS
"""That the other replicas are given to serve a target that stands in `.status`."""

REFRESH_SECONDS = 15.0
"""Between readings of what is not watched."""

SYNC_SECONDS = 30.0
"""That a new leader waits for watches that do not work."""


@contextlib.asynccontextmanager
async def running(
    options: ServeOptions,
    installation: Installation,
    *,
    front: Endpoints,
    session: aiohttp.ClientSession,
    clock: Clock,
) -> AsyncIterator[None]:
    """Run until the context ends; gives back the lease then.

    Raises:
        StartupError: no access to a cluster, port in use, certificate unreadable.

    """
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(connected(installation.kubeconfig))
        site = _Site(options, installation, front=front, session=session, clock=clock, api=cluster)
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
                    front.open(
                        auth,
                        checks={"objects": site.readiness},
                        leader=lambda: site.leadership.leader,
                    )
                )
                log.info("serving", url=front.url, identity=installation.identity)
                tasks.append(group.create_task(site.elect(), name="election"))
                if site.keeper is not None:
                    tasks.append(group.create_task(site.keeper.run(), name="keep certificates"))
                yield
            finally:
                for task in tasks:
                    task.cancel()


class _Site:
    """The parts, and what each tells the others."""

    def __init__(
        self,
        options: ServeOptions,
        installation: Installation,
        *,
        front: Endpoints,
        session: aiohttp.ClientSession,
        clock: Clock,
        api: Cluster,
    ) -> None:
        self._options = options
        self._installation = installation
        self._front = front
        self._loop = front.loop
        self._clock = clock
        self._changed = asyncio.Event()
        self._reported: list[str] = []
        self._failed: dict[str, str] = {}
        self.objects = ClusterObjects(api, installation.scope, changed=self._changed.set)
        namespace = installation.scope.config_namespace
        self.leadership = Leadership(
            KubernetesLease(api, namespace=namespace, name=installation.lease_name),
            identity=installation.identity,
            times=installation.lease,
        )
        self._gateways = gateway.Gateways(session, installation.gateways)
        self._actuator = Actuator(
            Scales(api), default=installation.actuate_scale, leads=self._leads
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
            )
        )

    def _leads(self) -> bool:
        return self.leadership.leads

    def readiness(self) -> str | None:
        """Whether the variants were read; what they then are is served, by whoever leads."""
        return self.objects.readiness()

    async def certificate(self) -> tuple[Path, Path]:
        """Files of the serving certificate: those given, or those kept in the Secret."""
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
        """Take up what changed, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_SECONDS)
            self._changed.clear()
            try:
                await self._take_up()
            except Exception:
                # One odd object must not end the service; the next change tries again.
                log.exception("objects not taken up; the last reading stays in use")

    async def _take_up(self) -> None:
        if self.objects.readiness() is not None:
            return  # half a reading would withdraw the targets of the other half
        await self.objects.refresh_scales()
        found = await self.objects.contents()
        self._report(found)
        use_config(self._loop, self._options, found)
        self._loop.use(found)

    def _report(self, found: inputs.Contents) -> None:
        for problem in found.problems:
            if problem not in self._reported:
                log.error("left out", problem=problem)
        for problem in self.objects.problems:
            if problem not in self._reported:
                log.error("not readable", problem=problem)
        self._reported = [*found.problems, *self.objects.problems]

    async def elect(self) -> None:
        """Lead whenever elected, until cancelled."""
        await self.leadership.run(self._lead)

    async def _lead(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SYNC_SECONDS):
                while not self.objects.synced:  # noqa: ASYNC110 - several events
                    await asyncio.sleep(0.1)
        self._loop.leading = True
        if self.keeper is not None:
            self.keeper.sync_now()
        try:
            await self._take_up()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._loop.run(self._after_pass), name="control loop")
                if self._installation.gateways:
                    group.create_task(self._watch_gateways(), name="watch gateways")
        finally:
            self._loop.leading = False
            self._changed.set()

    async def _after_pass(self) -> None:
        waking = self._loop.waking()
        if waking:
            # An HPA that asks another replica must not hear the zero of before: it would obey.
            await self._reporter.write(self._loop.states, self._loop.refused, self._failed)
            await asyncio.sleep(FOLLOW_SECONDS)
        self._failed = await self._actuator.act(self._loop.states, waking)
        await self._reporter.write(self._loop.states, self._loop.refused, self._failed)

    async def _watch_gateways(self) -> None:
        """Look for requests that wait for a model without replicas; they do not wait for the next pass."""
        while True:
            now = self._clock.monotonic()
            self._loop.demand = await self._gateways.demand(self._loop.gateways, now=now)
            if self._loop.waking():
                self._loop.wanted.set()
            await self._clock.sleep(self._installation.gateway_seconds)

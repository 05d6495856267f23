"""The listening ports of one process: the API over TLS, and metrics with explanations on a plain port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from adapter import errors
from adapter.apiserver import delegation, handlers, probes, provider
from adapter.app.metrics_port import MetricsPort
from adapter.app.options import ServeOptions
from adapter.auth.delegated import Auth
from adapter.auth.local import Credentials
from adapter.clock import Clock
from adapter.controller import telemetry
from adapter.controller.groups.telemetry import GroupCollector
from adapter.controller.loop import ControlLoop
from adapter.controller.reconciler import Planner
from adapter.keda.options import KedaOptions
from adapter.store import OWN_METRICS, TargetStore
from adapter.tls import listener
from adapter.ui import snapshots
from adapter.ui.application import Pages
from adapter.ui.scenarios import LastPlan


class Endpoints:
    """The servers of one process, and their addresses."""

    def __init__(
        self,
        *,
        options: ServeOptions,
        loop: ControlLoop,
        store: TargetStore,
        clock: Clock,
        last: LastPlan,
        planner: Planner | None = None,
    ) -> None:
        """Make servers that are not open yet.

        Args:
            options: what to serve.
            loop: control loop whose targets are served.
            store: published targets.
            clock: time of the explanations.
            last: the control loop's last plan, for the pages.
            planner: makes plans that people ask for; without one a worker process of its own does.

        """
        self._options = options
        self._last = last
        self._loop = loop
        self._store = store
        self._drain = listener.Drain()
        self._probes = probes.Probes(
            registry_of(loop, clock, expires_at=self._expires_at),
            {"serving": lambda: "the API port is not open yet"},
        )
        self._auth: Auth | None = None
        self._leader: Callable[[], str] = lambda: ""
        self._metrics = MetricsPort(
            options=options,
            loop=loop,
            clock=clock,
            checks=self._probes,
            leader=lambda: self._leader(),  # noqa: PLW0108 - `open` replaces it
            pages=Pages(
                snapshots.of_loop(loop, clock, lambda: self._leader()),  # noqa: PLW0108 - as above
                last,
                planner=planner,
            ),
        )
        self._url = ""
        self._keda_address = ""
        self._ca_file: Path | None = None
        self._kubeconfig: Path | None = None

    @property
    def loop(self) -> ControlLoop:
        """The control loop whose targets are served."""
        return self._loop

    @property
    def last(self) -> LastPlan:
        """The planner of the control loop, with the last fleet that it planned."""
        return self._last

    @property
    def url(self) -> str:
        """`https://HOST:PORT` of the API; empty until it is open."""
        return self._url

    @property
    def metrics_url(self) -> str:
        """`http://HOST:PORT` of the metrics port; empty without one."""
        return self._metrics.url

    @property
    def keda_address(self) -> str:
        """`HOST:PORT` of the external scaler for KEDA; empty without one."""
        return self._keda_address

    @property
    def ca_file(self) -> Path | None:
        """Local authority of the serving certificate; None where certificates were given."""
        return self._ca_file

    @property
    def kubeconfig(self) -> Path | None:
        """Kubeconfig for this server; None where no local authority issued one."""
        return self._kubeconfig

    def _expires_at(self) -> float | None:
        return None if self._auth is None else self._auth.certificates.expires_at

    def begin_shutdown(self) -> None:
        """Fail readiness from now on, so that no new clients come; requests are still answered."""
        self._drain.begin()

    @contextlib.asynccontextmanager
    async def open(
        self,
        auth: Auth,
        *,
        checks: Mapping[str, probes.Check] | None = None,
        leader: Callable[[], str] = lambda: "",
        credentials: Credentials | None = None,
    ) -> AsyncIterator[None]:
        """Serve the API until the context ends.

        Args:
            auth: authentication and authorization of requests.
            checks: readiness checks of the other components.
            leader: identity of the replica that leads, empty while none is known.
            credentials: local credentials, to write a kubeconfig for this server.

        Raises:
            StartupError: the address is in use, or the delegate's files are unusable.

        """
        options = self._options
        self._leader, self._auth = leader, auth
        self._metrics.use(auth)
        own: dict[str, probes.Check] = {
            "ping": lambda: None,
            "shutdown": self._drain.check,
            "cycles": lambda: self._loop.problem,
        }
        self._probes.use({**own, **(checks or {})}, lambda: self._loop.inputs.row_problems)
        async with contextlib.AsyncExitStack() as stack:
            metrics: provider.ExternalMetricsProvider = self._store
            if options.delegate is not None:
                delegate = await stack.enter_async_context(delegation.delegating(options.delegate))
                metrics = provider.Merged(self._store, delegate, reserved=OWN_METRICS)
            application = handlers.application(
                provider=metrics,
                authenticator=auth.authenticator,
                policy=auth.policy,
                probes=self._probes,
                draining=self._drain.begun,
            )
            port = await stack.enter_async_context(
                listener.listening(
                    application,
                    host=options.host,
                    port=options.port,
                    certificates=auth.certificates,
                    limits=options.limits,
                )
            )
            self._url = f"https://{options.host}:{port}"
            if options.keda is not None:
                readiness = (checks or {}).get("objects", lambda: None)
                await stack.enter_async_context(self._keda(options.keda, auth, readiness))
            if credentials is not None:
                self._kubeconfig = credentials.write_kubeconfig(self._url)
                self._ca_file = credentials.ca_file
            yield

    @contextlib.asynccontextmanager
    async def _keda(
        self, options: KedaOptions, auth: Auth, readiness: probes.Check
    ) -> AsyncIterator[None]:
        """Serve KEDA's external scaler until the context ends.

        Raises:
            StartupError: grpc is not installed, the address is in use, or a file is unusable.

        """
        try:
            # Half a second of start-up and 15 MiB, for those who use it.
            from adapter.keda import server, service, targets  # noqa: PLC0415
        except ImportError as error:
            raise errors.StartupError(
                f"--keda-port: {error}; install the extra, in a clone: pip install '.[keda]'"
            ) from error
        scaler = service.ExternalScaler(
            targets.Targets(self._loop, readiness=readiness),
            auth=auth if options.callers == "token" else None,
            draining=self._drain.begun,
        )
        files = auth.certificates
        async with server.listening(
            scaler, options, certificate=files.certificate, key=files.key
        ) as port:
            self._keda_address = f"{options.host}:{port}"
            yield

    def open_metrics(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Serve metrics, health and explanations without TLS until the context ends, if a port is set.

        Raises:
            StartupError: the address is in use, or not of this machine.

        """
        return self._metrics.open()


def registry_of(
    loop: ControlLoop, clock: Clock, *, expires_at: Callable[[], float | None] = lambda: None
) -> CollectorRegistry:
    """The metrics of the process; `expires_at`: end of the serving certificate, Unix seconds."""
    registry = CollectorRegistry()
    registry.register(
        telemetry.VariantCollector(
            # Only the leader shows the variants: a sum over all replicas would count them several times.
            lambda: loop.states if loop.leading else {},
            lambda: loop.live.tuners,
            clock.time,
        )
    )
    registry.register(
        GroupCollector(
            lambda: loop.groups.states if loop.leading else {},
            lambda: loop.states if loop.leading else {},
            lambda: loop.groups.ceilings if loop.leading else (),
        )
    )
    registry.register(telemetry.CollectionCollector(loop.collector))
    registry.register(
        telemetry.ReplicaCollector(
            lambda: loop.leading,
            lambda: len(loop.refused),
            failures=lambda: loop.failures,
            failing=lambda: loop.problem is not None,
            cycles=lambda: loop.cycles,
            expires_at=expires_at,
        )
    )
    return registry

"""The listening ports of one process: the API over TLS, and metrics with explanations on a plain port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry

from adapter import errors
from adapter.apiserver import delegation, handlers, probes, provider
from adapter.app.options import ServeOptions
from adapter.auth.delegated import Auth
from adapter.auth.local import Credentials
from adapter.clock import Clock
from adapter.controller import telemetry
from adapter.controller.loop import ControlLoop
from adapter.diagnostics import explain
from adapter.store import OWN_METRICS, TargetStore
from adapter.tls import listener


class Endpoints:
    """The servers of one process, and their addresses."""

    def __init__(
        self, *, options: ServeOptions, loop: ControlLoop, store: TargetStore, clock: Clock
    ) -> None:
        self._options = options
        self._loop = loop
        self._store = store
        self._clock = clock
        self._drain = listener.Drain()
        self._probes = probes.Probes(
            registry_of(loop, clock), {"serving": lambda: "the API port is not open yet"}
        )
        self._leader: Callable[[], str] = lambda: ""
        self._url = ""
        self._metrics_url = ""
        self._ca_file: Path | None = None
        self._kubeconfig: Path | None = None

    @property
    def loop(self) -> ControlLoop:
        """The control loop whose targets are served."""
        return self._loop

    @property
    def url(self) -> str:
        """`https://HOST:PORT` of the API; empty until it is open."""
        return self._url

    @property
    def metrics_url(self) -> str:
        """`http://HOST:PORT` of the metrics port; empty without one."""
        return self._metrics_url

    @property
    def ca_file(self) -> Path | None:
        """Local authority of the serving certificate; None where certificates were given."""
        return self._ca_file

    @property
    def kubeconfig(self) -> Path | None:
        """Kubeconfig for this server; None where no local authority issued one."""
        return self._kubeconfig

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
        self._leader = leader
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
            if credentials is not None:
                self._kubeconfig = credentials.write_kubeconfig(self._url)
                self._ca_file = credentials.ca_file
            yield

    @contextlib.asynccontextmanager
    async def open_metrics(self) -> AsyncIterator[None]:
        """Serve metrics, health and explanations without TLS until the context ends, if a port is set.

        Raises:
            StartupError: the address is in use.

        """
        host, port = self._options.metrics_host, self._options.metrics_port
        if port is None:
            yield
            return
        app = probes.plain(self._probes)
        app.router.add_get("/variants", self._variants)
        app.router.add_get("/variants/{namespace}/{name}", self._variant)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise errors.StartupError(
                    f"cannot listen on {host}:{port}: {error.strerror or error};"
                    " choose another port with --metrics-port"
                ) from error
            self._metrics_url = f"http://{host}:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def _variants(self, _: web.Request) -> web.Response:
        now = self._clock.time()
        items = [explain.of_state(state, now=now) for state in self._loop.states.values()]
        items += [explain.of_refusal(refusal) for refusal in self._loop.refused]
        return web.json_response({**self._leadership(), "variants": items})

    async def _variant(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        state = self._loop.states.get(key)
        if state is not None:
            document = explain.of_state(state, now=self._clock.time())
            return web.json_response({**self._leadership(), **document})
        for refusal in self._loop.refused:
            if refusal.key == key:
                return web.json_response({**self._leadership(), **explain.of_refusal(refusal)})
        known = ", ".join(sorted(self._loop.states)) or "none"
        return web.json_response({"message": f"no variant {key}; there are {known}"}, status=404)

    def _leadership(self) -> dict[str, object]:
        return {"leading": self._loop.leading, "leader": self._leader()}


def registry_of(loop: ControlLoop, clock: Clock) -> CollectorRegistry:
    """The metrics of the process."""
    registry = CollectorRegistry()
    registry.register(
        telemetry.VariantCollector(
            # Only the leader shows the variants: a sum over all replicas would count them several times.
            lambda: loop.states if loop.leading else {},
            lambda: loop.tuners,
            clock.time,
        )
    )
    registry.register(telemetry.CollectionCollector(loop.collector))
    registry.register(
        telemetry.ReplicaCollector(
            lambda: loop.leading,
            lambda: len(loop.refused),
            failures=lambda: loop.failures,
            failing=lambda: loop.problem is not None,
        )
    )
    return registry

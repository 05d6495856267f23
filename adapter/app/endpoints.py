"""What the outside reaches: the API over TLS, and metrics with explanations on a port of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from adapter import errors
from adapter.apiserver import delegation, handlers
from adapter.app.options import ServeOptions
from adapter.auth import delegated
from adapter.clock import Clock
from adapter.controller import telemetry
from adapter.controller.loop import ControlLoop
from adapter.diagnostics import explain
from adapter.store import TargetStore
from adapter.tls import listener


class Front:
    """The servers of one process.

    Attributes:
        url: of the API, once it is open.
        metrics_url: of the metrics port; empty without one.
        kubeconfig: for this server, where a local authority made one.

    """

    def __init__(
        self, *, options: ServeOptions, loop: ControlLoop, store: TargetStore, clock: Clock
    ) -> None:
        self._options = options
        self._store = store
        self._clock = clock
        self._checks: dict[str, handlers.Check] = {"serving": lambda: "not yet"}
        self.loop = loop
        self.drain = listener.Drain()
        self.url = ""
        self.metrics_url = ""
        self._leader = ""
        self.kubeconfig: Path | None = None
        self.ca_file: Path | None = None
        self._registry = CollectorRegistry()
        self._registry.register(
            telemetry.VariantCollector(
                # Of several replicas one shows the variants, or sums over all would count them twice.
                lambda: loop.states if loop.leading else {},
                lambda: loop.tuners,
                clock.time,
            )
        )
        self._registry.register(telemetry.CollectionCollector(loop.collector))
        self._registry.register(
            telemetry.ReplicaCollector(lambda: loop.leading, lambda: len(loop.refused))
        )

    def show_leader(self, identity: str) -> None:
        """Show this replica as the leader; empty where nobody is elected."""
        self._leader = identity

    def show_credentials(self, *, kubeconfig: Path | None, ca_file: Path | None) -> None:
        """Show the files with which clients reach this server, where a local authority made them."""
        self.kubeconfig, self.ca_file = kubeconfig, ca_file

    @contextlib.asynccontextmanager
    async def open(
        self, who: delegated.Gate, checks: Mapping[str, handlers.Check]
    ) -> AsyncIterator[None]:
        """Serve the API.

        Raises:
            StartupError: the address cannot be listened on, or the delegate's files are unusable.

        """
        options = self._options
        async with contextlib.AsyncExitStack() as stack:
            delegate = None
            if options.delegate is not None:
                delegate = await stack.enter_async_context(delegation.delegating(options.delegate))
            self._checks = {"ping": lambda: None, "shutdown": self.drain.check, **checks}
            application = handlers.application(
                store=self._store,
                authenticator=who.authenticator,
                policy=who.policy,
                readiness=self._checks,
                metrics_registry=self._registry,
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
            self.url = f"https://{options.host}:{port}"
            yield

    @contextlib.asynccontextmanager
    async def open_metrics(self) -> AsyncIterator[None]:
        """Serve metrics, health and explanations without TLS, if a port is set.

        Raises:
            StartupError: the address cannot be listened on.

        """
        host, port = self._options.metrics_host, self._options.metrics_port
        if port is None:
            yield
            return
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/readyz", self._ready)
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
                    " choose another with --metrics-port"
                ) from error
            self.metrics_url = f"http://{host}:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": handlers.METRICS_TYPE})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ready(self, _: web.Request) -> web.Response:
        wrong = {name: found for name, check in self._checks.items() if (found := check())}
        if wrong:
            text = "".join(f"[-]{name}: {why}\n" for name, why in wrong.items())
            return web.Response(text=text, status=503)
        return web.Response(text="ok")

    async def _variants(self, _: web.Request) -> web.Response:
        now = self._clock.time()
        items = [explain.of_state(state, now=now) for state in self.loop.states.values()]
        items += [explain.of_refusal(refusal) for refusal in self.loop.refused]
        return web.json_response({**self._who(), "variants": items})

    async def _variant(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        state = self.loop.states.get(key)
        if state is not None:
            found = explain.of_state(state, now=self._clock.time())
            return web.json_response({**self._who(), **found})
        for refusal in self.loop.refused:
            if refusal.key == key:
                return web.json_response({**self._who(), **explain.of_refusal(refusal)})
        known = ", ".join(sorted(self.loop.states)) or "none"
        return web.json_response({"message": f"no variant {key}; there are {known}"}, status=404)

    def _who(self) -> dict[str, object]:
        return {"leading": self.loop.leading, "leader": self._leader}

"""The port without TLS: health for all; what names tenants, for those with rights.

That is metrics, explanations and the pages of `/ui`. A bearer token is reviewed by the cluster, and its user
needs `get` on the non-resource URL `/metrics`, or `/variants` for explanations and pages. Peers on loopback
need no token: with the right to forward ports of the pod, its metrics can be read. A request that a proxy in
the pod has forwarded does not count as one from loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from aiohttp import web

from adapter.apiserver import probes
from adapter.app.options import ServeOptions
from adapter.auth import authorization, users
from adapter.auth.delegated import Auth
from adapter.clock import Clock
from adapter.controller.history import timeline
from adapter.controller.loop import ControlLoop
from adapter.diagnostics import explain
from adapter.tasks import Pieces
from adapter.tls import listener
from adapter.tls.connections import CONNECTIONS, ConnectionLimits
from adapter.ui import guard
from adapter.ui.application import Pages

log = structlog.get_logger()

LIMITS = ConnectionLimits(connections=256, unauthenticated=192, drain_seconds=1.0)
"""Probes, Prometheus and people need few connections."""

BODY_LIMIT_BYTES = 1024

_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_FORWARDED = ("forwarded", "via", "x-forwarded-", "x-envoy-", "x-real-ip", "l5d-")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _RefusedError(Exception):
    """A caller may not read what it asks for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class MetricsPort:
    """Metrics, health and explanations of one process."""

    def __init__(
        self,
        *,
        options: ServeOptions,
        loop: ControlLoop,
        clock: Clock,
        checks: probes.Probes,
        leader: Callable[[], str],
        pages: Pages,
    ) -> None:
        """Make a port that is not open yet.

        Args:
            options: address, port, and whether callers need rights.
            loop: control loop whose variants are explained.
            clock: time of the explanations.
            checks: health checks and metrics.
            leader: identity of the replica that leads, empty while none is known.
            pages: pages of `/ui`.

        """
        self._pages = pages
        self._options = options
        self._loop = loop
        self._clock = clock
        self._checks = checks
        self._leader = leader
        self._auth: Auth | None = None
        self._writing = asyncio.Lock()
        self.url = ""

    def use(self, auth: Auth) -> None:
        """Let callers in whom this authentication and authorization accepts; none are before."""
        self._auth = auth

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve until the context ends, if a port is set.

        Raises:
            StartupError: the address is in use, or not of this machine.

        """
        host, port = self._options.metrics_host, self._options.metrics_port
        if port is None:
            yield
            return
        app = web.Application(client_max_size=BODY_LIMIT_BYTES, middlewares=[self._guard])
        app[CONNECTIONS] = []
        probes.add_plain(app, self._checks)
        app.router.add_get("/variants", self._variants)
        app.router.add_get("/variants/comparison", self._comparison)
        app.router.add_get("/variants/{namespace}/{name}", self._variant)
        self._pages.add(app)
        async with (
            self._pages.running(),
            listener.listening(
                app, host=host, port=port, certificates=None, limits=LIMITS, flag="--metrics-port"
            ) as bound_port,
        ):
            self.url = f"http://{host}:{bound_port}"
            yield

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path in authorization.ALWAYS_ALLOWED:
            return await handler(request)
        page = request.path == "/ui" or request.path.startswith("/ui/")
        if page and (why := guard.refusal(request, loopback=_from_loopback(request))):
            return web.Response(status=403, text=f"{why}\n", headers=guard.HEADERS)
        if _from_loopback(request) and not guard.names_loopback(request.host):
            return web.json_response({"message": guard.FOREIGN_NAME}, status=403)
        if self._options.metrics_auth == "cluster" and not _from_loopback(request):
            path = "/variants" if page or request.path.startswith("/variants") else "/metrics"
            try:
                await self._authorize(request, path)
            except _RefusedError as error:
                headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
                return web.json_response(
                    {"message": str(error)}, status=error.status, headers=headers
                )
            for connections in request.app[CONNECTIONS]:
                connections.authenticated(request.protocol)
        return await handler(request)

    async def _authorize(self, request: web.Request, path: str) -> None:
        """Check that the caller may get that non-resource URL.

        Raises:
            _RefusedError: status and message for a caller that may not.

        """
        if self._auth is None:
            raise _RefusedError(503, "not ready to review tokens; try again")
        if any(name.lower().startswith("impersonate-") for name in request.headers):
            raise _RefusedError(403, "impersonation is not supported by this server")
        try:
            user = await self._auth.authenticator.user(
                None, request.headers, peer=request.remote or ""
            )
            if user is users.ANONYMOUS:
                raise _RefusedError(401, f"{path} needs a bearer token of the cluster")
            attributes = authorization.Attributes(verb="get", path=path)
            decision = await self._auth.policy.decide(user, attributes)
        except users.UnauthenticatedError as error:
            raise _RefusedError(401, "the bearer token is not accepted") from error
        except users.ReviewError as error:
            log.warning("access review failed; request refused", path=path, error=str(error))
            raise _RefusedError(503, "the access review failed; try again") from error
        if not decision.allowed:
            fix = "bind ClusterRole variant-adapter-metrics-reader"
            raise _RefusedError(403, f"{user.name} may not get {path}; {fix}")

    async def _variants(self, _: web.Request) -> web.Response:
        # One at a time: those of a large fleet are some MiB of text.
        async with self._writing:
            return await self._written()

    async def _written(self) -> web.Response:
        now, pieces = self._clock.time(), Pieces()
        documents = itertools.chain(
            (explain.of_state(state, now=now) for state in dict(self._loop.states).values()),
            (explain.of_refusal(refusal) for refusal in self._loop.refused),
        )
        items = []
        for document in documents:
            # Each alone: the text of a large fleet as a whole would keep the API waiting.
            items.append(json.dumps(document))
            await pieces.breathe()
        head = json.dumps(self._leadership()).removesuffix("}")
        return web.json_response(text=f'{head}, "variants": [{", ".join(items)}]}}')

    async def _variant(self, request: web.Request) -> web.Response:
        key = f"{request.match_info['namespace']}/{request.match_info['name']}"
        state = self._loop.states.get(key)
        if state is not None:
            document = explain.of_state(state, now=self._clock.time())
            # For autoscalers, such as KEDA by its trigger `metrics-api`: null is an error to it.
            document["servedReplicas"] = self._loop.live.served(key)
            return web.json_response({**self._leadership(), **document})
        for refusal in self._loop.refused:
            if refusal.key == key:
                return web.json_response({**self._leadership(), **explain.of_refusal(refusal)})
        known = ", ".join(sorted(self._loop.states)) or "none"
        return web.json_response({"message": f"no variant {key}; there are {known}"}, status=404)

    async def _comparison(self, request: web.Request) -> web.Response:
        """What each variant had beside what was decided, over the last `since` seconds; default a day."""
        try:
            seconds = float(request.query.get("since", timeline.DAY_SECONDS))
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= timeline.DAY_SECONDS:
            message = f"since: must be seconds, more than 0 and at most {timeline.DAY_SECONDS:g}"
            return web.json_response({"message": message}, status=400)
        totals = self._loop.timeline.since(self._clock.time() - seconds)
        states = self._loop.states
        variants = {
            key: {"advisory": states[key].source.advisory, **timeline.document(item)}
            for key, item in sorted(totals.items())
            if key in states
        }
        return web.json_response({**self._leadership(), "variants": variants})

    def _leadership(self) -> dict[str, object]:
        return {"leading": self._loop.leading, "leader": self._leader()}


def _from_loopback(request: web.Request) -> bool:
    """Whether a process of this pod, or who forwards a port to it, sent the request itself."""
    return request.remote in _LOOPBACK and not any(
        name.lower().startswith(_FORWARDED) for name in request.headers
    )

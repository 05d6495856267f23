"""The HTTP surface: external metrics, discovery, health and metrics, for kube-apiserver and kubectl.

Every request is authenticated, then authorized, then routed. Failures become statuses in one place.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import structlog
from aiohttp import web
from prometheus_client import Histogram

from adapter.apiserver import discovery, list_options, negotiation, openapi, request_info, responses
from adapter.apiserver import probes as health
from adapter.apiserver import provider as providers
from adapter.apiserver import status as api_status
from adapter.auth import authentication, authorization, users
from adapter.kube import labels
from adapter.tls.connections import CONNECTIONS

log = structlog.get_logger()

BODY_LIMIT_BYTES = 64 * 1024
_FRESHNESS_BUCKETS = tuple(1.364**power for power in range(20))
"""Seconds, as in the official library."""

KEPT_REQUESTS, KEPT_LENGTH, KEPT_TERMS = 4096, 512, 4
"""Parsed requests that are cached, and the longest path and most selector terms of one: an HPA sends the
same request every time, and the bounds keep the memory small whatever others send.
"""

_IMPERSONATE = "impersonate-"


class _Selection(NamedTuple):
    """A GET of a metric that is well formed; it says nothing of who may send it."""

    attributes: authorization.Attributes
    namespace: str
    name: str
    selector: labels.Selector


def application(
    *,
    provider: providers.ExternalMetricsProvider,
    authenticator: authentication.Authenticator,
    policy: authorization.Authorizer,
    probes: health.Probes,
    draining: Callable[[], bool] = lambda: False,
    now: Callable[[], float] = time.time,
) -> web.Application:
    """The API server as an application.

    Args:
        provider: source of the metrics.
        authenticator: identifies the user of a request.
        policy: decides what a user may do.
        probes: health checks and metrics of the process; the freshness of served metrics is added to them.
        draining: whether the server is about to end: responses then close their connection.
        now: Unix time.

    """
    server = _Server(
        provider=provider,
        authenticator=authenticator,
        policy=policy,
        probes=probes,
        draining=draining,
        now=now,
    )
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app[CONNECTIONS] = []
    app.on_response_prepare.append(_anonymous_server)
    # Every path, those with ends of lines too: the server would answer them without authentication.
    app.router.add_route("*", "/{path:(?s:.*)}", server.handle)
    return app


async def _anonymous_server(_: web.Request, response: web.StreamResponse) -> None:
    # aiohttp would name itself and its version.
    response.headers.popall("Server", None)


class _Server:
    def __init__(
        self,
        *,
        provider: providers.ExternalMetricsProvider,
        authenticator: authentication.Authenticator,
        policy: authorization.Authorizer,
        probes: health.Probes,
        draining: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._authenticator = authenticator
        self._policy = policy
        self._probes = probes
        self._draining = draining
        self._now = now
        self._selections: dict[str, _Selection] = {}
        self._freshness = Histogram(
            "metrics_apiserver_metric_freshness_seconds",
            "Age of the metrics that are served, by group.",
            ["group"],
            registry=probes.registry,
            buckets=_FRESHNESS_BUCKETS,
        ).labels(discovery.GROUP)
        self._fixed: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "/metrics": self._metrics,
            "/openapi/v2": self._openapi,
            "/openapi/v3": self._openapi,
            openapi.V3_CHILD: self._openapi,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; every failure becomes a Status."""
        try:
            response = await self._answer(request)
        except api_status.StatusError as error:
            response = responses.of_error(request, error)
        except users.ReviewError as error:
            # Fail closed, in the words and the type of the official library.
            log.warning(
                "access review failed; request refused", path=request.path, error=str(error)
            )
            text = f'Internal Server Error: "{request.path_qs}": {error}\n'
            response = web.Response(text=text, status=500)
            response.headers["X-Content-Type-Options"] = "nosniff"
        except Exception:
            log.exception("request failed; answered with status 500", path=request.path)
            response = responses.of_error(request, api_status.internal("internal error"))
        response.headers["Audit-Id"] = request.headers.get("Audit-ID") or str(uuid.uuid4())
        response.headers["Cache-Control"] = "no-cache, private"
        if self._draining():
            # The client opens its next connection elsewhere, instead of meeting the end of this one.
            response.force_close()
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        selection = self._selections.get(request.raw_path) if request.method == "GET" else None
        if selection is not None:
            await self._authorize(user, selection.attributes, request)
            return await self._external_metric(request, user, selection)
        raw_path = request.rel_url.raw_path
        attributes = request_info.attributes(request.method, raw_path, request.path, request.query)
        await self._authorize(user, attributes, request)
        parts = request.path.strip("/").split("/")
        if parts[0] in health.NAMES and len(parts) <= 2:
            return self._health(request, *parts)
        if request.path in self._fixed:
            return await self._fixed[request.path](request)
        metric = request_info.metric(raw_path)
        if metric is not None and request.method == "GET":
            return await self._external_metric(
                request, user, self._read(request, attributes, metric)
            )
        document = discovery.document(request.path, self._provider.list_external_metrics())
        if metric is None and document is None:
            if attributes.resource or request.path.startswith(f"/apis/{discovery.GROUP}"):
                raise api_status.not_found()
            return responses.of_document(
                request, discovery.paths(), "json", status=404, indent=True
            )
        if request.method != "GET":
            raise api_status.method_not_allowed()
        return self._discovery(request, document)

    def _read(
        self, request: web.Request, attributes: authorization.Attributes, metric: tuple[str, str]
    ) -> _Selection:
        """Read the query of an allowed GET of a metric; the next one like it is read already."""
        negotiation.accepted(request.headers.get("Accept", ""))
        list_options.check(request.query)
        try:
            selector = labels.parse(request.query.get("labelSelector", ""))
        except labels.SelectorError as error:
            raise api_status.bad_request(str(error)) from None
        selection = _Selection(attributes, *metric, selector)
        if len(request.raw_path) <= KEPT_LENGTH and len(selector.requirements) <= KEPT_TERMS:
            if len(self._selections) >= KEPT_REQUESTS:
                self._selections.clear()
            self._selections[request.raw_path] = selection
        return selection

    async def _user(self, request: web.Request) -> users.User:
        for name in request.headers:
            if name[: len(_IMPERSONATE)].lower() == _IMPERSONATE:
                # To answer as the caller instead would be worse than not to answer.
                raise api_status.forbidden("impersonation is not supported by this server", {})
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        try:
            certificate = tls.getpeercert(binary_form=True) if tls else None
            user = await self._authenticator.user(
                certificate, request.headers, peer=request.remote or ""
            )
        except users.UnauthenticatedError:
            raise api_status.unauthorized() from None
        if user is not users.ANONYMOUS:
            for connections in request.app[CONNECTIONS]:
                connections.authenticated(request.protocol)
        return user

    async def _authorize(
        self, user: users.User, attributes: authorization.Attributes, request: web.Request
    ) -> None:
        decision = await self._policy.decide(user, attributes)
        if not decision.allowed and user is not users.ANONYMOUS:
            # Most rules know no selectors. One review without them serves all, and what a stranger sends is
            # not even parsed.
            terms = request_info.requirements(request.query, attributes)
            if terms:
                attributes = replace(attributes, requirements=terms)
                decision = await self._policy.decide(user, attributes)
        if not decision.allowed:
            resource = attributes.resource
            details = {"group": discovery.GROUP, "kind": resource} if resource else {}
            message = request_info.forbidden(user, attributes, decision.reason)
            raise api_status.forbidden(message, details)

    def _discovery(self, request: web.Request, document: Any) -> web.StreamResponse:
        at_root = request.path.rstrip("/") == "/apis"
        accepted = negotiation.accepted(request.headers.get("Accept", ""), discovery=at_root)
        if not accepted.discovery:
            # People read the root and the version, through kubectl too, so those are indented.
            indent = request.path.rstrip("/") in {"", "/version"}
            return responses.of_document(request, document, accepted.form, indent=indent)
        names = self._provider.list_external_metrics()
        body, _ = negotiation.write(
            discovery.aggregated(accepted.discovery, names), "json", pretty=False
        )
        kind = (
            f"application/json;g={negotiation.DISCOVERY_GROUP};v={accepted.discovery}"
            f";as={negotiation.DISCOVERY_KIND}"
        )
        return responses.with_etag(request, body, openapi.tag(body), kind)

    async def _external_metric(
        self, request: web.Request, user: users.User, selection: _Selection
    ) -> web.StreamResponse:
        accepted = negotiation.accepted(request.headers.get("Accept", ""))
        providers.CALLER.set(
            providers.Caller(
                user=user, path_qs=request.rel_url.raw_path_qs, headers=request.headers
            )
        )
        values = await self._provider.get_external_metric(
            selection.namespace, selection.name, selection.selector
        )
        if isinstance(values, providers.Relayed):
            return web.Response(body=values.body, status=values.status, headers=values.headers)
        now = self._now()
        for value in values:
            self._freshness.observe(max(now - value.decided_at, 0.0))
        body = (
            b'{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1",'
            b'"metadata":{},"items":[' + b",".join(value.encoded for value in values) + b"]}\n"
        )
        if accepted.form == "json" and not responses.pretty(request):
            return responses.of_bytes(request, body, negotiation.JSON)
        return responses.of_document(request, json.loads(body), accepted.form)

    async def _metrics(self, request: web.Request) -> web.Response:
        return responses.of_bytes(request, await self._probes.metrics(), health.METRICS_TYPE)

    async def _openapi(self, request: web.Request) -> web.Response:
        try:
            negotiation.accepted(request.headers.get("Accept", ""))
        except api_status.StatusError:
            return web.Response(status=406)
        document = {
            "/openapi/v2": openapi.v2,
            "/openapi/v3": openapi.v3,
            openapi.V3_CHILD: openapi.v3_child,
        }[request.path]
        return responses.with_etag(request, *document(), negotiation.JSON)

    def _health(self, request: web.Request, name: str, check: str = "") -> web.Response:
        if check and not self._probes.knows(check):
            raise api_status.not_found()
        return self._probes.health(name, request.query, check=check)

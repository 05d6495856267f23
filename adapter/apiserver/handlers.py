"""The HTTP surface: external metrics, discovery, health and metrics, for kube-apiserver and kubectl.

Every request is authenticated, then authorised, then routed. One middleware decides statuses and headers.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from adapter.apiserver import discovery, list_options, negotiation, openapi, request_info
from adapter.apiserver import status as api_status
from adapter.apiserver.delegation import Delegate
from adapter.auth import authentication, authorization, users
from adapter.kube import labels
from adapter.store import OWN_METRICS, TargetStore

log = structlog.get_logger()

Check = Callable[[], str | None]
"""A readiness check: None when well, else what is wrong."""

BODY_LIMIT_BYTES = 64 * 1024
COMPRESSED_FROM_BYTES = 128 * 1024
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"
_INDENTING_AGENTS = ("curl", "Wget", "Mozilla")
_HEALTH = ("healthz", "livez", "readyz")
_FRESHNESS_BUCKETS = tuple(1.364**power for power in range(20))
"""Seconds; as the official library has them."""


def application(
    *,
    store: TargetStore,
    authenticator: authentication.Authenticator,
    policy: authorization.Policy,
    readiness: Mapping[str, Check],
    metrics_registry: CollectorRegistry,
    delegate: Delegate | None = None,
    now: Callable[[], float] = time.time,
) -> web.Application:
    """Build the server; it serves whatever `store` holds when asked, and asks the delegate for the rest."""
    server = _Server(
        store=store,
        authenticator=authenticator,
        policy=policy,
        readiness=readiness,
        metrics_registry=metrics_registry,
        delegate=delegate,
        now=now,
    )
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app.on_response_prepare.append(_anonymous_server)
    app.router.add_route("*", "/{path:.*}", server.handle)
    return app


async def _anonymous_server(_: web.Request, response: web.StreamResponse) -> None:
    # aiohttp would name itself and its version.
    response.headers.popall("Server", None)


class _Server:
    def __init__(
        self,
        *,
        store: TargetStore,
        authenticator: authentication.Authenticator,
        policy: authorization.Policy,
        readiness: Mapping[str, Check],
        metrics_registry: CollectorRegistry,
        delegate: Delegate | None,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._delegate = delegate
        self._authenticator = authenticator
        self._policy = policy
        self._readiness = readiness
        self._registry = metrics_registry
        self._now = now
        self._freshness = Histogram(
            "metrics_apiserver_metric_freshness_seconds",
            "Age of the metrics that are served, by group.",
            ["group"],
            registry=metrics_registry,
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
            response = _failure(request, error)
        except users.ReviewError as error:
            # Fail closed, in the words and the type of the official library.
            log.warning("authorisation failed", path=request.path, error=str(error))
            text = f'Internal Server Error: "{request.path_qs}": {error}\n'
            response = web.Response(text=text, status=500)
            response.headers["X-Content-Type-Options"] = "nosniff"
        except Exception:
            log.exception("request failed", path=request.path)
            response = _failure(request, api_status.internal("internal error"))
        response.headers["Audit-Id"] = request.headers.get("Audit-ID") or str(uuid.uuid4())
        response.headers["Cache-Control"] = "no-cache, private"
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        raw_path = request.rel_url.raw_path
        asked = request_info.attributes(request.method, raw_path, request.path, request.query)
        await self._authorise(user, asked)
        health = request.path.strip("/").split("/")
        if health[0] in _HEALTH and len(health) <= 2:
            return self._health(request, *health)
        if request.path in self._fixed:
            return await self._fixed[request.path](request)
        metric = request_info.metric(raw_path)
        document = discovery.document(request.path, self._names())
        if metric is None and document is None:
            if asked.resource or request.path.startswith(f"/apis/{discovery.GROUP}"):
                raise api_status.not_found()
            return _write(request, discovery.paths(), "json", status=404, pretty=True)
        if request.method != "GET":
            raise api_status.method_not_allowed()
        if metric is None:
            return self._discovery(request, document)
        if self._delegate is not None and not self._owns(metric[1]):
            return await self._delegate.forward(request, user)
        return self._external_metric(request, *metric)

    def _owns(self, metric: str) -> bool:
        """Whether the metric is ours even while we have no value of it."""
        return metric in OWN_METRICS or metric in self._store.metric_names()

    def _names(self) -> tuple[str, ...]:
        """Metrics of ours and of the delegate."""
        mine = self._store.metric_names()
        if self._delegate is None:
            return mine
        return tuple(sorted({*mine, *self._delegate.names}))

    async def _user(self, request: web.Request) -> users.User:
        if any(name.lower().startswith("impersonate-") for name in request.headers):
            # Answering as the caller instead would be worse than not answering.
            raise api_status.forbidden("impersonation is not supported by this server", {})
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        try:
            certificate = tls.getpeercert(binary_form=True) if tls else None
            return await self._authenticator.user(certificate, request.headers)
        except users.UnauthenticatedError:
            raise api_status.unauthorized() from None

    async def _authorise(self, user: users.User, asked: authorization.Attributes) -> None:
        verdict = await self._policy.decide(user, asked)
        if not verdict.allowed:
            details = {"group": discovery.GROUP, "kind": asked.resource} if asked.resource else {}
            raise api_status.forbidden(request_info.forbidden(user, asked, verdict.reason), details)

    def _discovery(self, request: web.Request, document: Any) -> web.StreamResponse:
        at_root = request.path.rstrip("/") == "/apis"
        accepted = negotiation.accepted(request.headers.get("Accept", ""), discovery=at_root)
        if not accepted.discovery:
            # kubectl and people read the root and the version, so those are indented.
            pretty = request.path.rstrip("/") in {"", "/version"}
            return _write(request, document, accepted.form, pretty=pretty)
        found = discovery.aggregated(accepted.discovery, self._names())
        body, _ = negotiation.write(found, "json", pretty=False)
        kind = (
            f"application/json;g={negotiation.DISCOVERY_GROUP};v={accepted.discovery}"
            f";as={negotiation.DISCOVERY_KIND}"
        )
        return _tagged(request, body, openapi.tag(body), kind)

    def _external_metric(
        self, request: web.Request, namespace: str, name: str
    ) -> web.StreamResponse:
        accepted = negotiation.accepted(request.headers.get("Accept", ""))
        list_options.check(request.query)
        try:
            selector = labels.parse(request.query.get("labelSelector", ""))
        except labels.SelectorError as error:
            raise api_status.bad_request(str(error)) from None
        now = self._now()
        items = self._store.answer(
            namespace, name, selector if selector.requirements else None, now=now
        )
        for item in items:
            self._freshness.observe(max(now - item.decided_at, 0.0))
        body = (
            b'{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1",'
            b'"metadata":{},"items":[' + b",".join(item.encoded for item in items) + b"]}\n"
        )
        if accepted.form == "json" and not _pretty(request):
            return _response(request, body, negotiation.JSON)
        return _write(request, json.loads(body), accepted.form)

    async def _metrics(self, request: web.Request) -> web.Response:
        return _response(request, generate_latest(self._registry), METRICS_TYPE)

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
        return _tagged(request, *document(), negotiation.JSON)

    def _health(self, request: web.Request, name: str, check: str = "") -> web.Response:
        if check and check not in self._readiness:
            raise api_status.not_found()
        excluded = set(request.query.getall("exclude", []))
        # Only readiness depends on anything: a server that answers is alive.
        tested = {check} if check else set(self._readiness) - excluded
        wrong = {
            item: problem
            for item, test in self._readiness.items()
            if name == "readyz" and item in tested and (problem := test()) is not None
        }
        headers = {"X-Content-Type-Options": "nosniff"}
        if not wrong and (check or "verbose" not in request.query):
            return web.Response(text="ok", headers=headers)
        lines = []
        for item in self._readiness:
            if item in wrong:
                lines.append(f"[-]{item} failed: {wrong[item]}\n")
            elif item in excluded:
                lines.append(f"[+]{item} excluded: ok\n")
            else:
                lines.append(f"[+]{item} ok\n")
        lines.append(f"{name} check {'failed' if wrong else 'passed'}\n")
        return web.Response(
            text="".join(lines),
            headers=headers,
            status=HTTPStatus.INTERNAL_SERVER_ERROR if wrong else HTTPStatus.OK,
        )


def _pretty(request: web.Request) -> bool:
    asked = request.query.get("pretty")
    if asked is not None:
        return asked in {"1", "true"}
    return request.headers.get("User-Agent", "").startswith(_INDENTING_AGENTS)


def _failure(request: web.Request, error: api_status.StatusError) -> web.Response:
    """A Status in the form that the client takes, or in JSON if it takes none that we have."""
    form: negotiation.Form = "json"
    indented = False
    try:
        form = negotiation.accepted(request.headers.get("Accept", "")).form
    except api_status.StatusError:
        indented = True
    response = _write(request, error.document(), form, status=error.code, pretty=indented)
    if error.code in {403, 500}:
        response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _write(
    request: web.Request,
    document: Any,
    form: negotiation.Form,
    *,
    status: int = 200,
    pretty: bool = False,
) -> web.Response:
    body, kind = negotiation.write(document, form, pretty=pretty or _pretty(request))
    return _response(request, body, kind, status=status)


def _response(request: web.Request, body: bytes, kind: str, *, status: int = 200) -> web.Response:
    response = web.Response(body=body, status=status, headers={"Content-Type": kind})
    if len(body) > COMPRESSED_FROM_BYTES:
        response.headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
    return response


def _tagged(request: web.Request, body: bytes, tag: str, kind: str) -> web.Response:
    """The body, or 304 for a client that has it."""
    headers = {"ETag": f'"{tag}"', "Vary": "Accept"}
    if f'"{tag}"' in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    response = _response(request, body, kind)
    response.headers.update(headers)
    return response

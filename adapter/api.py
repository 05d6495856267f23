"""The HTTP surface: external metrics, discovery, health and metrics, for kube-apiserver and kubectl.

Every request is authenticated, then authorised, then routed. One middleware decides statuses and headers.
"""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from adapter import discovery, errors, identity, selectors, statuses
from adapter.targets import TargetStore

log = structlog.get_logger()

Check = Callable[[], str | None]
"""A readiness check: None when well, else what is wrong."""

BODY_LIMIT_BYTES = 64 * 1024
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_INDENTING_AGENTS = ("curl", "Wget", "Mozilla")


def application(
    *,
    store: TargetStore,
    identity: identity.IdentityConfig,
    policy: identity.Policy,
    readiness: Mapping[str, Check],
    metrics_registry: CollectorRegistry,
    now: Callable[[], float] = time.time,
) -> web.Application:
    """Build the server; it serves whatever `store` holds when asked."""
    server = _Server(
        store=store,
        authenticator=_authenticator(identity),
        policy=policy,
        readiness=readiness,
        metrics_registry=metrics_registry,
        now=now,
    )
    app = web.Application(client_max_size=BODY_LIMIT_BYTES)
    app.on_response_prepare.append(_anonymous_server)
    app.router.add_route("*", "/{path:.*}", server.handle)
    return app


def server_ssl_context(certificate: Path, key: Path, client_cas: bytes) -> ssl.SSLContext:
    """TLS 1.2 or newer; asks for a client certificate of these authorities, and takes none too.

    Raises:
        StartupError: a file is unreadable, no PEM, or certificate and key do not belong together.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise errors.StartupError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise errors.StartupError(
            f"{certificate}, {key}: no PEM certificate and key that belong together"
            f" ({error.reason or error})"
        ) from error
    if client_cas:
        try:
            context.load_verify_locations(cadata=client_cas.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise errors.StartupError(f"client CA: no PEM certificates in it ({error})") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def _anonymous_server(_: web.Request, response: web.StreamResponse) -> None:
    # aiohttp would name itself and its version.
    response.headers.popall("Server", None)


def _authenticator(config: identity.IdentityConfig) -> identity.Authenticator:
    return identity.Authenticator(config)


class _Server:
    def __init__(
        self,
        *,
        store: TargetStore,
        authenticator: identity.Authenticator,
        policy: identity.Policy,
        readiness: Mapping[str, Check],
        metrics_registry: CollectorRegistry,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._policy = policy
        self._readiness = readiness
        self._registry = metrics_registry
        self._now = now
        self._fixed: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "/metrics": lambda _request: self._metrics(),
            "/healthz": self._health,
            "/livez": self._health,
            "/readyz": self._health,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer any request; every failure becomes a Status."""
        try:
            response = await self._answer(request)
        except statuses.StatusError as error:
            response = _json(request, error.document(), status=error.code)
            if error.code in {403, 500}:
                response.headers["X-Content-Type-Options"] = "nosniff"
        except Exception:
            log.exception("request failed", path=request.path)
            response = _json(request, statuses.internal("internal error").document(), status=500)
        response.headers["Audit-Id"] = request.headers.get("Audit-ID") or str(uuid.uuid4())
        response.headers["Cache-Control"] = "no-cache, private"
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport else None
        try:
            certificate = tls.getpeercert(binary_form=True) if tls else None
            user = self._authenticator.user(certificate, request.headers)
        except identity.UnauthenticatedError:
            raise statuses.unauthorized() from None
        segments = [part for part in request.rel_url.raw_path.split("/") if part]
        metric = _metric_of(segments)
        await self._authorise(request, user, metric)
        if request.path in self._fixed:
            return await self._fixed[request.path](request)
        document = discovery.document(request.path, self._store.metric_names())
        if metric is None and document is None:
            raise statuses.not_found()
        if request.method != "GET":
            raise statuses.method_not_allowed()
        _check_accept(request)
        if metric is None:
            return _json(request, document)
        return self._external_metric(request, *metric)

    async def _authorise(
        self, request: web.Request, user: identity.User, metric: tuple[str, str] | None
    ) -> None:
        path = request.path
        if metric is None:
            verb = _VERBS.get(request.method, request.method.lower())
            attributes = identity.Attributes(verb=verb, path=path)
            message, details = f'forbidden: User "{user.name}" cannot {verb} path "{path}"', {}
        else:
            namespace, name = metric
            verb = _VERBS.get(request.method, "list")
            attributes = identity.Attributes(
                verb=verb, path=path, namespace=namespace, resource=name
            )
            group = discovery.GROUP
            message = (
                f'{name}.{group} is forbidden: User "{user.name}" cannot {verb} resource "{name}"'
                f' in API group "{group}" in the namespace "{namespace}"'
            )
            details = {"group": group, "kind": name}
        if not await self._policy.allows(user, attributes):
            raise statuses.forbidden(message, details)

    def _external_metric(self, request: web.Request, namespace: str, name: str) -> web.Response:
        text = request.query.get("labelSelector", "")
        try:
            selector = selectors.parse(text)
        except selectors.SelectorError as error:
            raise statuses.bad_request(str(error)) from None
        watch = request.query.get("watch", "false").lower()
        if watch not in {"false", "0", "f", ""}:
            raise statuses.StatusError(
                405,
                "MethodNotAllowed",
                f'watch is not supported on resources of kind "*.{discovery.GROUP}"',
                {"group": discovery.GROUP, "kind": "*"},
            )
        items = self._store.answer(
            namespace, name, selector if selector.requirements else None, now=self._now()
        )
        body = (
            b'{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1",'
            b'"metadata":{},"items":[' + b",".join(items) + b"]}\n"
        )
        if _pretty(request):
            return _json(request, json.loads(body))
        return web.Response(body=body, content_type="application/json")

    async def _metrics(self) -> web.Response:
        return web.Response(
            body=generate_latest(self._registry), headers={"Content-Type": METRICS_TYPE}
        )

    async def _health(self, request: web.Request) -> web.Response:
        name = request.path.strip("/")
        wrong = {
            check: problem
            for check, test in self._readiness.items()
            if name == "readyz" and (problem := test()) is not None
        }
        headers = {"X-Content-Type-Options": "nosniff"}
        if "verbose" not in request.query and not wrong:
            return web.Response(text="ok", headers=headers)
        lines = [
            f"[-]{check} failed: {wrong[check]}\n" if check in wrong else f"[+]{check} ok\n"
            for check in self._readiness
        ]
        lines.append(f"{name} check {'failed' if wrong else 'passed'}\n")
        return web.Response(
            text="".join(lines),
            headers=headers,
            status=HTTPStatus.INTERNAL_SERVER_ERROR if wrong else HTTPStatus.OK,
        )


def _metric_of(segments: list[str]) -> tuple[str, str] | None:
    """Namespace and metric of `/apis/GROUP/VERSION/namespaces/NS/METRIC`; None for other paths."""
    prefix = ["apis", discovery.GROUP, discovery.VERSION, "namespaces"]
    if len(segments) != 6 or segments[:4] != prefix or "%2F" in "".join(segments).upper():
        return None
    return unquote(segments[4]), unquote(segments[5])


def _check_accept(request: web.Request) -> None:
    accept = request.headers.get("Accept", "")
    offered = [part.strip().partition(";") for part in accept.split(",") if part.strip()]
    if not offered:
        return
    for kind, _, parameters in offered:
        if kind.strip() in {"*/*", "application/json"} and "as=" not in parameters:
            return
    raise statuses.not_acceptable()


def _pretty(request: web.Request) -> bool:
    asked = request.query.get("pretty")
    if asked is not None:
        return asked in {"1", "true"}
    return request.headers.get("User-Agent", "").startswith(_INDENTING_AGENTS)


def _json(request: web.Request, document: Any, *, status: int = 200) -> web.Response:
    style: dict[str, Any] = {"indent": 2} if _pretty(request) else {"separators": (",", ":")}
    text = json.dumps(document, **style)
    return web.Response(text=text + "\n", content_type="application/json", status=status)

"""An in-memory Kubernetes API over TLS: objects, watches, patches, /status, /scale, RBAC.

Objects behave as in `kubernetes_objects`; permissions are those of our manifests. Every replica of the
adapter has an entrance of its own, a client's way to the API, which can be cut, slowed down, or made to
fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from adapter.auth import reviews
from adapter.kube import labels as selectors
from certs.authority import kubeconfig
from tests.fakes import kubernetes_forwarding, kubernetes_watch, kubernetes_writes
from tests.fakes import kubernetes_rbac as rbac
from tests.fakes import kubernetes_stand_in as stand_ins
from tests.fakes.kubernetes_objects import (
    ROOT,
    VARIANTS,
    Object,
    ObjectStore,
    ResourcePath,
    StatusError,
    parse_path,
)

ACCOUNT = "system:serviceaccount:variant-adapter-system:variant-adapter"
DISCOVERY = {
    "/apis/apps/v1": [("deployments", "Deployment"), ("statefulsets", "StatefulSet")],
    "/apis/leaderworkerset.x-k8s.io/v1": [("leaderworkersets", "LeaderWorkerSet")],
    "/apis/disaggregatedset.x-k8s.io/v1": [
        ("disaggregatedsetrolescalers", "DisaggregatedSetRoleScaler")
    ],
    "/api/v1": [("pods", "Pod"), ("configmaps", "ConfigMap")],
    VARIANTS: [
        ("variantautoscalings", "VariantAutoscaling"),
        ("variantautoscalings/status", "VariantAutoscaling"),
    ],
}
_PAIRS = re.compile(r"(?<!\\)(\\\\)*\\u[dD][89a-fA-F]")
"""Escapes that JSON has and YAML has not."""

VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass
class Entrance:
    """One client's way to the API.

    Attributes:
        user: Whose permissions count; empty: all are granted.
        cut: Whether connections are closed without an answer.
        slow: Seconds before every answer.
        late: Gives the seconds that a request by method and path is on its way, even if its client has gone.
        answer: Gives the status of a request, by method and path; None answers as usual.
        odd_line: Line that every watch is, and ends with; empty: watches are as they should be.
        streams: Open watches.

    """

    kubeconfig: Path
    url: str = ""
    user: str = ACCOUNT
    cut: bool = False
    slow: float = 0.0
    late: Callable[[str, str], float] = lambda _method, _path: 0.0
    answer: Callable[[str, str], int | None] = lambda _method, _path: None
    odd_line: bytes = b""
    streams: set[asyncio.Task[None]] = field(default_factory=set)

    def end_watches(self) -> None:
        """End all watches, as a cluster does every few minutes."""
        for task in list(self.streams):
            task.cancel()

    def isolate(self) -> None:
        """Cut the entrance, open watches included."""
        self.cut = True
        self.end_watches()


class KubernetesApi(ObjectStore):
    """The objects behind HTTP.

    Attributes:
        identities: Answers token reviews, and access reviews of external metrics.
        rules: Roles and bindings; None: everything is allowed.
        requests: Entrance, method and path of every request.
        denied: Requests that RBAC did not allow.
        bookmarks: Number of bookmarks sent.
        access_reviews: Number of SubjectAccessReviews.
        forwarded: Address of each pod's port that can be forwarded, by namespace, pod and port.
        late: Entrance and status of every request that was sent late.
        fenced: Whether the admission policy of the overlay `actuate` stands before /scale.
        external: Values of external metrics by variant, as the aggregation layer would relay them.

    """

    def __init__(self, identities: stand_ins.StandIn, rules: list[Object] | None = None) -> None:
        super().__init__()
        self.identities = identities
        self.rules = rules
        self.requests: list[tuple[str, str, str]] = []
        self.denied: list[str] = []
        self.bookmarks = 0
        self.external: dict[str, str] = {}
        self.fenced = False
        self.access_reviews = 0
        self.forwarded: dict[tuple[str, str, int], tuple[str, int]] = {}
        self.late: list[tuple[str, int]] = []
        self._delayed: set[asyncio.Task[web.StreamResponse]] = set()

    def writes(self, plural: str) -> list[tuple[str, str, str]]:
        """Requests that changed a kind of objects: entrance, method, path."""
        return [r for r in self.requests if r[1] != "GET" and f"/{plural}" in r[2]]

    async def answer(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if entrance.cut:
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(3600)
        await asyncio.sleep(entrance.slow)
        code = entrance.answer(request.method, request.path)
        if code is not None:
            return _status(code, "made to fail")
        late = entrance.late(request.method, request.path)
        if late:
            await request.read()
            delayed = asyncio.create_task(self._arrive_late(entrance, request, late))
            self._delayed.add(delayed)
            delayed.add_done_callback(self._delayed.discard)
            return await asyncio.shield(delayed)
        return await self._arrive(entrance, request)

    async def _arrive_late(
        self, entrance: Entrance, request: web.Request, seconds: float
    ) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        response = await self._arrive(entrance, request)
        self.late.append((entrance.kubeconfig.stem, response.status))
        return response

    async def _arrive(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        name = entrance.kubeconfig.stem
        self.requests.append((name, request.method, request.path))
        try:
            if request.path.endswith("/portforward"):
                return await self._forward(entrance, request)
            return await self._answer(entrance, request)
        except StatusError as error:
            return _status(error.code, str(error))

    async def _answer(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        review = request.path.rpartition("/")[2]
        if review == "tokenreviews":
            return await self.identities.review_token(request)
        if review == "subjectaccessreviews":
            return await self._review_access(request)
        document = self._document(request)
        if document is not None:
            return web.json_response(document)
        path = parse_path(request.path)
        watching = request.query.get("watch") == "true"
        read = "get" if path.name else "watch" if watching else "list"
        self._permit(entrance, VERBS.get(request.method, read), path, request)
        if watching:
            if entrance.odd_line:
                return web.Response(body=entrance.odd_line + b"\n")
            return await kubernetes_watch.watch(
                self, path, request, streams=entrance.streams, bookmarked=self._bookmarked
            )
        if request.content_type == "application/apply-patch+yaml" and _PAIRS.search(
            await request.text()
        ):
            raise StatusError(
                400, "error decoding YAML: found invalid Unicode character escape code"
            )
        body = await request.json() if request.body_exists else None
        answer = self._act(entrance, path, body, request)
        return web.json_response(answer, status=201 if request.method == "POST" else 200)

    async def _forward(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        path = parse_path(request.path)
        # As since Kubernetes 1.35: the upgrade of a GET needs the right to create, too.
        for verb in ("get", "create"):
            self._permit(entrance, verb, path, request)
        where = (path.namespace, path.name, int(request.query["ports"]))
        return await kubernetes_forwarding.forward(request, self.forwarded.get(where))

    def _bookmarked(self) -> None:
        self.bookmarks += 1

    def _document(self, request: web.Request) -> Object | None:
        """Discovery, version, and external metrics; None for the paths of objects."""
        if request.path in DISCOVERY:
            return _resources(request.path)
        if request.path == "/version":
            return {"minor": "36", "gitVersion": "v1.36.2"}
        if request.path.startswith(f"/apis/{stand_ins.GROUP}/"):
            selector = selectors.parse(request.query["labelSelector"])
            labels = [({"variant_name": name}, value) for name, value in self.external.items()]
            return {"items": [{"value": v} for known, v in labels if selector.matches(known)]}
        return None

    def _permit(
        self, entrance: Entrance, verb: str, path: ResourcePath, request: web.Request
    ) -> None:
        if self.rules is None or not entrance.user:
            return
        group = path.root.split("/")[2] if path.root.startswith("/apis/") else ""
        resource = f"{path.plural}/{path.subresource}" if path.subresource else path.plural
        name = path.name
        field_selector = request.query.get("fieldSelector", "")
        if verb in {"list", "watch"} and field_selector.startswith("metadata.name="):
            name = field_selector.removeprefix("metadata.name=")
        action = rbac.Action(verb, group, resource, path.namespace, name)
        if not rbac.allowed(self.rules, entrance.user, action):
            self.denied.append(f"{verb} {group}/{resource} {path.namespace}/{name}")
            why = (
                f'User "{entrance.user}" cannot {verb} resource "{resource}" in API group "{group}"'
            )
            raise StatusError(403, f"{path.plural} is forbidden: {why}")

    def _act(
        self, entrance: Entrance, path: ResourcePath, body: Any, request: web.Request
    ) -> Object:
        method = request.method
        if path.collection == ("/api/v1", "configmaps") and path.namespace == "kube-system":
            self._create_front_proxy_config()
        if method == "GET" and not path.name:
            return self.page(path, request.query)
        if method == "POST":
            return self.create(path, body)
        if path.subresource == "scale":
            if method == "PATCH" and self.fenced and entrance.user == ACCOUNT:
                self._check_fence(request.query.get("fieldManager", ""))
            return kubernetes_writes.scale(self, method, path, body)
        current = self.find(path)
        if method == "GET":
            return current
        item = kubernetes_writes.changed(current, path, body, request)
        of_status = (path.plural, path.subresource) == ("variantautoscalings", "status")
        if of_status and entrance.user == ACCOUNT:
            self._check_status_fence(item.get("status") or {})
        if kubernetes_writes.owners_changed(current, item):
            # As the admission plugin OwnerReferencesPermissionEnforcement has it.
            self._permit(entrance, "delete", path, request)
        return self.update(path, item)

    def _check_fence(self, manager: str) -> None:
        """What `manifests/overlays/actuate/fence.yaml` says in CEL."""
        leases = self.objects.get(("/apis/coordination.k8s.io/v1", "leases"), {})
        for (_, name), lease in leases.items():
            held = f"variant-adapter-{lease['spec'].get('leaseTransitions', 0)}"
            if name == "variant-adapter" and manager != held:
                raise StatusError(422, "denied request: a former leader sent this")

    def _check_status_fence(self, status: Object) -> None:
        """What `manifests/base/fence.yaml` says in CEL."""
        leases = self.objects.get(("/apis/coordination.k8s.io/v1", "leases"), {})
        for (_, name), lease in leases.items():
            held = lease["spec"].get("leaseTransitions", 0)
            if name == "variant-adapter" and status.get("leaderTransitions", held) < held:
                raise StatusError(422, "denied request: a former leader sent this")

    def _create_front_proxy_config(self) -> None:
        path = ResourcePath("/api/v1", "configmaps", "kube-system", reviews.CONFIG_NAME)
        item = {"metadata": {"name": path.name}, "data": dict(self.identities.config)}
        if ("kube-system", path.name) not in self.collection(path):
            self.create(path, item)

    async def _review_access(self, request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        attributes = spec.get("resourceAttributes") or {}
        plain = spec.get("nonResourceAttributes")
        self.access_reviews += 1
        if plain is not None:
            rules = self.rules or []
            allowed = rbac.allowed_url(rules, spec["user"], plain["verb"], plain["path"])
        elif self.rules is not None and attributes.get("group") != stand_ins.GROUP:
            allowed = rbac.allowed(self.rules, spec["user"], rbac.action_of(attributes))
        else:
            allowed = self.identities.allows(spec)
        return web.json_response({"status": {"allowed": allowed}}, status=201)


def _resources(path: str) -> Object:
    resources = []
    for plural, kind in DISCOVERY[path]:
        resources.append({"name": plural, "kind": kind, "namespaced": True})
        if plural in kubernetes_writes.SCALED:
            resources.append({"name": f"{plural}/scale", "kind": "Scale", "namespaced": True})
    return {"kind": "APIResourceList", "resources": resources}


def _status(code: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code)


class Site:
    """The API with its entrances."""

    def __init__(self, certificates: stand_ins.Certificates, api: KubernetesApi) -> None:
        self.certificates = certificates
        self.api = api
        self._stack = contextlib.AsyncExitStack()

    async def entrance(self, name: str, *, user: str = ACCOUNT) -> Entrance:
        """Open an entrance for a client."""
        certificates = self.certificates
        entrance = Entrance(kubeconfig=certificates.folder / f"{name}.kubeconfig", user=user)
        app = web.Application()

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self.api.answer(entrance, request)

        app.router.add_route("*", "/{path:.*}", handle)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates.folder / "kas.crt", certificates.folder / "kas.key")
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        authority = certificates.authorities["ca"]
        client = authority.issue_client(name, [])
        entrance.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        entrance.kubeconfig.write_text(kubeconfig(entrance.url, authority.cert_pem, client))
        return entrance

    async def close(self) -> None:
        """End all servers."""
        await self._stack.aclose()


def manifest_rules(*files: str) -> list[Object]:
    """Roles and bindings of manifests, by default of the base."""
    rules = []
    for name in files or ("manifests/base/rbac.yaml",):
        rules += list(yaml.safe_load_all((ROOT / name).read_text()))
    return rules


def applied_rules(*, actuate: bool, limited: bool) -> list[Object]:
    """Roles and bindings of the base and of these overlays."""
    overlays = {"actuate/scale.yaml": actuate, "limited/nodes.yaml": limited}
    files = (f"manifests/overlays/{name}" for name, applied in overlays.items() if applied)
    return manifest_rules("manifests/base/rbac.yaml", *files)


@contextlib.asynccontextmanager
async def running(folder: Path, *, rules: list[Object] | None = None) -> AsyncIterator[Site]:
    """A cluster without workloads, with the permissions of our manifests unless others are given."""
    certificates = stand_ins.certificates(folder)
    identities = stand_ins.StandIn(config=stand_ins.front_proxy(certificates))
    site = Site(
        certificates, KubernetesApi(identities, manifest_rules() if rules is None else rules)
    )
    try:
        yield site
    finally:
        await site.close()

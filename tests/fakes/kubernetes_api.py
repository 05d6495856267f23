"""A Kubernetes API in memory, where there is no cluster: objects, watches, patches, /status, /scale, RBAC.

It behaves as the real one where the adapter could go wrong: versions and conflicts, compacted history,
generation and status apart, schema and pruning by our CRD, permissions by our manifests. Every replica of
the adapter gets an entrance of its own, which can be cut, slowed down, or made to fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from aiohttp import web

from adapter.auth import reviews
from adapter.kube import labels as selectors
from certs.authority import kubeconfig
from tests.fakes import kubernetes_rbac as rbac
from tests.fakes import kubernetes_stand_in as stand_ins

ROOT = Path(__file__).parents[2]
ACCOUNT = "system:serviceaccount:variant-adapter-system:variant-adapter"
VARIANTS = "/apis/llmd.ai/v1alpha1"
DISCOVERY = {
    "/apis/apps/v1": [("deployments", "Deployment"), ("statefulsets", "StatefulSet")],
    "/apis/leaderworkerset.x-k8s.io/v1": [("leaderworkersets", "LeaderWorkerSet")],
    "/api/v1": [("pods", "Pod"), ("configmaps", "ConfigMap")],
    VARIANTS: [
        ("variantautoscalings", "VariantAutoscaling"),
        ("variantautoscalings/status", "VariantAutoscaling"),
    ],
}
SCALED = {"deployments", "statefulsets", "leaderworkersets"}
CLUSTER_WIDE = {"nodes", "apiservices", "customresourcedefinitions"}
CRD = yaml.safe_load((ROOT / "manifests/crd/variantautoscalings.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

Object = dict[str, Any]


class Refused(Exception):  # noqa: N818 - as Kubernetes says it
    """An answer that is no success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Place:
    """What a path names."""

    root: str
    plural: str
    namespace: str = ""
    name: str = ""
    sub: str = ""

    @property
    def collection(self) -> tuple[str, str]:
        return self.root, self.plural


@dataclass
class Entrance:
    """One client's way to the API."""

    kubeconfig: Path
    url: str = ""
    user: str = ACCOUNT
    cut: bool = False
    slow: float = 0.0
    answer: Callable[[str, str], int | None] = lambda _method, _path: None
    streams: set[asyncio.Task[Any]] = field(default_factory=set)

    def end_watches(self) -> None:
        """As a cluster does every few minutes."""
        for task in list(self.streams):
            task.cancel()

    def isolate(self) -> None:
        """Nothing comes through from now on."""
        self.cut = True
        self.end_watches()


class KubernetesApi:
    """The objects, their history, and what was asked."""

    def __init__(self, identities: stand_ins.StandIn, rules: list[Object] | None = None) -> None:
        self.identities = identities
        self.rules = rules
        self.objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = {}
        self.history: list[tuple[int, tuple[str, str], str, Object, Object | None]] = []
        self.version = 100
        self.oldest = 100
        self.requests: list[tuple[str, str, str]] = []
        self.denied: list[str] = []
        self.bookmarks = 0
        self.external: dict[str, str] = {}
        self._news = asyncio.Event()

    # What tests do.

    def put(self, root: str, plural: str, item: Object) -> Object:
        """Make an object, or change it as a user does: everything but status."""
        metadata = item["metadata"]
        place = Place(root, plural, metadata.get("namespace", ""), metadata["name"])
        found = self._of(place).get((place.namespace, place.name))
        if found is None:
            return self._create(place, copy.deepcopy(item))
        changed = {**copy.deepcopy(item)}
        if plural == "variantautoscalings" and "status" in found:
            changed["status"] = found["status"]
        changed["metadata"] = {**found["metadata"], **changed["metadata"]}
        return self._store(place, changed)

    def set_status(self, root: str, plural: str, namespace: str, name: str, **status: Any) -> None:
        """Change parts of a status, as a controller does."""
        place = Place(root, plural, namespace, name)
        found = copy.deepcopy(self._get(place))
        found["status"] = {**(found.get("status") or {}), **status}
        self._store(place, found)

    def get(self, root: str, plural: str, namespace: str, name: str) -> Object:
        """A copy."""
        return copy.deepcopy(self._get(Place(root, plural, namespace, name)))

    def all(self, root: str, plural: str) -> list[Object]:
        """Copies of all objects of a kind."""
        return copy.deepcopy(list(self.objects.get((root, plural), {}).values()))

    def remove(self, root: str, plural: str, namespace: str, name: str) -> None:
        """Delete."""
        place = Place(root, plural, namespace, name)
        found = self._of(place).pop((namespace, name))
        self._record(place, "DELETED", found, found)

    def compact(self) -> None:
        """Forget the history: a watch from before gets 410."""
        self.oldest = self.version + 1
        self.version += 1
        self.history.clear()

    def writes(self, plural: str) -> list[tuple[str, str, str]]:
        """Requests that changed a kind of objects: user's entrance, method, path."""
        return [r for r in self.requests if r[1] != "GET" and f"/{plural}" in r[2]]

    # How objects are kept.

    def _of(self, place: Place) -> dict[tuple[str, str], Object]:
        return self.objects.setdefault(place.collection, {})

    def _get(self, place: Place) -> Object:
        found = self._of(place).get((place.namespace, place.name))
        if found is None:
            raise Refused(404, f'{place.plural} "{place.name}" not found')
        return found

    def _create(self, place: Place, item: Object) -> Object:
        metadata = item.setdefault("metadata", {})
        if "generateName" in metadata and "name" not in metadata:
            metadata["name"] = f"{metadata['generateName']}{uuid.uuid4().hex[:5]}"
        key = (place.namespace, metadata["name"])
        if key in self._of(place):
            raise Refused(409, f'{place.plural} "{metadata["name"]}" already exists')
        if place.plural not in CLUSTER_WIDE:
            metadata["namespace"] = place.namespace
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata["generation"] = 1
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata.setdefault("creationTimestamp", now)
        if place.plural == "variantautoscalings":
            item.pop("status", None)
            _defaults(SCHEMA, item)
            _check(item)
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self._of(place)[key] = item
        self._record(place, "ADDED", item, None)
        return item

    def _store(self, place: Place, item: Object) -> Object:
        key = (place.namespace, place.name)
        before = self._of(place)[key]
        if place.plural == "variantautoscalings":
            _defaults(SCHEMA, item)
            _check(item)
        metadata = item["metadata"]
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
        if item == before:
            return before  # as the real one: nothing changed, nothing is told
        if item.get("spec") != before.get("spec"):
            metadata["generation"] = before["metadata"].get("generation", 1) + 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self._of(place)[key] = item
        self._record(place, "MODIFIED", item, before)
        return item

    def _record(self, place: Place, kind: str, item: Object, before: Object | None) -> None:
        if kind == "DELETED":
            self.version += 1
            item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        item = copy.deepcopy(item)
        self.history.append((self.version, place.collection, kind, item, before))
        self._news.set()
        self._news = asyncio.Event()

    # How it answers.

    async def answer(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        """One request."""
        if entrance.cut:
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(3600)
        await asyncio.sleep(entrance.slow)
        code = entrance.answer(request.method, request.path)
        if code is not None:
            return _status(code, "made to fail")
        name = entrance.kubeconfig.stem
        self.requests.append((name, request.method, request.path))
        try:
            return await self._answer(entrance, request)
        except Refused as error:
            return _status(error.code, str(error))

    async def _answer(self, entrance: Entrance, request: web.Request) -> web.StreamResponse:
        path, method = request.path, request.method
        if path.endswith("/tokenreviews"):
            return await self.identities._token(request)
        if path.endswith("/subjectaccessreviews"):
            return await self._review(request)
        plain = self._plain(request)
        if plain is not None:
            return web.json_response(plain)
        place = _place(path)
        watching = request.query.get("watch") == "true"
        verb = {
            "GET": "get" if place.name else "watch" if watching else "list",
            "POST": "create",
            "PUT": "update",
            "PATCH": "patch",
            "DELETE": "delete",
        }[method]
        self._permit(entrance, verb, place, request)
        if watching:
            return await self._watch(entrance, place, request)
        body = await request.json() if request.can_read_body else None
        found = self._act(entrance, method, place, body, request)
        return web.json_response(found, status=201 if method == "POST" else 200)

    def _plain(self, request: web.Request) -> Object | None:
        """What is no object of ours: discovery, version, and what the aggregation layer would answer."""
        path = request.path
        if path in DISCOVERY:
            return _resources(path)
        if path == "/version":
            return {"minor": "36", "gitVersion": "v1.36.2"}
        if path.startswith(f"/apis/{stand_ins.GROUP}/"):
            name = request.query["labelSelector"].removeprefix("variant_name=")
            found = [{"value": self.external[name]}] if name in self.external else []
            return {"items": found}
        return None

    def _permit(self, entrance: Entrance, verb: str, place: Place, request: web.Request) -> None:
        if self.rules is None or not entrance.user:
            return
        resource = f"{place.plural}/{place.sub}" if place.sub else place.plural
        group = place.root.split("/")[2] if place.root.startswith("/apis/") else ""
        name = place.name
        selected = request.query.get("fieldSelector", "")
        if verb in {"list", "watch"} and selected.startswith("metadata.name="):
            name = selected.removeprefix("metadata.name=")
        ask = rbac.Ask(verb, group, resource, place.namespace, name)
        if not rbac.allowed(self.rules, entrance.user, ask):
            why = (
                f'User "{entrance.user}" cannot {verb} resource "{resource}" in API group "{group}"'
            )
            self.denied.append(f"{verb} {group}/{resource} {place.namespace}/{name}")
            raise Refused(403, f"{place.plural} is forbidden: {why}")

    def _act(
        self, entrance: Entrance, method: str, place: Place, body: Any, request: web.Request
    ) -> Object:
        if place.collection == ("/api/v1", "configmaps") and place.namespace == "kube-system":
            self._front_proxy()
        if method == "GET" and not place.name:
            return self._list(place, request)
        if method == "POST":
            return self._create(place, body)
        found = self._get(place)
        if place.sub == "scale":
            return self._scale(method, place, found, body)
        if method == "GET":
            return found
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            raise Refused(409, f'{place.plural} "{place.name}": the object has been modified')
        changed = copy.deepcopy(found)
        if method == "PUT":
            changed = {**body, "metadata": {**found["metadata"], **body["metadata"]}}
        elif request.content_type == "application/merge-patch+json":
            changed = _merged(changed, body)
            if changed["metadata"].get("ownerReferences") != found["metadata"].get(
                "ownerReferences"
            ):
                # As the admission plugin OwnerReferencesPermissionEnforcement has it.
                self._permit(entrance, "delete", place, request)
            if place.sub != "status" and "status" in found:
                changed["status"] = found["status"]
        elif request.content_type == "application/apply-patch+yaml":
            assert request.query["fieldManager"]
            assert place.sub == "status", "only the status is ours to apply"
            # One manager owns all of it: fields that are no longer applied go.
            changed["status"] = body["status"]
        else:
            raise Refused(415, f"unsupported patch {request.content_type}")
        return self._store(place, changed)

    def _scale(self, method: str, place: Place, found: Object, body: Any) -> Object:
        if place.plural not in SCALED:
            raise Refused(404, "no scale")
        if method == "PATCH":
            changed = copy.deepcopy(found)
            changed.setdefault("spec", {})["replicas"] = body["spec"]["replicas"]
            found = self._store(place, changed)
        labels = (found["spec"].get("selector") or {}).get("matchLabels") or {}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": found["metadata"],
            "spec": {"replicas": found["spec"].get("replicas", 1)},
            "status": {
                "replicas": (found.get("status") or {}).get("replicas", 0),
                "selector": ",".join(f"{k}={v}" for k, v in labels.items()),
            },
        }

    def _front_proxy(self) -> None:
        place = Place("/api/v1", "configmaps", "kube-system", reviews.CONFIG_NAME)
        item = {"metadata": {"name": place.name}, "data": dict(self.identities.config)}
        if ("kube-system", place.name) not in self._of(place):
            self._create(place, item)

    def _list(self, place: Place, request: web.Request) -> Object:
        items = [
            item
            for (namespace, _), item in sorted(self._of(place).items())
            if place.namespace in {"", namespace} and _selected(item, request)
        ]
        start = int(request.query.get("continue") or 0)
        end = start + int(request.query.get("limit") or len(items) or 1)
        metadata = {"resourceVersion": str(self.version)}
        if end < len(items):
            metadata["continue"] = str(end)
        return {"kind": "List", "metadata": metadata, "items": items[start:end]}

    async def _watch(
        self, entrance: Entrance, place: Place, request: web.Request
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        since = int(request.query["resourceVersion"])
        task = asyncio.current_task()
        assert task is not None
        await response.prepare(request)

        async def send(kind: str, item: Object) -> None:
            await response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

        entrance.streams.add(task)
        marked_at = asyncio.get_running_loop().time()
        try:
            while True:
                news, seen = self._news, self.version
                if since < self.oldest - 1:
                    gone = {
                        "kind": "Status",
                        "code": 410,
                        "reason": "Expired",
                        "message": "too old",
                    }
                    await send("ERROR", gone)
                    return response
                for version, collection, kind, item, before in list(self.history):
                    if version <= since or collection != place.collection:
                        continue
                    since = version
                    namespace = item["metadata"].get("namespace", "")
                    if place.namespace not in {"", namespace}:
                        continue
                    matches = _selected(item, request) and kind != "DELETED"
                    was = before is not None and _selected(before, request)
                    if matches:
                        await send("MODIFIED" if was else "ADDED", item)
                    elif was:
                        await send("DELETED", item)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await news.wait()
                now = asyncio.get_running_loop().time()
                if now - marked_at > 0.4:
                    since, marked_at = max(since, seen), now
                    self.bookmarks += 1
                    await send("BOOKMARK", {"metadata": {"resourceVersion": str(since)}})
        except asyncio.CancelledError:
            # Ended by us, not by the client: the watch simply ends.
            return response
        finally:
            entrance.streams.discard(task)

    async def _review(self, request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        asked = spec.get("resourceAttributes") or {}
        if self.rules is not None and asked.get("group") != stand_ins.GROUP:
            found = rbac.allowed(
                self.rules,
                spec["user"],
                rbac.Ask(
                    asked["verb"],
                    asked.get("group", ""),
                    "/".join(filter(None, (asked["resource"], asked.get("subresource")))),
                    asked.get("namespace", ""),
                    asked.get("name", ""),
                ),
            )
        else:
            found = self.identities._allowed(spec)
        return web.json_response({"status": {"allowed": found}}, status=201)


def _place(path: str) -> Place:
    parts = path.strip("/").split("/")
    size = 2 if parts[0] == "api" else 3
    root, rest = "/" + "/".join(parts[:size]), parts[size:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Place(root, rest[0], namespace, *rest[1:3])


def _resources(path: str) -> Object:
    listed = []
    for plural, kind in DISCOVERY[path]:
        listed.append({"name": plural, "kind": kind, "namespaced": True})
        if plural in SCALED:
            listed.append({"name": f"{plural}/scale", "kind": "Scale", "namespaced": True})
    return {"kind": "APIResourceList", "resources": listed}


def _selected(item: Object, request: web.Request) -> bool:
    labels = item["metadata"].get("labels") or {}
    wanted = request.query.get("labelSelector", "")
    if wanted and not selectors.parse(wanted).matches(labels):
        return False
    field_selector = request.query.get("fieldSelector", "")
    name = field_selector.removeprefix("metadata.name=")
    return not field_selector or item["metadata"]["name"] == name


def _merged(item: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    found = dict(item) if isinstance(item, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value)
    return found


def _defaults(schema: Object, item: Any) -> None:
    if isinstance(item, list):
        for one in item:
            _defaults(schema.get("items", {}), one)
    if not isinstance(item, dict):
        return
    for name, inner in schema.get("properties", {}).items():
        if name not in item and "default" in inner:
            item[name] = inner["default"]
        if name in item:
            _defaults(inner, item[name])


def _check(item: Object) -> None:
    """By the CRD's schema; what it would prune is an error here, so that no test overlooks it."""
    try:
        jsonschema.validate(item, SCHEMA)
    except jsonschema.ValidationError as error:
        raise Refused(422, f"{error.json_path}: {error.message}") from error
    unknown = list(_unknown(SCHEMA, {k: v for k, v in item.items() if k != "metadata"}, ""))
    if unknown:
        raise Refused(422, f"unknown fields: {unknown}")


def _unknown(schema: Object, item: Any, path: str) -> Any:
    if isinstance(item, list):
        for one in item:
            yield from _unknown(schema.get("items", {}), one, f"{path}[]")
    elif isinstance(item, dict):
        for name, value in item.items():
            inner = schema.get("properties", {}).get(name)
            if inner is None:
                yield f"{path}.{name}"
            else:
                yield from _unknown(inner, value, f"{path}.{name}")


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
        """A client's own way in."""
        found = self.certificates
        entrance = Entrance(kubeconfig=found.folder / f"{name}.kubeconfig", user=user)
        app = web.Application()

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self.api.answer(entrance, request)

        app.router.add_route("*", "/{path:.*}", handle)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(found.folder / "kas.crt", found.folder / "kas.key")
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        authority = found.authorities["ca"]
        client = authority.issue_client(name, [])
        entrance.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        entrance.kubeconfig.write_text(kubeconfig(entrance.url, authority.cert_pem, client))
        return entrance

    async def close(self) -> None:
        """End all servers."""
        await self._stack.aclose()


def manifest_rules(*folders: str) -> list[Object]:
    """Roles and bindings of the manifests."""
    found = []
    for name in folders or ("manifests/base/rbac.yaml",):
        found += list(yaml.safe_load_all((ROOT / name).read_text()))
    return found


@contextlib.asynccontextmanager
async def running(folder: Path, *, rules: list[Object] | None = None) -> AsyncIterator[Site]:
    """A cluster without workloads, over TLS."""
    certificates = stand_ins.certificates(folder)
    identities = stand_ins.StandIn(config=stand_ins.front_proxy(certificates))
    found = manifest_rules() if rules is None else rules
    site = Site(certificates, KubernetesApi(identities, found))
    try:
        yield site
    finally:
        await site.close()

"""A stand-in for the parts of the Kubernetes API that authenticate and authorize, where there is no cluster.

It answers TokenReview from a table, SubjectAccessReview from a few rules and the defaults of RBAC, and
serves the front-proxy ConfigMap with a watch. It can be made slow, or fail.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from certs.authority import Authority, KeyPair, kubeconfig, write_private

GROUP = "external.metrics.k8s.io"
PLUG_IN_VERSION = "client.authentication.k8s.io/v1"
_PUBLIC = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_DISCOVERY = ("/api", "/apis", "/openapi", *_PUBLIC)


@dataclass
class StandIn:
    """Identities, and the reviews that were requested.

    Attributes:
        config: Data of the front-proxy ConfigMap.
        tokens: Users by token, as a TokenReview's status has them.
        delay: Seconds before every answer.
        broken: Whether every answer is status 500.
        reviews: Specs of all SubjectAccessReviews.
        token_reviews: Number of TokenReviews.
        granted: User and namespace of metrics that may be read beside the built-in rules.
        needs_selector: Whether metrics may be read with a label selector only.

    """

    config: dict[str, str]
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    delay: float = 0.0
    broken: bool = False
    reviews: list[dict[str, Any]] = field(default_factory=list)
    token_reviews: int = 0
    granted: set[tuple[str, str]] = field(default_factory=set)
    needs_selector: bool = False
    _version: int = 1
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, **data: str) -> None:
        """Change the ConfigMap, by keys with underscores for dashes."""
        self.config |= {name.replace("_", "-"): value for name, value in data.items()}
        self._version += 1
        self._changed.set()

    def application(self) -> web.Application:
        app = web.Application()
        path = "/api/v1/namespaces/kube-system/configmaps"
        app.router.add_get(path, self._configmaps)
        app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", self.review_token)
        app.router.add_post(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews", self.review_access
        )
        return app

    async def _pause(self) -> None:
        await asyncio.sleep(self.delay)
        if self.broken:
            raise web.HTTPInternalServerError(text="broken")

    def _object(self) -> dict[str, Any]:
        return {
            "kind": "ConfigMap",
            "metadata": {
                "name": "extension-apiserver-authentication", "namespace": "kube-system",
                "resourceVersion": str(self._version),
            },
            "data": self.config,
        }  # fmt: skip

    async def _configmaps(self, request: web.Request) -> web.StreamResponse:
        await self._pause()
        assert request.query["fieldSelector"] == "metadata.name=extension-apiserver-authentication"
        if request.query.get("watch") != "true":
            metadata = {"resourceVersion": str(self._version)}
            return web.json_response({"items": [self._object()], "metadata": metadata})
        response = web.StreamResponse()
        await response.prepare(request)
        if int(request.query["resourceVersion"]) == self._version:
            self._changed.clear()
            await self._changed.wait()
        event = {"type": "MODIFIED", "object": self._object()}
        await response.write(json.dumps(event).encode() + b"\n")
        return response

    async def review_token(self, request: web.Request) -> web.Response:
        await self._pause()
        self.token_reviews += 1
        user = self.tokens.get((await request.json())["spec"]["token"])
        status = {"authenticated": True, "user": user} if user else {"error": "unknown token"}
        return web.json_response({"kind": "TokenReview", "status": status}, status=201)

    async def review_access(self, request: web.Request) -> web.Response:
        await self._pause()
        spec = (await request.json())["spec"]
        self.reviews.append(spec)
        allowed = self.allows(spec)
        return web.json_response(
            {"kind": "SubjectAccessReview", "status": {"allowed": allowed}}, status=201
        )

    def allows(self, spec: dict[str, Any]) -> bool:
        """The decision on a SubjectAccessReview."""
        groups = set(spec.get("groups") or ())
        plain = spec.get("nonResourceAttributes")
        if plain is not None:
            path = plain["path"]
            if plain["verb"] != "get":
                return False
            known = any(path == item or path.startswith(f"{item}/") for item in _DISCOVERY)
            return path in _PUBLIC or ("system:authenticated" in groups and known)
        attributes = spec["resourceAttributes"]
        if self.needs_selector and "labelSelector" not in attributes:
            return False
        if attributes["group"] != GROUP or attributes["verb"] not in {"get", "list"}:
            return False
        if (spec["user"], attributes.get("namespace", "")) in self.granted:
            return True
        controller = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
        return spec["user"] == controller or (
            "team-a" in groups and attributes.get("namespace") == "team-a"
        )


@dataclass(frozen=True)
class Certificates:
    """A folder of certificates by name: NAME.crt and NAME.key, as a control plane for tests has them."""

    folder: Path
    authorities: dict[str, Authority]

    def write(self, name: str, pair: KeyPair) -> None:
        (self.folder / f"{name}.crt").write_bytes(pair.cert_pem)
        write_private(self.folder / f"{name}.key", pair.key_pem)


def certificates(folder: Path) -> Certificates:
    """Authorities and leaves under the names that the conformance cases use."""
    folder.mkdir(parents=True, exist_ok=True)
    authorities = {
        name: Authority.create(name) for name in ("ca", "fp-ca", "evil-ca", "serving-ca")
    }
    issued = Certificates(folder, authorities)
    for name, authority in authorities.items():
        (folder / f"{name}.crt").write_bytes(authority.cert_pem)
    leaves: tuple[tuple[str, str, str, list[str]], ...] = (
        ("admin", "ca", "admin", ["system:masters"]),
        ("alice", "ca", "alice", ["team-a"]),
        ("fp", "fp-ca", "front-proxy-client", []),
        ("fp-badcn", "fp-ca", "not-the-proxy", []),
        ("fp-evil", "evil-ca", "front-proxy-client", []),
        ("alice-evil", "evil-ca", "alice", ["system:masters"]),
    )
    for name, issuer, user, groups in leaves:
        issued.write(name, authorities[issuer].issue_client(user, groups))
    names = ["localhost", "wire.default.svc"]
    issued.write("serving", authorities["serving-ca"].issue_server(names, ["127.0.0.1"]))
    issued.write("kas", authorities["ca"].issue_server(["localhost"], ["127.0.0.1"]))
    return issued


def front_proxy(issued: Certificates) -> dict[str, str]:
    """Data of the front-proxy ConfigMap."""
    return {
        "client-ca-file": issued.authorities["ca"].cert_pem.decode(),
        "requestheader-client-ca-file": issued.authorities["fp-ca"].cert_pem.decode(),
        "requestheader-allowed-names": '["front-proxy-client"]',
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }


@contextlib.asynccontextmanager
async def running(issued: Certificates) -> AsyncIterator[tuple[StandIn, Path]]:
    """The stand-in over TLS, and a kubeconfig for it."""
    stand_in = StandIn(config=front_proxy(issued))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.folder / "kas.crt", issued.folder / "kas.key")
    runner = web.AppRunner(stand_in.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    client = issued.authorities["ca"].issue_client("variant-adapter", [])
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    path = issued.folder / "kubeconfig"
    path.write_text(kubeconfig(url, issued.authorities["ca"].cert_pem, client))
    try:
        yield stand_in, path
    finally:
        await runner.cleanup()


def printed_by_program(kubeconfig: Path) -> None:
    """Let a program print the client certificate that the file holds, in the file's place."""
    document = yaml.safe_load(kubeconfig.read_text())
    user = document["users"][0]["user"]
    pems = {
        f"client{kind}Data": base64.b64decode(user.pop(f"client-{name}-data")).decode()
        for kind, name in (("Certificate", "certificate"), ("Key", "key"))
    }
    answer = kubeconfig.with_name(f"{kubeconfig.name}-credentials.json")
    printed = {"apiVersion": PLUG_IN_VERSION, "kind": "ExecCredential", "status": pems}
    answer.write_text(json.dumps(printed))
    user["exec"] = {
        "apiVersion": PLUG_IN_VERSION, "command": "cat", "args": [str(answer)], "interactiveMode": "Never",
    }  # fmt: skip
    kubeconfig.write_text(yaml.safe_dump(document))

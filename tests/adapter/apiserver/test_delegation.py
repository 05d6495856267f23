"""Two owners of one API: ours stay ours, others are asked, and neither takes the other down."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from adapter import errors
from adapter.apiserver import delegation, handlers
from adapter.apiserver.probes import Probes
from adapter.apiserver.provider import Merged
from adapter.auth import authentication, authorization
from adapter.store import OWN_METRICS, Series, TargetStore
from adapter.tls import listener
from adapter.tls.certificates import Certificates
from tests.fakes import kubernetes_stand_in as stand_ins

BASE = "/apis/external.metrics.k8s.io/v1beta1"
OURS, THEIRS = "inferno_desired_replicas", "s0-rabbitmq-queue"


def store(metric: str, value: str) -> TargetStore:
    targets = TargetStore()
    targets.publish(
        [
            Series(
                metric=metric,
                namespace=None,
                labels={},
                value=value,
                decided_at=0.0,
                valid_until=None,
            )
        ]
    )
    return targets


@dataclass
class Pair:
    """Our server before another adapter, both of them this software or a bare one."""

    url: str
    other: str
    folder: Path
    delegate: delegation.Delegate

    async def get(
        self, path: str, *, base: str | None = None, certificate: str = "alice", **headers: str
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        context = ssl.create_default_context(cafile=str(self.folder / "serving-ca.crt"))
        context.load_cert_chain(
            self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key"
        )
        async with (
            aiohttp.ClientSession() as session,
            session.get((base or self.url) + path, ssl=context, headers=headers) as response,
        ):
            if response.content_type == "application/json":
                return response.status, await response.json(), response
            return response.status, await response.text(), response


@contextlib.asynccontextmanager
async def serving(
    folder: Path, target_store: TargetStore, delegate: delegation.Delegate | None
) -> AsyncIterator[str]:
    config = authentication.IdentityConfig(
        client_cas=(folder / "ca.crt").read_bytes(),
        requestheader_cas=(folder / "fp-ca.crt").read_bytes(),
    )
    application = handlers.application(
        provider=target_store
        if delegate is None
        else Merged(target_store, delegate, reserved=OWN_METRICS),
        authenticator=authentication.Authenticator(config),
        policy=authorization.LocalPolicy(),
        probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
    )
    cas = (folder / "ca.crt").read_bytes() + (folder / "fp-ca.crt").read_bytes()
    certificates = Certificates(folder / "serving.crt", folder / "serving.key", cas)
    async with listener.listening(
        application, host="127.0.0.1", port=0, certificates=certificates
    ) as port:
        yield f"https://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def bare(folder: Path, handler: Any) -> AsyncIterator[str]:
    """Another adapter that answers whatever the test says."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "serving.crt", folder / "serving.key")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def before(folder: Path, other: str, **options: Any) -> AsyncIterator[Pair]:
    given = {"certificate": folder / "fp.crt", "key": folder / "fp.key", **options}
    async with (
        delegation.delegating(
            delegation.DelegateOptions(url=other, ca_file=folder / "serving-ca.crt", **given)
        ) as delegate,
        serving(folder, store(OURS, "3"), delegate) as url,
    ):
        yield Pair(url, other, folder, delegate)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    stand_ins.certificates(tmp_path)
    async with (
        serving(tmp_path, store(THEIRS, "9"), None) as other,
        before(tmp_path, other) as chained,
    ):
        yield chained


async def test_each_metric_comes_from_its_owner(pair: Pair) -> None:
    """Ours is answered here; the other's value, its not-found and its bad request come from there."""
    assert (await pair.get(f"{BASE}/namespaces/ns/{OURS}"))[1]["items"][0]["value"] == "3"
    assert (await pair.get(f"{BASE}/namespaces/ns/{THEIRS}"))[1]["items"][0]["value"] == "9"
    for path in (
        f"{BASE}/namespaces/ns/{THEIRS}?labelSelector=a%3D%3D%3Db",
        f"{BASE}/namespaces/ns/x",
    ):
        through = await pair.get(path)
        direct = await pair.get(path, base=pair.other)
        assert through[:2] == direct[:2]


async def test_discovery_is_merged(pair: Pair) -> None:
    """Both adapters' metrics are listed, plain and aggregated."""
    await pair.delegate.discover()
    names = [item["name"] for item in (await pair.get(BASE))[1]["resources"]]
    assert names == [OURS, THEIRS]
    kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    _, document, response = await pair.get("/apis", Accept=kind)
    assert response.headers["Content-Type"] == kind
    (version,) = document["items"][0]["versions"]
    assert [item["resource"] for item in version["resources"]] == [OURS, THEIRS]
    tag = response.headers["ETag"]
    assert (await pair.get("/apis", **{"Accept": kind, "If-None-Match": tag}))[0] == 304


async def test_the_callers_identity_is_passed_on(tmp_path: Path) -> None:
    """Beside our front-proxy certificate: name, groups and extras of the caller, and not its own headers."""
    stand_ins.certificates(tmp_path)
    seen: list[web.BaseRequest] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=429, text="slow", headers={"Retry-After": "1", "X-Secret": "1"})

    async with bare(tmp_path, handler) as other, before(tmp_path, other) as pair:
        status, text, response = await pair.get(
            f"{BASE}/namespaces/ns/x?labelSelector=a%20in%20(b)&unknown=%C3%A4",
            certificate="fp",
            **{"X-Remote-User": "eve", "X-Remote-Group": "g", "X-Remote-Extra-A.b%2fc": "v"},
        )
    assert (status, text) == (429, "slow")
    assert "Retry-After" not in response.headers
    assert "X-Secret" not in response.headers
    last = seen[-1]
    assert last.headers.getall("X-Remote-Group") == ["g", "system:authenticated"]
    assert last.headers["X-Remote-User"] == "eve"
    assert last.headers["X-Remote-Extra-a.b%2Fc"] == "v"
    assert last.path_qs.endswith("/x?labelSelector=a%20in%20(b)&unknown=%C3%A4")


async def test_a_token_goes_plain(tmp_path: Path) -> None:
    """With a token file the other sees our service account and no user headers; the file is read anew."""
    stand_ins.certificates(tmp_path)
    token = tmp_path / "token"
    token.write_text("first\n")
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.copy())
        return web.json_response({"items": []})

    options = {"certificate": None, "key": None, "token_file": token}
    async with bare(tmp_path, handler) as other, before(tmp_path, other, **options) as pair:
        await pair.get(f"{BASE}/namespaces/ns/x")
        token.write_text("second")
        await pair.get(f"{BASE}/namespaces/ns/x")
        assert seen[-2]["Authorization"] == "Bearer first"
        assert seen[-1]["Authorization"] == "Bearer second"
        assert "X-Remote-User" not in seen[-1]
        token.unlink()
        status, document, _ = await pair.get(f"{BASE}/namespaces/ns/x")
        assert (status, document["reason"]) == (503, "ServiceUnavailable")


@pytest.mark.virtual_time
async def test_the_other_being_down_or_slow_takes_nothing_of_ours(tmp_path: Path) -> None:
    """Its metrics become 503 without Retry-After, in time; ours, discovery and health go on."""
    stand_ins.certificates(tmp_path)

    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with bare(tmp_path, handler) as slow:
        for other in (slow, "https://127.0.0.1:1"):
            async with before(tmp_path, other, timeout_seconds=0.3) as pair:
                status, document, response = await pair.get(f"{BASE}/namespaces/ns/{THEIRS}")
                assert (status, document["reason"]) == (503, "ServiceUnavailable")
                assert "Retry-After" not in response.headers
                assert (await pair.get(f"{BASE}/namespaces/ns/{OURS}"))[0] == 200
                assert (await pair.get(BASE))[0] == 200
                assert (await pair.get("/readyz"))[0] == 200


async def test_what_is_known_of_the_other_stays_known(tmp_path: Path) -> None:
    """Discovery keeps its metrics while it is down; nonsense for an answer changes nothing."""
    stand_ins.certificates(tmp_path)
    answers: list[Any] = [
        {"resources": [{"name": "a"}, {"name": 3}, 5]},
        [1],
        "{",
        {"resources": 1},
    ]

    async def handler(_: web.Request) -> web.Response:
        answer = answers[0]
        return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer)

    async with contextlib.AsyncExitStack() as stack:
        up = await stack.enter_async_context(contextlib.AsyncExitStack())
        other = await up.enter_async_context(bare(tmp_path, handler))
        pair = await stack.enter_async_context(before(tmp_path, other))
        for answer in list(answers):
            answers[:] = [answer]
            await pair.delegate.discover()
            assert pair.delegate.list_external_metrics() == ("a",)
        await up.aclose()
        await pair.delegate.discover()
        assert pair.delegate.list_external_metrics() == ("a",)


async def test_who_may_not_here_is_not_asked_there(pair: Pair) -> None:
    """Authorisation is ours: without rights nothing is passed on."""
    context = ssl.create_default_context(cafile=str(pair.folder / "serving-ca.crt"))
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{pair.url}{BASE}/namespaces/ns/{THEIRS}", ssl=context) as response,
    ):
        assert response.status == 403


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "http://x"}, "must be https://HOST"),
        ({"url": "https://x/path"}, "must be https://HOST"),
        ({"url": "https://x", "certificate": Path("c")}, "go together"),
        ({"url": "https://x", "ca_file": Path("/none")}, "certificates cannot be used"),
        (
            {
                "url": "https://x",
                "certificate": Path("c"),
                "key": Path("k"),
                "token_file": Path("t"),
            },
            "exclude each other",
        ),
    ],
)
async def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    """The start ends with the flag and the fix."""
    with pytest.raises(errors.StartupError, match=said):
        async with delegation.delegating(delegation.DelegateOptions(**options)):
            pass

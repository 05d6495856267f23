"""The API over real TLS: who gets in, what is answered, and how errors look."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from adapter import api, errors, identity, listener, selectors
from adapter.series import Series
from adapter.targets import TargetStore
from certs.authority import Authority, KeyPair

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/inferno_desired_replicas"


def series(name: str, value: str, *, until: float | None = None) -> Series:
    return Series(
        metric="inferno_desired_replicas",
        namespace="ns",
        labels={"variant_name": name, "accelerator_type": "A100"},
        value=value,
        decided_at=1_700_000_000.9,
        valid_until=until,
    )


@dataclass
class Running:
    """A server with its authorities."""

    url: str
    folder: Path
    clients: Authority
    proxies: Authority
    server_ca: Authority
    store: TargetStore
    now: list[float] = field(default_factory=lambda: [1_700_000_010.0])

    async def get(
        self,
        path: str,
        *,
        pair: KeyPair | None = None,
        headers: dict[str, str] | None = None,
        method: str = "GET",
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        context = ssl.create_default_context(cadata=self.server_ca.cert_pem.decode())
        if pair is not None:
            (self.folder / "c.crt").write_bytes(pair.cert_pem)
            (self.folder / "c.key").write_bytes(pair.key_pem)
            context.load_cert_chain(self.folder / "c.crt", self.folder / "c.key")
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, ssl=context, headers=headers) as response,
        ):
            if response.content_type == "application/json":
                return response.status, await response.json(), response
            return response.status, await response.text(), response


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    clients, proxies = Authority.create("clients"), Authority.create("proxies")
    server_ca = Authority.create("server")
    pair = server_ca.issue_server(["localhost"], ["127.0.0.1"])
    (folder / "s.crt").write_bytes(pair.cert_pem)
    (folder / "s.key").write_bytes(pair.key_pem)
    store = TargetStore()
    found = Running("", folder, clients, proxies, server_ca, store)
    app = api.application(
        store=store,
        authenticator=identity.Authenticator(
            identity.IdentityConfig(
                client_cas=clients.cert_pem,
                requestheader_cas=proxies.cert_pem,
                allowed_names=("front-proxy-client",),
            )
        ),
        policy=identity.LocalPolicy(),
        readiness={"ping": lambda: None},
        metrics_registry=CollectorRegistry(),
        now=lambda: found.now[0],
    )
    certificates = listener.Certificates(
        folder / "s.crt", folder / "s.key", clients.cert_pem + proxies.cert_pem
    )
    async with listener.listening(app, host="127.0.0.1", port=0, certificates=certificates) as port:
        found.url = f"https://127.0.0.1:{port}"
        yield found


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as found:
        found.store.publish([series("a", "3"), series("b", "2500m", until=1_700_000_020.0)])
        yield found


async def test_a_selected_metric_is_answered_exactly(server: Running) -> None:
    """One item per variant, whole-second timestamp of the decision, value as text."""
    alice = server.clients.issue_client("alice")
    status, body, response = await server.get(
        METRIC + "?labelSelector=variant_name%3Da", pair=alice
    )
    assert status == 200
    assert body == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "inferno_desired_replicas",
                "metricLabels": {"variant_name": "a", "accelerator_type": "A100"},
                "timestamp": "2023-11-14T22:13:20Z",
                "value": "3",
            }
        ],
    }
    assert response.headers["Cache-Control"] == "no-cache, private"
    assert "Server" not in response.headers


async def test_a_target_past_its_time_to_live_is_left_out(server: Running) -> None:
    """At valid_until the item is gone and the list empty: the HPA then keeps its replicas."""
    alice = server.clients.issue_client("alice")
    path = METRIC + "?labelSelector=variant_name%3Db"
    server.now[0] = 1_700_000_019.9
    assert len((await server.get(path, pair=alice))[1]["items"]) == 1
    server.now[0] = 1_700_000_020.0
    assert (await server.get(path, pair=alice))[1]["items"] == []


@pytest.mark.parametrize(
    ("method", "path", "code", "reason"),
    [
        ("GET", "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns", 404, "NotFound"),
        ("GET", METRIC + "/more", 404, "NotFound"),
        ("GET", METRIC + "?labelSelector=a,,b", 400, "BadRequest"),
        ("GET", METRIC + "?watch=true", 405, "MethodNotAllowed"),
        ("POST", METRIC, 405, "MethodNotAllowed"),
    ],
)
async def test_errors_are_statuses(
    server: Running, method: str, path: str, code: int, reason: str
) -> None:
    """Whatever is wrong is answered as a metav1.Status with the right code and reason."""
    admin = server.clients.issue_client("admin", ["system:masters"])
    status, body, _ = await server.get(path, pair=admin, method=method)
    assert (status, body["kind"], body["reason"], body["code"]) == (code, "Status", reason, code)


async def test_discovery_lists_the_published_metric(server: Running) -> None:
    """The version's resource list names the metric, and the group list the group."""
    alice = server.clients.issue_client("alice")
    _, body, _ = await server.get("/apis/external.metrics.k8s.io/v1beta1", pair=alice)
    assert [item["name"] for item in body["resources"]] == ["inferno_desired_replicas"]
    _, groups, _ = await server.get("/apis", pair=alice)
    assert groups["groups"][0]["name"] == "external.metrics.k8s.io"


async def test_who_gets_in(server: Running) -> None:
    """Certificates decide; headers count only from a proxy with an allowed name."""
    proxy = server.proxies.issue_client("front-proxy-client")
    badly_named = server.proxies.issue_client("not-the-proxy")
    alice = server.clients.issue_client("alice")
    user = {"X-Remote-User": "bob"}
    masters = user | {"X-Remote-Group": "system:masters"}
    assert (await server.get("/healthz"))[:2] == (200, "ok")
    assert (await server.get(METRIC))[0] == 403
    assert (await server.get(METRIC, headers=masters))[0] == 403
    assert (await server.get(METRIC, headers={"Authorization": "Bearer x"}))[0] == 401
    assert (await server.get(METRIC, pair=proxy, headers=user))[0] == 200
    assert (await server.get(METRIC, pair=proxy))[0] == 401
    assert (await server.get(METRIC, pair=badly_named, headers=user))[0] == 401
    status, body, _ = await server.get(METRIC, pair=alice, headers=masters, method="POST")
    assert status == 403
    assert 'User "alice" cannot create' in body["message"]


def test_two_items_that_the_hpa_would_sum_are_refused() -> None:
    """The same labels twice, or a negative value, never reach a snapshot."""
    store = TargetStore()
    store.publish([series("a", "1")])
    with pytest.raises(ValueError, match="twice"):
        store.publish([series("b", "1"), series("b", "2")])
    with pytest.raises(ValueError, match="negative"):
        store.publish([series("b", "-1")])
    assert len(store.answer("ns", "inferno_desired_replicas", None, now=0)) == 1


def test_a_certificate_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    """A missing file and a file that is no PEM are errors with the path."""
    with pytest.raises(errors.StartupError, match=r"none\.crt: cannot be read"):
        listener.server_context(tmp_path / "none.crt", tmp_path / "none.key", b"")
    (tmp_path / "x").write_text("no PEM")
    with pytest.raises(errors.StartupError, match="no PEM"):
        listener.server_context(tmp_path / "x", tmp_path / "x", b"")


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        ("a=1", {"a": "1"}, True),
        ("a==1", {"a": "2"}, False),
        ("a!=1", {}, True),
        ("a in (1, 2)", {"a": "2"}, True),
        ("a in ()", {"a": ""}, True),
        ("a notin (1)", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("! a", {}, True),
        ("a>4", {"a": "5"}, True),
        ("a<4", {"a": "x"}, False),
        ("a=1,b!=2", {"a": "1", "b": "2"}, False),
        ("x.io/y=Z", {"x.io/y": "Z"}, True),
        ("in=1", {"in": "1"}, True),
    ],
)
def test_selectors_match(text: str, labels: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    """Each operator matches as kube-apiserver's does."""
    assert selectors.parse(text).matches(labels) is expected


@pytest.mark.parametrize("text", ["a,", ",a", "a=b=c", "a in 1", "=a", "a IN (b)", "a=a/b", "a>x"])
def test_bad_selectors_are_refused(text: str) -> None:
    """A malformed selector is an error, never an empty selector that matches everything."""
    with pytest.raises(selectors.SelectorError):
        selectors.parse(text)

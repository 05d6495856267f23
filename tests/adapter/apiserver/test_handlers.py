"""The API over real TLS: who gets in, what is answered, and how errors look."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry

from adapter import errors
from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.auth import authentication, authorization
from adapter.kube import labels as selectors
from adapter.store import Series, TargetStore
from adapter.tls import listener
from adapter.tls.certificates import Certificates, server_context
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
    now: list[float]

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
    now = [1_700_000_010.0]
    store = TargetStore(now=lambda: now[0])
    server = Running("", folder, clients, proxies, server_ca, store, now)
    app = handlers.application(
        provider=store,
        authenticator=authentication.Authenticator(
            authentication.IdentityConfig(
                client_cas=clients.cert_pem,
                requestheader_cas=proxies.cert_pem,
                allowed_names=("front-proxy-client",),
            )
        ),
        policy=authorization.LocalPolicy(),
        probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
        now=lambda: server.now[0],
    )
    certificates = Certificates(
        folder / "s.crt", folder / "s.key", clients.cert_pem + proxies.cert_pem
    )
    async with listener.listening(app, host="127.0.0.1", port=0, certificates=certificates) as port:
        server.url = f"https://127.0.0.1:{port}"
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path) as running_server:
        running_server.store.publish(
            [series("a", "3"), series("b", "2500m", until=1_700_000_020.0)]
        )
        yield running_server


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
        server_context(tmp_path / "none.crt", tmp_path / "none.key", b"")
    (tmp_path / "x").write_text("no PEM")
    with pytest.raises(errors.StartupError, match="no PEM"):
        server_context(tmp_path / "x", tmp_path / "x", b"")


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


def client(server: Running) -> KeyPair:
    return server.clients.issue_client("reader", [])


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("limit=1&continue=x&resourceVersion=5&timeoutSeconds=5&unknown=1&watch=false", 200, ""),
        ("limit=abc", 400, 'strconv.ParseInt: parsing "abc": invalid syntax'),
        ("timeoutSeconds=1.5", 400, 'strconv.ParseInt: parsing "1.5": invalid syntax'),
        ("timeout=1m30s", 200, ""),
        (
            "timeout=abc",
            400,
            'invalid timeout specified in the request URL - time: invalid duration "abc"',
        ),
        ("fieldSelector=metadata.name%3Dx,metadata.namespace!%3Dy", 200, ""),
        (
            "fieldSelector=spec.foo%3Dx",
            400,
            '"spec.foo" is not a known field selector: only "metadata.name"',
        ),
        ("fieldSelector=metadata.name", 400, "invalid selector"),
        ("resourceVersionMatch=Exact", 422, "is forbidden unless resourceVersion is provided"),
        ("sendInitialEvents=true", 422, "is forbidden"),
        ("watch=true", 405, "watch is not supported on resources of kind"),
        ("labelSelector=&labelSelector=nothing%3Dx", 200, ""),
        (
            "labelSelector=a%3D%3D%3Db",
            400,
            "unable to parse requirement: found '=', expected: identifier",
        ),
        ("labelSelector=a%2C", 400, "found '', expected: identifier after ','"),
    ],
)
async def test_query_parameters(server: Running, query: str, status: int, said: str) -> None:
    """What has no effect is taken, what has no meaning is refused in kube-apiserver's words."""
    answered, document, _ = await server.get(f"{METRIC}?{query}", pair=client(server))
    assert answered == status
    if status == 200:
        assert len(document["items"]) == 2
    else:
        assert said in document["message"]
        assert document["code"] == status


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("application/json;charset=utf-8", "application/json"),
        ("application/vnd.kubernetes.protobuf, */*", "application/json"),
        ("application/yaml", "application/yaml"),
        ("application/json;q=0.1,application/yaml", "application/yaml"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json"),
    ],
)
async def test_representations(server: Running, accept: str, kind: str) -> None:
    """JSON and YAML of the same answer, by weight and order of what is accepted."""
    status, body, response = await server.get(
        METRIC, pair=client(server), headers={"Accept": accept}
    )
    assert (status, response.headers["Content-Type"]) == (200, kind)
    document = yaml.safe_load(body) if kind.endswith("yaml") else body
    assert [item["value"] for item in document["items"]] == ["3", "2500m"]


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/*", "APPLICATION/JSON", "application/cbor"]
)
async def test_other_representations_are_not_acceptable(server: Running, accept: str) -> None:
    """406 names what there is, indented JSON; an error comes as YAML to who takes that."""
    status, document, _ = await server.get(METRIC, pair=client(server), headers={"Accept": accept})
    assert (status, document["reason"]) == (406, "NotAcceptable")
    assert document["message"].endswith("application/json, application/yaml")
    headers = {"Accept": "application/yaml"}
    status, text, _ = await server.get(f"{METRIC}?limit=x", pair=client(server), headers=headers)
    assert (status, yaml.safe_load(text)["reason"]) == (400, "BadRequest")


async def test_openapi_is_there_and_revalidated(server: Running) -> None:
    """v2 and v3 with an ETag; the v3 index leads to the group's document; other types are 406."""
    pair = client(server)
    status, v2, response = await server.get("/openapi/v2", pair=pair)
    assert (status, v2["swagger"]) == (200, "2.0")
    tag = response.headers["ETag"]
    assert (await server.get("/openapi/v2", pair=pair, headers={"If-None-Match": tag}))[0] == 304
    _, index, _ = await server.get("/openapi/v3", pair=pair)
    (entry,) = index["paths"].values()
    status, v3, _ = await server.get(entry["serverRelativeURL"], pair=pair)
    assert (status, v3["openapi"]) == (200, "3.0.0")
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{resource}"
    assert path in v2["paths"]
    assert path in v3["paths"]
    assert (await server.get("/openapi/v2", pair=pair, headers={"Accept": "text/x"}))[0] == 406


async def test_large_answers_are_compressed_for_who_takes_that(server: Running) -> None:
    """Above 128 KiB: gzip with Vary; below, and for others, plain."""
    pair = client(server)
    server.store.publish(series(f"v{number}", "3") for number in range(2000))
    status, document, response = await server.get(
        METRIC, pair=pair, headers={"Accept-Encoding": "gzip"}
    )
    assert (status, len(document["items"])) == (200, 2000)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Vary"] == "Accept-Encoding"
    _, _, plain = await server.get(METRIC, pair=pair, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers


async def test_health_in_detail(server: Running) -> None:
    """Verbose lists the checks, one may be excluded or asked alone, an unknown one is not found."""
    pair = client(server)
    assert (await server.get("/readyz?verbose", pair=pair))[
        1
    ] == "[+]ping ok\nreadyz check passed\n"
    text = (await server.get("/readyz?verbose&exclude=ping", pair=pair))[1]
    assert text == "[+]ping excluded: ok\nreadyz check passed\n"
    assert (await server.get("/readyz/ping", pair=pair))[:2] == (200, "ok")
    assert (await server.get("/readyz/pong", pair=pair))[0] == 404
    assert (await server.get("/livez"))[:2] == (200, "ok")


async def test_freshness_is_measured(server: Running) -> None:
    """/metrics has the ages of what was served."""
    pair = client(server)
    await server.get(METRIC, pair=pair)
    text = (await server.get("/metrics", pair=pair))[1]
    name = 'metrics_apiserver_metric_freshness_seconds_count{group="external.metrics.k8s.io"}'
    assert f"{name} 2.0" in text


async def test_paths_that_are_none(server: Running) -> None:
    """Below the group a Status, elsewhere the list of paths; both 404."""
    pair = client(server)
    base = "/apis/external.metrics.k8s.io/v1beta1"
    for path in (
        f"{base}/m", f"{base}/namespaces", f"{base}/namespaces/ns", f"{METRIC}/foo",
        f"{base}/namespaces/ns/a%2Fb", "/apis/external.metrics.k8s.io/v2",
    ):  # fmt: skip
        status, document, _ = await server.get(path, pair=pair)
        assert (status, document["reason"], document["details"]) == (404, "NotFound", {}), path
    status, document, _ = await server.get("/nowhere", pair=pair)
    assert status == 404
    assert "/apis/external.metrics.k8s.io/v1beta1" in document["paths"]

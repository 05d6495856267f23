"""Delegated auth: the identity table, caches, failures, and certificates that change while serving."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from multidict import CIMultiDict
from prometheus_client import CollectorRegistry

from adapter import cli, errors
from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.app import flag_options
from adapter.auth import authentication, authorization, delegated, reviews, users
from adapter.auth.cache import Cache
from adapter.commands import serve
from adapter.kube import client
from adapter.store import Series, TargetStore
from adapter.tls import connections, listener
from adapter.tls.certificates import Certificates
from certs.authority import Authority
from tests.fakes import kubernetes_stand_in as stand_ins

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/m"
HANG_SECONDS = 300.0
"""After which a wait in real time counts as endless: it decides nothing else."""
MASTER = [("X-Remote-User", "admin"), ("X-Remote-Group", "system:masters")]


@dataclass
class Guarded:
    """A server whose identities come from the stand-in."""

    url: str
    folder: Path
    certificates: stand_ins.Certificates
    stand_in: stand_ins.StandIn

    def context(self, certificate: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "serving-ca.crt"))
        if certificate is not None:
            context.load_cert_chain(
                self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key"
            )
        return context

    async def get(
        self,
        path: str = METRIC,
        *,
        certificate: str | None = None,
        headers: list[tuple[str, str]] | None = None,
    ) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                self.url + path, headers=CIMultiDict(headers or []), ssl=self.context(certificate)
            ) as response,
        ):
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[Guarded]:
    certificates = stand_ins.certificates(folder)
    store = TargetStore()
    store.publish(
        [Series(metric="m", namespace=None, labels={}, value="3", decided_at=0.0, valid_until=None)]
    )
    async with (
        stand_ins.running(certificates) as (stand_in, kubeconfig),
        client.connected(kubeconfig) as cluster,
        delegated.delegated_auth(
            cluster, certificate=folder / "serving.crt", key=folder / "serving.key"
        ) as auth,
    ):
        stand_in.tokens["good"] = {
            "username": "bot", "groups": ["team-a"], "uid": "1", "extra": {"k": ["v"]},
        }  # fmt: skip
        stand_in.tokens["nobody"] = {"username": ""}
        application = handlers.application(
            provider=store,
            authenticator=auth.authenticator,
            policy=auth.policy,
            probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
        )
        async with listener.listening(
            application, host="127.0.0.1", port=0, certificates=auth.certificates
        ) as port:
            yield Guarded(f"https://127.0.0.1:{port}", folder, certificates, stand_in)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path) as guarded_server:
        yield guarded_server


@pytest.mark.parametrize(
    ("certificate", "headers", "status"),
    [
        (None, [], 403),
        (None, [("Authorization", "Basic YTpi")], 403),
        (None, [("Authorization", "Bearer ")], 403),
        (None, MASTER, 403),
        ("fp", MASTER, 200),
        ("fp", [("X-Remote-User", "eve"), ("X-Remote-Group", "team-a")], 200),
        ("fp", [("X-Remote-User", "eve"), ("X-Remote-Group", "team-b")], 403),
        ("fp", [], 401),
        ("fp", [("X-Remote-User", "")], 401),
        ("fp", [("X-Remote-Group", "system:masters")], 401),
        ("fp-badcn", MASTER, 401),
        ("alice", [], 200),
        ("alice", MASTER, 200),
        ("admin", [], 200),
        (None, [("Authorization", "Bearer good")], 200),
        (None, [("Authorization", "bearer good")], 200),
        (None, [("Authorization", "Bearer bad")], 401),
        (None, [("Authorization", "Bearer nobody")], 401),
        ("alice", [("Authorization", "Bearer bad")], 200),
        ("fp", [*MASTER, ("Authorization", "Bearer bad")], 200),
        ("fp-badcn", [("Authorization", "Bearer good")], 200),
        ("admin", [("Impersonate-User", "alice")], 403),
    ],
)
async def test_the_identity_table(
    server: Guarded, certificate: str | None, headers: list[tuple[str, str]], status: int
) -> None:
    """Each row of the contract: which credentials count, and which are ignored."""
    answered, text = await server.get(certificate=certificate, headers=headers)
    assert answered == status, text


async def test_the_same_path_is_decided_for_each_user_anew(server: Guarded) -> None:
    """On one front-proxy connection every request is authorized, negotiated and filtered on its own."""
    rows = [
        ("eve", "team-a", "*/*", "", 200), ("eve", "team-b", "*/*", "", 403),
        ("admin", "system:masters", "*/*", "", 200), ("", "team-a", "*/*", "", 401),
        ("eve", "team-a", "text/plain", "", 406), ("eve", "team-a", "application/yaml", "", 200),
        ("eve", "team-a", "*/*", "?labelSelector=a%20in", 400), ("eve", "team-b", "text/plain", "", 403),
        ("eve", "team-a", "*/*", "?labelSelector=a%3Db", 200),
        ("eve", "team-b", "*/*", "?labelSelector=a%3Db", 403),
    ]  # fmt: skip
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        for user, group, accept, query, status in rows * 2:
            async with session.get(
                f"{server.url}{METRIC}{query}",
                headers={"X-Remote-User": user, "X-Remote-Group": group, "Accept": accept},
                ssl=server.context("fp"),
            ) as response:
                text = await response.text()
            assert response.status == status, (user, group, accept, query, text)
            if status == 200:
                three = "value: '3'" if accept == "application/yaml" else '"value":"3"'
                assert (three in text) == (not query)


@pytest.mark.parametrize("certificate", ["fp-evil", "alice-evil"])
async def test_other_authorities_do_not_get_in(server: Guarded, certificate: str) -> None:
    """A certificate that nobody we trust has signed ends the handshake, on health paths too."""
    for path in (METRIC, "/healthz"):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await server.get(path, certificate=certificate, headers=MASTER)


async def test_a_client_certificate_with_proxy_headers_is_no_proxy(server: Guarded) -> None:
    """The user of a cluster certificate is its own name, whatever the headers say."""
    status, _ = await server.get(
        METRIC.replace("team-a", "other"), certificate="alice", headers=MASTER
    )
    assert status == 403
    assert server.stand_in.reviews[-1]["user"] == "alice"
    assert server.stand_in.reviews[-1]["groups"] == ["team-a", "system:authenticated"]


async def test_a_token_is_its_reviewed_user(server: Guarded) -> None:
    """Name, groups, uid and extra come from the review, with system:authenticated."""
    await server.get(headers=[("Authorization", "Bearer good")])
    spec = server.stand_in.reviews[-1]
    assert (spec["user"], spec["uid"], spec["extra"]) == ("bot", "1", {"k": ["v"]})
    assert spec["groups"] == ["team-a", "system:authenticated"]


@pytest.mark.virtual_time
async def test_reviews_are_cached_and_shared(server: Guarded) -> None:
    """Concurrent requests share one review; later ones are answered from the cache."""
    server.stand_in.delay = 0.2
    headers = [("Authorization", "Bearer good")]
    answers = await asyncio.gather(*(server.get(headers=headers) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert (server.stand_in.token_reviews, len(server.stand_in.reviews)) == (1, 1)


async def test_a_cluster_that_fails_lets_nobody_in(server: Guarded) -> None:
    """Fail closed: 500 for certificates, 401 for tokens; masters and health paths need no review."""
    server.stand_in.broken = True
    status, text = await server.get(certificate="alice")
    assert status == 500
    assert text.startswith(f'Internal Server Error: "{METRIC}": subjectaccessreviews')
    assert (await server.get(headers=[("Authorization", "Bearer good")]))[0] == 401
    assert (await server.get(certificate="admin"))[0] == 200
    assert (await server.get("/readyz"))[0] == 200
    server.stand_in.broken = False
    assert (await server.get(certificate="alice"))[0] == 200  # an error is not remembered


async def test_decisions_expire() -> None:
    """Decisions are cached for ten seconds; the cache is bounded; errors are not cached."""
    now, asked = [0.0], []

    async def review(
        user: users.User, attributes: authorization.Attributes
    ) -> authorization.AccessDecision:
        asked.append(user.name)
        if user.name == "broken":
            raise users.ReviewError("no")
        return authorization.AccessDecision(allowed=True)

    policy = authorization.ClusterPolicy(review, clock=lambda: now[0])
    attributes = authorization.Attributes(verb="list", path="/x", resource="m")
    alice = users.User(name="alice", groups=())
    for at, expected in ((0.0, 1), (9.9, 1), (10.1, 2)):
        now[0] = at
        await policy.decide(alice, attributes)
        assert len(asked) == expected
    for _ in range(2):
        with pytest.raises(users.ReviewError):
            await policy.decide(users.User(name="broken", groups=()), attributes)
    assert asked.count("broken") == 2
    for number in range(5000):
        await policy.decide(users.User(name=str(number), groups=()), attributes)
    assert len(policy._decisions) == 4096


async def test_a_client_that_leaves_takes_no_answer_from_the_others() -> None:
    """Cancelling one who waits leaves the review running for the rest."""
    cache: Cache[int] = Cache(clock=lambda: 0.0)
    go = asyncio.Event()

    async def ask() -> int:
        await go.wait()
        return 7

    first = asyncio.create_task(cache.get("k", ask))
    second = asyncio.create_task(cache.get("k", ask))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == 7


@pytest.mark.virtual_time
async def test_new_front_proxy_authorities_are_taken_up(server: Guarded) -> None:
    """When the ConfigMap changes, the new authority's proxies get in and the old one's no longer."""
    fresh = Authority.create("fp-new")
    server.certificates.write("fp-new", fresh.issue_client("front-proxy-client", []))
    assert (await server.get(certificate="fp", headers=MASTER))[0] == 200
    server.stand_in.change(requestheader_client_ca_file=fresh.cert_pem.decode())
    await eventually(server, "fp-new", 200)
    with pytest.raises((aiohttp.ClientError, OSError)):
        await server.get(certificate="fp", headers=MASTER)
    server.stand_in.change(requestheader_allowed_names='["someone-else"]')
    await eventually(server, "fp-new", 401)
    server.stand_in.change(requestheader_allowed_names="nonsense")
    await asyncio.sleep(0.2)  # virtual: the nonsense has been read
    server.stand_in.change(requestheader_allowed_names='["front-proxy-client"]')
    await eventually(server, "fp-new", 200)


async def eventually(server: Guarded, certificate: str, status: int) -> None:
    """Wait, in virtual time, until requests with a certificate get that status."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                if (await server.get(certificate=certificate, headers=MASTER))[0] == status:
                    return
            await asyncio.sleep(0.05)


async def test_certificates_are_exchanged_under_load_without_a_failure(server: Guarded) -> None:
    """A new serving certificate is used by new connections; no request fails on the way."""
    authority = server.certificates.authorities["serving-ca"]
    failed: list[str] = []
    answered = 0
    stop = asyncio.Event()

    async def load() -> None:
        nonlocal answered
        context = server.context("alice")
        connector = aiohttp.TCPConnector(ssl=context, limit=4)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not stop.is_set():
                fresh = {"Connection": "close"} if answered % 3 == 0 else {}
                try:
                    async with session.get(server.url + METRIC, headers=fresh) as response:
                        if response.status != 200:
                            failed.append(str(response.status))
                        await response.read()
                        answered += 1
                except (aiohttp.ClientError, OSError) as error:
                    failed.append(repr(error))

    async def serial() -> int:
        def handshake() -> int:
            pem = ssl.get_server_certificate(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
            return hash(pem)

        return await asyncio.to_thread(handshake)

    workers = [asyncio.create_task(load()) for _ in range(4)]
    seen = {await serial()}
    for number in range(2):
        pair = authority.issue_server(["localhost"], ["127.0.0.1"])
        for name, data in (("crt", pair.cert_pem), ("key", pair.key_pem)):
            draft = server.folder / f"new-{number}.{name}"
            draft.write_bytes(data)
            shutil.move(draft, server.folder / f"serving.{name}")
            await asyncio.sleep(0.05)
        async with asyncio.timeout(HANG_SECONDS):
            while (current := await serial()) in seen:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.1)
            # Each worker uses it too, on kept connections and on new ones.
            enough = answered + 40
            while answered < enough:  # noqa: ASYNC110 - the load tells nobody
                await asyncio.sleep(0.05)
        seen.add(current)
    stop.set()
    await asyncio.gather(*workers)
    assert failed == []
    assert len(seen) == 3


@pytest.mark.virtual_time
async def test_too_many_connections_are_closed_and_the_others_served(tmp_path: Path) -> None:
    """Beyond the limit the oldest without authentication ends at once; the others work on."""
    issued = stand_ins.certificates(tmp_path)
    certificates = Certificates(
        tmp_path / "serving.crt", tmp_path / "serving.key", issued.authorities["ca"].cert_pem
    )
    config = authentication.IdentityConfig(client_cas=issued.authorities["ca"].cert_pem)
    application = handlers.application(
        provider=TargetStore(),
        authenticator=authentication.Authenticator(config),
        policy=authorization.LocalPolicy(),
        probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
    )
    limits = connections.ConnectionLimits(connections=3, idle_seconds=1.0)
    async with listener.listening(
        application, host="127.0.0.1", port=0, certificates=certificates, limits=limits
    ) as port:
        context = ssl.create_default_context(cafile=str(tmp_path / "serving-ca.crt"))
        held = [await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in range(3)]
        await asyncio.sleep(0.1)  # virtual: the server's side of the handshakes has ended
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        with contextlib.suppress(OSError):  # the oldest made room
            assert await held[0][0].read() == b""
        # A request that trickles in does not keep its connection for ever.
        slow_reader, slow_writer = held[1]
        slow_writer.write(b"GET /healthz HTTP/1.1\r\nHo")
        assert await asyncio.wait_for(slow_reader.read(), 2 * limits.idle_seconds) == b""
        for _, writer in held:
            writer.close()


@pytest.mark.virtual_time
async def test_serve_drains_before_it_ends(tmp_path: Path, objects: Path) -> None:
    """`serve --kubeconfig` asks the cluster; after SIGTERM it is not ready, still answers, then ends."""
    certificates = stand_ins.certificates(tmp_path)
    async with stand_ins.running(certificates) as (_, kubeconfig):
        args = cli.parse([
            "serve", "--variants", str(objects), "--port", "0",
            "--kubeconfig", str(kubeconfig), "--shutdown-delay", "20s",
            "--tls-cert-file", str(tmp_path / "serving.crt"),
            "--tls-private-key-file", str(tmp_path / "serving.key"),
        ])  # fmt: skip
        clock = asyncio.get_running_loop().time
        with structlog.testing.capture_logs() as logs:
            program = asyncio.create_task(
                serve._serve(flag_options.options_of(args), args.shutdown_delay)
            )
            while not (lines := [line for line in logs if line["event"] == "serving"]):
                assert not program.done()
                await asyncio.sleep(0.1)
        server = Guarded(lines[0]["url"], tmp_path, certificates, stand_ins.StandIn(config={}))
        assert (await server.get("/readyz"))[0] == 200
        assert (await server.get("/version", certificate="alice"))[0] == 200
        assert (await server.get("/metrics", certificate="alice"))[0] == 403
        signal.raise_signal(signal.SIGTERM)
        sent_at = clock()
        for _ in range(2):
            await asyncio.sleep(9)
            status, text = await server.get("/readyz")
            assert (status, "[-]shutdown failed: shutting down" in text) == (500, True)
            assert (await server.get("/livez"))[0] == 200
            assert (await server.get("/version", certificate="alice"))[0] == 200
        await program
        assert 20 <= clock() - sent_at < 21


@pytest.mark.virtual_time
async def test_without_a_cluster_the_start_says_what_is_missing(tmp_path: Path) -> None:
    """A kubeconfig that is none, and a cluster that does not let us read, are errors with the fix."""
    stand_ins.certificates(tmp_path)
    files: dict[str, Any] = {
        "certificate": tmp_path / "serving.crt", "key": tmp_path / "serving.key",
    }  # fmt: skip
    with pytest.raises(errors.StartupError, match="no such kubeconfig; name one with --kubeconfig"):
        async with client.connected(tmp_path / "none"):
            pass
    certificates = stand_ins.certificates(tmp_path)
    async with stand_ins.running(certificates) as (stand_in, kubeconfig):
        stand_in.broken = True
        with pytest.raises(errors.StartupError, match="extension-apiserver-authentication-reader"):
            async with (
                client.connected(kubeconfig) as cluster,
                delegated.delegated_auth(cluster, start_seconds=0.1, **files),
            ):
                pass


@pytest.mark.parametrize("text", ["x", "{}", "[1]"])
def test_lists_that_are_none_are_named(text: str) -> None:
    """The ConfigMap's lists are JSON in texts; what is none is refused by its key."""
    with pytest.raises(
        errors.StartupError, match="requestheader-allowed-names: must be a JSON list"
    ):
        reviews.parse_config({"requestheader-allowed-names": text})

"""Strangers do not keep anybody out: floods of connections, of reviews and of long selectors."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from adapter.apiserver import handlers
from adapter.apiserver.probes import Probes
from adapter.auth import authentication, authorization, users
from adapter.store import TargetStore
from adapter.tls import listener
from adapter.tls.certificates import Certificates
from adapter.tls.connections import ConnectionLimits
from tests.fakes import kubernetes_stand_in as stand_ins
from tests.fakes import virtual_time

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/m"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LIMITS = ConnectionLimits(connections=8, unauthenticated=4)


@dataclass
class Server:
    """A server with small limits, that counts reviews."""

    port: int
    folder: Path
    reviews: list[str]

    def context(self, certificate: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "serving-ca.crt"))
        if certificate is not None:
            context.load_cert_chain(
                self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key"
            )
        return context

    async def connect(
        self, certificate: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context(certificate))

    async def status(self, path: str, certificate: str | None = None) -> int:
        reader, writer = await self.connect(certificate)
        try:
            return await status(reader, writer, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        finally:
            writer.close()


async def status(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes = HEALTH
) -> int:
    """Send a request and read its whole response; give the status."""
    writer.write(request)
    code, length = int((await reader.readline()).split()[1]), 0
    while (line := await reader.readline()) not in {b"\r\n", b""}:
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    await reader.readexactly(length)
    return code


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    issued = stand_ins.certificates(folder)
    pem = issued.authorities["ca"].cert_pem
    certificates = Certificates(folder / "serving.crt", folder / "serving.key", pem)
    reviews: list[str] = []

    async def review(
        user: users.User, attributes: authorization.Attributes
    ) -> authorization.AccessDecision:
        assert not (user is users.ANONYMOUS and attributes.requirements)
        reviews.append(attributes.path)
        return authorization.AccessDecision(allowed=user is not users.ANONYMOUS)

    application = handlers.application(
        provider=TargetStore(),
        authenticator=authentication.Authenticator(authentication.IdentityConfig(client_cas=pem)),
        policy=authorization.ClusterPolicy(review),
        probes=Probes(CollectorRegistry(), {"ping": lambda: None}),
    )
    async with listener.listening(
        application, host="127.0.0.1", port=0, certificates=certificates, limits=LIMITS
    ) as port:
        yield Server(port, folder, reviews)


@pytest.mark.virtual_time
async def test_idle_anonymous_connections_do_not_lock_out_clients_with_certificates(
    tmp_path: Path,
) -> None:
    """Beyond their limit the oldest strangers go; connections with a certificate stay, and get in."""
    async with serving(tmp_path) as server:
        held = await server.connect("alice")
        assert await status(*held) == 200
        with structlog.testing.capture_logs() as logs:
            strangers = [await server.connect() for _ in range(20)]
            await asyncio.sleep(1)
            open_strangers = [reader for reader, _ in strangers if not reader.at_eof()]
            assert len(open_strangers) <= LIMITS.unauthenticated
            assert await status(*held) == 200
            assert await server.status("/version", "alice") == 200
            assert await server.status("/healthz") == 200
        said = [log for log in logs if log["event"].startswith("connection limit reached")]
        assert len(said) == 1
        for _, writer in [held, *strangers]:
            writer.close()


@pytest.mark.virtual_time
async def test_raw_connections_cost_no_slots_of_others(tmp_path: Path) -> None:
    """TCP connections that say nothing are closed, oldest first; those that speak are served meanwhile."""
    async with serving(tmp_path) as server:
        raw = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
        assert await server.status("/version", "alice") == 200
        await asyncio.sleep(1)
        ended = 0
        for reader, _ in raw:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(0.01):
                    ended += await reader.read() == b""
        assert ended >= 50 - LIMITS.unauthenticated
        # The rest is closed when no handshake comes.
        await asyncio.sleep(LIMITS.handshake_seconds + 1)
        for reader, writer in raw:
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()


@pytest.mark.virtual_time
async def test_a_flood_does_not_end_the_handshake_of_a_client_with_a_certificate(
    tmp_path: Path,
) -> None:
    """From the same address and at the same time: who comes further goes after those who stand still."""
    async with serving(tmp_path) as server:
        idle = [await server.connect() for _ in range(LIMITS.unauthenticated)]
        raw: list[asyncio.StreamWriter] = []

        async def flood() -> None:
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    raw.append(writer)

        flooding = asyncio.create_task(flood())
        for _ in range(20):
            assert await server.status("/version", "alice") == 200
        flooding.cancel()
        assert len(raw) > LIMITS.unauthenticated
        for writer in [*raw, *(writer for _, writer in idle)]:
            writer.close()


@pytest.mark.virtual_time
async def test_many_connections_of_one_address_do_not_displace_those_of_another(
    tmp_path: Path,
) -> None:
    """A stranger with one connection keeps it while another address fills the limit."""
    async with serving(tmp_path) as server:
        lone = await asyncio.open_connection(
            "127.0.0.1", server.port, ssl=server.context(None), local_addr=("127.0.0.2", 0)
        )
        many = [await server.connect() for _ in range(3 * LIMITS.unauthenticated)]
        await asyncio.sleep(1)
        assert sum(not reader.at_eof() for reader, _ in many) <= LIMITS.unauthenticated
        assert await status(*lone) == 200
        for _, writer in [lone, *many]:
            writer.close()


@pytest.mark.virtual_time
async def test_certificates_of_the_limit_itself_are_served_up_to_it(tmp_path: Path) -> None:
    """All slots taken by clients with a certificate: a further stranger does not displace one."""
    async with serving(tmp_path) as server:
        held = [await server.connect("alice") for _ in range(LIMITS.connections)]
        for reader, writer in held:
            assert await status(reader, writer) == 200
        with contextlib.suppress(OSError, ssl.SSLError):
            reader, writer = await server.connect()
            assert await reader.read() == b""
        for reader, writer in held:
            assert await status(reader, writer) == 200
            writer.close()


@pytest.mark.virtual_time
async def test_anonymous_requests_to_many_paths_are_not_all_reviewed(tmp_path: Path) -> None:
    """A burst, then a few a second; others are reviewed as ever, and health needs none."""
    async with serving(tmp_path) as server:
        reader, writer = await server.connect()
        for number in range(200):
            request = f"GET /x/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            assert await status(reader, writer, request) == 403
        burst = authorization.ANONYMOUS_BURST
        assert burst <= len(server.reviews) <= burst + 30
        assert await server.status("/healthz") == 200
        before = len(server.reviews)
        assert await server.status(METRIC, "alice") in {200, 404}
        assert len(server.reviews) == before + 1
        writer.close()


async def test_a_path_with_ends_of_lines_is_authorized_as_others_are(tmp_path: Path) -> None:
    """It was answered before anybody had asked who sends it."""
    async with serving(tmp_path) as server:
        assert await server.status("/apis/x%0Ay") == 403
        assert server.reviews == ["/apis/x\ny"]


@pytest.mark.virtual_time
async def test_selectors_of_strangers_are_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4,000 blanks from somebody without rights: 403, and no look at them."""

    def parse(_: str) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("adapter.kube.labels.parse", parse)
    async with serving(tmp_path) as server:
        assert await server.status(f"{METRIC}?labelSelector=a{'%20' * 2500}b") == 403


def test_the_allowance_of_anonymous_reviews_comes_back() -> None:
    """After a burst, five a second; not more than a burst after any pause."""

    async def main() -> None:
        asked: list[str] = []

        async def review(
            _: users.User, attributes: authorization.Attributes
        ) -> authorization.AccessDecision:
            asked.append(attributes.path)
            return authorization.AccessDecision(allowed=False)

        policy = authorization.ClusterPolicy(review)

        async def flood(name: str) -> int:
            before = len(asked)
            for number in range(1000):
                path = f"/{name}/{number}"
                await policy.decide(
                    users.ANONYMOUS, authorization.Attributes(verb="get", path=path)
                )
            return len(asked) - before

        assert await flood("a") == 20
        await asyncio.sleep(2)
        assert await flood("b") == 10
        await asyncio.sleep(3600)
        assert await flood("c") == 20

    virtual_time.run(main())


async def test_requests_that_are_no_http_are_one_line_of_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is answered with 400, none with a traceback, and nothing of them is quoted."""
    async with serving(tmp_path) as server:
        with structlog.testing.capture_logs() as logs:
            for odd in (
                b"GET /\xff HTTP/1.1\r\n\r\n",
                b"secret\r\n\r\n",
                b"GET http://[ HTTP/1.1\r\nA: b\r\n\r\n",
            ):
                reader, writer = await server.connect()
                writer.write(odd)
                assert (await reader.readline()).split()[1] == b"400"
                writer.close()
            assert await server.status("/healthz") == 200
    assert [log["event"] for log in logs] == ["requests that are no HTTP refused"]
    assert "Traceback" not in capfd.readouterr().err

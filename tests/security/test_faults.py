"""Faults do not end the adapter: odd watch lines, short watches, full disks, clocks, signals."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from multidict import CIMultiDict, CIMultiDictProxy

from adapter import tasks
from adapter.auth import authentication, users
from adapter.kube import client, errors, informer, labels
from adapter.kube.bodies import pages
from adapter.kube.leader_election import Leadership, LeaseRecord, LeaseTimes
from adapter.tls.certificate_secret import CertificateKeeper, OwnCertificates
from certs import rotation
from certs.authority import Authority
from tests.fakes import cluster_world as worlds
from tests.fakes import virtual_time
from tests.fakes.cluster_world import CORE, SYSTEM

PODS = "/api/v1/pods"
OWN = OwnCertificates(namespace=SYSTEM)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Watched:
    """An API whose watches end in a given way; counts what is asked of it."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.requests = 0

    async def list_pages(
        self, path: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[pages.Page]:
        assert (path, query) == (PODS, ())
        self.requests += 1
        yield pages.Page([{"metadata": {"name": "a"}}], "1")

    async def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        assert (path, query) == (PODS, ())
        self.requests += 1
        if self.how == "expired":
            raise errors.of_status(410, "too old", path=path)
        if self.how == "one event":
            yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
        if self.how == "odd object":
            yield {"type": "ADDED", "object": {"metadata": ["not", "a", "mapping"]}}


@pytest.mark.parametrize("how", ["ends at once", "one event", "expired", "odd object"])
def test_watches_that_end_at_once_are_not_hammered(how: str) -> None:
    """At most 30 requests in a minute, fewer with time, and the list stays known."""

    async def main() -> tuple[int, int, int]:
        api = Watched(how)
        follower = informer.Informer(api, PODS, jitter=lambda: 0.0)
        task = asyncio.create_task(follower.run())
        await asyncio.sleep(60)
        first = api.requests
        await asyncio.sleep(600)
        assert not task.done()
        known = len(follower.objects)
        await tasks.cancel(task)
        return first, api.requests - first, known

    first, later, known = virtual_time.run(main())
    assert 4 <= first <= 30
    assert later <= 100
    assert known == 1


class Flooding(Watched):
    """An API whose watch has so many events ready that it never waits for one."""

    async def watch_objects(
        self, path: str, version: str, query: Sequence[tuple[str, str]] = ()
    ) -> AsyncIterator[dict[str, Any]]:
        assert (path, version, query) == (PODS, "1", ())
        for number in range(10 * informer.TURN):
            yield {"type": "ADDED", "object": {"metadata": {"name": f"p{number}"}}}
        await asyncio.Event().wait()


async def test_a_flood_of_events_leaves_turns_to_requests() -> None:
    """Everything else has its turn while they are read, not only after the last one."""
    follower = informer.Informer(Flooding(""), PODS)
    task = asyncio.create_task(follower.run())
    seen = set()
    while len(follower.objects) < 10 * informer.TURN:
        await asyncio.sleep(0)
        seen.add(len(follower.objects))
    assert len(seen) >= 10
    await tasks.cancel(task)


@pytest.mark.virtual_time
@pytest.mark.parametrize("line", ["null", "[1]", '"x"', "7", '{"type": 1}', "[" * 100_000, "{"])
async def test_a_watch_line_that_is_no_event_is_an_error_of_the_watch(
    line: str,
) -> None:
    """It is retried as any failed request; nothing of the line is quoted."""

    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(text=line + "\n", content_type="application/json")

    app = web.Application()
    app.router.add_get(PODS, serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def authorize(_: dict[str, str]) -> None:
        return None

    try:
        async with aiohttp.ClientSession() as session:
            api = client.Connection(session=session, server=server, authorize=authorize)
            with pytest.raises(errors.Unavailable) as caught:
                [event async for event in client.Cluster(api).watch_objects(PODS, "1")]
    finally:
        await runner.cleanup()
    assert len(str(caught.value)) < 200


class Refused:
    """A Lease that another replica holds, so that this one waits."""

    async def read(self) -> tuple[LeaseRecord, str] | None:
        now = datetime.now(UTC)
        record = LeaseRecord(holder="b", duration_seconds=15, acquired_at=now, renewed_at=now)
        return record, str(asyncio.get_running_loop().time())

    async def create(self, record: LeaseRecord) -> str:
        raise AssertionError(record)

    async def update(self, record: LeaseRecord, version: str) -> str:
        raise AssertionError(record, version)


class Free:
    """A Lease that this replica gets, and loses after some seconds."""

    def __init__(self) -> None:
        self.record: LeaseRecord | None = None

    async def read(self) -> tuple[LeaseRecord, str] | None:
        if asyncio.get_running_loop().time() > 20 and self.record is not None:
            now = datetime.now(UTC)
            return LeaseRecord(
                holder="b", duration_seconds=15, acquired_at=now, renewed_at=now
            ), "b"
        return None if self.record is None else (self.record, "1")

    async def create(self, record: LeaseRecord) -> str:
        self.record = record
        return "1"

    async def update(self, record: LeaseRecord, version: str) -> str:
        self.record = record
        return version


@pytest.mark.parametrize("after", [0.0, 1.0, 2.0, 5.0, 19.9, 21.0, 23.0, 25.0, 30.0])
@pytest.mark.parametrize("lease", ["refused", "lost"])
def test_a_cancelled_election_ends_at_every_moment(after: float, lease: str) -> None:
    """While waiting, leading, or ending work that takes 5 s: it never goes on after SIGTERM."""

    async def main() -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(100_000)
            finally:
                await asyncio.sleep(5)

        times = LeaseTimes(duration=15, deadline=10.0, retry=2.0)
        api = Refused() if lease == "refused" else Free()
        leadership = Leadership(api, identity="a", times=times)
        task = asyncio.create_task(leadership.run(work))
        await asyncio.sleep(after)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=60)
        assert done
        assert task.cancelled()

    virtual_time.run(main())


def test_a_task_that_ends_keeps_the_cancellation_of_who_waits() -> None:
    """`await task` under `suppress` would swallow it: `tasks.cancel` raises it once the task has ended."""

    async def main() -> None:
        ended = []

        async def slow() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(3)
                ended.append("slow")

        async def waits() -> None:
            inner = asyncio.create_task(slow())
            await asyncio.sleep(0)
            await tasks.cancel(inner)
            ended.append("went on")

        task = asyncio.create_task(waits())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert ended == []  # cancelled again, it does not even get to its clean-up

    virtual_time.run(main())


def serving(state: rotation.CertificateState) -> x509.Certificate:
    return x509.load_pem_x509_certificate(state.serving.cert_pem)


@pytest.mark.parametrize("jump", [timedelta(hours=6), timedelta(days=80), timedelta(days=5000)])
def test_a_clock_that_jumps_ahead_and_back_leaves_a_valid_certificate(jump: timedelta) -> None:
    """What was issued in the future is issued anew, authority included, once the clock is right again."""
    times = rotation.Times()
    names = ["a.b.svc"]

    def advance(
        state: rotation.CertificateState | None, now: datetime
    ) -> rotation.CertificateState:
        return rotation.advance(state, names=names, now=now, times=times, published=None)

    for state in (None, advance(None, NOON)):
        ahead = advance(state, NOON + jump)
        back = advance(ahead, NOON)
        certificate = serving(back)
        assert certificate.not_valid_before_utc <= NOON < certificate.not_valid_after_utc
        issuer = back.signing.certificate
        assert issuer.not_valid_before_utc <= NOON < issuer.not_valid_after_utc
        certificate.verify_directly_issued_by(issuer)


async def test_a_full_disk_keeps_the_last_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC while files are written is logged and retried; the loop that keeps certificates goes on."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        async with client.connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, OWN, folder=tmp_path / "a", leads=lambda: True)
            certificate, _ = await keeper.prepare()
            before = certificate.read_bytes()
            world.api.put(CORE, "secrets", {"metadata": {"name": OWN.secret, "namespace": SYSTEM}})
            monkeypatch.setattr("certs.authority.os.open", _full)
            with structlog.testing.capture_logs() as logs:
                task = asyncio.create_task(keeper.run())
                while not any("No space" in str(entry.get("error")) for entry in logs):
                    assert not task.done()
                    await asyncio.sleep(0.05)
                assert certificate.read_bytes() == before
                monkeypatch.undo()
                keeper.sync_now()
                while certificate.read_bytes() == before:
                    keeper.sync_now()
                    await asyncio.sleep(0.05)
                await tasks.cancel(task)


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


async def test_a_secret_whose_key_does_not_fit_is_replaced(tmp_path: Path) -> None:
    """Certificate and key of two makers: another pair is issued, and the log says so."""
    async with worlds.running(tmp_path) as world:
        entrance = await world.site.entrance("a")
        async with client.connected(entrance.kubeconfig) as api:
            keeper = CertificateKeeper(api, OWN, folder=tmp_path / "a", leads=lambda: True)
            await keeper.prepare()
            item = world.api.get(CORE, "secrets", SYSTEM, OWN.secret)
            other = dict(item["data"], **{"tls.key": item["data"]["signing.key"]})
            world.api.put(CORE, "secrets", {**item, "data": other})
            with structlog.testing.capture_logs() as logs:
                certificate, key = await keeper.prepare()
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        assert "serving certificate in the Secret is unusable; issuing another" in {
            entry["event"] for entry in logs
        }


async def test_a_token_that_is_not_ascii_is_refused() -> None:
    """401, not 500: also for bytes that are no UTF-8."""

    async def review(_: str) -> users.User | None:
        raise AssertionError("reviewed")

    authenticator = authentication.Authenticator(
        authentication.IdentityConfig(), review_token=review
    )
    for token in ("ключ", "\udcff\udcfe", "a\u00e9"):
        headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {token}"}))
        with pytest.raises(users.UnauthenticatedError):
            await authenticator.user(None, headers)


@pytest.mark.parametrize(
    ("uses", "accepted"),
    [
        (None, True),
        ([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH], True),
        ([x509.oid.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
        ([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH], False),
    ],
)
async def test_uses_of_client_certificates_are_those_of_go(
    uses: list[x509.ObjectIdentifier] | None, *, accepted: bool
) -> None:
    """Without extended key usage a certificate is for everything; one for servers only is refused."""
    authority = Authority.create("clients")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ann")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
    )
    if uses is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    certificate = builder.sign(authority.key, _sha256())
    authenticator = authentication.Authenticator(
        authentication.IdentityConfig(client_cas=authority.cert_pem)
    )
    der = certificate.public_bytes(encoding=_der())
    headers = CIMultiDictProxy(CIMultiDict[str]())
    if accepted:
        assert (await authenticator.user(der, headers)).name == "ann"
    else:
        with pytest.raises(users.UnauthenticatedError):
            await authenticator.user(der, headers)


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    return hashes.SHA256()


def _der() -> Any:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    return serialization.Encoding.DER


@pytest.mark.parametrize("value", ["9" * 5000, "-" + "9" * 4301, str(2**63), "٣"])
def test_a_bound_that_is_no_integer_of_64_bits_is_malformed(value: str) -> None:
    """As kube-apiserver has it: an error about the value, whatever its length or script."""
    with pytest.raises(labels.SelectorError, match="must be an integer"):
        labels.parse(f"a > {value}")

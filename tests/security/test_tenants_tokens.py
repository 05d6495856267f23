"""What every pod may do with its own token, and what odd files and Leases do not end."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import tracemalloc
from pathlib import Path

import aiohttp
import pytest
import structlog
from multidict import CIMultiDict, CIMultiDictProxy

from adapter import errors
from adapter.apiserver import discovery, openapi
from adapter.apiserver.delegation import Delegate, DelegateOptions
from adapter.auth import authorization, users
from adapter.auth.authentication import Authenticator, IdentityConfig
from adapter.auth.authorization import DENIED_BURST, AccessDecision, Attributes, ClusterPolicy
from adapter.auth.cache import CACHED_BYTES
from adapter.kube.leader_election import Leadership, LeaseTimes
from adapter.kube.lease import KubernetesLease
from adapter.tls.certificates import RELOAD_SECONDS, Certificates, server_context
from tests.adapter.kube import test_lease
from tests.fakes import kubernetes_stand_in as stand_ins


def user(name: str) -> users.User:
    return users.User(name=name, groups=(users.AUTHENTICATED,))


async def test_a_tenants_tokens_do_not_make_reviews_without_bound() -> None:
    """All service accounts of a namespace together; users whose requests are allowed are not limited."""
    reviews: list[str] = []

    async def review(who: users.User, attributes: Attributes) -> AccessDecision:
        reviews.append(who.name)
        return AccessDecision(allowed=who.name == "prometheus")

    policy = ClusterPolicy(review, clock=lambda: 0.0)
    for number in range(10 * DENIED_BURST):
        tenant = user(f"system:serviceaccount:team-a:pod-{number % 7}")
        decision = await policy.decide(tenant, Attributes(verb="get", path=f"/{number}"))
        assert not decision.allowed
    assert len(reviews) == DENIED_BURST
    assert "try again" in decision.reason
    other = user("system:serviceaccount:team-b:pod")
    await policy.decide(other, Attributes(verb="get", path="/"))
    assert reviews[-1] == other.name
    for number in range(10 * DENIED_BURST):
        named = Attributes(verb="list", path=f"/{number}", resource=f"metric-{number}")
        assert (await policy.decide(user("prometheus"), named)).allowed


async def test_paths_that_everybody_may_get_make_no_reviews_without_bound() -> None:
    """A cluster allows every token all paths below `/apis`, and few of them are discovery."""
    reviews: list[str] = []

    async def review(_: users.User, attributes: Attributes) -> AccessDecision:
        reviews.append(attributes.path)
        return AccessDecision(allowed=True)

    now = 0.0
    policy = ClusterPolicy(review, clock=lambda: now)
    tenant = user("system:serviceaccount:team-a:pod")
    for number in range(10 * DENIED_BURST):
        await policy.decide(tenant, Attributes(verb="get", path=f"/apis/{number}"))
    assert len(reviews) == DENIED_BURST
    for number in range(10):  # nor do ever other methods
        await policy.decide(tenant, Attributes(verb=f"get{number}", path="/apis"))
    assert len(reviews) == DENIED_BURST
    # What it has asked is cached, and a second later it may read metrics as ever.
    assert (await policy.decide(tenant, Attributes(verb="get", path="/apis/0"))).allowed
    now = 1.0
    metric = Attributes(verb="list", path="/apis/x", namespace="team-a", resource="metric")
    assert (await policy.decide(tenant, metric)).allowed


async def test_who_begins_with_discovery_locks_nobody_out() -> None:
    """Hundreds of pods that start at once; the HPA controller is a service account of their namespace."""

    async def review(_: users.User, __: Attributes) -> AccessDecision:
        await asyncio.sleep(0)
        return AccessDecision(allowed=True)

    policy = ClusterPolicy(review, clock=lambda: 0.0)
    documents = set(discovery.paths()["paths"]) - authorization.ALWAYS_ALLOWED
    pods = [
        policy.decide(
            user(f"system:serviceaccount:kube-system:{pod}"), Attributes(verb="get", path=path)
        )
        for pod in range(3 * DENIED_BURST)
        for path in documents | {"/", openapi.V3_CHILD}
    ]
    decisions = await asyncio.gather(*pods)
    assert all(decision.allowed for decision in decisions)
    controller = user("system:serviceaccount:kube-system:horizontal-pod-autoscaler")
    metric = Attributes(verb="list", path="/apis/x", namespace="team-a", resource="metric")
    assert (await policy.decide(controller, metric)).allowed


async def test_decisions_and_users_are_kept_in_bounded_memory() -> None:
    """Some users have thousands of groups, and paths 8 KiB: a thousand of them were 130 MiB."""
    groups = tuple(f"cn=group-{number},ou=groups,dc=example" for number in range(2000))

    async def review(_: users.User, __: Attributes) -> AccessDecision:
        return AccessDecision(allowed=True)

    async def review_token(token: str) -> users.User:
        return users.User(name=token, groups=tuple(f"{group}-{token}" for group in groups))

    policy = ClusterPolicy(review, clock=lambda: 0.0)
    identities = IdentityConfig()
    authenticator = Authenticator(identities, review_token=review_token, clock=lambda: 0.0)
    tracemalloc.start()
    try:
        for number in range(150):
            headers = CIMultiDict({"Authorization": f"Bearer {number}"})
            who = await authenticator.user(None, CIMultiDictProxy(headers))
            assert len(who.groups) == 2001
            for name in range(12):
                path = f"/apis/{name:08000}"
                attributes = Attributes(verb="list", path=path, namespace=path, resource=path)
                assert (await policy.decide(who, attributes)).allowed
        assert tracemalloc.get_traced_memory()[0] < 3 * CACHED_BYTES
    finally:
        tracemalloc.stop()


async def test_users_of_a_front_proxy_are_kept_in_bounded_memory(tmp_path: Path) -> None:
    """A request has up to 80 KiB of headers, as many with characters that take four times as much."""
    folder = stand_ins.certificates(tmp_path).folder
    identities = IdentityConfig(requestheader_cas=(folder / "fp-ca.crt").read_bytes())
    authenticator = Authenticator(identities)
    pem = (folder / "fp.crt").read_bytes()
    certificate = ssl.PEM_cert_to_DER_cert(pem.decode())
    tracemalloc.start()
    try:
        for number in range(120):
            headers = CIMultiDict({"X-Remote-User": str(number)})
            for group in range(300):
                headers.add("X-Remote-Group", f"\N{GRINNING FACE}{number}-{group:0200}")
            who = await authenticator.user(certificate, CIMultiDictProxy(headers))
            assert who.name == str(number)
        assert tracemalloc.get_traced_memory()[0] < 2 * CACHED_BYTES
    finally:
        tracemalloc.stop()


async def test_failed_reviews_do_not_lock_a_user_out() -> None:
    """While the API server is down nothing is counted: afterwards the user is reviewed as ever."""
    down = True

    async def review(_: users.User, __: Attributes) -> AccessDecision:
        if down:
            raise users.ReviewError("down")
        return AccessDecision(allowed=True)

    policy = authorization.ClusterPolicy(review, clock=lambda: 0.0)
    for number in range(2 * DENIED_BURST):
        with pytest.raises(users.ReviewError):
            await policy.decide(user("hpa"), Attributes(verb="get", path=f"/{number}"))
    down = False
    assert (await policy.decide(user("hpa"), Attributes(verb="get", path="/"))).allowed


async def test_a_token_file_that_is_swapped_does_not_end_discovery(tmp_path: Path) -> None:
    """Missing for a moment, or not ASCII: the next round reads it again, and the log quotes nothing of it."""
    token = tmp_path / "token"
    options = DelegateOptions(url="https://127.0.0.1:1", token_file=token)
    async with aiohttp.ClientSession() as session:
        delegate = Delegate(options, session)
        with structlog.testing.capture_logs() as logs:
            await delegate.discover()
            token.write_bytes(b"secret-\xff")
            await delegate.discover()
        said = [log for log in logs if log["event"].startswith("delegate discovery failed")]
        assert len(said) == 2
        assert "0xff" not in str(said)


@pytest.mark.parametrize(
    "spec",
    [
        {"leaseDurationSeconds": "x", "leaseTransitions": {}, "acquireTime": [], "renewTime": 5},
        {"leaseDurationSeconds": -5, "leaseTransitions": -1, "holderIdentity": ""},
        {"acquireTime": "0001-01-01T00:00:00.000000+14:00", "holderIdentity": "\u2028\x00" * 999},
        {"renewTime": "9999-12-31T23:59:59.999999-12:00", "holderIdentity": "../.."},
        {"leaseDurationSeconds": 2**31 - 1, "renewTime": "2999-01-01T00:00:00.000000Z"},
    ],
)
async def test_odd_leases_are_taken_in_the_end(spec: dict[str, object], tmp_path: Path) -> None:
    """No form of the Lease ends the election, or keeps it from ever having a leader."""
    async with test_lease.connected(tmp_path) as (leases, api):
        leases.lease = {
            "metadata": {"name": "l", "namespace": "ns", "resourceVersion": "0"},
            "spec": spec,
        }
        now = 0.0
        lease = KubernetesLease(api, namespace="ns", name="l")
        times = LeaseTimes(duration=15, deadline=10.0, retry=1.0)
        election = Leadership(lease, identity="a", times=times, monotonic=lambda: now)
        await election._attempt()
        now += 3601.0
        assert await election._attempt()
        assert election.leads


@pytest.mark.virtual_time
async def test_certificate_files_that_do_not_fit_are_logged_once(tmp_path: Path) -> None:
    """However long they stay so, the last ones serve, and the log is not filled with it."""
    stand_ins.certificates(tmp_path)
    key = tmp_path / "serving.key"
    certificates = Certificates(tmp_path / "serving.crt", key, b"")
    key.write_bytes(b"no key")
    with structlog.testing.capture_logs() as logs:
        following = asyncio.create_task(certificates.follow_files())
        await asyncio.sleep(60.5 * RELOAD_SECONDS)
        following.cancel()
    assert [log["event"] for log in logs] == ["serving certificate unusable; keeping the last"]


def test_a_certificate_file_that_goes_while_it_is_loaded_is_an_error_like_others(
    tmp_path: Path,
) -> None:
    """Files are read twice; what follows them goes on after the error of one replaced in between."""
    stand_ins.certificates(tmp_path)
    certificate = tmp_path / "serving.crt"
    pem = certificate.read_bytes()
    certificate.unlink()
    os.mkfifo(certificate)

    def give_once() -> None:
        with certificate.open("wb") as pipe:
            certificate.unlink()
            pipe.write(pem)

    giving = threading.Thread(target=give_once, daemon=True)
    giving.start()
    with pytest.raises(errors.StartupError, match=r"serving\.crt, .*serving\.key: cannot be read"):
        server_context(certificate, tmp_path / "serving.key", b"")
    giving.join()

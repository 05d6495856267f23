"""The port without TLS tells names of tenants only to whom the cluster gives the right to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from adapter.auth import authentication
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_api
from tests.fakes.cluster_world import until

pytestmark = pytest.mark.virtual_time

READER = "system:serviceaccount:monitoring:prometheus"
TOKENS = {"reader": {"username": READER}, "tenant": {"username": "ann"}}
BINDING = {
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "prometheus"},
    "roleRef": {"kind": "ClusterRole", "name": "variant-adapter-metrics-reader"},
    "subjects": [{"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"}],
}
TENANTS = (
    "/metrics", "/variants", "/variants/team-a/v", "/variants/team-a/none", "/ui", "/ui/what-if",
    "/ui/variants/team-a/v", "/ui/static/page.js",
)  # fmt: skip


class Peer:
    """A pod of the cluster: its address is not that of loopback that the port itself uses."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(
        self, path: str, token: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        sent = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        async with self._session.get(self._url + path, headers=sent) as response:
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def peer(url: str, address: str = "127.0.0.2") -> AsyncIterator[Peer]:
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Peer(session, url)


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[worlds.World]:
    rules = [*kubernetes_api.manifest_rules(), BINDING]
    async with worlds.running(folder, rules=rules) as world:
        world.api.identities.tokens |= TOKENS
        yield world


async def test_only_health_is_told_to_every_pod(tmp_path: Path) -> None:
    """401 without a token or with an unknown one, 403 without the right, an answer with both."""
    async with cluster(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        async with peer(endpoints.metrics_url) as pod:
            for path in ("/healthz", "/livez", "/readyz"):
                assert (await pod.get(path))[0] == 200
            for path in TENANTS:
                for token, status in (("", 401), ("unknown", 401), ("tenant", 403)):
                    answered, text = await pod.get(path, token)
                    assert answered == status, (path, token)
                    assert "team-a" not in text
            assert "variant-adapter-metrics-reader" in (await pod.get("/metrics", "tenant"))[1]
            assert "inferno_desired_replicas" in (await pod.get("/metrics", "reader"))[1]
            assert '"name": "v"' in (await pod.get("/variants/team-a/v", "reader"))[1]
            impersonating = {"Impersonate-User": "admin"}
            assert (await pod.get("/metrics", "reader", impersonating))[0] == 403


async def test_loopback_needs_no_token_unless_a_proxy_forwards(tmp_path: Path) -> None:
    """Who forwards a port of the pod may read; a sidecar that passes on what strangers send does not."""
    async with cluster(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        async with peer(endpoints.metrics_url, "127.0.0.1") as pod:
            assert (await pod.get("/variants"))[0] == 200
            for name in ("X-Forwarded-For", "Forwarded", "Via", "x-envoy-internal"):
                assert (await pod.get("/variants", headers={name: "10.0.0.1"}))[0] == 401


async def test_reviews_fail_closed(tmp_path: Path) -> None:
    """Without an answer of the API server nobody is let in, and health is still told."""
    async with cluster(tmp_path) as world, world.replica("a") as (endpoints, way):
        await until(lambda: world.desired() == 1)
        way.answer = lambda _method, path: 500 if path.endswith("reviews") else None
        async with peer(endpoints.metrics_url) as pod:
            assert (await pod.get("/metrics", "reader"))[0] == 401
            assert (await pod.get("/healthz"))[0] == 200


async def test_made_up_tokens_are_not_all_reviewed(tmp_path: Path) -> None:
    """A burst of reviews for each peer, then a few a second; another peer's token is reviewed as ever."""
    async with cluster(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        async with (
            peer(endpoints.metrics_url) as flood,
            peer(endpoints.metrics_url, "127.0.0.3") as other,
        ):
            assert (await flood.get("/metrics", "reader"))[0] == 200
            await asyncio.sleep(11)
            before = world.api.identities.token_reviews, world.api.access_reviews
            for number in range(200):
                assert (await flood.get("/metrics", f"t{number}"))[0] == 401
                assert (await flood.get(f"/x/{number}"))[0] == 401
            reviews = world.api.identities.token_reviews - before[0]
            assert authentication.INVALID_BURST <= reviews <= authentication.INVALID_BURST + 30
            assert world.api.access_reviews == before[1]
            assert (await flood.get("/metrics", "unknown"))[0] == 401
            assert world.api.identities.token_reviews - before[0] == reviews
            # A token that was valid before is reviewed from the same address, too.
            assert (await flood.get("/metrics", "reader"))[0] == 200
            assert (await other.get("/metrics", "tenant"))[0] == 403


async def test_names_that_others_let_resolve_to_loopback_read_nothing(tmp_path: Path) -> None:
    """A site in the browser of who forwards the port cannot read tenants' numbers by a name of its own."""
    async with cluster(tmp_path) as world, world.replica("a") as (endpoints, _):
        await until(lambda: world.desired() == 1)
        async with peer(endpoints.metrics_url, "127.0.0.1") as pod:
            for path in (*TENANTS, "/variants/comparison"):
                for host in ("evil.example", "localhost.evil.example:8080", "127.0.0.1.evil", "["):
                    status, text = await pod.get(path, headers={"Host": host})
                    assert (status, "team-a" in text) == (403, False), (path, host)
                assert (await pod.get(path, headers={"Host": "localhost:1"}))[0] != 403
            assert (await pod.get("/healthz", headers={"Host": "evil.example"}))[0] == 200
        async with peer(endpoints.metrics_url) as scraper:
            assert (await scraper.get("/metrics", "reader", {"Host": "evil.example"}))[0] == 200

"""Strangers at the ports of the adapter while a real API server depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e import control_plane, installation
from tests.e2e.installation import RBAC, Installation, until

pytestmark = control_plane.MARKS

METRICS = "/apis/external.metrics.k8s.io/v1beta1"
PATH = f"{METRICS}/namespaces/team-a/inferno_desired_replicas?labelSelector=variant_name%3Dv"
ADMIN = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
"""What only the front proxy may say."""

CONNECTIONS = 1500
"""More than the adapter holds."""


async def get(
    url: str, context: ssl.SSLContext, headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Status and body of a request; the name in the certificate is not what is tested here."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=context, headers=headers or {}) as response,
    ):
        return response.status, await response.text()


def context(folder: Path, certificate: str = "") -> ssl.SSLContext:
    """A client's TLS, with one of the certificates of the control plane."""
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if certificate:
        made.load_cert_chain(folder / f"{certificate}.crt", folder / f"{certificate}.key")
    return made


async def token(cluster: Installation, name: str) -> str:
    """A token of a service account of team-a that no role is bound to."""
    accounts = "/api/v1/namespaces/team-a/serviceaccounts"
    await cluster.plane.create(accounts, {"metadata": {"name": name}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await cluster.plane.create(f"{accounts}/{name}/token", request)
    return str(made["status"]["token"])


async def test_identities_cannot_be_made_up(tmp_path: Path) -> None:
    """X-Remote-User counts with the front proxy's certificate alone, here and through the API server."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with cluster.replica("a") as replica:
            await until(replica.ready, what="readiness", log=replica.log)

            await until(cluster.served, what="the metric")
            direct = f"https://127.0.0.1:{cluster.port}{PATH}"
            bearer = {"Authorization": f"Bearer {await token(cluster, 'pod')}"}
            # alice has a certificate of the cluster's authority, the others one of the proxy's or its name.
            for certificate, headers, code in (
                ("", {}, 403),
                ("", ADMIN, 403),
                ("", {**bearer, **ADMIN}, 403),
                ("", {"Authorization": "Bearer made-up", **ADMIN}, 401),
                ("", {"Authorization": "Bearer " + "x" * 7000}, 401),
                ("alice", ADMIN, 403),
                ("fp-badcn", ADMIN, 401),
                ("fp", {"X-Remote-User": "ann"}, 403),
                ("fp", ADMIN, 200),
            ):
                found_code, text = await get(direct, context(tmp_path, certificate), headers)
                assert found_code == code, (certificate, headers, text)
                assert code == 200 or "desired" not in json.loads(text).get("metadata", {})
            # Of another authority: refused in the handshake.
            with pytest.raises(aiohttp.ClientError):
                await get(direct, context(tmp_path, "fp-evil"), ADMIN)
            # The API server takes such headers off, and passes on who it has cluster.
            status, text = await get(
                cluster.plane.url + PATH, cluster.plane.context("alice"), ADMIN
            )
            assert status == 403, text
            assert '"alice"' in text.replace("\\", "")
            status, text = await get(
                cluster.plane.url + PATH, context(tmp_path), {**bearer, **ADMIN}
            )
            assert status == 403, text
            assert "system:serviceaccount:team-a:pod" in text


async def test_a_reader_reads_its_namespace_alone(tmp_path: Path) -> None:
    """The rights on external metrics are those of RBAC, namespace by namespace, through the API server."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        rule = {
            "apiGroups": ["external.metrics.k8s.io"],
            "resources": ["*"],
            "verbs": ["get", "list"],
        }
        metadata = {"name": "reader", "namespace": "team-a"}
        where = f"{RBAC}/namespaces/team-a"
        await cluster.plane.create(f"{where}/roles", {"metadata": metadata, "rules": [rule]})
        binding = {
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "team-a"}],
        }
        await cluster.plane.create(f"{where}/rolebindings", binding)
        async with cluster.replica("a") as replica:
            await until(replica.ready, what="readiness")

            await until(cluster.served, what="the metric")
            headers = {"Authorization": f"Bearer {await token(cluster, 'reader')}"}
            ours = context(tmp_path)
            status, text = await get(cluster.plane.url + PATH, ours, headers)
            assert status == 200, text
            assert int(json.loads(text)["items"][0]["value"]) > 1
            for other in ("kube-system", "default"):
                path = PATH.replace("team-a", other)
                assert (await get(cluster.plane.url + path, ours, headers))[0] == 403
            odd = f"{cluster.plane.url}{PATH.partition('?')[0]}?labelSelector="
            assert (await get(f"{odd}{'%20' * 4000}", ours))[0] in {401, 403}
            assert (await get(f"{odd}x%3E{'9' * 4000}", ours, headers))[0] == 400


async def test_a_flood_does_not_hold_up_the_api_server(tmp_path: Path) -> None:
    """Silent, slow and anonymous connections by the hundreds: the aggregation layer is answered meanwhile."""
    async with installation.running(tmp_path) as cluster, contextlib.AsyncExitStack() as stack:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with cluster.replica("a") as replica:
            await until(replica.ready, what="readiness")

            await until(cluster.served, what="the metric")

            loop = asyncio.get_running_loop()

            async def silent(data: bytes) -> None:
                with contextlib.suppress(OSError):
                    way, _ = await loop.create_connection(
                        asyncio.Protocol, "127.0.0.1", cluster.port
                    )
                    stack.callback(way.close)
                    way.write(data)

            async def slow() -> None:
                with contextlib.suppress(OSError):
                    way, _ = await loop.create_connection(
                        asyncio.Protocol, "127.0.0.1", cluster.port,
                        ssl=context(tmp_path), ssl_handshake_timeout=300,
                    )  # fmt: skip
                    stack.callback(way.abort)
                    stack.callback(way.close)
                    way.write(b"GET / HTTP/1.1\r\nX-A: ")

            for start in range(0, CONNECTIONS, 100):
                each = (b"", b"\x16", b"GET / HTTP/1.1\r\n")[start // 100 % 3]
                await asyncio.gather(*(silent(each) for _ in range(100)))
            flood = asyncio.gather(*(slow() for _ in range(100)))
            for _ in range(10):
                assert await cluster.served()
            await flood
            assert await cluster.served()
            assert await replica.ready()
            assert replica.process.returncode is None
            lines = replica.log.read_text().splitlines()
            assert len([line for line in lines if "connection" in line]) < 20


@pytest.mark.parametrize("path", ["/metrics", "/variants", "/variants/team-a/v", "/ui/"])
async def test_the_metrics_port_asks_the_cluster(tmp_path: Path, path: str) -> None:
    """Off loopback, pages of all tenants need a token with the right to the URL; health needs none."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        port = control_plane.free_port()
        flags = ("--metrics-host=0.0.0.0", f"--metrics-port={port}")
        address = await _own_address()
        if address is None:
            pytest.skip("this machine has no address beside loopback")
        async with cluster.replica("a", *flags) as replica:
            replica.url = f"http://127.0.0.1:{port}"
            await until(replica.ready, what="readiness", log=replica.log)
            url = f"http://{address}:{port}"
            plain = context(tmp_path)
            assert (await get(f"{url}/readyz", plain))[0] == 200
            assert (await get(url + path, plain))[0] in {401, 403}
            bearer = {"Authorization": f"Bearer {await token(cluster, 'pod')}"}
            for headers in (bearer, {**bearer, **ADMIN}, ADMIN, {"X-Forwarded-For": "127.0.0.1"}):
                assert (await get(url + path, plain, headers))[0] in {401, 403}, headers
            await cluster.kubectl(
                "create", "clusterrolebinding", "pod",
                "--clusterrole=variant-adapter-metrics-reader", "--serviceaccount=team-a:pod",
            )  # fmt: skip

            async def allowed() -> bool:
                return (await get(url + path, plain, bearer))[0] == 200

            await until(allowed, what="the right to the URL")


async def _own_address() -> str | None:
    """An address of this machine that is not loopback; None without one."""
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("192.0.2.1", 9)
        )
    except OSError:
        return None  # no route but to itself
    address: str = transport.get_extra_info("sockname")[0]
    transport.close()
    return None if address.startswith("127.") else address

"""What a former leader sent arrives late at a real API server, and is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adapter.kube import client, errors
from tests.e2e import control_plane, detour, installation
from tests.e2e.installation import DEPLOYMENTS, SYSTEM, Installation, until

pytestmark = control_plane.MARKS

ACTUATE = installation.ROOT / "manifests/overlays/actuate"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/variant-adapter"


async def actuating(cluster: Installation) -> None:
    """Apply what the overlay adds to the base."""
    await cluster.kubectl("apply", "-f", str(ACTUATE / "scale.yaml"))
    await cluster.kubectl("apply", "-f", str(ACTUATE / "fence.yaml"))
    await cluster.kubectl("apply", "-f", str(ACTUATE.parents[1] / "base/fence.yaml"))


async def hold_lease(api: client.Cluster) -> None:
    """Make the Lease, after seven transitions."""
    spec = {"holderIdentity": "b", "leaseDurationSeconds": 6, "leaseTransitions": 7}
    await api.request(
        "POST",
        LEASE.rpartition("/")[0],
        body={
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "variant-adapter"},
            "spec": spec,
        },
    )


async def accepted(api: client.Cluster, path: str, body: Mapping[str, Any], **query: str) -> bool:
    """Whether a patch was accepted, and not refused by the policy."""
    try:
        await api.request(
            "PATCH", path, body=body, query=tuple(query.items()),
            content_type="application/merge-patch+json",
        )  # fmt: skip
    except errors.ApiError as error:
        if error.code != 422 or "a former leader sent this" not in str(error):
            raise
        return False
    return True


async def patched(api: client.Cluster, replicas: int, manager: str) -> bool:
    """Whether a patch of /scale of v by a field manager was accepted."""
    body = {"spec": {"replicas": replicas}}
    return await accepted(api, f"{DEPLOYMENTS}/v/scale", body, fieldManager=manager)


async def test_the_policy_compares_patches_with_the_lease(tmp_path: Path) -> None:
    """Of the adapter's patches only those of the present transition pass; of all others, each."""
    async with installation.running(tmp_path) as cluster:
        await cluster.workload("v", 1)
        await actuating(cluster)
        path = cluster.plane.kubeconfig("people", "admin", ["system:masters"])
        async with client.connected(cluster.kubeconfig) as ours, client.connected(path) as admin:
            # Without a Lease the policy holds up nobody.
            assert await patched(admin, 2, "kubectl-scale")
            assert await patched(ours, 3, "variant-adapter-0")
            await hold_lease(ours)

            async def compared() -> bool:
                return not await patched(ours, 4, "variant-adapter-6")

            await until(compared, what="the policy")
            for former in ("variant-adapter-70", "variant-adapter-", "variant-adapter", "kubectl"):
                assert not await patched(ours, 5, former), former
            assert await cluster.replicas() in {3, 4}
            assert await patched(ours, 6, "variant-adapter-7")
            assert await patched(admin, 7, "variant-adapter-6")
            assert await cluster.replicas() == 7


async def told(api: client.Cluster, transitions: int | None) -> bool:
    """Whether a status of v that tells these transitions was accepted."""
    body = {"status": {"observedGeneration": 1, "leaderTransitions": transitions}}
    return await accepted(api, f"{installation.VARIANTS}/v/status", body)


async def test_the_policy_compares_statuses_with_the_lease(tmp_path: Path) -> None:
    """Of the adapter's statuses those of earlier transitions are refused; of all others, none."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        fence = installation.ROOT / "manifests/base/fence.yaml"
        await cluster.kubectl("apply", "-f", str(fence))
        path = cluster.plane.kubeconfig("people", "admin", ["system:masters"])
        async with client.connected(cluster.kubeconfig) as ours, client.connected(path) as admin:
            # Without a Lease the policy holds up nobody.
            assert await told(ours, 0)
            await hold_lease(ours)

            async def compared() -> bool:
                return not await told(ours, 6)

            await until(compared, what="the policy")
            assert not await told(ours, 0)
            for transitions in (7, 8, None):
                assert await told(ours, transitions), transitions
            assert await told(admin, 6)


@pytest.mark.parametrize("subresource", ["scale", "status"])
async def test_a_late_write_of_a_former_leader_is_refused(tmp_path: Path, subresource: str) -> None:
    """A leader is cut off while its PATCH is on the way; it arrives once another leads and has decided."""
    async with installation.running(tmp_path) as cluster, detour.running(cluster.plane) as way:
        await actuating(cluster)
        await cluster.deploy("v", 1, allows_scale=True)
        cluster.pages.load["v"] = 6.0
        flags = ("--actuate=scale",)
        async with cluster.replica("a", *flags, kubeconfig=way.kubeconfig(cluster.kubeconfig)) as a:

            async def settled() -> bool:
                return await cluster.replicas() == await cluster.sized()

            await until(settled, what="more replicas", log=a.log)
            async with cluster.replica("b", *flags, port=control_plane.free_port()) as b:
                await until(b.ready, what="b's readiness")
                way.holds = lambda method, path: (
                    method == "PATCH" and path.endswith(f"/v/{subresource}")
                )
                cluster.pages.load["v"] = 40.0
                await until(lambda: _is_set(way), what="a's write")
                version = await _version(cluster)
                cluster.pages.load["v"] = 6.0

                async def decided() -> bool:
                    return await b.leads() and await _version(cluster) != version

                await until(decided, what="b's leadership and first status")
                way.let_go.set()
                await until(lambda: _arrived(way), what="the late write")
                (status,) = way.arrived
                assert status in {409, 422}


async def _version(cluster: Installation) -> str:
    version: str = (await cluster.get(f"{installation.VARIANTS}/v"))["metadata"]["resourceVersion"]
    return version


async def _is_set(way: detour.Detour) -> bool:
    return way.holding.is_set()


async def _arrived(way: detour.Detour) -> bool:
    return bool(way.arrived)

"""Installing, upgrading, uninstalling and advising in a real control plane, by the real kubectl.

Runs where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import control_plane, installation
from tests.e2e.installation import SYSTEM, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (control_plane.binary("kube-apiserver") and control_plane.binary("etcd")),
        reason="KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd",
    ),
]

MANIFESTS = installation.ROOT / "manifests"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/variantautoscalings.llmd.ai"
COSTS = f"/api/v1/namespaces/{SYSTEM}/configmaps/accelerator-unit-costs"


async def test_the_emulated_overlay_is_applied_by_one_call(tmp_path: Path) -> None:
    """To a cluster that is new: kubectl exits with 0, twice, and all that it names is there."""
    async with control_plane.running(tmp_path) as plane:
        cluster = Installation(plane)
        for _ in range(2):
            await cluster.kubectl("apply", "-k", str(MANIFESTS / "overlays/emulated"))
        for path in (
            CRD,
            f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/variant-adapter",
            "/apis/apps/v1/namespaces/llm-d-sim/deployments/load",
            installation.API_SERVICE,
        ):
            assert await cluster.get(path) is not None, path
        # What the load's init container does, with the rights of its service account.
        await cluster.kubectl(
            "create", "--as=system:serviceaccount:llm-d-sim:load",
            "-f", str(MANIFESTS / "overlays/emulated/variant.yaml"), "--validate=false",
        )  # fmt: skip


async def test_an_upgrade_keeps_prices_and_variants(tmp_path: Path) -> None:
    """From an older CRD: fields come, a price of somebody stays, and so do the variants."""
    async with control_plane.running(tmp_path) as plane:
        cluster = Installation(plane)
        (older,) = worlds.manifests("crd/variantautoscalings.yaml")
        version = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        del version["status"]["properties"]["history"]
        older["metadata"].pop("labels")
        await cluster.apply(older)
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "base"))
        await cluster.kubectl("create", "-f", str(MANIFESTS / "samples/configmaps.yaml"))
        price = '{"data": {"A100": "{\\"device\\": \\"A100\\", \\"cost\\": \\"7\\"}"}}'
        await cluster.kubectl(
            "patch",
            "configmap",
            "accelerator-unit-costs",
            "-n",
            SYSTEM,
            "--type=merge",
            "-p",
            price,
        )
        await plane.create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})

        async def established() -> bool:
            return await cluster.get(VARIANTS) is not None

        await until(established, what="the CRD")
        await plane.create(VARIANTS, worlds.variant("v"))
        before = await cluster.get(COSTS)
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "overlays/limited"))
        assert (await cluster.get(COSTS))["data"] == before["data"]
        assert await cluster.get(f"{VARIANTS}/v") is not None
        now = (await cluster.get(CRD))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert "history" in now["properties"]["status"]["properties"]


async def test_uninstalling_keeps_variants_and_prices(tmp_path: Path) -> None:
    """All else goes, whichever overlay was applied; and what is installed again finds them."""
    async with installation.running(tmp_path) as cluster:
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "overlays/actuate"))
        await cluster.deploy("v", 1)
        remove = ("delete", "--ignore-not-found", "-k", str(MANIFESTS / "uninstall"))
        await cluster.kubectl(*remove)
        assert await cluster.get(installation.API_SERVICE) is not None
        part_of = "app.kubernetes.io/part-of=variant-adapter"
        await cluster.kubectl("delete", "apiservices", "-l", part_of)
        for path in (CRD, f"{VARIANTS}/v", COSTS, f"/api/v1/namespaces/{SYSTEM}"):
            assert await cluster.get(path) is not None, path
        for path in (
            installation.API_SERVICE,
            f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/variant-adapter",
            f"{installation.RBAC}/clusterroles/variant-adapter",
            f"{installation.RBAC}/clusterroles/variant-adapter-actuate",
        ):
            assert await cluster.get(path) is None, path
        await cluster.kubectl(*remove)
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "base"))
        assert await cluster.get(f"{VARIANTS}/v") is not None


async def test_advice_becomes_a_metric_by_one_annotation(tmp_path: Path) -> None:
    """Decided and recorded in the status, served only once the variant is active."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with cluster.replica("a", "--actuate=none") as replica:
            await until(replica.ready, what=f"readiness, see {replica.log.read_text()}")

            async def decided() -> bool:
                return await cluster.desired() == 2

            async def served() -> bool:
                return await cluster.metric() == ["2"]

            await until(decided, what="the decision")
            assert await cluster.metric() == []
            status = (await cluster.get(f"{VARIANTS}/v"))["status"]
            assert status["history"][-1]["replicas"] == 2
            assert (await cluster.condition("OptimizationReady"))[2].startswith("advisory")
            await cluster.kubectl("annotate", "va", "v", "-n", "team-a", "llmd.ai/actuate=hpa")
            await until(served, what="the metric")

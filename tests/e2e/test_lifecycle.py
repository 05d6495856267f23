"""Installing, upgrading, uninstalling and advising in a real control plane, by the real kubectl.

Runs where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tests.e2e import control_plane, installation
from tests.e2e.installation import SYSTEM, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds

pytestmark = control_plane.MARKS

MANIFESTS = installation.ROOT / "manifests"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/variantautoscalings.llmd.ai"
COSTS = f"/api/v1/namespaces/{SYSTEM}/configmaps/accelerator-unit-costs"
CLASSES = f"/api/v1/namespaces/{SYSTEM}/configmaps/service-classes-config"
FENCE = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/variant-adapter-fence"


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


async def test_an_upgrade_keeps_prices_targets_and_variants(tmp_path: Path) -> None:
    """From an older version, whose base had the ConfigMaps: fields come, and what people wrote stays."""
    async with control_plane.running(tmp_path) as plane:
        cluster = Installation(plane)
        (older,) = worlds.manifests("crd/variantautoscalings.yaml")
        version = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        del version["status"]["properties"]["history"]
        older["metadata"].pop("labels")
        await cluster.apply(older)
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "base"))
        # As a part of the base they were applied, not created.
        await cluster.kubectl("apply", "-f", str(MANIFESTS / "samples/configmaps.yaml"))
        price = {"A100": json.dumps({"device": "A100", "cost": "7"})}
        target = {"mine": "name: mine\npriority: 3\ndata: [{model: m, slo-tpot: 31}]"}
        for name, data in (("accelerator-unit-costs", price), ("service-classes-config", target)):
            patch = json.dumps({"data": data})
            await cluster.kubectl(
                "patch", "configmap", name, "-n", SYSTEM, "--type=merge", "-p", patch
            )
        await plane.create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})

        async def established() -> bool:
            return await cluster.get(VARIANTS) is not None

        await until(established, what="the CRD")
        await plane.create(VARIANTS, worlds.variant("v"))
        before = [(await cluster.get(path))["data"] for path in (COSTS, CLASSES)]
        assert before[0]["A100"] == price["A100"]
        assert before[1]["mine"] == target["mine"]
        for overlay in ("overlays/limited", "overlays/actuate", "base"):
            await cluster.kubectl("apply", "-k", str(MANIFESTS / overlay))
            assert [(await cluster.get(path))["data"] for path in (COSTS, CLASSES)] == before
        assert await cluster.get(f"{VARIANTS}/v") is not None
        now = (await cluster.get(CRD))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert "history" in now["properties"]["status"]["properties"]


async def test_uninstalling_keeps_variants_and_prices(tmp_path: Path) -> None:
    """All else goes, whichever overlay was applied; and what is installed again finds them."""
    async with installation.running(tmp_path) as cluster:
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "overlays/actuate"))
        await cluster.deploy("v", 1)
        assert await cluster.get(FENCE) is not None
        remove = ("delete", "--ignore-not-found", "-k", str(MANIFESTS / "uninstall"))
        await cluster.kubectl(*remove)
        assert await cluster.get(installation.API_SERVICE) is not None
        part_of = "app.kubernetes.io/part-of=variant-adapter"
        await cluster.kubectl("delete", "apiservices", "-l", part_of)
        for path in (CRD, f"{VARIANTS}/v", COSTS, CLASSES, f"/api/v1/namespaces/{SYSTEM}"):
            assert await cluster.get(path) is not None, path
        for path in (
            FENCE,
            FENCE.replace("policies", "policybindings"),
            installation.API_SERVICE,
            f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/variant-adapter",
            f"{installation.RBAC}/clusterroles/variant-adapter",
            f"{installation.RBAC}/clusterroles/variant-adapter-actuate",
        ):
            assert await cluster.get(path) is None, path
        await cluster.kubectl(*remove)
        await cluster.kubectl("apply", "-k", str(MANIFESTS / "base"))
        assert await cluster.get(f"{VARIANTS}/v") is not None


ALONE: dict[str, Any] = {"llmd.ai/group": "none"}


async def test_advice_becomes_a_metric_by_one_annotation(tmp_path: Path) -> None:
    """Decided and recorded in the status; with APIService and annotation served, and no other variant is."""
    async with control_plane.running(tmp_path) as plane:
        cluster = Installation(plane)
        await cluster.install(api_service=False)
        async with cluster.pages.served(), cluster.replica("a", "--actuate=none") as replica:
            for name in ("v", "w"):
                await cluster.deploy(name, 1, **ALONE)
                cluster.pages.load[name] = 6.0
            await until(replica.ready, what="readiness", log=replica.log)
            for name in ("v", "w"):
                await until(functools.partial(cluster.sized, name), what="the decision")
            status = (await cluster.get(f"{VARIANTS}/v"))["status"]
            assert status["history"][-1]["replicas"] > 1
            assert (await cluster.condition("OptimizationReady"))[2].startswith("advisory")
            await cluster.serve_api()
            await cluster.kubectl("annotate", "va", "v", "-n", "team-a", "llmd.ai/actuate=hpa")
            await until(cluster.served, what="the metric", log=replica.log)
            assert await cluster.metric("w") == []

"""What somebody with rights on VariantAutoscalings of one namespace can do in a real control plane.

Runs where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter.kube import client, errors
from tests.e2e import control_plane, installation
from tests.e2e.installation import DEPLOYMENTS, RBAC, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (control_plane.binary("kube-apiserver") and control_plane.binary("etcd")),
        reason="KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd",
    ),
]

METRIC = "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/inferno_desired_replicas"

REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("path", {"scaleTargetRef": {"name": "../../kube-system/deployments/coredns"}}),
    ("quoted", {"scaleTargetRef": {"name": "%2e%2e%2fv"}}),
    ("dots", {"scaleTargetRef": {"name": ".."}}),
    ("kind", {"scaleTargetRef": {"name": "v", "kind": "a/b"}}),
    ("version", {"scaleTargetRef": {"name": "v", "apiVersion": "apps/v1/namespaces/kube-system"}}),
    ("long", {"modelID": "m" * 5000}),
)
"""Specs that the CRD's schema refuses, by name."""

ODD: dict[str, dict[str, str]] = {
    "digits": {"llmd.ai/max-replicas": "9" * 5000},
    "host": {"llmd.ai/metrics-endpoints": "http://["},
    "nfkc": {"llmd.ai/metrics-endpoints": "http://a\u2100b/metrics"},
    "metadata": {"llmd.ai/metrics-endpoints": "http://169.254.169.254/latest"},
    "duration": {"llmd.ai/scale-to-zero-retention": "1" * 30_000},
}
"""Annotations that only the adapter can refuse, by name of their variant."""


async def tenant(cluster: Installation) -> Path:
    """A kubeconfig of somebody who may do everything with variants of team-a, and nothing else."""
    rights = {
        "apiGroups": ["llmd.ai"],
        "resources": ["variantautoscalings"],
        "verbs": ["get", "list", "watch", "create", "update", "patch", "delete"],
    }
    metadata = {"name": "tenant", "namespace": "team-a"}
    where = f"{RBAC}/namespaces/team-a"
    await cluster.plane.create(f"{where}/roles", {"metadata": metadata, "rules": [rights]})
    binding = {
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    }
    await cluster.plane.create(f"{where}/rolebindings", binding)
    return cluster.plane.kubeconfig("tenant", "ann", [])


def variant(name: str, annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    item = worlds.variant(name, **spec)
    item["metadata"]["annotations"] = annotations or {}
    return item


async def test_a_tenant_reaches_nothing_beyond_its_variants(tmp_path: Path) -> None:
    """The schema refuses paths; RBAC refuses status, scale and metrics; no Deployment is scaled for it."""
    async with installation.running(tmp_path) as cluster:
        for item in worlds.manifests("overlays/actuate/scale.yaml"):
            await cluster.apply(item)
        await cluster.deploy("v", 1)
        deployment = worlds.workload("victim", 3)
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "none"
        await cluster.plane.create(DEPLOYMENTS, deployment)
        async with (
            client.connected(await tenant(cluster)) as ann,
            cluster.replica("a", "--actuate=scale") as replica,
        ):
            await until(replica.ready, what="readiness")
            for name, spec in REFUSED:
                with pytest.raises(errors.ApiError) as caught:
                    await ann.request("POST", VARIANTS, body=variant(name, **spec))
                assert caught.value.code == 422, name
            scaling = {"llmd.ai/actuate": "scale", "llmd.ai/max-replicas": "0"}
            await ann.request("POST", VARIANTS, body=variant("victim", scaling))

            async def looked_at() -> bool:
                return bool((await cluster.condition("TargetResolved", "victim"))[0])

            await until(looked_at, what="a condition of the tenant's variant")
            for method, path, body in (
                ("PATCH", f"{VARIANTS}/v/status", {"status": {}}),
                ("PATCH", f"{DEPLOYMENTS}/victim/scale", {"spec": {"replicas": 0}}),
                ("GET", METRIC, None),
                ("GET", f"/api/v1/namespaces/{installation.SYSTEM}/secrets", None),
            ):
                with pytest.raises(errors.Forbidden):
                    await ann.request(
                        method, path, body=body, content_type="application/merge-patch+json"
                    )
            assert (await cluster.get(f"{DEPLOYMENTS}/victim"))["spec"]["replicas"] == 3


async def test_odd_annotations_of_a_tenant_touch_no_other_variant(tmp_path: Path) -> None:
    """Each is a condition of its own variant, and the others are decided as ever."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with client.connected(await tenant(cluster)) as ann, cluster.replica("a") as replica:
            await until(replica.ready, what="readiness")
            for name, annotations in ODD.items():
                deployment = worlds.workload(name, 1)
                deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "none"
                await cluster.plane.create(DEPLOYMENTS, deployment)
                await ann.request("POST", VARIANTS, body=variant(name, annotations))

            async def decided() -> bool:
                return await cluster.desired() == 2

            await until(decided, what="the decision for v")
            for name in ODD:

                async def refused(name: str = name) -> bool:
                    status = (await cluster.condition("OptimizationReady", name))[0]
                    return status == "False"

                await until(refused, what=f"the condition of {name}")
            assert replica.process.returncode is None

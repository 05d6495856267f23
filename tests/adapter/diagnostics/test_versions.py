"""The doctor tells a CRD, an adapter and a doctor of different versions."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from adapter.diagnostics import variants
from adapter.diagnostics.site import Finding, Site
from adapter.installation import Names
from adapter.kube.client import connected
from tests.fakes import cluster_world as worlds
from tests.fakes import kubernetes_objects as objects

OWN = metadata.version("variant-adapter")


def labels(version: str) -> dict[str, str]:
    return {"app.kubernetes.io/version": version} if version else {}


@pytest.mark.parametrize(
    ("crd", "adapter", "level", "said"),
    [
        (OWN, OWN, "ok", f"version {OWN}"),
        (OWN, "", "ok", f"version {OWN}"),
        ("0.0.9", OWN, "error", f"of version 0.0.9, the adapter of {OWN}"),
        ("9.0.0", "9.0.0", "warning", f"the adapter is of version 9.0.0, this program of {OWN}"),
        ("", OWN, "warning", "has no version"),
    ],
)
async def test_versions_that_differ_are_told(
    tmp_path: Path, crd: str, adapter: str, level: str, said: str
) -> None:
    """One finding with the fix; versions are the labels that the manifests set."""
    async with worlds.running(tmp_path) as world:
        definition = {**objects.CRD, "metadata": {**objects.CRD["metadata"], "labels": labels(crd)}}
        world.api.put("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", definition)
        if adapter:
            item = worlds.workload("variant-adapter", 2)
            item["metadata"] |= {"namespace": worlds.SYSTEM, "labels": labels(adapter)}
            world.api.put("/apis/apps/v1", "deployments", item)
        admin = await world.site.entrance("admin", user="")
        async with connected(admin.kubeconfig) as cluster:
            findings: list[Finding] = [
                item async for item in variants.versions(Site(cluster, Names()))
            ]
    (finding,) = findings
    assert finding.level == level
    assert said in finding.what
    assert bool(finding.fix) == (level != "ok")

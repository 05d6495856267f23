"""The server behind a real kube-apiserver: identities, aggregation, and an HPA that scales by it.

Runs where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd; the HPA's part also needs
kube-controller-manager.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.adapter.apiserver import test_conformance as conformance
from tests.e2e import control_plane

pytestmark = control_plane.MARKS

GROUP = "external.metrics.k8s.io"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def subject(kind: str, name: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}


def binding(name: str, role_kind: str, role: str, subjects: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": subjects,
    }


async def prepare(plane: control_plane.ControlPlane) -> tuple[Path, str]:
    """What the manifests grant the adapter, the cases' rules, and a service account's token."""
    us = [subject("User", "variant-adapter")]
    await plane.create(
        f"{RBAC}/clusterrolebindings",
        binding("variant-adapter-delegator", "ClusterRole", "system:auth-delegator", us),
    )
    await plane.create(
        f"{RBAC}/namespaces/kube-system/rolebindings",
        binding("variant-adapter-reader", "Role", "extension-apiserver-authentication-reader", us),
    )
    await plane.create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})
    rule = {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]}
    await plane.create(
        f"{RBAC}/namespaces/team-a/roles", {"metadata": {"name": "metrics"}, "rules": [rule]}
    )
    await plane.create(
        f"{RBAC}/namespaces/team-a/rolebindings",
        binding("metrics", "Role", "metrics", [subject("Group", "team-a")]),
    )
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await plane.create(accounts, {"metadata": {"name": "reader"}})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = await plane.create(f"{accounts}/reader/token", request)
    return plane.kubeconfig("variant-adapter", "variant-adapter", []), answer["status"]["token"]


@contextlib.asynccontextmanager
async def serving(
    plane: control_plane.ControlPlane, kubeconfig: Path, fixtures: Path
) -> AsyncIterator[int]:
    """The real server with fixed series, in a process of its own; gives its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.conformance_server",
        "--fixtures", str(fixtures), "--kubeconfig", str(kubeconfig),
        "--cert", str(plane.folder / "serving.crt"), "--key", str(plane.folder / "serving.key"),
        "--port", "0", cwd=conformance.FIXTURES.parents[2], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = ""
        while not line.startswith("serving on "):  # warnings may come first
            raw = await asyncio.wait_for(process.stdout.readline(), 60)
            assert raw, "the server ended"
            line = raw.decode()
        yield int(line.strip().rsplit(":", 1)[1])
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def register(plane: control_plane.ControlPlane, port: int) -> None:
    """Put the server behind the aggregation layer, and wait until it is available."""
    await plane.create(
        "/api/v1/namespaces/default/services",
        {
            "metadata": {"name": "wire"},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
    )
    authority = plane.certificates.authorities["serving-ca"].cert_pem
    name = f"v1beta1.{GROUP}"
    path = "/apis/apiregistration.k8s.io/v1/apiservices"
    await plane.create(
        path,
        {
            "metadata": {"name": name},
            "spec": {
                "group": GROUP, "version": "v1beta1", "groupPriorityMinimum": 100,
                "versionPriority": 100, "caBundle": base64.b64encode(authority).decode(),
                "service": {"namespace": "default", "name": "wire", "port": port},
            },
        },
    )  # fmt: skip
    last: Any = None
    async with asyncio.timeout(120):
        while True:
            _, last = await plane.call("GET", f"{path}/{name}")
            conditions = (last.get("status") or {}).get("conditions") or []
            if any(c["type"] == "Available" and c["status"] == "True" for c in conditions):
                return
            await asyncio.sleep(1)


async def test_the_recorded_cases_with_real_reviews(tmp_path: Path) -> None:
    """The cluster's own tokens, access reviews and front-proxy configuration decide as recorded."""
    async with control_plane.running(tmp_path) as plane:
        kubeconfig, token = await prepare(plane)
        async with serving(plane, kubeconfig, conformance.FIXTURES) as port:
            server = conformance.Conformance(
                url=f"https://127.0.0.1:{port}", folder=tmp_path, token=token
            )
            wrong = {
                case["id"]: problems
                for case in conformance.CASES
                if (problems := await conformance.failures(case, server))
            }
    assert wrong == {}


async def test_the_recorded_cases_through_the_aggregator(tmp_path: Path) -> None:
    """kube-apiserver finds the server available, lists its resources, and passes requests on."""
    async with control_plane.running(tmp_path) as plane:
        kubeconfig, token = await prepare(plane)
        async with serving(plane, kubeconfig, conformance.FIXTURES) as port:
            await register(plane, port)
            server = conformance.Conformance(url=plane.url, folder=tmp_path, token=token, ca="ca")
            wrong = {}
            for case in conformance.CASES:
                if case.get("via") != "any":
                    continue
                identity = case.get("identity", "none")
                if identity.startswith("fp:") and "system:masters" in identity:
                    case = {**case, "identity": "cert:admin"}  # noqa: PLW2901 - as the cases mean it
                problems = await conformance.failures(case, server)
                if problems:
                    wrong[case["id"]] = problems
    assert wrong == {}


@control_plane.needs_controllers
async def test_an_hpa_scales_by_the_metric(tmp_path: Path) -> None:
    """A native HPA with AverageValue 1 takes a Deployment from 1 replica to the metric's 3."""
    fixtures = tmp_path / "fixtures.json"
    series = {"metric": "inferno_desired_replicas", "labels": {"variant_name": "v"}, "value": "3"}
    fixtures.write_text(json.dumps({"fixtures": {"series_in_every_namespace": [series]}}))
    labels = {"app": "v"}
    deployment = {
        "metadata": {"name": "v"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "none"}]},
            },
        },
    }
    metric = {
        "metric": {"name": series["metric"], "selector": {"matchLabels": {"variant_name": "v"}}},
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    scaler = {
        "metadata": {"name": "v"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "v"},
            "minReplicas": 1,
            "maxReplicas": 10,
            "metrics": [{"type": "External", "external": metric}],
        },
    }
    async with control_plane.running(tmp_path) as plane:
        kubeconfig, _ = await prepare(plane)
        async with serving(plane, kubeconfig, fixtures) as port:
            await register(plane, port)
            base = "/apis/apps/v1/namespaces/default/deployments"
            await plane.create(base, deployment)
            await plane.create(
                "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", scaler
            )
            async with control_plane.controllers(plane), asyncio.timeout(120):
                while True:
                    _, scaled = await plane.call("GET", f"{base}/v")
                    if scaled["spec"]["replicas"] == 3:
                        break
                    await asyncio.sleep(1)

"""The whole adapter in a real control plane: CRD, status, leadership, certificates, and an HPA that follows.

Runs where KUBEBUILDER_ASSETS names a folder with kube-apiserver and etcd; the HPA's part also needs
kube-controller-manager.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from pathlib import Path

from adapter import cli
from tests.e2e import control_plane, installation
from tests.e2e.installation import API_SERVICE, DEPLOYMENTS, SYSTEM, VARIANTS, Installation, until
from tests.fakes import cluster_world as worlds

pytestmark = control_plane.MARKS


async def available(found: Installation) -> bool:
    """Whether the aggregation layer reaches us, by the caBundle that the adapter filled in."""
    service = await found.get(API_SERVICE) or {}
    return any(
        item["type"] == "Available" and item["status"] == "True"
        for item in (service.get("status") or {}).get("conditions") or ()
    )


async def test_status_columns_metric_and_explanation(tmp_path: Path) -> None:
    """From `kubectl apply` to `kubectl get va`, `get --raw`, Events and a clean bill from the doctor."""
    async with installation.running(tmp_path) as found:
        await found.deploy("v", 1)
        found.pages.load["v"] = 6.0  # a minute of its pages lasts six seconds: 60 requests a minute
        async with found.replica("a") as replica:
            await until(replica.ready, what="readiness", log=replica.log)
            await until(found.sized, what="more replicas")
            await until(lambda: available(found), what="the APIService")
            header, row = (await found.kubectl("get", "va", "-n", "team-a")).splitlines()
            assert header.split() == [
                "NAME", "MODEL", "ACCELERATOR", "CURRENTREPLICAS", "OPTIMIZED", "SHARE",
                "METRICSREADY", "AGE",
            ]  # fmt: skip
            # A variant alone has no share of a group.
            name, model, accelerator, _, optimized, ready, _ = row.split()
            assert (name, model, accelerator) == ("v", "default/default", "A100")
            assert (int(optimized) > 1, ready) == (True, "True")
            wide = await found.kubectl("get", "va", "-n", "team-a", "-o", "wide")
            assert "TargetFound" in wide
            raw = await found.kubectl(
                "get",
                "--raw",
                "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/inferno_desired_replicas"
                "?labelSelector=variant_name%3Dv",
            )
            (item,) = json.loads(raw)["items"]
            assert int(item["value"]) > 1
            status = (await found.get(f"{VARIANTS}/v"))["status"]
            assert status["observedGeneration"] == 1
            assert status["desiredOptimizedAlloc"]["accelerator"] == "A100"
            events = await found.kubectl("get", "events", "-n", "team-a")
            assert "ScalingDecision" in events
            path = found.plane.kubeconfig("people", "admin", ["system:masters"])
            assert (
                await asyncio.to_thread(cli.main, ["certs", "show", "--kubeconfig", str(path)]) == 0
            )
            # No HPA is there yet: a warning, not an error.
            assert await asyncio.to_thread(cli.main, ["doctor", "--kubeconfig", str(path)]) == 0


async def test_refusals_and_conflicts_are_conditions(tmp_path: Path) -> None:
    """The API server refuses what the schema forbids; what only we can see becomes a condition."""
    async with installation.running(tmp_path) as found:
        await found.deploy("v", 1)
        bad = worlds.variant("bad")
        bad["spec"]["modelProfile"]["accelerators"][0]["maxBatchSize"] = 0
        code, answer = await found.plane.call("POST", VARIANTS, bad)
        assert code == 422, answer
        assert "maxBatchSize" in answer["message"]
        unknown = worlds.variant("unknown", modelID="nobody/lists-it")
        await found.plane.create(VARIANTS, unknown)
        async with found.replica("a"):

            async def refused() -> bool:
                return (await found.condition("OptimizationReady", "unknown"))[0] == "False"

            await until(refused, what="the condition")
            _, reason, message = await found.condition("OptimizationReady", "unknown")
            assert reason in {"InvalidConfiguration", "TargetNotFound"}
            assert message.startswith("spec.")
            second = worlds.variant("w", scaleTargetRef={"kind": "Deployment", "name": "v"})
            await asyncio.sleep(1.1)  # creation times have whole seconds
            await found.plane.create(VARIANTS, second)

            async def conflict() -> bool:
                return (await found.condition("TargetResolved", "w"))[1] == "TargetConflict"

            await until(conflict, what="the conflict")


async def test_a_leader_that_is_killed_is_followed(tmp_path: Path) -> None:
    """Both replicas serve; after SIGKILL of the leader the other leads, and decides anew."""
    async with installation.running(tmp_path) as found:
        await found.deploy("v", 1)
        found.pages.load["v"] = 6.0
        async with found.replica("a") as a:
            await until(a.leads, what="a's leadership")
            await until(found.sized, what="more replicas")
            async with found.replica("b", port=control_plane.free_port()) as b:
                await until(b.ready, what="b's readiness")
                assert not await b.leads()
                before = await found.desired() or 0
                a.process.send_signal(signal.SIGKILL)
                await until(b.leads, what="b's leadership")
                found.pages.load["v"] = 40.0

                async def more() -> bool:
                    return (await found.desired() or 0) > before

                await until(more, what="b's decision")


async def test_certificates_rotate_under_the_aggregation_layer(tmp_path: Path) -> None:
    """A rotation to another authority never makes the API server turn away from us."""
    async with installation.running(tmp_path) as found:
        await found.deploy("v", 1)
        found.pages.load["v"] = 6.0
        # kube-apiserver takes a changed caBundle up within a second or two.
        async with found.replica("a", overlap="8s"):
            await until(found.sized, what="more replicas")
            await until(lambda: available(found), what="the APIService")
            before = (await found.get(API_SERVICE))["spec"]["caBundle"]
            path = found.plane.kubeconfig("people", "admin", ["system:masters"])
            assert (
                await asyncio.to_thread(cli.main, ["certs", "rotate", "--kubeconfig", str(path)])
                == 0
            )
            async with asyncio.timeout(120):
                while True:
                    assert await found.served()
                    now = (await found.get(API_SERVICE))["spec"]["caBundle"]
                    bundle = base64.b64decode(now)
                    if now != before and base64.b64decode(before).strip() not in bundle:
                        break
                    await asyncio.sleep(0.5)
            assert bundle.count(b"BEGIN CERTIFICATE") == 1
            secret = await found.get(f"/api/v1/namespaces/{SYSTEM}/secrets/variant-adapter-certs")
            assert base64.b64decode(secret["data"]["ca.crt"]) == bundle


@control_plane.needs_controllers
async def test_variants_go_with_their_deployments(tmp_path: Path) -> None:
    """The overlay's rights are enough to set an owner, also where the API server guards owners."""
    async with installation.running(tmp_path) as found:
        for item in worlds.manifests("overlays/limited/owners.yaml"):
            await found.apply(item)
        await found.deploy("v", 1)
        async with (
            found.replica("a", "--owner-references"),
            control_plane.controllers(found.plane),
        ):

            async def owned() -> bool:
                return "ownerReferences" in (await found.get(f"{VARIANTS}/v"))["metadata"]

            await until(owned, what="the owner")
            await found.plane.call("DELETE", f"{DEPLOYMENTS}/v")

            async def gone() -> bool:
                return await found.get(f"{VARIANTS}/v") is None

            await until(gone, what="the collection of the variant")


@control_plane.needs_controllers
async def test_an_hpa_follows_up_and_down(tmp_path: Path) -> None:
    """A native HPA takes the Deployment to what was decided, and back when the load is gone."""
    async with installation.running(tmp_path) as found:
        await found.deploy("v", 1)
        scaler = worlds.scaler("v", behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
        await found.plane.create(
            "/apis/autoscaling/v2/namespaces/team-a/horizontalpodautoscalers", scaler
        )
        found.pages.load["v"] = 6.0
        async with found.replica("a"), control_plane.controllers(found.plane):

            async def more() -> bool:
                return await found.replicas() > 1

            async def one() -> bool:
                return await found.replicas() == 1

            await until(more, what="more replicas")
            found.pages.load["v"] = 0.0
            await until(one, what="one replica")

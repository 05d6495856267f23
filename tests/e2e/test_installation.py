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


async def available(cluster: Installation) -> bool:
    """Whether the aggregation layer reaches us, by the caBundle that the adapter filled in."""
    service = await cluster.get(API_SERVICE) or {}
    return any(
        item["type"] == "Available" and item["status"] == "True"
        for item in (service.get("status") or {}).get("conditions") or ()
    )


async def test_status_columns_metric_and_explanation(tmp_path: Path) -> None:
    """From `kubectl apply` to `kubectl get va`, `get --raw`, Events and a clean bill from the doctor."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = (
            6.0  # a minute of its pages lasts six seconds: 60 requests a minute
        )
        async with cluster.replica("a") as replica:
            await until(replica.ready, what="readiness", log=replica.log)
            await until(cluster.sized, what="more replicas")
            await until(lambda: available(cluster), what="the APIService")
            header, row = (await cluster.kubectl("get", "va", "-n", "team-a")).splitlines()
            assert header.split() == [
                "NAME", "MODEL", "ACCELERATOR", "CURRENTREPLICAS", "OPTIMIZED", "SHARE",
                "METRICSREADY", "AGE",
            ]  # fmt: skip
            # A variant alone has no share of a group.
            name, model, accelerator, _, optimized, ready, _ = row.split()
            assert (name, model, accelerator) == ("v", "default/default", "A100")
            assert (int(optimized) > 1, ready) == (True, "True")
            wide = await cluster.kubectl("get", "va", "-n", "team-a", "-o", "wide")
            assert "TargetFound" in wide
            raw = await cluster.kubectl(
                "get",
                "--raw",
                "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/inferno_desired_replicas"
                "?labelSelector=variant_name%3Dv",
            )
            (item,) = json.loads(raw)["items"]
            assert int(item["value"]) > 1
            status = (await cluster.get(f"{VARIANTS}/v"))["status"]
            assert status["observedGeneration"] == 1
            assert status["desiredOptimizedAlloc"]["accelerator"] == "A100"
            events = await cluster.kubectl("get", "events", "-n", "team-a")
            assert "ScalingDecision" in events
            path = cluster.plane.kubeconfig("people", "admin", ["system:masters"])
            assert (
                await asyncio.to_thread(cli.main, ["certs", "show", "--kubeconfig", str(path)]) == 0
            )
            # No HPA is there yet: a warning, not an error.
            assert await asyncio.to_thread(cli.main, ["doctor", "--kubeconfig", str(path)]) == 0


async def test_refusals_and_conflicts_are_conditions(tmp_path: Path) -> None:
    """The API server refuses what the schema forbids; what only we can see becomes a condition."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        bad = worlds.variant("bad")
        bad["spec"]["modelProfile"]["accelerators"][0]["maxBatchSize"] = 0
        code, answer = await cluster.plane.call("POST", VARIANTS, bad)
        assert code == 422, answer
        assert "maxBatchSize" in answer["message"]
        unknown = worlds.variant("unknown", modelID="nobody/lists-it")
        await cluster.plane.create(VARIANTS, unknown)
        async with cluster.replica("a"):

            async def refused() -> bool:
                return (await cluster.condition("OptimizationReady", "unknown"))[0] == "False"

            await until(refused, what="the condition")
            _, reason, message = await cluster.condition("OptimizationReady", "unknown")
            assert reason in {"InvalidConfiguration", "TargetNotFound"}
            assert message.startswith("spec.")
            second = worlds.variant("w", scaleTargetRef={"kind": "Deployment", "name": "v"})
            await asyncio.sleep(1.1)  # creation times have whole seconds
            await cluster.plane.create(VARIANTS, second)

            async def conflict() -> bool:
                return (await cluster.condition("TargetResolved", "w"))[1] == "TargetConflict"

            await until(conflict, what="the conflict")


async def test_a_leader_that_is_killed_is_followed(tmp_path: Path) -> None:
    """Both replicas serve; after SIGKILL of the leader the other leads, and decides anew."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        async with cluster.replica("a") as a:
            await until(a.leads, what="a's leadership")
            await until(cluster.sized, what="more replicas")
            async with cluster.replica("b", port=control_plane.free_port()) as b:
                await until(b.ready, what="b's readiness")
                assert not await b.leads()
                before = await cluster.desired() or 0
                a.process.send_signal(signal.SIGKILL)
                await until(b.leads, what="b's leadership")
                cluster.pages.load["v"] = 40.0

                async def more() -> bool:
                    return (await cluster.desired() or 0) > before

                await until(more, what="b's decision")


async def test_certificates_rotate_under_the_aggregation_layer(tmp_path: Path) -> None:
    """A rotation to another authority never makes the API server turn away from us."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        # kube-apiserver takes a changed caBundle up within a second or two.
        async with cluster.replica("a", overlap="8s"):
            await until(cluster.sized, what="more replicas")
            await until(lambda: available(cluster), what="the APIService")
            before = (await cluster.get(API_SERVICE))["spec"]["caBundle"]
            path = cluster.plane.kubeconfig("people", "admin", ["system:masters"])
            assert (
                await asyncio.to_thread(cli.main, ["certs", "rotate", "--kubeconfig", str(path)])
                == 0
            )
            async with asyncio.timeout(120):
                while True:
                    assert await cluster.served()
                    now = (await cluster.get(API_SERVICE))["spec"]["caBundle"]
                    bundle = base64.b64decode(now)
                    if now != before and base64.b64decode(before).strip() not in bundle:
                        break
                    await asyncio.sleep(0.5)
            assert bundle.count(b"BEGIN CERTIFICATE") == 1
            secret = await cluster.get(f"/api/v1/namespaces/{SYSTEM}/secrets/variant-adapter-certs")
            assert base64.b64decode(secret["data"]["ca.crt"]) == bundle


@control_plane.needs_controllers
async def test_variants_go_with_their_deployments(tmp_path: Path) -> None:
    """The overlay's rights are enough to set an owner, also where the API server guards owners."""
    async with installation.running(tmp_path) as cluster:
        for item in worlds.manifests("overlays/limited/owners.yaml"):
            await cluster.apply(item)
        await cluster.deploy("v", 1)
        async with (
            cluster.replica("a", "--owner-references"),
            control_plane.controllers(cluster.plane),
        ):

            async def owned() -> bool:
                return "ownerReferences" in (await cluster.get(f"{VARIANTS}/v"))["metadata"]

            await until(owned, what="the owner")
            await cluster.plane.call("DELETE", f"{DEPLOYMENTS}/v")

            async def gone() -> bool:
                return await cluster.get(f"{VARIANTS}/v") is None

            await until(gone, what="the collection of the variant")


@control_plane.needs_controllers
async def test_an_hpa_follows_up_and_down(tmp_path: Path) -> None:
    """A native HPA takes the Deployment to what was decided, and back when the load is gone."""
    async with installation.running(tmp_path) as cluster:
        await cluster.deploy("v", 1)
        scaler = worlds.scaler("v", behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
        await cluster.plane.create(
            "/apis/autoscaling/v2/namespaces/team-a/horizontalpodautoscalers", scaler
        )
        cluster.pages.load["v"] = 6.0
        async with (
            cluster.replica("a", "--down-window=5s"),
            control_plane.controllers(cluster.plane),
        ):

            async def more() -> bool:
                return await cluster.replicas() > 1

            async def one() -> bool:
                return await cluster.replicas() == 1

            await until(more, what="more replicas")
            # What one address per replica says lets the target fall.
            pods = [f"v-{number}" for number in range(await cluster.replicas())]
            cluster.pages.finished.update(dict.fromkeys(pods, 0.0))
            cluster.pages.load["v"] = 0.0
            urls = ",".join(f"http://127.0.0.1:{cluster.pages.port}/pods/{pod}" for pod in pods)
            note = f"llmd.ai/metrics-endpoints={urls}"
            await cluster.kubectl("annotate", "va", "v", "-n", "team-a", "--overwrite", note)
            await until(one, seconds=300, what="one replica")

"""KEDA's own operator and metrics server beside the adapter: what docs/keda.md says, step by step."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import control_plane, keda_programs
from tests.e2e.gateway import Gateway
from tests.e2e.installation import ROOT, SYSTEM, VARIANTS, Installation, Replica, until
from tests.e2e.keda_programs import Keda
from tests.fakes import cluster_world as worlds

pytestmark = [
    *control_plane.MARKS,
    control_plane.needs_controllers,
    keda_programs.needs_keda,
    pytest.mark.timeout(900),
]

ADDRESS = f"variant-adapter.{SYSTEM}.svc"
SCALED = "/apis/keda.sh/v1alpha1/namespaces/team-a/scaledobjects"
HPAS = "/apis/autoscaling/v2/namespaces/team-a/horizontalpodautoscalers"
SHORT = ("--time-to-live=20s", "--scale-to-zero", "--scale-to-zero-retention=2s")


class Walk:
    """A user with KEDA in the cluster who follows docs/keda.md.

    Attributes:
        keda: KEDA's programs.
        gateway: the endpoint picker.
        ports: of each replica's gRPC port and metrics port.

    """

    def __init__(self, cluster: Installation, folder: Path) -> None:
        self.cluster = cluster
        self.keda = Keda(cluster, folder)
        self.gateway = Gateway()
        self._folder = folder

    @contextlib.asynccontextmanager
    async def replica(self, name: str) -> AsyncIterator[Replica]:
        """A replica behind the adapter's Service."""
        port = control_plane.free_port()
        flags = (
            f"--keda-port={port}", "--keda-host=127.0.0.1",
            f"--keda-client-ca-file={self._folder}/keda-ca.crt",
            f"--gateway-metrics=http://127.0.0.1:{self.cluster.pages.port}/gateway", *SHORT,
        )  # fmt: skip
        async with self.cluster.replica(name, *flags, port=control_plane.free_port()) as replica:
            await until(replica.ready, what="readiness", log=replica.log)
            ports = self.keda.services.ports
            ports.setdefault(f"{ADDRESS}:9443", []).append(port)
            ports.setdefault(f"{ADDRESS}:8080", []).append(int(replica.url.rpartition(":")[2]))
            yield replica

    async def copy_authority(self, secret: str, namespace: str, to: str = "") -> None:
        """`kubectl get secret … > ca.crt`, and `kubectl create secret generic` of it."""
        document = await self.cluster.get(f"/api/v1/namespaces/{namespace}/secrets/{secret}")
        if not to:
            (self._folder / "keda-ca.crt").write_bytes(base64.b64decode(document["data"]["ca.crt"]))
            return
        await self.cluster.plane.create(
            f"/api/v1/namespaces/{keda_programs.NAMESPACE}/secrets",
            {"metadata": {"name": to}, "data": {"ca.crt": document["data"]["ca.crt"]}},
        )

    async def apply(self, sample: str, name: str, **spec: Any) -> None:
        """Apply a sample for the Deployment and variant `name` of team-a."""
        text = (ROOT / "manifests/samples/keda" / sample).read_text()
        text = text.replace("llm-d-sim", "team-a").replace("vllme-deployment", name)
        items = list(yaml.safe_load_all(text))
        for item in items:
            if item["kind"] == "ScaledObject":
                item["metadata"]["name"] = name
                item["spec"].update(spec)
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(items))
        await self.cluster.kubectl("apply", "-f", str(path))

    async def scaled(self, name: str, condition: str) -> str:
        """Status of a condition of a ScaledObject."""
        document = await self.cluster.get(f"{SCALED}/{name}") or {}
        for item in (document.get("status") or {}).get("conditions") or ():
            if item["type"] == condition:
                return str(item["status"])
        return ""

    async def hpa(self, name: str) -> Any:
        """The HPA that KEDA has made; None before."""
        return await self.cluster.get(f"{HPAS}/keda-hpa-{name}")

    async def value(self, name: str) -> str:
        """What the HPA reads from KEDA's API; an error's text."""
        metric = (await self.hpa(name))["spec"]["metrics"][0]["external"]["metric"]
        (label,) = metric["selector"]["matchLabels"].items()
        status, answer = await self.cluster.plane.call(
            "GET",
            f"/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/{metric['name']}"
            f"?labelSelector={label[0]}%3D{label[1]}",
        )
        return str(answer["items"][0]["value"] if status == 200 else answer)

    async def replicas(self, name: str, low: int) -> bool:
        return await self.cluster.replicas(name) >= low


@contextlib.asynccontextmanager
async def walking(folder: Path) -> AsyncIterator[Walk]:
    """A cluster with KEDA and the adapter's objects in it, whose authority is known to it (step 1)."""
    async with control_plane.running(folder) as plane, control_plane.controllers(plane):
        cluster = Installation(plane)
        await cluster.install(api_service=False)
        walk = Walk(cluster, folder)
        async with cluster.pages.served(gateway=walk.gateway.handle):
            await walk.keda.install()
            async with walk.keda.running():
                await walk.copy_authority("kedaorg-certs", keda_programs.NAMESPACE)
                yield walk


async def test_external_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Woken from zero, followed up, kept through another leader and a fallback, by KEDA's own programs."""
    async with walking(tmp_path) as walk, walk.replica("a") as a, walk.replica("b") as b:
        cluster = walk.cluster
        await walk.copy_authority("variant-adapter-certs", SYSTEM, "variant-adapter-ca")
        await cluster.workload("v", 0)
        await cluster.plane.create(VARIANTS, worlds.variant("v"))
        await walk.apply("external-push.yaml", "v", pollingInterval=5)

        async def ready() -> bool:
            return await walk.scaled("v", "Ready") == "True" and await walk.hpa("v") is not None

        await until(ready, what="the ScaledObject", log=walk.keda.log)
        (metric,) = (await walk.hpa("v"))["spec"]["metrics"]
        assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}

        async def inactive() -> bool:
            return await walk.scaled("v", "Active") == "False" and await cluster.desired() == 0

        await until(inactive, what="a proven zero", log=walk.keda.log)
        assert await cluster.replicas() == 0
        walk.gateway.waiting, started = 3, time.monotonic()
        async with asyncio.timeout(90):
            while not await cluster.replicas():  # noqa: ASYNC110 - as seen from outside
                await asyncio.sleep(0.02)
        control_plane.measured(
            capsys, f"KEDA scaled from zero {time.monotonic() - started:.2f} s after the request"
        )
        cluster.pages.finished["v-0"] = 0.0
        cluster.pages.load["v"] = 6.0
        walk.gateway.waiting = 0
        url = f"http://127.0.0.1:{cluster.pages.port}/pods/v-0"
        await cluster.kubectl(
            "annotate", "va", "v", "-n", "team-a", f"llmd.ai/metrics-endpoints={url}"
        )
        await until(lambda: walk.replicas("v", 2), what="more replicas", log=walk.keda.log)
        before = await cluster.replicas()

        a.process.send_signal(signal.SIGKILL)
        await until(b.leads, what="b's leadership", log=b.log)
        cluster.pages.load["v"] = 40.0
        await until(lambda: walk.replicas("v", before + 1), what="b's target", log=walk.keda.log)
        held = await cluster.replicas()

        del cluster.pages.finished["v-0"]

        async def fallen_back() -> bool:
            return await walk.scaled("v", "Fallback") == "True"

        await until(fallen_back, what="the fallback", log=walk.keda.log)
        assert await walk.value("v") == str(held)  # currentReplicasIfHigher
        assert await cluster.replicas() == held


async def test_fallback_at_zero(tmp_path: Path) -> None:
    """An adapter that is away leaves it at zero; a value that it does not know starts the fallback's."""
    async with walking(tmp_path) as walk:
        cluster = walk.cluster
        await cluster.workload("v", 0)
        await cluster.plane.create(VARIANTS, worlds.variant("v"))

        async def inactive() -> bool:
            return await walk.scaled("v", "Active") == "False" and await cluster.desired() == 0

        async with walk.replica("a") as a:
            await walk.copy_authority("variant-adapter-certs", SYSTEM, "variant-adapter-ca")
            await walk.apply("external-push.yaml", "v", pollingInterval=2)
            await until(inactive, what="a proven zero", log=walk.keda.log)
            a.process.send_signal(signal.SIGKILL)

            async def refused() -> bool:
                return walk.keda.log.read_text().count("got empty metric spec") > 10

            await until(refused, what="errors", log=walk.keda.log)
            assert await cluster.replicas() == 0
        async with walk.replica("b") as b:
            await until(b.leads, what="b's leadership", log=b.log)
            await cluster.plane.call("DELETE", f"{VARIANTS}/v")
            await until(lambda: walk.replicas("v", 2), what="the fallback", log=walk.keda.log)


async def test_metrics_api(tmp_path: Path) -> None:
    """Read from the metrics port by KEDA's HTTP scaler; a value that is not valid any more is an error."""
    async with walking(tmp_path) as walk, walk.replica("a") as a:
        cluster = walk.cluster
        await cluster.deploy("v", 1)
        cluster.pages.load["v"] = 6.0
        await walk.apply("metrics-api.yaml", "v", pollingInterval=5)
        # No controller of this control plane fills the Secret of a ServiceAccount.
        token = (
            await cluster.kubectl("create", "token", "variant-adapter-reader", "-n", "keda")
        ).strip()
        patch = f'{{"stringData": {{"token": "{token}"}}}}'
        await cluster.kubectl(
            "patch", "secret", "variant-adapter-reader", "-n", "keda", "-p", patch
        )
        await until(cluster.sized, what="a target", log=a.log)
        await until(lambda: walk.replicas("v", 2), what="more replicas", log=walk.keda.log)
        held = await cluster.replicas()
        del cluster.pages.finished["v-0"]

        async def fallen_back() -> bool:
            return await walk.scaled("v", "Fallback") == "True"

        await until(fallen_back, what="the fallback", log=walk.keda.log)
        assert await cluster.replicas() == held

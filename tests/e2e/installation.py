"""Our installation in a throw-away control plane: manifests, replicas of the adapter, pods that answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from certs.authority import kubeconfig
from tests.e2e import control_plane
from tests.fakes import cluster_world as worlds
from tests.fakes.pods import pages

ROOT = Path(__file__).parents[2]
SYSTEM = worlds.SYSTEM
RBAC = "/apis/rbac.authorization.k8s.io/v1"
SERVICES = f"/api/v1/namespaces/{SYSTEM}/services"
VARIANTS = "/apis/llmd.ai/v1alpha1/namespaces/team-a/variantautoscalings"
DEPLOYMENTS = "/apis/apps/v1/namespaces/team-a/deployments"
API_SERVICE = f"{worlds.API_SERVICES}/apiservices/{worlds.API_SERVICE}"
PLURALS = {
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Namespace": "namespaces",
    "CustomResourceDefinition": "customresourcedefinitions",
}


async def until(
    true: Callable[[], Any], *, seconds: float = 180.0, what: str = "it", log: Path | None = None
) -> Any:
    """Wait until a coroutine function gives something true, and give that; a failure quotes a log's end."""
    last: Any = None
    try:
        async with asyncio.timeout(seconds):
            while not (last := await true()):  # noqa: ASYNC110 - many things change it
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(f"{what} did not come to hold\n{_end(log)}") from None
    return last


def _end(log: Path | None) -> str:
    return log.read_text()[-4000:] if log else ""


class Installation:
    """The manifests in a control plane.

    Attributes:
        kubeconfig: with the rights of the adapter's service account.
        pages: metrics of the pods.

    """

    def __init__(self, plane: control_plane.ControlPlane) -> None:
        self.plane = plane
        self.kubeconfig = plane.folder / "service-account.kubeconfig"
        self.port = control_plane.free_port()
        self.pages = pages.Pages()

    # Objects.

    async def get(self, path: str) -> Any:
        """An object; None where there is none."""
        status, document = await self.plane.call("GET", path)
        return document if status == 200 else None

    async def apply(self, item: dict[str, Any]) -> None:
        """Make an object of the manifests."""
        version = item["apiVersion"]
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        namespace = item["metadata"].get("namespace")
        where = f"{root}/namespaces/{namespace}" if namespace else root
        await self.plane.create(f"{where}/{PLURALS[item['kind']]}", item)

    async def install(self, *, api_service: bool = True) -> None:
        """CRD, namespace, RBAC, ConfigMaps, APIService."""
        for name in (
            "crd/variantautoscalings.yaml",
            "base/namespace.yaml",
            "base/rbac.yaml",
            "samples/configmaps.yaml",
        ):
            for item in worlds.manifests(name):
                await self.apply(item)
        await self.plane.create("/api/v1/namespaces", {"metadata": {"name": "team-a"}})
        if api_service:
            await self.serve_api()

        async def established() -> bool:
            return await self.get(VARIANTS) is not None

        await until(established, what="the CRD")
        await self._log_in()

    async def serve_api(self) -> None:
        """The APIService through an ExternalName to this machine."""
        await self.plane.create(
            SERVICES,
            {
                "metadata": {"name": "variant-adapter"},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
        )
        (service,) = worlds.manifests("base/apiservice.yaml")
        service["spec"]["service"]["port"] = self.port
        await self.plane.create(f"{worlds.API_SERVICES}/apiservices", service)

    async def _log_in(self) -> None:
        """A kubeconfig with the service account's own token: its rights are those of the manifests."""
        path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/variant-adapter/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        answer = await self.plane.create(path, request)
        authority = self.plane.certificates.authorities["ca"]
        text = kubeconfig(self.plane.url, authority.cert_pem, authority.issue_client("x", []))
        head, _, _ = text.partition("    client-certificate-data:")
        tail = text[text.index("contexts:") :]
        self.kubeconfig.write_text(f"{head}    token: {answer['status']['token']}\n{tail}")

    async def workload(self, name: str, replicas: int, **annotations: str) -> None:
        """A Deployment of team-a whose pods nobody starts."""
        deployment = worlds.workload(name, replicas)
        deployment["metadata"]["annotations"] = annotations
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "none"
        await self.plane.create(DEPLOYMENTS, deployment)

    async def replicas(self, name: str = "v") -> int:
        """Replicas that the spec of a Deployment of team-a asks for."""
        number: int = (await self.get(f"{DEPLOYMENTS}/{name}"))["spec"]["replicas"]
        return number

    async def deploy(
        self, name: str, replicas: int, *, allows_scale: bool = False, **annotations: str
    ) -> None:
        """A variant whose endpoints are named, as no kubelet runs pods here."""
        consent = {"llmd.ai/allow-scale": "true"} if allows_scale else {}
        await self.workload(name, replicas, **consent)
        self.pages.finished[f"{name}-0"] = 0.0
        item = worlds.variant(name)
        item["metadata"]["annotations"] = {
            "llmd.ai/metrics-endpoints": f"http://127.0.0.1:{self.pages.port}/pods/{name}-0",
            **annotations,
        }
        await self.plane.create(VARIANTS, item)

    async def desired(self, name: str = "v") -> int | None:
        """Replicas that the status wants."""
        document = await self.get(f"{VARIANTS}/{name}") or {}
        status = document.get("status") or {}
        number: int | None = (status.get("desiredOptimizedAlloc") or {}).get("numReplicas")
        return number

    async def sized(self, name: str = "v") -> int | None:
        """Desired replicas once they are more than one; None before.

        Tests take no other number for granted: rates are measured with an error on a busy machine.
        """
        number = await self.desired(name) or 0
        return number if number > 1 else None

    async def served(self, name: str = "v") -> bool:
        """Whether the metric is served, and wants more than one replica."""
        return any(int(value) > 1 for value in await self.metric(name))

    async def condition(self, kind: str, name: str = "v") -> tuple[str, str, str]:
        """Status, reason and message."""
        document = await self.get(f"{VARIANTS}/{name}") or {}
        for item in (document.get("status") or {}).get("conditions") or ():
            if item["type"] == kind:
                return item["status"], item["reason"], item["message"]
        return "", "", ""

    async def kubectl(
        self, *args: str, kubeconfig: Path | None = None, refused: bool = False
    ) -> str:
        """What kubectl prints, as the cluster's admin unless a kubeconfig is given; fails where it does."""
        path = kubeconfig or self.plane.kubeconfig("kubectl", "admin", ["system:masters"])
        program = shutil.which(
            "kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        )
        assert program is not None
        process = await asyncio.create_subprocess_exec(
            program, f"--kubeconfig={path}", *args,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), 120)
        assert bool(process.returncode) == refused, output.decode()
        return output.decode()

    async def metric(self, name: str = "v") -> list[str]:
        """Values as the API server's aggregation layer gives them."""
        values = await self.get(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/team-a/inferno_desired_replicas"
            f"?labelSelector=variant_name%3D{name}"
        )
        return [item["value"] for item in values["items"]] if values else []

    # What runs.

    @contextlib.asynccontextmanager
    async def replica(
        self,
        name: str,
        *flags: str,
        port: int = 0,
        overlap: str = "1h",
        kubeconfig: Path | None = None,
    ) -> AsyncIterator[Replica]:
        """One replica in a process of its own, with the service account's rights."""
        metrics = control_plane.free_port()
        log = (self.plane.folder / f"{name}.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "adapter", "serve",
            f"--kubeconfig={kubeconfig or self.kubeconfig}", f"--config-namespace={SYSTEM}",
            "--host=127.0.0.1", f"--port={port or self.port}",
            "--metrics-host=127.0.0.1", f"--metrics-port={metrics}",
            f"--state-dir={self.plane.folder}/state-{name}", f"--identity={name}_0",
            "--interval=2s", "--scrape-interval=500ms", "--window=5s", "--lease-duration=6s",
            f"--certificate-overlap={overlap}", "--allowed-endpoints=127.0.0.1/32", *flags,
            cwd=ROOT, stdout=log, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        started = Replica(process, f"http://127.0.0.1:{metrics}", self.plane.folder / f"{name}.log")
        try:
            yield started
        finally:
            log.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


class Replica:
    """A process that serves."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    async def ready(self) -> bool:
        """Whether its readiness probe would pass."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/readyz") as response,
            ):
                return response.status == 200
        return False

    async def page(self, path: str) -> str:
        """A page of its metrics port."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}{path}") as response,
        ):
            assert response.status == 200, path
            return await response.text()

    async def leads(self) -> bool:
        """Whether it says that it leads."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.url}/variants") as response,
            ):
                return bool((await response.json())["leading"])
        return False


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Installation]:
    """A control plane with our manifests in it, and pods that answer."""
    async with control_plane.running(folder) as plane:
        cluster = Installation(plane)
        await cluster.install()
        async with cluster.pages.served():
            yield cluster

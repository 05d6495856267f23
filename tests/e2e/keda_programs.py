"""KEDA's operator and metrics server on loopback, as they run in a cluster.

The folder that KEDA_ASSETS names holds the programs `keda` and `keda-adapter`, as KEDA's `make build` calls
them, and the custom resource definitions of its release as `*crds.yaml`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e import control_plane
from tests.e2e.installation import Installation, until
from tests.fakes import cluster_world as worlds

NAMESPACE = "keda"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/kedaorg-certs"
SERVER, OPERATOR = "keda-metrics-apiserver", "keda-operator"


def assets() -> Path | None:
    """Folder with KEDA's programs and definitions; None where it is not complete."""
    folder = Path(os.environ.get("KEDA_ASSETS") or "/nonexistent")
    programs = all(os.access(folder / name, os.X_OK) for name in ("keda", "keda-adapter"))
    return folder if programs and any(folder.glob("*crds.yaml")) else None


needs_keda = pytest.mark.skipif(
    assets() is None,
    reason="KEDA_ASSETS names no folder with keda, keda-adapter and *crds.yaml",
)


class ServiceNames:
    """The names of Services for a program that reaches hosts through an HTTP proxy.

    Attributes:
        ports: ports on this machine by `HOST:PORT` in the cluster; the first that answers is used.
        url: address of the proxy.

    """

    def __init__(self) -> None:
        self.ports: dict[str, list[int]] = {}
        self.url = ""

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Serve until the context ends."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            address = target.removeprefix("http://").partition("/")[0]
            there = await self._reach(address)
            if there is None:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n")
            else:
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                else:  # one request for each connection
                    request = head.replace(f"http://{address}", "", 1)
                    request = request.replace("\r\n", "\r\nConnection: close\r\n", 1)
                    there[1].write(request.encode())
                await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        writer.close()

    async def _reach(
        self, address: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self.ports.get(address, ()):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What one side says, until it has said it all."""
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Keda:
    """Operator and metrics server of KEDA beside an installation.

    Attributes:
        services: what Services they reach.
        log: of the operator.

    """

    def __init__(self, cluster: Installation, folder: Path) -> None:
        self.cluster = cluster
        self.services = ServiceNames()
        self.log = folder / "keda.log"
        self._folder = folder
        self._certificates = folder / "kedaorg-certs"
        self._port = control_plane.free_port()

    async def install(self) -> None:
        """Definitions, namespace and APIService, as KEDA's release has them."""
        folder = assets()
        assert folder is not None
        await self.cluster.kubectl(
            "apply", "--server-side", *(f"--filename={path}" for path in folder.glob("*crds.yaml"))
        )
        await self.cluster.kubectl("create", "namespace", NAMESPACE)
        await self.cluster.plane.create(
            f"/api/v1/namespaces/{NAMESPACE}/services",
            {
                "metadata": {"name": SERVER},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
        )
        service = {"name": SERVER, "namespace": NAMESPACE, "port": self._port}
        item = {
            "metadata": {"name": worlds.API_SERVICE},
            "spec": {
                "service": service, "group": "external.metrics.k8s.io", "version": "v1beta1",
                "groupPriorityMinimum": 100, "versionPriority": 100,
            },
        }  # fmt: skip
        await self.cluster.plane.create(f"{worlds.API_SERVICES}/apiservices", item)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run both until the context ends; their certificates are there when this returns."""
        self._certificates.mkdir(exist_ok=True)
        config = self.cluster.plane.kubeconfig("keda", "keda", ["system:masters"])
        folder, metrics = self._certificates, f"127.0.0.1:{control_plane.free_port()}"
        async with self.services.served(), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._mount()),
                group.create_task(
                    self._keep(
                        "keda", config, "--enable-cert-rotation", "--enable-webhook-patching=false",
                        f"--cert-dir={folder}", f"--metrics-service-bind-address={metrics}",
                        "--metrics-bind-address=0", "--health-probe-bind-address=0",
                        "--zap-encoder=console",
                    )
                ),
            ]  # fmt: skip
            try:
                await until(self._mounted, what="KEDA's certificates", log=self.log)
                server = self._keep(
                    "keda-adapter", config, "--bind-address=127.0.0.1",
                    f"--secure-port={self._port}", f"--port={control_plane.free_port()}",
                    f"--metrics-service-address={metrics}",
                    f"--metrics-service-grpc-authority={OPERATOR}", f"--cert-dir={folder}",
                    f"--tls-cert-file={folder}/tls.crt",
                    f"--tls-private-key-file={folder}/tls.key", f"--lister-kubeconfig={config}",
                    f"--authentication-kubeconfig={config}",
                    f"--authorization-kubeconfig={config}",
                )  # fmt: skip
                tasks.append(group.create_task(server))
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _keep(self, name: str, kubeconfig: Path, *arguments: str) -> None:
        """Run a program again whenever it ends, as a kubelet does: KEDA ends itself for new certificates."""
        folder = assets()
        assert folder is not None
        environment = {
            **os.environ, "KUBECONFIG": str(kubeconfig), "POD_NAMESPACE": NAMESPACE,
            "WATCH_NAMESPACE": "", "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
            "HTTP_PROXY": self.services.url, "HTTPS_PROXY": self.services.url,
        }  # fmt: skip
        with (self._folder / f"{name}.log").open("ab") as output:
            while True:
                process = await asyncio.create_subprocess_exec(
                    str(folder / name), *arguments,
                    env=environment, stdout=output, stderr=asyncio.subprocess.STDOUT,
                )  # fmt: skip
                try:
                    await process.wait()
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
                await asyncio.sleep(1.0)

    async def _mount(self) -> None:
        """Keep the Secret's files, as a kubelet does."""
        while True:
            secret = await self.cluster.get(SECRET) or {}
            for name, value in (secret.get("data") or {}).items():
                path, data = self._certificates / name, base64.b64decode(value)
                if not path.exists() or path.read_bytes() != data:
                    path.write_bytes(data)
            await asyncio.sleep(0.5)

    async def _mounted(self) -> bool:
        return (self._certificates / "ca.crt").exists()

"""A throw-away control plane on loopback, as envtest makes one.

The binaries come from the folder that KUBEBUILDER_ASSETS names; etcd may also be on PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from certs.authority import kubeconfig
from tests.fakes import kubernetes_stand_in as stand_ins


def binary(name: str) -> str | None:
    """Path of a control plane's program; None where it is not."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return None
    path = Path(assets) / name
    if os.access(path, os.X_OK):
        return str(path)
    return shutil.which(name)


MARKS = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (binary("kube-apiserver") and binary("etcd")),
        reason="KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd",
    ),
]
"""Marks of every module of this folder."""

needs_controllers = pytest.mark.skipif(
    not binary("kube-controller-manager"),
    reason="KUBEBUILDER_ASSETS holds no kube-controller-manager",
)


def measured(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Show a number that decides nothing, as it depends on the machine."""
    with capsys.disabled():
        sys.stdout.write(f"\n{text}")


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that runs."""

    url: str
    folder: Path
    certificates: stand_ins.Certificates

    def context(self, certificate: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        context.load_cert_chain(
            self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key"
        )
        return context

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask as the cluster's admin; an object that is there already is fine."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, json=body, ssl=self.context("admin")
            ) as response,
        ):
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def create(self, path: str, body: Any) -> Any:
        status, document = await self.call("POST", path, body)
        assert status in {200, 201, 409}, document
        return document

    def kubeconfig(self, name: str, user: str, groups: list[str]) -> Path:
        """A kubeconfig of a user of the cluster's authority."""
        authority = self.certificates.authorities["ca"]
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(
            kubeconfig(self.url, authority.cert_pem, authority.issue_client(user, groups))
        )
        return path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def program(folder: Path, name: str, *arguments: str) -> AsyncIterator[None]:
    """Run a program until the context ends; what it says goes to NAME.log."""
    path = binary(name)
    assert path is not None, name
    with (folder / f"{name}.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            path, *arguments, stdout=output, stderr=asyncio.subprocess.STDOUT
        )
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[ControlPlane]:
    """A data store and an API server; ready when this returns."""
    certificates = stand_ins.certificates(folder)
    clients, peers, port = free_port(), free_port(), free_port()
    keys = certificates.authorities["ca"].issue_client("service-accounts", [])
    certificates.write("sa", keys)
    etcd = f"http://127.0.0.1:{clients}"
    peer = f"http://127.0.0.1:{peers}"
    plane = ControlPlane(f"https://127.0.0.1:{port}", folder, certificates)
    async with (
        program(
            folder, "etcd",
            "--data-dir", str(folder / "etcd"), "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        ),
        program(
            folder, "kube-apiserver",
            f"--etcd-servers={etcd}", f"--secure-port={port}", "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1", f"--tls-cert-file={folder}/kas.crt",
            f"--tls-private-key-file={folder}/kas.key", f"--client-ca-file={folder}/ca.crt",
            f"--service-account-key-file={folder}/sa.crt",
            f"--service-account-signing-key-file={folder}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24", "--disable-admission-plugins=ServiceAccount",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            f"--requestheader-client-ca-file={folder}/fp-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={folder}/fp.crt", f"--proxy-client-key-file={folder}/fp.key",
        ),
    ):  # fmt: skip
        await ready(plane)
        yield plane


async def ready(plane: ControlPlane) -> None:
    """Wait until the API server is."""
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                if (await plane.call("GET", "/readyz"))[0] == 200:
                    return
            await asyncio.sleep(0.5)


SCALER = "horizontal-pod-autoscaler-controller"
CONTROLLERS = (
    SCALER,
    "deployment-controller",
    "replicaset-controller",
    "garbage-collector-controller",
)
"""Those that an HPA needs, and the garbage collector."""


@contextlib.asynccontextmanager
async def controllers(
    plane: ControlPlane, *, names: tuple[str, ...] = CONTROLLERS, period: str = "2s"
) -> AsyncIterator[None]:
    """Controllers; HPAs are synchronized once per period."""
    path = plane.kubeconfig("kcm", "system:kube-controller-manager", [])
    async with program(
        plane.folder, "kube-controller-manager",
        f"--kubeconfig={path}", f"--authentication-kubeconfig={path}",
        f"--authorization-kubeconfig={path}", "--use-service-account-credentials",
        f"--service-account-private-key-file={plane.folder}/sa.key",
        f"--root-ca-file={plane.folder}/ca.crt",
        f"--controllers={','.join(names)}",
        "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={free_port()}",
        f"--cert-dir={plane.folder}/kcm-certs", f"--horizontal-pod-autoscaler-sync-period={period}",
        "--horizontal-pod-autoscaler-downscale-stabilization=2s",
    ):  # fmt: skip
        yield

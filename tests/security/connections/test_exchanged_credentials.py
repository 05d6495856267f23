"""Authorities, certificates and tokens of the API server that are exchanged while the adapter runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from kubernetes_asyncio.config import incluster_config

from adapter.kube import client, errors
from adapter.kube.access import kubeconfig, plugin
from certs.authority import Authority

PODS = "/api/v1/pods"
HANG_SECONDS = 300.0


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "RENEWAL_SECONDS", 0.0)


class Exchanged:
    """An API server whose certificate and accepted token can be exchanged, on one port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.token = ""
        self._runner: web.AppRunner | None = None

    async def serve(self) -> Authority:
        """Serve with a certificate of another authority, which is returned; connections are closed."""
        await self.close()
        authority = Authority.create("serving")
        pair = authority.issue_server(["localhost"], ["127.0.0.1"])
        path = self.folder / "serving.pem"
        path.write_bytes(pair.cert_pem + pair.key_pem)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True
        ).start()
        self.port = self._runner.addresses[0][1]
        return authority

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if self.token and given != f"Bearer {self.token}":
            return web.json_response({"kind": "Status"}, status=401)
        return web.json_response({"given": given})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Exchanged]:
    server = Exchanged(tmp_path)
    try:
        yield server
    finally:
        await server.close()


async def answered(cluster: client.Cluster) -> str:
    """The credentials of the first request that is answered."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            with contextlib.suppress(errors.ApiError):
                return str((await cluster.request("GET", PODS))["given"])
            await asyncio.sleep(0.01)


def written(path: Path, port: int, authority: Path, token: str) -> None:
    """A kubeconfig that names the file of the authority."""
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [
            {
                "name": "x",
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority": str(authority),
                },
            }
        ],
        "users": [{"name": "x", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(document))


async def test_an_authority_that_was_exchanged_is_trusted(tmp_path: Path, api: Exchanged) -> None:
    """Not before its file says so; a file that is half written, or gone, changes nothing."""
    authority, config = tmp_path / "ca.crt", tmp_path / "kubeconfig"
    authority.write_bytes((await api.serve()).cert_pem)
    written(config, api.port, authority, "one")
    async with client.connected(config) as cluster:
        assert await answered(cluster) == "Bearer one"
        another = await api.serve()
        with pytest.raises(errors.Unavailable, match="certificate"):
            await cluster.request("GET", PODS)
        for spoil in (lambda: authority.write_text("-----BEGIN"), authority.unlink):
            spoil()
            with pytest.raises(errors.Unavailable, match="certificate"):
                await cluster.request("GET", PODS)
        authority.write_bytes(another.cert_pem)
        assert await answered(cluster) == "Bearer one"


async def test_a_token_that_was_exchanged_is_sent(tmp_path: Path, api: Exchanged) -> None:
    """The kubeconfig is read again once its token is refused; one that is no YAML changes nothing."""
    authority, config = tmp_path / "ca.crt", tmp_path / "kubeconfig"
    authority.write_bytes((await api.serve()).cert_pem)
    written(config, api.port, authority, "one")
    async with client.connected(config) as cluster:
        api.token = "one"
        assert await answered(cluster) == "Bearer one"
        api.token = "two"
        config.write_text("{")
        with pytest.raises(errors.ApiError, match="401"):
            await cluster.request("GET", PODS)
        written(config, api.port, authority, "two")
        assert await answered(cluster) == "Bearer two"


async def test_a_token_goes_to_no_other_server_than_the_first(
    tmp_path: Path, api: Exchanged
) -> None:
    """A kubeconfig that names another server while the process runs is not followed."""
    authority, config = tmp_path / "ca.crt", tmp_path / "kubeconfig"
    authority.write_bytes((await api.serve()).cert_pem)
    written(config, api.port, authority, "one")
    async with client.connected(config) as cluster:
        api.token = "two"
        written(config, api.port + 1, authority, "two")
        for _ in range(2):
            with pytest.raises(errors.ApiError, match="401"):
                await cluster.request("GET", PODS)


async def test_a_plugin_runs_again_for_refused_credentials_only(
    tmp_path: Path, api: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while there is no API server: it may ask a person, or count against the limits of a cloud."""
    monkeypatch.setattr(plugin, "PAUSE_SECONDS", 0.0)
    authority, config, runs = tmp_path / "ca.crt", tmp_path / "kubeconfig", tmp_path / "runs"
    authority.write_bytes((await api.serve()).cert_pem)
    written(config, api.port, authority, "")
    answer = {"kind": "ExecCredential", "apiVersion": plugin.VERSIONS[0], "status": {"token": "t"}}
    program = f"echo x >>{runs}; echo '{json.dumps(answer)}'"
    document = yaml.safe_load(config.read_text())
    document["users"][0]["user"] = {
        "exec": {"apiVersion": plugin.VERSIONS[0], "command": "sh", "args": ["-c", program]}
    }
    config.write_text(yaml.safe_dump(document))
    async with client.connected(config) as cluster:
        assert await answered(cluster) == "Bearer t"
        await api.close()
        for _ in range(3):
            with pytest.raises(errors.Unavailable):
                await cluster.request("GET", PODS)
        # Another authority is trusted with the program's credentials.
        authority.write_bytes((await api.serve()).cert_pem)
        assert await answered(cluster) == "Bearer t"
        before = runs.read_text().count("x")
        assert before <= 2
        api.token = "other"
        for _ in range(2):
            with pytest.raises(errors.ApiError, match="401"):
                await cluster.request("GET", PODS)
        assert runs.read_text().count("x") == before + 1


async def test_a_pod_trusts_the_authority_of_its_mounted_file(
    tmp_path: Path, api: Exchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is exchanged under a running pod when the cluster's authority is."""
    authority, token = tmp_path / "ca.crt", tmp_path / "token"
    authority.write_bytes((await api.serve()).cert_pem)
    token.write_text("one")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    async with client.connected(None) as cluster:
        assert await answered(cluster) == "Bearer one"
        spoil: Callable[[], object]
        another = await api.serve()
        for spoil in (lambda: None, lambda: authority.write_text("x"), authority.unlink):
            spoil()
            with pytest.raises(errors.Unavailable, match="certificate"):
                await cluster.request("GET", PODS)
        authority.write_bytes(another.cert_pem)
        assert await answered(cluster) == "Bearer one"

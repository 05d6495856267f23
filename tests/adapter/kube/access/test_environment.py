"""Proxies of the environment that requests to the API server go through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from adapter.kube.access import proxies
from adapter.kube.client import connected
from adapter.kube.errors import Unavailable
from tests.fakes import kubernetes_api
from tests.fakes.kubernetes_api import Site

VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An in-memory API server."""
    async with kubernetes_api.running(tmp_path) as running:
        yield running


async def test_requests_go_through_the_proxy_that_the_environment_names(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they stay on this machine, as to a cluster in containers of it."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    entrance = await site.entrance("person")
    written = yaml.safe_load(entrance.kubeconfig.read_text())
    written["clusters"][0]["cluster"]["server"] = "https://api.example:6443"
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump(written))
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        async with connected(elsewhere) as cluster:
            with pytest.raises(Unavailable):
                await cluster.request("GET", "/version")
        async with connected(entrance.kubeconfig) as cluster:
            assert await cluster.request("GET", "/version")
    assert asked == [b"CONNECT api.example:6443 HTTP/1.1\r\n"]


@pytest.mark.parametrize(
    ("server", "proxy"),
    [
        ("https://api.example:6443", "http://proxy:3128"),
        ("http://api.example", None),
        ("https://10.0.0.1:6443", None),
        ("https://a.internal", None),
        ("https://[::1", None),
        ("", None),
    ],
)
def test_the_proxy_of_a_server(
    server: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its scheme, and not for the hosts and domains of NO_PROXY."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.1,.internal")
    assert proxies.of_environment(server) == proxy


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("direct", "server", "proxy"),
    [
        # What the pods of a cluster behind a proxy have.
        ("localhost,127.0.0.1,.svc,.cluster.local,10.96.0.0/12", "https://10.96.0.1:443", None),
        (".svc,10.96.0.0/12", "https://10.112.0.1:443", PROXY),
        ("fd00::/108", "https://[fd00::1]:443", None),
        ("fd00::/108,10.0.0.0/8", "https://10.example:443", PROXY),
        ("10.0.0.1:6443", "https://10.0.0.1:6443", None),
        ("10.0.0.1:6443", "https://10.0.0.1", PROXY),
        ("[fd00::1]:443", "https://[fd00::1]", None),
        ("api.example:6443", "https://api.example:6443", None),
        ("api.example:6443", "https://api.example:443", PROXY),
        ("Example", "https://api.example", None),
        ("example", "https://counterexample", PROXY),
        (".example", "https://api.example", None),
        (".example", "https://example", PROXY),
        ("*.example , ", "https://api.example", None),
        ("*", "https://api.example", None),
        ("", "https://api.example", PROXY),
        (", .,[,a:b:c", "https://api.example", PROXY),
        ("", "https://127.0.0.1:6443", None),
        ("", "https://localhost:6443", None),
        ("", "https://[::1]:6443", None),
    ],
)
def test_servers_that_are_asked_without_a_proxy(
    direct: str, server: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks, ports and domains as kubectl reads them, and this machine always."""
    monkeypatch.setenv("HTTPS_PROXY", PROXY.removeprefix("http://"))
    monkeypatch.setenv("NO_PROXY", direct)
    assert proxies.of_environment(server) == proxy

"""Kubeconfigs: those that are read here, and those that kubernetes-asyncio reads; both reach the cluster."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from adapter.errors import StartupError
from adapter.kube.access import kubeconfig
from adapter.kube.client import connected
from adapter.kube.errors import Unavailable
from adapter.settings import machine
from certs.authority import kubeconfig as described
from tests.fakes import kubernetes_stand_in as stand_ins

Document = dict[str, Any]


class Server:
    """An API server that wants a client certificate, and tells whose it was and what else came along."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.path = folder / "config"
        authority = stand_ins.certificates(folder).authorities["ca"]
        client = authority.issue_client("person", [])
        self.document: Document = yaml.safe_load(described(url, authority.cert_pem, client))
        self.cluster: Document = self.document["clusters"][0]["cluster"]
        self.user: Document = self.document["users"][0]["user"]

    async def answer(self) -> tuple[str, str | None]:
        """The server's answer to this kubeconfig: common name and Authorization header."""
        self.path.write_text(yaml.safe_dump(self.document))
        async with connected(self.path) as cluster:
            body = await cluster.request("GET", "/whoami")
        return body["name"], body["authorization"]

    def is_plain(self) -> bool:
        """Whether it is read without kubernetes-asyncio."""
        self.path.write_text(yaml.safe_dump(self.document))
        return kubeconfig.read(self.path) is not None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server, and the kubeconfig for it."""

    async def whoami(request: web.Request) -> web.Response:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        name = next(value for ((key, value),) in subject if key == "commonName")
        document = {"name": name, "authorization": request.headers.get("Authorization")}
        return web.json_response(document)

    app = web.Application()
    app.router.add_get("/whoami", whoami)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    api = Server(tmp_path, "https://none")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(tmp_path / "kas.crt", tmp_path / "kas.key")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    api.cluster["server"] = f"https://127.0.0.1:{runner.addresses[0][1]}/"
    yield api
    await runner.cleanup()


def as_files(server: Server) -> None:
    """Move what the document holds into files that it names, relative to its own folder."""
    for part in (server.cluster, server.user):
        for name in [name for name in part if name.endswith("-data")]:
            plain = name.removesuffix("-data")
            (server.folder / plain).write_bytes(base64.b64decode(part.pop(name)))
            part[plain] = plain


def by_plug_in(server: Server) -> None:
    """Let a program print the certificate."""
    server.path.write_text(yaml.safe_dump(server.document))
    stand_ins.printed_by_program(server.path)
    document = yaml.safe_load(server.path.read_text())
    server.user.clear()
    server.user.update(document["users"][0]["user"])


async def test_certificates_and_token(server: Server) -> None:
    """Certificates in the document or in files beside it identify the client; a token comes along."""
    assert server.is_plain()
    assert await server.answer() == ("person", None)
    server.user["token"] = "secret"
    assert await server.answer() == ("person", "Bearer secret")
    as_files(server)
    assert server.is_plain()
    assert await server.answer() == ("person", "Bearer secret")


@pytest.mark.parametrize("in_file", [False, True], ids=["read-here", "left-to-the-library"])
async def test_a_netrc_does_not_replace_the_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, in_file: bool
) -> None:
    """It may name the same host for another purpose; kubectl does not read it."""
    netrc = server.folder / ".netrc"
    netrc.write_text("machine 127.0.0.1 login stray password stray\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(server.folder))
    monkeypatch.setenv("NETRC", str(netrc))
    (server.folder / "token").write_text("right")
    server.user |= {"tokenFile": "token"} if in_file else {"token": "right"}
    assert server.is_plain() is not in_file
    assert await server.answer() == ("person", "Bearer right")


async def test_other_credentials_are_left_to_kubernetes_asyncio(server: Server) -> None:
    """A token in a file, and the certificate of a plug-in beside other fields, reach the same server."""
    (server.folder / "token").write_text("filed")
    server.user["tokenFile"] = "token"
    assert not server.is_plain()
    assert await server.answer() == ("person", "Bearer filed")
    by_plug_in(server)
    assert not server.is_plain()
    assert (await server.answer())[0] == "person"


async def test_the_certificate_of_a_plug_in(server: Server) -> None:
    """It identifies the client."""
    by_plug_in(server)
    assert server.is_plain()
    assert await server.answer() == ("person", None)


async def test_the_servers_certificate_is_verified(server: Server) -> None:
    """By the kubeconfig's authority and the name it gives; insecure-skip-tls-verify turns that off."""
    server.cluster["tls-server-name"] = "other"
    with pytest.raises(Unavailable, match="certificate is not valid for 'other'"):
        await server.answer()
    server.cluster["tls-server-name"] = "localhost"
    assert await server.answer() == ("person", None)
    del server.cluster["tls-server-name"]
    evil = (server.folder / "evil-ca.crt").read_bytes()
    server.cluster["certificate-authority-data"] = base64.b64encode(evil).decode()
    assert server.is_plain()
    with pytest.raises(Unavailable, match="certificate verify failed"):
        await server.answer()
    server.cluster["insecure-skip-tls-verify"] = True
    assert server.is_plain()
    assert await server.answer() == ("person", None)


@pytest.mark.parametrize(
    "change",
    [
        lambda server: server.document.update({"current-context": "none"}),
        lambda server: server.document.pop("users"),
        lambda server: server.cluster.update({"certificate-authority-data": "bm90aGluZw=="}),
        lambda server: server.user.update({"client-key-data": 5}),
    ],
    ids=["context", "users", "authority", "key"],
)
async def test_an_unusable_file_is_one_error(
    server: Server, change: Callable[[Server], object]
) -> None:
    """It names the file, whatever is wrong in it."""
    change(server)
    assert not server.is_plain()
    with pytest.raises(StartupError, match="config: no usable access to a cluster"):
        await server.answer()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be a mapping with clusters, users, contexts and current-context"),
        (b"- a", "must be a mapping with clusters, users, contexts and current-context"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a:\n- [", "no kubeconfig: not YAML at line 2"),
        (b"# Title\n**Bold**", "no kubeconfig: not YAML at line 2"),
        (None, "cannot be read: Is a directory"),
    ],
    ids=["empty", "list", "bytes", "cut", "page", "folder"],
)
async def test_what_is_no_kubeconfig_is_named(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    """The error is about the file, and not about a type of Python."""
    file = tmp_path / "config"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        async with connected(file):
            pass
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


async def test_outside_of_a_pod_the_flags_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start of a newcomer: `serve` without flags on a laptop."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(StartupError, match=r"no cluster: .*--kubeconfig FILE .*--variants DIR"):
        async with connected(None):
            pass


async def test_a_context_can_be_chosen(server: Server) -> None:
    """By its name, whichever reader the file needs; one that is not there is refused."""
    contexts = server.document["contexts"]
    contexts.append({**contexts[0], "name": "other"})
    server.document["current-context"] = "gone"
    for others in ({}, {"username": "u", "password": "p"}):
        server.user.update(others)
        server.path.write_text(yaml.safe_dump(server.document))
        async with connected(server.path, context="other") as cluster:
            assert (await cluster.request("GET", "/whoami"))["name"] == "person"
    with pytest.raises(StartupError, match=r"no context none; there are [\w-]+, other$"):
        async with connected(server.path, context="none"):
            pass


async def test_a_pipe_is_read_once(server: Server) -> None:
    """As in `--kubeconfig <(COMMAND)`."""
    reader, writer = os.pipe()
    os.write(writer, yaml.safe_dump(server.document).encode())
    os.close(writer)
    try:
        async with connected(Path(f"/dev/fd/{reader}")) as cluster:
            assert (await cluster.request("GET", "/whoami"))["name"] == "person"
    finally:
        os.close(reader)


async def test_several_files_are_merged(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kubectl does: the first current context counts; missing and empty files are skipped."""
    context = {
        "current-context": server.document["current-context"],
        "contexts": server.document.pop("contexts"),
    }
    server.document["current-context"] = "of-the-last-file"
    server.path.write_text(yaml.safe_dump(server.document))
    first = tmp_path / "first"
    first.write_text(yaml.safe_dump(context))
    (tmp_path / "empty").touch()
    files = [tmp_path / "missing", tmp_path / "empty", first, server.path]
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
    async with connected(machine.kubeconfig()) as cluster:
        assert (await cluster.request("GET", "/whoami"))["name"] == "person"


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    """Neither in the text of the access nor of the connection."""
    (tmp_path / "config").write_text(
        "{current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],"
        " clusters: [{name: c, cluster: {server: 'https://h'}}],"
        " users: [{name: u, user: {token: hidden}}]}"
    )
    access = kubeconfig.read(tmp_path / "config")
    assert access is not None
    assert access.headers == {"Authorization": "Bearer hidden"}
    assert "hidden" not in repr(access)

"""TLS of queries: authorities, names, client certificates, and their files when they change.

Servers run in threads: those of asyncio hang up without saying what they miss.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from adapter.collector.prometheus import PrometheusError
from tests.fakes.prometheus_api import ONE, Server, connected, failing


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        """Answer with one item."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ONE).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _TlsServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(request, server_side=True) as secure,
        ):
            super().finish_request(secure, client_address)


@contextlib.asynccontextmanager
async def tls(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A server that answers with one item; yield its URL."""
    server = _TlsServer(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(server.server_close)
        thread.join()


class Certificates:
    """An authority, its certificate in a file, and what it issues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))

    def serving(self, *names: str, clients: bool = False) -> ssl.SSLContext:
        """Of a server with these names; `clients` asks for certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        if clients:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[Path, Path, Path]:
        """Files of a client's certificate, its key, and of both."""
        issued = self.authority.issue_cert("client@example.org")
        certificate, key, both = (self._folder / name for name in ("c.pem", "k.pem", "b.pem"))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        issued.private_key_and_cert_chain_pem.write_to_path(str(both))
        return certificate, key, both


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """A new authority."""
    return Certificates(tmp_path)


async def test_an_authority_that_is_not_known(certificates: Certificates) -> None:
    """It is refused with the setting that names it, and accepted when that is set."""
    async with tls(certificates.serving("127.0.0.1")) as url:
        text = await failing(url)
        assert "certificate verify failed" in text
        assert "; set --prometheus-ca-file or PROMETHEUS_CA_CERT_PATH" in text
        async with connected(url, ca_file=certificates.ca_file) as client:
            assert len((await client.query("up")).samples) == 1


async def test_authorities_of_the_system_are_trusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that OpenSSL trusts, as SSL_CERT_FILE may say."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    async with tls(certificates.serving("127.0.0.1")) as url, connected(url) as client:
        assert len((await client.query("up")).samples) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_of_another_name(certificates: Certificates, host: str) -> None:
    """It is refused with the setting for the name, by address too, and accepted under that name only."""
    ca_file = certificates.ca_file
    async with tls(certificates.serving("prometheus.example")) as served:
        url = served.replace("127.0.0.1", host)
        advice = "; set --prometheus-server-name or PROMETHEUS_SERVER_NAME"
        assert advice in await failing(url, ca_file=ca_file)
        assert advice in await failing(url, ca_file=ca_file, server_name="other.example")
        async with connected(url, ca_file=ca_file, server_name="prometheus.example") as client:
            assert len((await client.query("up")).samples) == 1


async def test_a_server_name_does_not_replace_the_authority(certificates: Certificates) -> None:
    """The right name under an unknown authority is refused."""
    async with tls(certificates.serving("prometheus.example")) as url:
        assert "--prometheus-ca-file" in await failing(url, server_name="prometheus.example")


@pytest.mark.parametrize("server_name", ["", "wrong.example"])
async def test_an_unchecked_certificate(certificates: Certificates, server_name: str) -> None:
    """Insecure accepts each, and does not warn with every query."""
    async with (
        tls(certificates.serving("prometheus.example")) as url,
        connected(url, insecure=True, server_name=server_name) as client,
    ):
        assert len((await client.query("up")).samples) == 1


async def test_the_server_name_is_asked_for(certificates: Certificates) -> None:
    """A proxy that serves several names sees which one is meant, checked or not."""
    seen = []
    context = certificates.serving("prometheus.example")

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen.append(name)

    context.sni_callback = note
    more = {"ca_file": certificates.ca_file, "server_name": "prometheus.example"}
    async with tls(context) as url:
        for insecure in (False, True):
            async with connected(url, insecure=insecure, **more) as client:
                await client.query("up")
    assert seen == ["prometheus.example"] * 2


async def test_a_client_certificate(certificates: Certificates) -> None:
    """Where it is demanded the error says what to set; from two files or one it is presented."""
    certificate, key, both = certificates.client()
    context = certificates.serving("127.0.0.1", clients=True)
    # By 1.3 the server may hang up before its demand is read.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ca_file = certificates.ca_file
    async with tls(context) as url:
        assert "; it requires a client certificate: set --prometheus-client-cert" in await failing(
            url, ca_file=ca_file
        )
        for files in ({"certificate": certificate, "key": key}, {"certificate": both}):
            async with connected(url, ca_file=ca_file, **files) as client:
                assert len((await client.query("up")).samples) == 1


async def test_a_client_certificate_by_tls_1_3(certificates: Certificates) -> None:
    """Without it there is no answer either, and with it there is."""
    _, _, both = certificates.client()
    ca_file = certificates.ca_file
    async with tls(certificates.serving("127.0.0.1", clients=True)) as url:
        await failing(url, ca_file=ca_file)
        async with connected(url, ca_file=ca_file, certificate=both) as client:
            assert len((await client.query("up")).samples) == 1


async def test_a_certificate_that_has_ended(certificates: Certificates) -> None:
    """No setting of ours mends that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.now(UTC) - timedelta(days=1)
    certificates.authority.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    async with tls(context) as url:
        text = await failing(url, ca_file=certificates.ca_file)
    assert text.endswith("; it must be renewed")


@pytest.mark.parametrize("option", ["ca_file", "certificate", "key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_that_is_no_certificate(
    certificates: Certificates, tmp_path: Path, option: str, content: str | None
) -> None:
    """The error names the flags; a missing file is named itself."""
    certificate, key, _ = certificates.client()
    file = tmp_path / "odd.pem"
    if content is not None:
        file.write_text(content, encoding="ascii")
    files: dict[str, Any] = {
        "ca_file": certificates.ca_file,
        "certificate": certificate,
        "key": key,
        option: file,
    }
    async with tls(certificates.serving("127.0.0.1")) as url:
        text = await failing(url, **files)
    assert text.endswith("; are --prometheus-ca-file, --prometheus-client-cert and its key right?")
    assert content is not None or str(file) in text


async def test_https_where_there_is_none() -> None:
    """The error asks whether http:// is meant."""
    async with Server().running() as url:
        text = await failing(url.replace("http://", "https://"))
    assert text.endswith("; is it http:// rather than https://?")


async def test_a_rotated_authority_counts_for_new_connections(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Its file is read when a connection is made."""
    file = tmp_path / "used.pem"
    file.write_bytes(trustme.CA().cert_pem.bytes())
    async with (
        tls(certificates.serving("127.0.0.1")) as url,
        connected(url, ca_file=file) as client,
    ):
        with pytest.raises(PrometheusError, match="--prometheus-ca-file"):
            await client.query("up")
        file.write_bytes(certificates.ca_file.read_bytes())
        assert len((await client.query("up")).samples) == 1


async def test_two_clients_have_their_own_settings(certificates: Certificates) -> None:
    """One that does not check does not make another lax."""
    async with (
        tls(certificates.serving("127.0.0.1")) as url,
        connected(url, insecure=True) as lax,
    ):
        await lax.query("up")
        await failing(url)
        await lax.query("up")

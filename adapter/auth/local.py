"""Certificates without a cluster: given files, or a local authority that is created at the first start."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from adapter import errors
from adapter.auth import authentication
from adapter.tls import certificates
from certs import authority

ADMIN_NAME, ADMIN_GROUP = "variant-adapter-admin", "system:masters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Paths of certificates; the local authority in `state` issues those that are None.

    Attributes:
        state: Folder of the local authority and of its kubeconfig.
        certificate: Serving certificate, PEM.
        key: Private key of the serving certificate, PEM.
        client_ca: Authorities of client certificates, PEM.
        requestheader_ca: Authorities of front proxies, PEM.

    """

    state: Path
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    requestheader_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Certificates and authorities of the server, and what clients need.

    Attributes:
        certificates: Serving certificate and client authorities of the listener.
        identity: Authorities and header names for authentication.
        state: Folder of the local authority.
        ca_file: Authority of the serving certificate; None where that was given.
        local: Local authority; None where all certificates were given.

    """

    certificates: certificates.Certificates
    identity: authentication.IdentityConfig
    state: Path
    ca_file: Path | None
    local: authority.Authority | None

    def write_kubeconfig(self, url: str) -> Path | None:
        """Write a kubeconfig for this server; give its path, or None without a local authority."""
        if self.local is None or self.ca_file is None:
            return None
        client = self.local.issue_client(ADMIN_NAME, [ADMIN_GROUP])
        text = authority.kubeconfig(url, self.ca_file.read_bytes(), client)
        path = self.state / "kubeconfig"
        authority.write_private(path, text.encode())
        authority.write_private(self.state / "client.crt", client.cert_pem)
        authority.write_private(self.state / "client.key", client.key_pem)
        return path


def prepare(files: Files, *, host: str) -> Credentials:
    """Read the given files, and create what is not given.

    Raises:
        StartupError: a file cannot be read or written.

    """
    local: authority.Authority | None = None
    ca_file: Path | None = None
    client_ca = _given("--client-ca-file", files.client_ca)
    proxy_ca = _given("--requestheader-client-ca-file", files.requestheader_ca)
    try:
        files.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificate, key = files.certificate, files.key
        if client_ca is None or certificate is None:
            local = authority.Authority.load_or_create(files.state, "ca")
            ca_file = files.state / "ca.crt"
        if local is not None and client_ca is None:
            client_ca = local.cert_pem
        if certificate is None or key is None:
            certificate, key = files.state / "serving.crt", files.state / "serving.key"
            if local is not None:
                _issue(local, certificate, key, host)
    except OSError as error:
        raise errors.StartupError(
            f"--state-dir {files.state}: {error.filename}: {error.strerror}; name a folder that can be"
            " written"
        ) from error
    config = authentication.IdentityConfig(client_cas=client_ca, requestheader_cas=proxy_ca)
    return Credentials(
        certificates=certificates.Certificates(certificate, key, authorities(config)),
        identity=config,
        state=files.state,
        ca_file=ca_file if files.certificate is None else None,
        local=local if files.certificate is None and files.client_ca is None else None,
    )


def _given(flag: str, path: Path | None) -> bytes | None:
    """Authorities in the file of a flag; None: the flag was not given.

    A file without certificates is refused: no client certificate would be accepted.
    """
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.StartupError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise errors.StartupError(f"{flag} {path}: no PEM certificates in it")
    return content


def _issue(local: authority.Authority, certificate: Path, key: Path, host: str) -> None:
    """Write a serving certificate, unless the one there is good: another process may serve with it."""
    names, addresses = _names(host)
    try:
        there = authority.KeyPair(certificate.read_bytes(), key.read_bytes())
    except FileNotFoundError:
        there = None
    if there is None or not local.keeps_serving(there, names, addresses):
        pair = local.issue_server(names, addresses)
        authority.write_private(key, pair.key_pem)
        authority.write_private(certificate, pair.cert_pem)


def authorities(config: authentication.IdentityConfig) -> bytes:
    """Authorities whose client certificates may finish the TLS handshake, PEM."""
    return b"\n".join(pem for pem in (config.client_cas, config.requestheader_cas) if pem)


def _names(host: str) -> tuple[list[str], list[str]]:
    addresses = {"127.0.0.1", "::1"}
    names = {"localhost"}
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names.add(host)
    else:
        if not address.is_unspecified:
            addresses.add(str(address))
    return sorted(names), sorted(addresses)

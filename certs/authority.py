"""A small certificate authority: serving and client certificates that Go and OpenSSL accept."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
BACKDATED = timedelta(minutes=5)
"""Clocks differ: a certificate made now must be valid on a machine that is a little behind."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its private key, both PEM."""

    cert_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """A self-signed authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(
        cls,
        common_name: str,
        *,
        lifetime: timedelta = CA_LIFETIME,
        now: datetime | None = None,
    ) -> Authority:
        """Make a new authority on curve P-256, valid for ten years by default."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            _builder(name, name, key.public_key(), lifetime, now)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load_or_create(cls, folder: Path, name: str) -> Authority:
        """Load `NAME.crt` and `NAME.key` from the folder, replaced by a new one if they are not usable."""
        certificate_path, key_path = folder / f"{name}.crt", folder / f"{name}.key"
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (FileNotFoundError, ValueError):
            certificate, key = None, None
        if (
            certificate is not None
            and isinstance(key, ec.EllipticCurvePrivateKey)
            and key.public_key() == certificate.public_key()
            and certificate.not_valid_after_utc - datetime.now(UTC) > LEAF_LIFETIME
        ):
            return cls(certificate, key)
        created = cls.create(f"variant-adapter {name}")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(key_path, _key_pem(created.key))
        write_private(certificate_path, created.cert_pem)
        return created

    @property
    def cert_pem(self) -> bytes:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's key."""
        return _key_pem(self.key)

    def issue_server(
        self,
        dns_names: Sequence[str],
        ip_addresses: Sequence[str],
        *,
        lifetime: timedelta = LEAF_LIFETIME,
        now: datetime | None = None,
    ) -> KeyPair:
        """A serving certificate for these names and addresses, valid for a year by default."""
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
        # Longer names do not fit there, and only the alternative names count.
        common = (*dns_names, *ip_addresses)[0][:64]
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
        return self._issue(
            x509.Name(subject),
            ExtendedKeyUsageOID.SERVER_AUTH,
            x509.SubjectAlternativeName(names),
            lifetime,
            now,
        )

    def keeps_serving(
        self, pair: KeyPair, dns_names: Sequence[str], ip_addresses: Sequence[str]
    ) -> bool:
        """Whether a pair is of this authority and has these names, and a third of its life is left."""
        try:
            certificate = x509.load_pem_x509_certificate(pair.cert_pem)
            key = serialization.load_pem_private_key(pair.key_pem, password=None)
            certificate.verify_directly_issued_by(self.certificate)
            named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        addresses = [str(item) for item in named.value.get_values_for_type(x509.IPAddress)]
        return (
            key.public_key() == certificate.public_key()
            and begin <= datetime.now(UTC) < end - (end - begin) / 3
            and set(named.value.get_values_for_type(x509.DNSName)) == set(dns_names)
            and set(addresses) == set(ip_addresses)
        )

    def issue_client(self, common_name: str, organizations: Sequence[str] = ()) -> KeyPair:
        """A client certificate: user `common_name`, groups `organizations`, valid for a year."""
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in organizations]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        return self._issue(x509.Name(subject), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def _issue(
        self,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        lifetime: timedelta = LEAF_LIFETIME,
        now: datetime | None = None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = self.key.public_key()
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), lifetime, now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
            )
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key))


def kubeconfig(server_url: str, ca_pem: bytes, client: KeyPair) -> str:
    """A kubeconfig with everything in it, for `kubectl --kubeconfig`."""

    def data(pem: bytes) -> str:
        return base64.b64encode(pem).decode()

    return f"""apiVersion: v1
kind: Config
clusters:
- name: variant-adapter
  cluster:
    server: {server_url}
    certificate-authority-data: {data(ca_pem)}
users:
- name: admin
  user:
    client-certificate-data: {data(client.cert_pem)}
    client-key-data: {data(client.key_pem)}
contexts:
- name: variant-adapter
  context:
    cluster: variant-adapter
    user: admin
current-context: variant-adapter
"""


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        # On a full disk it would keep the room that there is.
        temporary.unlink(missing_ok=True)
        raise


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    lifetime: timedelta,
    now: datetime | None,
) -> x509.CertificateBuilder:
    now = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

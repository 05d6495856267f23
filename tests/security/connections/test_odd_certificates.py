"""Client certificates that are odd, by TLS and by name: who has one is nobody else, or nobody."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.adapter.auth.test_delegated import MASTER, METRIC, Guarded, guarded

pytestmark = pytest.mark.filterwarnings("ignore:Attribute's length must be")


@dataclass(frozen=True)
class ClientCertificate:
    """What a certificate says.

    Attributes:
        names: common names, in their order.
        days: days from now until it begins and until it ends.
        issuer: name of the authority; `itself` and `leaf` are none that is trusted.

    """

    names: tuple[str, ...] = ("alice",)
    days: tuple[int, int] = (-1, 1)
    use: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH
    issuer: str = "ca"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(tmp_path) as guarded_server:
        yield guarded_server


def issue(server: Guarded, wanted: ClientCertificate) -> None:
    """Write `odd.crt` and `odd.key`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    authority, signer, chain = server.certificates.authorities["ca"].certificate, key, b""
    if wanted.issuer == "leaf":
        chain = (server.folder / "alice.crt").read_bytes()
        authority = x509.load_pem_x509_certificate(chain)
        signer = _key((server.folder / "alice.key").read_bytes())
    elif (
        wanted.issuer != "itself"
    ):  # that has the subject of the authority, and signs by a key of its own
        authority = server.certificates.authorities[wanted.issuer].certificate
        signer = server.certificates.authorities[wanted.issuer].key
    builder = x509.CertificateBuilder(
        subject_name=x509.Name(
            [
                *(
                    x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)
                    for name in wanted.names
                ),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "team-a"),
            ]
        ),
        issuer_name=authority.subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + timedelta(days=wanted.days[0]),
        not_valid_after=now + timedelta(days=wanted.days[1]),
    )
    if wanted.use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([wanted.use]), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (server.folder / "odd.crt").write_bytes(certificate.public_bytes(pem) + chain)
    (server.folder / "odd.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.mark.parametrize(
    ("names", "user"),
    [
        (("alice",), "alice"),
        (("admin", "alice"), "alice"),
        (("a,b=c,O=system:masters",), "a,b=c,O=system:masters"),
        (("alice\n",), "alice\n"),
        (("alice\0x",), "alice\0x"),
        (("a" * 10_000,), "a" * 10_000),
        (("alice", ""), ""),
        ((), ""),
    ],
    ids=["one", "two", "commas", "newline", "nul", "long", "empty", "none"],
)
async def test_a_certificate_is_the_user_of_its_last_common_name(
    server: Guarded, names: tuple[str, ...], user: str
) -> None:
    """As in Go, which the API server reads them by: as it is, whatever is in it; an empty one is nobody."""
    issue(server, ClientCertificate(names=names))
    status, _ = await server.get(certificate="odd", headers=MASTER)
    assert status == (200 if user else 401)
    assert [item["user"] for item in server.stand_in.reviews] == ([user] if user else [])


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (("front-proxy-client",), 200),
        (("other", "front-proxy-client"), 200),
        (("front-proxy-client", "other"), 401),
        (("front-proxy-client\n",), 401),
        (("FRONT-PROXY-CLIENT",), 401),
    ],
)
async def test_a_front_proxy_has_the_allowed_name_last(
    server: Guarded, names: tuple[str, ...], status: int
) -> None:
    """As the user of a certificate."""
    issue(server, ClientCertificate(names=names, issuer="fp-ca"))
    assert (await server.get(certificate="odd", headers=MASTER))[0] == status


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        ("system:anonymous", ["system:unauthenticated"]),
        ("system:anonymous", []),
        ("eve", ["team-a", "system:unauthenticated"]),
    ],
)
async def test_strangers_of_the_front_proxy_stay_strangers(
    server: Guarded, user: str, groups: list[str]
) -> None:
    """A proxied anonymous request does not get what every authenticated user has."""
    sent = [("X-Remote-User", user), *(("X-Remote-Group", group) for group in groups)]
    await server.get("/apis", certificate="fp", headers=sent)
    spec = server.stand_in.reviews[-1]
    assert (spec["user"], spec["groups"]) == (user, groups)


@pytest.mark.parametrize(
    "wanted",
    [
        ClientCertificate(days=(-9, -1)),
        ClientCertificate(days=(1, 9)),
        ClientCertificate(use=ExtendedKeyUsageOID.SERVER_AUTH),
        ClientCertificate(issuer="itself"),
        ClientCertificate(issuer="leaf"),
        ClientCertificate(issuer="evil-ca"),
    ],
    ids=["expired", "not-yet", "of-a-server", "subject-of-the-ca", "signed-by-a-leaf", "other-ca"],
)
async def test_certificates_that_do_not_count_end_the_handshake(
    server: Guarded, wanted: ClientCertificate
) -> None:
    """Nothing is served by them, not even health; others are, after them."""
    issue(server, wanted)
    with pytest.raises((aiohttp.ClientError, OSError)):
        await server.get("/healthz", certificate="odd")
    issue(server, ClientCertificate(use=None))  # that restricts no use
    assert (await server.get(certificate="odd"))[0] == 200


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1, "ALL"),
        (ssl.TLSVersion.TLSv1_1, "ALL"),
        (ssl.TLSVersion.TLSv1_2, "aNULL"),
        (ssl.TLSVersion.TLSv1_2, "eNULL"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_versions_and_weak_ciphers_are_refused(
    server: Guarded, version: ssl.TLSVersion, ciphers: str
) -> None:
    """TLS 1.2 or newer, with ciphers that authenticate, encrypt, and keep what was sent secret later."""
    context = server.context("alice")
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", port, ssl=context)
    assert (await server.get(METRIC, certificate="alice"))[0] == 200

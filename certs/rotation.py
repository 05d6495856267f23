"""Serving certificates that renew themselves: two authorities overlap, so that nobody distrusts anybody.

A new authority is trusted first and signs later; the old one is trusted until everyone has seen the new
serving certificate. Pure: what is kept goes in, what is to be kept comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certs.authority import BACKDATED, Authority, KeyPair


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long things last. A certificate is replaced when a third of its life is left.

    Attributes:
        overlap: time for which a new authority is trusted before it signs, and an old one afterwards.

    """

    authority: timedelta = timedelta(days=730)
    leaf: timedelta = timedelta(days=90)
    overlap: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateState:
    """Authorities and the serving certificate.

    Attributes:
        signing: authority that signs.
        following: next authority, trusted already; None where none is due.
        former: former authority, PEM, still trusted; empty if there is none.

    """

    signing: Authority
    serving: KeyPair
    following: Authority | None = None
    former: bytes = b""

    @property
    def trusted(self) -> bytes:
        """The bundle for those who verify us, PEM."""
        parts = [self.signing.cert_pem]
        if self.following is not None:
            parts.append(self.following.cert_pem)
        return b"".join([*parts, self.former])

    def data(self) -> dict[str, bytes]:
        """As kept in a Secret."""
        found = {
            "ca.crt": self.trusted,
            "tls.crt": self.serving.cert_pem,
            "tls.key": self.serving.key_pem,
            "signing.crt": self.signing.cert_pem,
            "signing.key": self.signing.key_pem,
        }
        if self.following is not None:
            found["following.crt"] = self.following.cert_pem
            found["following.key"] = self.following.key_pem
        if self.former:
            found["former.crt"] = self.former
        return found


def parse(data: Mapping[str, bytes]) -> CertificateState | None:
    """What `CertificateState.data` gave; None where something is missing or unreadable."""
    try:
        signing = _authority(data["signing.crt"], data["signing.key"])
        following = (
            _authority(data["following.crt"], data["following.key"])
            if "following.crt" in data
            else None
        )
        serving = KeyPair(data["tls.crt"], data["tls.key"])
        x509.load_pem_x509_certificate(serving.cert_pem)
        serialization.load_pem_private_key(serving.key_pem, password=None)
    except (KeyError, ValueError, TypeError):
        return None
    return CertificateState(
        signing=signing, serving=serving, following=following, former=data.get("former.crt", b"")
    )


def advance(
    kept: CertificateState | None,
    *,
    names: Sequence[str],
    now: datetime,
    times: Times,
    published: bytes | None,
    force: bool = False,
) -> CertificateState:
    """What is to be kept now; the same object where nothing is due.

    Args:
        kept: until now; None at the very first.
        names: DNS names of the serving certificate.
        now: UTC.
        times: how long things last.
        published: what those who verify us trust now (an APIService's caBundle); None where that is not
            ours to know, and time alone counts.
        force: bring in a new authority although none is due.

    """
    if kept is None:
        signing = Authority.create("variant-adapter", lifetime=times.authority, now=now)
        return CertificateState(signing=signing, serving=_serving(signing, names, now, times))
    if _expired(kept.signing.certificate, now):
        # Nobody trusts it any more: overlap would protect nobody.
        return advance(None, names=names, now=now, times=times, published=published)
    if kept.following is None and (force or _due(kept.signing.certificate, now)):
        following = Authority.create("variant-adapter", lifetime=times.authority, now=now)
        kept = replace(kept, following=following)
    elif kept.following is not None and _trusted_for(kept.following, now) >= times.overlap:
        seen = published is None or kept.following.cert_pem.strip() in published
        if seen:
            kept = CertificateState(
                signing=kept.following,
                serving=_serving(kept.following, names, now, times),
                former=kept.signing.cert_pem,
            )
    serving = x509.load_pem_x509_certificate(kept.serving.cert_pem)
    if _due(serving, now) or _names(serving) != sorted(names):
        kept = replace(kept, serving=_serving(kept.signing, names, now, times))
        serving = x509.load_pem_x509_certificate(kept.serving.cert_pem)
    since = now - (serving.not_valid_before_utc + BACKDATED)
    if kept.former and kept.following is None and since >= times.overlap:
        kept = replace(kept, former=b"")
    return kept


def _serving(authority: Authority, names: Sequence[str], now: datetime, times: Times) -> KeyPair:
    return authority.issue_server(names, ["127.0.0.1"], lifetime=times.leaf, now=now)


def _authority(certificate: bytes, key: bytes) -> Authority:
    loaded = serialization.load_pem_private_key(key, password=None)
    found = x509.load_pem_x509_certificate(certificate)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")  # noqa: TRY004 - as any unusable one
    if loaded.public_key() != found.public_key():
        raise ValueError("certificate and key do not belong together")
    return Authority(found, loaded)


def _expired(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc <= now


def _due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether only a third of its life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now <= life / 3


def _trusted_for(authority: Authority, now: datetime) -> timedelta:
    return now - (authority.certificate.not_valid_before_utc + BACKDATED)


def _names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(found.get_values_for_type(x509.DNSName))

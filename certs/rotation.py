"""Serving certificates that renew themselves without a gap in which clients distrust the server.

Two authorities overlap, so that clients trust the server throughout: a new authority is trusted first and
signs later; the old one is trusted until all clients have seen the new serving certificate. Pure: the
current state goes in, the next one comes out.
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
    """Lifetimes. A certificate is replaced when a third of its life is left.

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
        """The bundle for clients that verify the server, PEM."""
        parts = [self.signing.cert_pem]
        if self.following is not None:
            parts.append(self.following.cert_pem)
        return b"".join([*parts, self.former])

    def data(self) -> dict[str, bytes]:
        """Data of the Secret."""
        data = {
            "ca.crt": self.trusted,
            "tls.crt": self.serving.cert_pem,
            "tls.key": self.serving.key_pem,
            "signing.crt": self.signing.cert_pem,
            "signing.key": self.signing.key_pem,
        }
        if self.following is not None:
            data["following.crt"] = self.following.cert_pem
            data["following.key"] = self.following.key_pem
        if self.former:
            data["former.crt"] = self.former
        return data


def parse(data: Mapping[str, bytes]) -> CertificateState | None:
    """What `CertificateState.data` gave; None where something is missing, unreadable or does not fit."""
    try:
        signing = _authority(data["signing.crt"], data["signing.key"])
        following = (
            _authority(data["following.crt"], data["following.key"])
            if "following.crt" in data
            else None
        )
        serving = KeyPair(data["tls.crt"], data["tls.key"])
        key = serialization.load_pem_private_key(serving.key_pem, password=None)
        if key.public_key() != x509.load_pem_x509_certificate(serving.cert_pem).public_key():
            return None
    except (KeyError, ValueError, TypeError):
        return None
    return CertificateState(
        signing=signing, serving=serving, following=following, former=data.get("former.crt", b"")
    )


def advance(
    state: CertificateState | None,
    *,
    names: Sequence[str],
    now: datetime,
    times: Times,
    published: bytes | None,
    force: bool = False,
) -> CertificateState:
    """The state to keep from now on; the same object where nothing is due.

    Args:
        state: current state; None at the first start.
        names: DNS names of the serving certificate.
        now: UTC.
        times: lifetimes.
        published: bundle that clients trust now (an APIService's caBundle); None where it is unknown, and
            time alone decides.
        force: bring in a new authority although none is due.

    """
    if state is None:
        signing = Authority.create("variant-adapter", lifetime=times.authority, now=now)
        return CertificateState(signing=signing, serving=_serving(signing, names, now, times))
    if not _valid(state.signing.certificate, now):
        # No client trusts it, so an overlap is of no use.
        return advance(None, names=names, now=now, times=times, published=published)
    if state.following is None and (force or _due(state.signing.certificate, now)):
        following = Authority.create("variant-adapter", lifetime=times.authority, now=now)
        state = replace(state, following=following)
    elif state.following is not None and _trusted_for(state.following, now) >= times.overlap:
        seen = published is None or state.following.cert_pem.strip() in published
        if seen:
            state = CertificateState(
                signing=state.following,
                serving=_serving(state.following, names, now, times),
                former=state.signing.cert_pem,
            )
    serving = x509.load_pem_x509_certificate(state.serving.cert_pem)
    if _due(serving, now) or not _valid(serving, now) or _names(serving) != sorted(names):
        state = replace(state, serving=_serving(state.signing, names, now, times))
        serving = x509.load_pem_x509_certificate(state.serving.cert_pem)
    since = now - (serving.not_valid_before_utc + BACKDATED)
    if state.former and state.following is None and since >= times.overlap:
        state = replace(state, former=b"")
    return state


def _serving(authority: Authority, names: Sequence[str], now: datetime, times: Times) -> KeyPair:
    return authority.issue_server(names, ["127.0.0.1"], lifetime=times.leaf, now=now)


def _authority(certificate: bytes, key: bytes) -> Authority:
    loaded = serialization.load_pem_private_key(key, password=None)
    parsed = x509.load_pem_x509_certificate(certificate)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("not an elliptic-curve key")  # noqa: TRY004 - as any unusable one
    if loaded.public_key() != parsed.public_key():
        raise ValueError("certificate and key do not belong together")
    return Authority(parsed, loaded)


def _valid(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether it is valid now: not expired, and not issued by a clock that was ahead."""
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether only a third of its life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now <= life / 3


def _trusted_for(authority: Authority, now: datetime) -> timedelta:
    return now - (authority.certificate.not_valid_before_utc + BACKDATED)


def _names(certificate: x509.Certificate) -> list[str]:
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(alternative.get_values_for_type(x509.DNSName))

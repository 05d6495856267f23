"""Who asks, and whether they may: client certificates, front-proxy headers, and a local policy.

Which authority signed the client certificate decides what it is good for: one of the request-header CA
is a proxy, whose `X-Remote-*` headers name the user; one of the cluster's client CA is the user itself,
and headers are ignored. https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from multidict import CIMultiDictProxy

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
ALWAYS_ALLOWED = frozenset({"/healthz", "/livez", "/readyz"})
_CACHED_CERTIFICATES = 1024


class UnauthenticatedError(Exception):
    """Credentials were shown, and they are not good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...]
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS = User(name="system:anonymous", groups=(UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Authorities and header names.

    Attributes:
        client_cas: PEM of the authorities of client certificates; None: there are none.
        requestheader_cas: PEM of the authorities of front proxies; None: there are none.
        allowed_names: common names that a proxy may have; empty allows every name.

    """

    client_cas: bytes | None = None
    requestheader_cas: bytes | None = None
    allowed_names: tuple[str, ...] = ()
    username_headers: tuple[str, ...] = ("X-Remote-User",)
    group_headers: tuple[str, ...] = ("X-Remote-Group",)
    extra_prefix: str = "X-Remote-Extra-"


class Authenticator:
    """Tells the user of a request from its client certificate and headers."""

    def __init__(self, config: IdentityConfig) -> None:
        self._config = config
        self._client_cas = _authorities(config.client_cas)
        self._proxy_cas = _authorities(config.requestheader_cas)
        self._checked: OrderedDict[bytes, tuple[x509.Certificate, str]] = OrderedDict()

    def user(self, certificate_der: bytes | None, headers: CIMultiDictProxy[str]) -> User:
        """The user of one request.

        Raises:
            UnauthenticatedError: the credentials are not good.

        """
        if certificate_der is None:
            if headers.get("Authorization", "").lower().startswith("bearer "):
                # There is nobody here who could review a token.
                raise UnauthenticatedError
            return ANONYMOUS
        certificate, kind = self._check(certificate_der)
        now = datetime.now(UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise UnauthenticatedError
        if kind == "proxy":
            return self._proxied(certificate, headers)
        if kind == "client":
            names = _names(certificate, NameOID.COMMON_NAME)
            groups = _names(certificate, NameOID.ORGANIZATION_NAME)
            return User(name=names[0] if names else "", groups=_with_authenticated(groups))
        raise UnauthenticatedError

    def _check(self, der: bytes) -> tuple[x509.Certificate, str]:
        if der in self._checked:
            self._checked.move_to_end(der)
            return self._checked[der]
        certificate = x509.load_der_x509_certificate(der)
        kind = ""
        if _for_clients(certificate):
            if _signed_by(certificate, self._proxy_cas):
                kind = "proxy"
            elif _signed_by(certificate, self._client_cas):
                kind = "client"
        self._checked[der] = (certificate, kind)
        if len(self._checked) > _CACHED_CERTIFICATES:
            self._checked.popitem(last=False)
        return certificate, kind

    def _proxied(self, certificate: x509.Certificate, headers: CIMultiDictProxy[str]) -> User:
        allowed = self._config.allowed_names
        if allowed and not set(allowed) & set(_names(certificate, NameOID.COMMON_NAME)):
            raise UnauthenticatedError
        name = next(
            (headers[header] for header in self._config.username_headers if headers.get(header)), ""
        )
        if not name:
            raise UnauthenticatedError
        groups = [
            group
            for header in self._config.group_headers
            for group in headers.getall(header, [])
            if group
        ]
        extra: dict[str, tuple[str, ...]] = {}
        prefix = self._config.extra_prefix.lower()
        for header, value in headers.items():
            if header.lower().startswith(prefix):
                key = unquote(header[len(prefix) :].lower())
                extra[key] = (*extra.get(key, ()), value)
        return User(name=name, groups=_with_authenticated(groups), extra=extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What is asked for; `resource` is empty for paths that are no resource."""

    verb: str
    path: str
    namespace: str = ""
    resource: str = ""


class Policy(Protocol):
    """Says whether a user may do something."""

    async def allows(self, user: User, attributes: Attributes) -> bool:
        """Whether that is allowed."""


class LocalPolicy:
    """Standalone: who has a certificate of the local authority may read everything."""

    async def allows(self, user: User, attributes: Attributes) -> bool:
        """Reading is for the authenticated, the exact health paths are for all."""
        if attributes.path in ALWAYS_ALLOWED or "system:masters" in user.groups:
            return True
        return AUTHENTICATED in user.groups and attributes.verb in {"get", "list"}


def _authorities(pem: bytes | None) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem) if pem else []


def _signed_by(certificate: x509.Certificate, authorities: list[x509.Certificate]) -> bool:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def _names(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(item.value) for item in certificate.subject.get_attributes_for_oid(oid)]


def _with_authenticated(groups: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*groups, AUTHENTICATED]))

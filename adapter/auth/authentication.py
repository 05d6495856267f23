"""Authentication: client certificates, front-proxy headers, and bearer tokens.

The authority that signed the client certificate decides what it stands for. A certificate of the
request-header CA is a front proxy, whose `X-Remote-*` headers name the user; one of the client CA is the
user itself, and headers are ignored.
https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from multidict import CIMultiDictProxy

from adapter.auth.allowance import Allowances
from adapter.auth.cache import CACHED_BYTES, Cache, bytes_of
from adapter.auth.users import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    ReviewError,
    UnauthenticatedError,
    User,
)

INVALID_BURST, INVALID_PER_SECOND = 20, 5.0
"""Reviews of tokens that turn out invalid, for each peer: at once, and each second after that."""

_CACHED_CERTIFICATES = 1024
_KNOWN_TOKENS = 1024
_PROXIED_USERS = 256
_CLIENT_USES = frozenset(
    {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """Authorities and header names.

    Attributes:
        client_cas: Authorities of client certificates, PEM; None: client certificates are not accepted.
        requestheader_cas: Authorities of front proxies, PEM; None: front proxies are not accepted.
        allowed_names: Common names that a front proxy may have; empty allows every name.
        username_headers: Headers that name the user; the first that is set counts.
        group_headers: Headers that name groups; all count.
        uid_headers: Headers that name the user's id; the first that is set counts.
        extra_prefixes: Prefixes of headers that hold further attributes of the user.

    """

    client_cas: bytes | None = None
    requestheader_cas: bytes | None = None
    allowed_names: tuple[str, ...] = ()
    username_headers: tuple[str, ...] = ("X-Remote-User",)
    group_headers: tuple[str, ...] = ("X-Remote-Group",)
    uid_headers: tuple[str, ...] = ()
    extra_prefixes: tuple[str, ...] = ("X-Remote-Extra-",)


TokenReviewer = Callable[[str], Awaitable[User | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """What counts of a client certificate that an authority has signed, or of one that none has.

    Attributes:
        kind: `proxy` or `client`, by its authority; empty where it is accepted for neither.

    """

    kind: str
    begins: datetime
    ends: datetime
    names: list[str]
    organizations: list[str]


class Authenticator:
    """Identifies the user of a request by its client certificate, headers, and token."""

    def __init__(
        self,
        config: IdentityConfig,
        *,
        review_token: TokenReviewer | None = None,
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        self._review_token = review_token
        self._clock = clock
        self._tokens: Cache[User | None] = Cache(clock=clock)
        # Hashes of tokens that were valid: no flood from their address holds up their next review.
        self._valid: OrderedDict[bytes, None] = OrderedDict()
        self._invalid = Allowances(burst=INVALID_BURST, per_second=INVALID_PER_SECOND)
        self.use(config)

    def use(self, config: IdentityConfig) -> None:
        """Use other authorities and header names from now on.

        Raises:
            ValueError: an authority is not a PEM certificate; the last configuration stays.

        """
        client_cas = _authorities(config.client_cas)
        proxy_cas = _authorities(config.requestheader_cas)
        self._config, self._client_cas, self._proxy_cas = config, client_cas, proxy_cas
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()
        self._proxied_users: dict[tuple[tuple[str, str], ...], User] = {}
        self._proxied_bytes = 0
        names = (*config.username_headers, *config.group_headers, *config.uid_headers)
        self._user_headers = frozenset(name.lower() for name in names)
        self._extra_prefixes = tuple(prefix.lower() for prefix in config.extra_prefixes if prefix)

    async def user(
        self, certificate_der: bytes | None, headers: CIMultiDictProxy[str], *, peer: str = ""
    ) -> User:
        """Identify the user of a request.

        Args:
            certificate_der: client certificate of the connection, DER; None without one.
            headers: headers of the request.
            peer: address that sends the request: invalid tokens of one peer do not use up the reviews of
                others.

        Raises:
            UnauthenticatedError: the credentials are not accepted.

        """
        try:
            user = None if certificate_der is None else self._certified(certificate_der, headers)
        except UnauthenticatedError:
            # A token counts only where certificate and headers are not accepted.
            user = await self._by_token(headers, peer)
            if user is None:
                raise
        else:
            if user is None:
                user = await self._by_token(headers, peer)
        return ANONYMOUS if user is None else user

    async def _by_token(self, headers: CIMultiDictProxy[str], peer: str) -> User | None:
        """The user of the bearer token; None without one."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return None
        if not token.isascii():
            raise UnauthenticatedError  # no issuer makes such tokens, and a review could not carry it
        review = self._review_token
        if review is None:
            raise UnauthenticatedError
        # The cache holds hashes, no tokens.
        key = hashlib.sha256(token.encode()).digest()
        invalid = self._invalid.of(peer)
        asks = not self._tokens.knows(key) and key not in self._valid
        if asks and not invalid.take(self._clock()):
            raise UnauthenticatedError  # everybody can make up tokens: one peer's are not all reviewed
        try:
            user = await self._tokens.get(key, lambda: _reviewed(review, token))
        except ReviewError as error:
            raise UnauthenticatedError from error
        if user is None:
            self._valid.pop(key, None)
            raise UnauthenticatedError
        if asks:
            invalid.give_back()
        self._valid[key] = None
        self._valid.move_to_end(key)
        if len(self._valid) > _KNOWN_TOKENS:
            self._valid.popitem(last=False)
        return user

    def _certified(self, der: bytes, headers: CIMultiDictProxy[str]) -> User:
        certificate = self._check(der)
        if not certificate.begins <= datetime.now(UTC) <= certificate.ends:
            raise UnauthenticatedError
        if certificate.kind == "proxy":
            return self._proxied(certificate, headers)
        if certificate.kind == "client":
            names = certificate.names
            if not names or not names[0]:
                raise UnauthenticatedError
            return User(name=names[0], groups=_grouped(names[0], certificate.organizations))
        raise UnauthenticatedError

    def _check(self, der: bytes) -> _Checked:
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
        checked = self._checked[der] = _Checked(
            kind=kind,
            begins=certificate.not_valid_before_utc,
            ends=certificate.not_valid_after_utc,
            # A stranger's subject is not read: it may be anything.
            # Of several the last one counts, as in Go: that is whom an approver of certificates sees.
            names=_names(certificate, NameOID.COMMON_NAME)[-1:] if kind else [],
            organizations=_names(certificate, NameOID.ORGANIZATION_NAME) if kind else [],
        )
        if len(self._checked) > _CACHED_CERTIFICATES:
            self._checked.popitem(last=False)
        return checked

    def _proxied(self, certificate: _Checked, headers: CIMultiDictProxy[str]) -> User:
        config = self._config
        allowed = config.allowed_names
        if allowed and not set(allowed) & set(certificate.names):
            raise UnauthenticatedError
        identity = tuple(item for item in headers.items() if self._names_user(item[0].lower()))
        user = self._proxied_users.get(identity)
        if user is None:
            user = self._named(headers)
            size = bytes_of((identity, user))
            full = self._proxied_bytes + size > CACHED_BYTES
            if full or len(self._proxied_users) >= _PROXIED_USERS:
                self._proxied_users.clear()
                self._proxied_bytes = 0
            self._proxied_users[identity] = user
            self._proxied_bytes += size
        return user

    def _names_user(self, header: str) -> bool:
        """Whether a header, in lower case, is one of those by which a front proxy names a user."""
        return header in self._user_headers or header.startswith(self._extra_prefixes)

    def _named(self, headers: CIMultiDictProxy[str]) -> User:
        """The user that the headers of a front proxy name."""
        config = self._config
        name = _first(headers, config.username_headers)
        if not name:
            raise UnauthenticatedError
        groups = [
            group
            for header in config.group_headers
            for group in headers.getall(header, [])
            if group
        ]
        extra: dict[str, tuple[str, ...]] = {}
        for prefix in config.extra_prefixes:
            for header, value in headers.items():
                if prefix and header.lower().startswith(prefix.lower()):
                    key = unquote(header[len(prefix) :].lower())
                    extra[key] = (*extra.get(key, ()), value)
        uid = _first(headers, config.uid_headers)
        return User(name=name, groups=_grouped(name, groups), uid=uid, extra=extra)


async def _reviewed(review: TokenReviewer, token: str) -> User | None:
    """The user of a token, made once for all its requests; None where it is not valid."""
    user = await review(token)
    if user is None or not user.name:
        return None
    return replace(user, groups=_grouped(user.name, user.groups))


def _first(headers: CIMultiDictProxy[str], names: tuple[str, ...]) -> str:
    return next((headers[name] for name in names if headers.get(name)), "")


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
        # As Go's crypto/x509: a certificate that restricts no use may be used for everything.
        return True
    except ValueError:
        return False
    return not _CLIENT_USES.isdisjoint(usage)


def _names(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(item.value) for item in certificate.subject.get_attributes_for_oid(oid)]


def _grouped(name: str, groups: Sequence[str]) -> tuple[str, ...]:
    """The groups of a user, `system:authenticated` among them unless somebody says that it is anonymous.

    A front proxy passes on requests of strangers too, under their name.
    """
    anonymous = name == ANONYMOUS.name or UNAUTHENTICATED in groups
    return tuple(dict.fromkeys(groups if anonymous else [*groups, AUTHENTICATED]))

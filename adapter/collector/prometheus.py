"""Instant queries to Prometheus, Thanos or Mimir: `POST /api/v1/query` within one deadline.

The deadline covers name resolution, connection, TLS, headers and the whole body. Queries are not retried
(the next scrape cycle is the retry) and redirects are not followed (they lose the query, and end at a
login). The token file and the certificate files are read again before each query.
https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from adapter import errors
from adapter.collector import instant_vector
from adapter.collector.instant_vector import InstantVector
from adapter.collector.transport import wire
from adapter.settings.control import Prometheus
from adapter.tls.client_context import ClientContext

RESPONSE_LIMIT_BYTES = 64 * 1024 * 1024  # as Python objects five times as much
_ERROR_LIMIT_BYTES = 64 * 1024
_READ_BUFFER_BYTES = 256 * 1024
_INLINE_BYTES = 64 * 1024
"""Largest response that is parsed on the event loop; handing a smaller one to a thread takes longer."""
_NO_DEADLINE = aiohttp.ClientTimeout(total=None)
"""Timeout of aiohttp, switched off: it rounds deadlines over 5 s to whole seconds."""


class PrometheusError(errors.AdapterError):
    """Prometheus gave no usable response; the message says why, and which setting to change.

    Attributes:
        code: HTTP status; 0 without a response.

    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusOptions:
    """Address, credentials and deadline of one Prometheus.

    Attributes:
        url: Base URL. Its path is kept, as Mimir and Thanos behind a gateway need; user and password in it
            are sent as basic authentication.
        ca_file: PEM file of the authorities that may have issued the server's certificate; None: the
            system's.
        certificate: PEM file of our client certificate; it may hold the key too.
        key: PEM file of the client certificate's key.
        server_name: Name that the server's certificate must have; empty: the URL's host.
        token: Bearer token.
        token_file: File with a bearer token, read before each query; it wins over `token`.
        insecure: Whether the server's certificate is not checked.
        headers: Extra headers, such as the tenant's `X-Scope-OrgID`.
        withheld: Why credentials are not sent to this URL; empty where they are, or there are none.
        timeout_seconds: Deadline of one query, from name resolution to the last byte.

    """

    url: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    token: str = ""
    token_file: Path | None = None
    insecure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = Prometheus().prometheus_timeout
    withheld: str = ""

    @property
    def shown_url(self) -> str:
        """The URL without user and password, for messages."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def request_headers(self) -> dict[str, str]:
        """Extra headers and credentials of the next request; reads the token file.

        Raises:
            PrometheusError: the token file cannot be read, or the token cannot be sent.

        """
        headers = dict(self.headers)
        if token := self._bearer_token():
            headers["Authorization"] = f"Bearer {token}"
        user, separator, password = urlsplit(self.url).netloc.rpartition("@")[0].partition(":")
        if user or separator:
            credentials = f"{unquote(user)}:{unquote(password)}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
        return headers

    def error(self, reason: str, *, code: int = 0) -> PrometheusError:
        """An error that names this Prometheus."""
        return PrometheusError(f"Prometheus {self.shown_url}: {reason}", code=code)

    def status_error(self, code: int, body: bytes = b"") -> PrometheusError:
        """An error for an HTTP status, with advice; of the answer nothing is quoted but a kind of error."""
        reported = "it redirects" if code in _REDIRECTS else _reported(body) or _phrase(code)
        advice = _ADVICE.get(code, "")
        if self.withheld and code in _UNAUTHORIZED:
            advice = f"; {self.withheld}"
        return self.error(f"HTTP status {code}: {reported}{advice}", code=code)

    def _bearer_token(self) -> str:
        token, origin = self.token, "PROMETHEUS_BEARER_TOKEN"
        if self.token_file is not None:
            origin = f"token file {self.token_file}"
            try:
                token = self.token_file.read_bytes().decode("ascii", "replace").strip()
            except OSError as error:
                advice = "set --prometheus-token-file or PROMETHEUS_TOKEN_PATH"
                raise self.error(f"{origin}: {error.strerror}; {advice}") from error
        elif not token:
            return ""
        # Checked here, because the error of a header that cannot be sent would quote the token.
        if not _TOKEN.fullmatch(token):
            raise self.error(f"{origin}: it holds no token")
        return token


_TOKEN = re.compile(r"[\x21-\x7e]+")


class PrometheusClient:
    """Sends instant queries to one Prometheus, one at a time.

    Attributes:
        queries: Number of queries so far.
        failures: Number of queries without a usable response so far.
        limit_bytes: Longest response that is read.

    """

    def __init__(self, session: aiohttp.ClientSession, options: PrometheusOptions) -> None:
        """Nothing is sent yet; `session` stays the caller's to close."""
        self.options = options
        self.limit_bytes = RESPONSE_LIMIT_BYTES
        self.queries = 0
        self.failures = 0
        self._session = session
        self._tls = ClientContext(
            ca_file=options.ca_file,
            certificate=options.certificate,
            key=options.key,
            insecure=options.insecure,
        )
        self._one_at_a_time = asyncio.Lock()
        self._method = "POST"
        self._closed = False

    async def query(self, promql: str, *, at: float | None = None) -> InstantVector:
        """Evaluate an expression that gives an instant vector, now or at Unix time `at`.

        Raises:
            PrometheusError: no usable response within the deadline.

        """
        self.queries += 1
        parameters = {"query": promql} if at is None else {"query": promql, "time": f"{at:.3f}"}
        try:
            self._check_open()
            async with self._one_at_a_time:
                self._check_open()
                body = await self._body(parameters)
                if len(body) <= _INLINE_BYTES:
                    return self._parsed(body)
                return await asyncio.to_thread(self._parsed, body)
        except PrometheusError:
            self.failures += 1
            raise

    async def response(self, promql: str) -> bytes:
        """The JSON of an expression that gives something else than an instant vector.

        Raises:
            PrometheusError: no successful response within the deadline.

        """
        self.queries += 1
        try:
            async with self._one_at_a_time:
                self._check_open()
                return await self._body({"query": promql})
        except PrometheusError:
            self.failures += 1
            raise

    def close(self) -> None:
        """Refuse further queries, those that wait included; the one in progress ends as it would."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise self.options.error("no longer in use: the settings have changed")

    async def _body(self, parameters: dict[str, str]) -> bytes:
        """The body of a successful response."""
        error, limit = self.options.error, self.options.timeout_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._fetched(parameters)
        except TimeoutError as cause:
            reason = f"no response within {limit:g} s; is it up? --prometheus-timeout allows more"
            raise error(reason) from cause
        except ssl.SSLError as cause:
            raise error(with_tls_advice(innermost(cause))) from cause
        except (aiohttp.InvalidURL, ValueError) as cause:
            # Its text may quote a header, and so a secret.
            raise error(f"{type(cause).__name__}; are URL and headers right?") from cause
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as cause:
            # Its text may quote the response.
            reason = "the response is not HTTP, or was cut off; is it up, and is the URL right?"
            raise error(reason) from cause
        except (aiohttp.ClientError, OSError) as cause:
            reason = innermost(cause)
            if _is_tls(cause):
                raise error(with_tls_advice(reason)) from cause
            raise error(f"{reason}; is it up, and is the URL right?") from cause

    async def _fetched(self, parameters: dict[str, str]) -> bytes:
        async with await self._send(self._method, parameters) as response:
            # Some proxies let GET through only.
            if self._method != "POST" or response.status not in {405, 501}:
                return await self._read(response)
        self._method = "GET"
        async with await self._send("GET", parameters) as response:
            return await self._read(response)

    async def _send(self, method: str, parameters: dict[str, str]) -> aiohttp.ClientResponse:
        options = self.options
        headers = options.request_headers()
        for value in headers.values():
            value.encode("latin-1")
        # Compressing a large response takes both sides longer than sending it does.
        return await self._session.request(
            method,
            f"{options.shown_url.rstrip('/')}/api/v1/query",
            # In the body where possible: queries are longer than some proxies allow URLs to be.
            data=parameters if method == "POST" else None,
            params=None if method == "POST" else parameters,
            headers={"Accept-Encoding": "identity", **headers},
            ssl=self._tls_context(),
            server_hostname=options.server_name or None,
            allow_redirects=False,
            timeout=_NO_DEADLINE,
            read_bufsize=_READ_BUFFER_BYTES,
        )

    def _tls_context(self) -> ssl.SSLContext | bool:
        if urlsplit(self.options.url).scheme != "https":
            return True
        try:
            return self._tls.current()
        except OSError as cause:
            # innermost() has no file name, and without it the message names no file.
            name = f"{cause.filename}: {cause.strerror}" if cause.filename else innermost(cause)
            raise self.options.error(f"{name}{_FILES}") from cause

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        code = response.status
        if code != 200:
            body = await _at_most(response, _ERROR_LIMIT_BYTES)
            raise self.options.status_error(code, body or b"")
        with wire.body_of(response, 2 * self.limit_bytes):
            body = await _at_most(response, self.limit_bytes)
        if body is None:
            size = f"{self.limit_bytes / 2**20:g} MiB"
            raise self.options.error(f"the response exceeds {size}; is the URL right?")
        return body

    def _parsed(self, body: bytes) -> InstantVector:
        try:
            return instant_vector.parse(body)
        except instant_vector.FailedError as cause:
            kind = cause.kind if cause.kind in _ERROR_TYPES else "unknown"
            raise self.options.error(f"the query failed: error type {kind}") from cause
        except (ValueError, *_NO_VECTOR) as cause:
            if isinstance(cause, _NOT_JSON):
                raise self.options.error("the response is not JSON; is the URL right?") from cause
            raise self._no_vector(cause) from cause

    def _no_vector(self, cause: Exception) -> PrometheusError:
        oversized = isinstance(cause, instant_vector.OversizedError)
        name = str(cause) if oversized else type(cause).__name__
        text = f"the response is not an instant vector ({name}); is the URL right?"
        return self.options.error(text)


async def _at_most(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body; None and no more of it read where it is longer than that many bytes."""
    chunks, length = [], 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        length += len(chunk)
        if length > limit:
            response.close()
            return None
    return b"".join(chunks)


_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)
_NO_VECTOR = (KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading JSON as an instant vector ends in where it is something else."""


def _reported(body: bytes) -> str:
    """The kind of error that the API reports, one of its own few; empty where the body is something else."""
    try:
        kind = json.loads(body)["errorType"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f"error type {kind}" if kind in _ERROR_TYPES else ""


def _phrase(code: int) -> str:
    """What a status means, in the words of the standard rather than the server's."""
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "unknown status"


_ERROR_TYPES = (
    "timeout", "canceled", "execution", "bad_data", "internal", "unavailable", "not_found",
    "not_acceptable", "too_many_requests",
)  # fmt: skip
"""Kinds of errors of the API of Prometheus, Thanos and Mimir."""

_UNAUTHORIZED = (401, 403)
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRY = "; the next scrape cycle tries again"
_ADVICE = {
    **dict.fromkeys(_REDIRECTS, "; set the URL that it redirects to"),
    400: "; does it support these functions?",
    401: "; set --prometheus-token-file or PROMETHEUS_BEARER_TOKEN",
    403: "; the token may not query: bind its account to a role that may",
    404: "; is the path of the URL right? That of Mimir ends with /prometheus",
    422: "; the query was understood, but could not be executed",
    429: f"; it limits queries{_RETRY}",
    500: "; see its log",
    **dict.fromkeys((502, 503, 504), f"; is it starting, or overloaded?{_RETRY}"),
}

_NAME = "; set --prometheus-server-name or PROMETHEUS_SERVER_NAME to a name that it has"
_FILES = "; are --prometheus-ca-file, --prometheus-client-cert and its key right?"
_TLS_ADVICE = (
    ("hostname", _NAME),
    ("address mismatch", _NAME),
    ("expired", "; it must be renewed"),
    (
        "certificate verify failed",
        "; set --prometheus-ca-file or PROMETHEUS_CA_CERT_PATH to its authority's certificate",
    ),
    ("alert", "; it requires a client certificate: set --prometheus-client-cert and its key"),
    ("wrong version number", "; is it http:// rather than https://?"),
    ("record layer failure", "; is it http:// rather than https://?"),
    ("", _FILES),
)
"""What to do about a TLS error whose text has this; the first one counts."""


def with_tls_advice(reason: str) -> str:
    """The text of a TLS error, and what to do about it."""
    return reason + next(advice for clue, advice in _TLS_ADVICE if clue in reason.lower())


def _is_tls(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientSSLError) or isinstance(
        error.__cause__ or error.__context__, ssl.SSLError
    )


def innermost(error: BaseException) -> str:
    """The innermost reason in one short line; the outer ones repeat the URL, and the query with it."""
    inner: BaseException | None = error
    while inner is not None:
        error, inner = inner, inner.__cause__ or inner.__context__
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        # asyncio's text is of the call and its address.
        if (error.errno or 0) in errno.errorcode:
            return os.strerror(error.errno or 0)
        return error.strerror or type(error).__name__
    return (" ".join(str(error).split()) or type(error).__name__)[:300]

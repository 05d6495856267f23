"""Delegation: external metrics owned by another adapter are proxied to it.

A cluster has a single APIService for the group. With `--delegate-to` this server takes it, serves its own
metrics, and forwards requests for all others with the caller's identity, as kube-apiserver would: in request
headers beside a front-proxy certificate, or with a service account's token instead. Answers and errors of
the other adapter are relayed unchanged; while it is down, the adapter's own metrics are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from adapter import errors, tasks
from adapter.apiserver import status as api_status
from adapter.apiserver.discovery import GROUP, VERSION
from adapter.apiserver.provider import CALLER, Relayed
from adapter.auth import users
from adapter.kube.labels import Selector
from adapter.settings.serving import Delegation

log = structlog.get_logger()

DISCOVERY_SECONDS = 30.0
"""Seconds between requests for the other adapter's discovery."""

_BODY_LIMIT = 32 * 1024 * 1024

KEPT_BYTES = 64 * 2**20
"""Bytes of all answers that are being read together, beyond which none is read on but short ones."""

SHORT_BYTES = 64 * 1024
"""Bytes of an answer that is short: hundreds of series."""

_REQUEST_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Audit-ID", "X-Forwarded-For")
# Retry-After is left out on purpose: the HPA controller waits for it, and holds a worker meanwhile.
_RESPONSE_HEADERS = ("Content-Type", "Content-Encoding", "Vary", "ETag", "Last-Modified")


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateOptions:
    """Address of the other adapter, and credentials for it.

    Attributes:
        url: `https://HOST[:PORT]` of the other adapter.
        ca_file: Authorities of its serving certificate; None: the system's.
        certificate: Front-proxy certificate of this adapter; None: no client certificate.
        key: Private key of that certificate.
        token_file: Token of a service account, read for every request; None: no token.
        timeout_seconds: Seconds for a whole response. Default that of the setting, less than the 5 s of a
            probe by kube-apiserver.

    """

    url: str
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token_file: Path | None = None
    timeout_seconds: float = Delegation().delegate_timeout


class Delegate:
    """The other adapter as a provider."""

    def __init__(self, options: DelegateOptions, session: aiohttp.ClientSession) -> None:
        self._options = options
        self._session = session
        self._url = options.url.rstrip("/")
        self._problem = ""
        self._names: tuple[str, ...] = ()
        self._kept_bytes = 0

    def list_external_metrics(self) -> Sequence[str]:
        """Names of its metrics, from its last readable discovery."""
        return self._names

    async def get_external_metric(self, namespace: str, name: str, selector: Selector) -> Relayed:  # noqa: ARG002 - the caller's query is forwarded instead of the selector
        """Its answer to the caller's request.

        Raises:
            StatusError: 503, it cannot be reached or takes too long.

        """
        caller = CALLER.get()
        headers = self._identity(caller.user)
        for header in _REQUEST_HEADERS:
            if header in caller.headers:
                headers[header] = caller.headers[header]
        try:
            async with self._session.get(
                URL(self._url + caller.path_qs, encoded=True),
                headers=headers,
                allow_redirects=False,
            ) as answer:
                if 300 <= answer.status < 400 and answer.status != 304:
                    # Followed, the caller's identity would go wherever the other adapter points.
                    raise api_status.unavailable(
                        f"{self._url}: status {answer.status}; redirects are not followed"
                    )
                if not 200 <= answer.status < 600:
                    # Relayed, 101 would have the front proxy pass on bytes that are no requests.
                    raise api_status.unavailable(
                        f"{self._url}: status {answer.status}; it is none of an answer"
                    )
                body = await self._body(answer)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise api_status.unavailable(f"{self._url}: {_why(error)}") from error
        relayed = {
            item: value
            for item in _RESPONSE_HEADERS
            # Others cannot be sent, and would end the connection instead.
            if (value := answer.headers.get(item)) and value.isascii() and value.isprintable()
        }
        return Relayed(status=answer.status, headers=relayed, body=body)

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        """The body of an answer, up to the limits.

        Raises:
            ValueError: the body is larger, or long while others take what is kept of all.

        """
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in answer.content.iter_any():
                size += len(piece)
                self._kept_bytes += len(piece)
                if size > _BODY_LIMIT:
                    raise ValueError(f"the answer is larger than {_BODY_LIMIT} bytes")
                if size > SHORT_BYTES and self._kept_bytes > KEPT_BYTES:
                    raise ValueError("too many long answers at once; try again")
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            self._kept_bytes -= size

    def _identity(self, user: users.User) -> CIMultiDict[str]:
        headers: CIMultiDict[str] = CIMultiDict()
        if self._options.token_file is not None:
            try:
                token = self._options.token_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                # The text of a UnicodeDecodeError would quote the token.
                raise api_status.unavailable(
                    f"{self._options.token_file}: cannot be read ({type(error).__name__})"
                ) from error
            headers["Authorization"] = f"Bearer {token}"
        if self._options.certificate is not None:
            headers["X-Remote-User"] = user.name
            if user.uid:
                headers["X-Remote-Uid"] = user.uid
            for group in user.groups:
                headers.add("X-Remote-Group", group)
            for key, values in user.extra.items():
                for value in values:
                    headers.add(f"X-Remote-Extra-{quote(key, safe='')}", value)
        return headers

    async def follow_discovery(self) -> None:
        """Read its discovery periodically until cancelled; the last readable one stays in use."""
        while True:
            await self.discover()
            await asyncio.sleep(DISCOVERY_SECONDS)

    async def discover(self) -> None:
        """Read the names of its metrics once."""
        user = users.User(
            name="system:variant-adapter", groups=("system:masters", users.AUTHENTICATED)
        )
        try:
            headers = self._identity(user)
            headers["Accept"] = "application/json"
            async with self._session.get(
                f"{self._url}/apis/{GROUP}/{VERSION}", headers=headers, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise ValueError(f"discovery: status {answer.status}")  # noqa: TRY301
                document = json.loads(await self._body(answer))
            resources = document.get("resources") if isinstance(document, dict) else None
            if not isinstance(resources, list):
                raise ValueError("discovery: no list of resources")  # noqa: TRY301, TRY004
            names = [item.get("name") for item in resources if isinstance(item, dict)]
        except (
            aiohttp.ClientError,
            OSError,
            TimeoutError,
            ValueError,
            RecursionError,
            api_status.StatusError,
        ) as error:
            if self._problem != _why(error):
                log.warning(
                    "delegate discovery failed; keeping the last list of its metrics",
                    url=self._url,
                    error=_why(error),
                )
            self._problem = _why(error)
            return
        if self._problem:
            log.info("delegate discovery works again", url=self._url)
        self._problem = ""
        self._names = tuple(sorted({name for name in names if isinstance(name, str) and name}))


@contextlib.asynccontextmanager
async def delegating(options: DelegateOptions) -> AsyncIterator[Delegate]:
    """Connect to the other adapter and follow its discovery until the context ends.

    Raises:
        StartupError: the URL or a certificate is unusable.

    """
    parts = urlsplit(options.url)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise errors.StartupError(
            f"--delegate-to: must be https://HOST[:PORT], not {options.url!r}"
        )
    if (options.certificate is None) != (options.key is None):
        raise errors.StartupError("--delegate-client-cert and --delegate-client-key go together")
    if options.certificate is not None and options.token_file is not None:
        raise errors.StartupError(
            "--delegate-client-cert and --delegate-token-file exclude each other"
        )
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        raise errors.StartupError(f"--delegate-to: certificates cannot be used: {error}") from error
    timeout = aiohttp.ClientTimeout(total=options.timeout_seconds)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=64),
        timeout=timeout,
        auto_decompress=False,
        # A cookie of one caller's answer would go with the requests of others.
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        delegate = Delegate(options, session)
        follower = asyncio.create_task(
            delegate.follow_discovery(), name="follow delegate's discovery"
        )
        try:
            yield delegate
        finally:
            await tasks.cancel(follower)


def _why(error: Exception) -> str:
    """What went wrong, without anything of the body of an answer."""
    if isinstance(error, json.JSONDecodeError):
        return f"the answer is not JSON, at byte {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"the answer is not UTF-8, at byte {error.start}"
    if isinstance(error, RecursionError):
        return "the answer is nested too deeply"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "the answer is not HTTP, or broke off"
    return str(error) or type(error).__name__

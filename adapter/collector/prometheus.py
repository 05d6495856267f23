"""A Prometheus, Thanos or Mimir that answers instant queries, or says within its time why not.

prometheus-api-client asks; around it stands what it lacks: a deadline for the whole answer, no retries of
its own (the next round is the retry), tokens that are read anew, a server name, the query in the body, and
the warnings of partial answers.
"""

from __future__ import annotations

import asyncio
import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from adapter import errors

ANSWER_LIMIT_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 256 * 1024


class PrometheusError(errors.AdapterError):
    """Prometheus gave no usable answer; says why, and what to set.

    Attributes:
        code: its HTTP status; 0 without one.

    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusOptions:
    """How to reach it.

    Attributes:
        url: base URL; a path is kept, as Mimir and Thanos behind a gateway need.
        ca_file: that its certificate is checked with; None: the system's.
        certificate: of ours, with `key`, where it asks for one.
        server_name: that its certificate has; empty: the URL's host.
        token: bearer token; `token_file` is read before each query and wins.
        insecure: do not check its certificate.
        headers: sent along, such as the tenant's `X-Scope-OrgID`.
        timeout_seconds: for one whole answer.

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
    timeout_seconds: float = 10.0

    @property
    def shown_url(self) -> str:
        """The URL as it may be told: without user and password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class Item(NamedTuple):
    """One element of an instant vector: labels, value, and when it was evaluated (its clock).

    There are tens of thousands in an answer, and a tuple is made in a third of the time.
    """

    labels: Mapping[str, str]
    value: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An instant vector; with warnings it may be a part only."""

    items: tuple[Item, ...]
    warnings: tuple[str, ...] = ()


class Prometheus:
    """Asks from a thread of its own, one query at a time."""

    def __init__(self, options: PrometheusOptions) -> None:
        self.options = options
        self.queries = 0
        self.failures = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prometheus")
        self._closed = False
        self._session = _Session()
        self._session.verify = (
            False if options.insecure else str(options.ca_file or "") or _system()
        )
        if options.certificate is not None:
            # One file may hold both.
            key = options.key or options.certificate
            self._session.cert = (str(options.certificate), str(key))
        self._connect = PrometheusConnect(
            url=options.url.rstrip("/"),
            headers=dict(options.headers),
            session=self._session,
            timeout=options.timeout_seconds,
            method="POST",
        )
        # It has mounted one that retries three times and takes no server name.
        self._session.adapters.clear()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(options.server_name))

    async def query(self, text: str, *, at: float | None = None) -> Answer:
        """The answer to an instant query, at its own time or at Unix time `at`.

        Raises:
            PrometheusError: no usable answer.

        """
        self.queries += 1
        try:
            self._check_open()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._query, text, at)
        except PrometheusError:
            self.failures += 1
            raise

    def close(self) -> None:
        """Let go of the connections; what is asked still gets its answer, what waits an error."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._session.close)
            self._thread.shutdown(wait=False)

    def _check_open(self) -> None:
        if self._closed:
            raise self._error("no longer in use: the settings have changed")

    def _error(self, why: str, *, code: int = 0) -> PrometheusError:
        return PrometheusError(f"Prometheus {self.options.shown_url}: {why}", code=code)

    def _query(self, text: str, at: float | None) -> Answer:
        options, session = self.options, self._session
        self._check_open()
        self._use_token()
        parameters = {} if at is None else {"time": f"{at:.3f}"}
        try:
            found = self._connect.custom_query(text, params=parameters)
            if not isinstance(found, list):
                raise TypeError(type(found).__name__)
            items = tuple(_item(item) for item in found)
            return Answer(items=items, warnings=_warnings(session.last))
        except _TooLargeError as error:
            raise self._error(str(error)) from error
        except requests.exceptions.SSLError as error:
            raise self._error(_tls(error)) from error
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            why = f"no answer within {options.timeout_seconds:g} s"
            raise self._error(f"{why}; is it up? --prometheus-timeout allows more") from error
        except (
            requests.exceptions.ConnectionError,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise self._error(f"{_root(error)}; is it up, and is the URL right?") from error
        except requests.exceptions.JSONDecodeError as error:
            raise self._error("the answer is no JSON; is the URL right?") from error
        except (requests.exceptions.RequestException, UnicodeEncodeError) as error:
            raise self._error(f"{_root(error)}; are URL and headers right?") from error
        except OSError as error:
            raise self._error(_tls(error)) from error
        except PrometheusApiClientException as error:
            last = session.last
            code = last.status_code if last is not None else 0
            why = f"HTTP status {code}: {_said(last)}{_ADVICE.get(code, '')}"
            raise self._error(why, code=code) from error
        except _UNUSABLE as error:
            why = f"the answer is no instant vector ({type(error).__name__}); is the URL right?"
            raise self._error(why) from error
        finally:
            # It may be large, and it holds the connection.
            session.last = None

    def _use_token(self) -> None:
        options, token, where = self.options, self.options.token, "PROMETHEUS_BEARER_TOKEN"
        if options.token_file is not None:
            where = f"token file {options.token_file}"
            try:
                token = options.token_file.read_text(encoding="ascii").strip()
            except OSError as error:
                why = f"{where}: {error.strerror}; set --prometheus-token-file"
                raise self._error(f"{why} or PROMETHEUS_TOKEN_PATH") from error
            except UnicodeDecodeError:
                token = "\n"
            token = token or "\n"
        # It is not to be told, and what cannot be sent as a header would be.
        if token and not _TOKEN.fullmatch(token):
            raise self._error(f"{where}: it holds no token")
        if token:
            self._connect.headers["Authorization"] = f"Bearer {token}"


_TOKEN = re.compile(r"[\x21-\x7e]+")
_UNUSABLE = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What reading something else than an instant vector ends in."""


class _TooLargeError(Exception):
    """An answer that is larger than any of ours."""


class _Session(requests.Session):
    """A session whose answers have a size, and that asks with GET where POST is not let through."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False  # a stray .netrc would replace the token
        # Packing a large answer takes both sides longer than sending it does.
        self.headers["Accept-Encoding"] = "identity"
        self.last: requests.Response | None = None
        self._method: str | bytes | None = None

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **more: Any) -> Any:
        method = self._method or method
        found = self._send(method, url, *args, **dict(more))
        if method == "POST" and found.status_code in {405, 501}:
            # Some proxies let GET through only.
            found.close()
            self._method = "GET"
            found = self._send("GET", url, *args, **dict(more))
        found._content = _whole(found)  # noqa: SLF001 - as requests does when it reads it
        self.last = found
        return found

    def _send(
        self, method: str | bytes, url: str | bytes, *args: Any, **more: Any
    ) -> requests.Response:
        if method == "POST":
            # In the body: queries are longer than some proxies allow URLs to be.
            more["data"] = more.pop("params", None)
        return super().request(method, url, *args, **{**more, "stream": True})

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: following one often loses the query, and ends at a login."""


def _whole(response: requests.Response) -> bytes:
    pieces, length = [], 0
    while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
        pieces.append(piece)
        length += len(piece)
        if length > ANSWER_LIMIT_BYTES:
            response.close()
            limit = f"{ANSWER_LIMIT_BYTES / 2**20:g} MiB"
            raise _TooLargeError(f"more than {limit} of answer; is the URL right?")
    return b"".join(pieces)


class _InTime(io.RawIOBase):
    """What comes through a socket within its timeout, which is otherwise one of each single read."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw, self._sock = raw, sock
        self._ends = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **more: Any) -> None:
        super().__init__(sock, *args, **more)
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), sock))


class _Http(HTTPConnection):
    response_class = _Response


class _Https(HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        # Where it is not, that was asked for: no warning with every query.
        self.is_verified = True


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    def __init__(self, server_name: str) -> None:
        # Asked for, and what the certificate is checked for.
        self._names = {"server_hostname": server_name} if server_name else {}
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **{**more, **self._names})
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def close(self) -> None:
        pools = self.poolmanager.pools
        for key in pools.keys():  # noqa: SIM118 - it cannot be iterated
            # Else its connections end when nothing refers to it any more, not even an error.
            pools[key].close()
        super().close()


_ELSEWHERE = "; set the URL that it is really at"
_LATER = "; is it starting, or overloaded? the next round tries again"
_ADVICE = {
    **dict.fromkeys((301, 302, 303, 307, 308), _ELSEWHERE),
    400: "; does it know these functions?",
    401: "; set --prometheus-token-file or PROMETHEUS_BEARER_TOKEN",
    403: "; the token may not query: bind its account to a role that may",
    404: "; is the path of the URL right? Mimir wants /prometheus",
    422: "; the query was understood, but not carried out",
    429: "; it asks for less; the next round tries again",
    500: "; see its log",
    **dict.fromkeys((502, 503, 504), _LATER),
}


def _item(found: Mapping[str, Any]) -> Item:
    (at, value), labels = found["value"], found["metric"]
    if not isinstance(labels, dict):
        raise TypeError(type(labels).__name__)
    return Item(labels, float(value), float(at))


def _said(response: requests.Response | None) -> str:
    """What an error says of itself, in one short line."""
    if response is None:
        return ""
    if response.is_redirect:
        return f"sent on to {response.headers['location'].partition('?')[0]}"[:200]
    try:
        text = str(response.json().get("error") or "")
    except (ValueError, AttributeError, RecursionError):
        text = response.content[:1000].decode(errors="replace")
    return " ".join(text.split())[:200] or str(response.reason)


def _warnings(response: requests.Response | None) -> tuple[str, ...]:
    # Answers may be large: parsed a second time only where there is something to find.
    if response is None or b'"warnings"' not in response.content:
        return ()
    found = response.json().get("warnings") or ()
    return tuple(str(item) for item in found)


def _system() -> str | bool:
    """The authorities that the system trusts; requests has its own list."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def _tls(error: Exception) -> str:
    why = _root(error)
    return why + next((fix for clue, fix in _FIXES if clue in why.lower()), "")


_NAME = "; set --prometheus-server-name or PROMETHEUS_SERVER_NAME to a name that it has"
_FIXES = (
    ("hostname", _NAME),
    ("address mismatch", _NAME),
    ("doesn't match", _NAME),
    ("expired", "; it must be renewed"),
    (
        "certificate verify failed",
        "; set --prometheus-ca-file or PROMETHEUS_CA_CERT_PATH to its authority's certificate",
    ),
    ("alert", "; it wants a client certificate: set --prometheus-client-cert and its key"),
    ("wrong version number", "; is it http:// rather than https://?"),
    ("", "; are --prometheus-ca-file, --prometheus-client-cert and its key right?"),
)
"""What to do about a TLS error that says this; the first one counts."""


def _root(error: BaseException) -> str:
    """The innermost reason: the outer ones repeat the URL with all of the query."""
    found = error
    while True:
        inner = getattr(found, "reason", None)
        inner = inner if isinstance(inner, BaseException) else found.__cause__ or found.__context__
        if inner is None and found.args and isinstance(found.args[0], BaseException):
            inner = found.args[0]
        if inner is None or inner is found:
            break
        found = inner
    return (" ".join(str(found).split()) or type(found).__name__)[:300]

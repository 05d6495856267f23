"""A Prometheus, Thanos or Mimir that answers instant queries, or says within its time why not.

prometheus-api-client asks; around it stands what it lacks: a deadline for the whole answer, no retries of
its own (the next round is the retry), tokens that are read anew, a server name, the query in the body, and
the warnings of partial answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One element of an instant vector: labels, value, and when it was evaluated (its clock)."""

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
        self._session = _Session(options.timeout_seconds)
        self._session.verify = False if options.insecure else str(options.ca_file or "") or True
        if options.certificate is not None:
            # One file may hold both.
            key = options.key or options.certificate
            self._session.cert = (str(options.certificate), str(key))
        url = options.url.rstrip("/")
        self._connect = PrometheusConnect(
            url=url,
            headers=dict(options.headers),
            session=self._session,
            timeout=options.timeout_seconds,
            method="POST",
        )
        # It has mounted one that retries three times and takes no server name.
        self._session.mount(url, _Adapter(options.server_name, check=not options.insecure))

    async def query(self, text: str, *, at: float | None = None) -> Answer:
        """The answer to an instant query, at its own time or at Unix time `at`.

        Raises:
            PrometheusError: no usable answer.

        """
        self.queries += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._query, text, at)
        except PrometheusError:
            self.failures += 1
            raise

    def close(self) -> None:
        """Let go of the connections."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _query(self, text: str, at: float | None) -> Answer:
        options, session = self.options, self._session
        if token := self._token():
            self._connect.headers["Authorization"] = f"Bearer {token}"
        parameters = {} if at is None else {"time": f"{at:.3f}"}
        session.forget()
        where = f"Prometheus {options.url}"
        try:
            found = self._connect.custom_query(text, params=parameters)
            items = tuple(_item(item) for item in found)
        except _TooLongError as error:
            raise PrometheusError(f"{where}: {error}") from error
        except requests.exceptions.SSLError as error:
            raise PrometheusError(f"{where}: {_tls(error)}") from error
        except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError) as error:
            why = f"no answer within {options.timeout_seconds:g} s"
            raise PrometheusError(f"{where}: {why}") from error
        except (
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise PrometheusError(f"{where}: {_root(error)}") from error
        except PrometheusApiClientException as error:
            last = session.last
            code = last.status_code if last is not None else 0
            why = f"HTTP status {code}: {_said(last)}{_ADVICE.get(code, '')}"
            raise PrometheusError(f"{where}: {why}", code=code) from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            why = f"the answer is no instant vector ({type(error).__name__}); is the URL right?"
            raise PrometheusError(f"{where}: {why}") from error
        return Answer(items=items, warnings=_warnings(session.last))

    def _token(self) -> str:
        options = self.options
        if options.token_file is None:
            return options.token
        try:
            return options.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PrometheusError(f"token file {options.token_file}: {error}") from error


class _TooLongError(Exception):
    """The whole answer did not come in its time, or in its size."""


class _Session(requests.Session):
    """A session whose answers have a deadline and a size; requests itself bounds single reads only."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.trust_env = False  # a stray .netrc would replace the token
        self.last: requests.Response | None = None
        self._seconds = seconds
        self._method: str | bytes | None = None

    def forget(self) -> None:
        """Before a query: what follows is of this one."""
        self.last = None

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **more: Any) -> Any:
        ends = time.monotonic() + self._seconds
        method = self._method or method
        found = self._send(method, url, *args, **dict(more))
        if method == "POST" and found.status_code in {405, 501}:
            # Some proxies let GET through only.
            found.close()
            self._method = "GET"
            found = self._send("GET", url, *args, **dict(more))
        found._content = self._whole(found, ends)  # noqa: SLF001 - as requests does when it reads it
        self.last = found
        return found

    def _send(
        self, method: str | bytes, url: str | bytes, *args: Any, **more: Any
    ) -> requests.Response:
        if method == "POST":
            # In the body: queries are longer than some proxies allow URLs to be.
            more["data"] = more.pop("params", None)
        return super().request(method, url, *args, **{**more, "stream": True})

    def _whole(self, response: requests.Response, ends: float) -> bytes:
        pieces, length = [], 0
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            pieces.append(piece)
            length += len(piece)
            if time.monotonic() > ends:
                response.close()
                raise _TooLongError(f"no whole answer within {self._seconds:g} s")
            if length > ANSWER_LIMIT_BYTES:
                response.close()
                raise _TooLongError(f"more than {ANSWER_LIMIT_BYTES // 2**20} MiB of answer")
        return b"".join(pieces)


class _Adapter(HTTPAdapter):
    def __init__(self, server_name: str, *, check: bool) -> None:
        self._names: dict[str, Any] = {}
        if server_name:
            self._names["server_hostname"] = server_name
            if check:
                self._names["assert_hostname"] = server_name
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, **{**more, **self._names})


_ADVICE = {
    400: "; does it know these functions?",
    401: "; set --prometheus-token-file or PROMETHEUS_BEARER_TOKEN",
    403: "; the token may not query: bind its account to a role that may",
    404: "; is the path of the URL right? Mimir wants /prometheus",
    422: "; the query was understood, but not carried out",
    429: "; it asks for less; the next round tries again",
}


def _item(found: Mapping[str, Any]) -> Item:
    at, value = found["value"]
    return Item(labels=found["metric"], value=float(value), at=float(at))


def _said(response: requests.Response | None) -> str:
    """What an error says of itself, in one short line."""
    if response is None:
        return ""
    try:
        text = str(response.json().get("error") or "")
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:200]


def _warnings(response: requests.Response | None) -> tuple[str, ...]:
    # Answers may be large: parsed a second time only where there is something to find.
    if response is None or b'"warnings"' not in response.content:
        return ()
    found = response.json().get("warnings") or ()
    return tuple(str(item) for item in found)


def _tls(error: Exception) -> str:
    why = _root(error)
    fix = "; set --prometheus-ca-file or PROMETHEUS_CA_CERT_PATH to its authority's certificate"
    if "hostname" in why.lower() or "doesn't match" in why:
        fix = "; set --prometheus-server-name or PROMETHEUS_SERVER_NAME to a name that it has"
    if "alert" in why.lower():
        fix = "; it wants a client certificate: set --prometheus-client-cert and its key"
    return f"{why}{fix}"


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
    return (str(found) or type(found).__name__)[:300]

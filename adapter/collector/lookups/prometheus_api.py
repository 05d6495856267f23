"""Synchronous look-ups in Prometheus by prometheus-api-client, for commands: `query` and `query_range`.

`record` reads the past of series for minutes, with the library's retries; `doctor` looks up the present,
once. The control loop does neither: it queries by `collector.prometheus`. This is the only module that knows
the library.
https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter

from adapter.collector.instant_vector import InstantVector, Sample
from adapter.collector.prometheus import PrometheusError, PrometheusOptions, with_tls_advice

_STATUS = re.compile(r"HTTP Status Code (\d{3})")


class RangeSeries(NamedTuple):
    """One series of a range.

    Attributes:
        labels: Labels by name.
        points: Unix seconds and value, oldest first; times without a value are left out.

    """

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


class PrometheusApi:
    """Queries to one Prometheus, from one thread."""

    def __init__(self, options: PrometheusOptions, *, retries: int | None = None) -> None:
        """Nothing is sent yet; `retries` None: as often as the library does, with back-off."""
        self._options = options
        self._last: requests.Response | None = None
        session = requests.Session()
        session.trust_env = False  # a stray .netrc would replace the token
        session.max_redirects = 0
        session.verify = False if options.insecure else str(options.ca_file or "") or _system()
        if options.certificate is not None:
            session.cert = (str(options.certificate), str(options.key or options.certificate))
        session.hooks["response"].append(self._note)
        url = options.shown_url.rstrip("/")
        self._connect = PrometheusConnect(
            url=url, session=session, timeout=options.timeout_seconds, retry=retries
        )
        if options.server_name:
            policy = session.get_adapter(url).max_retries  # type: ignore[attr-defined] # of every HTTPAdapter
            session.mount(url, _NamedServer(options.server_name, policy))

    def instant(self, promql: str) -> InstantVector:
        """Evaluate an expression that gives an instant vector, now.

        Raises:
            PrometheusError: no usable response.

        """
        with self._errors("an instant vector"):
            samples = tuple(map(_sample, self._connect.custom_query(promql)))
            # The library leaves the warnings out.
            warned = self._last.json().get("warnings") if self._last is not None else ()
            return InstantVector(samples=samples, warnings=tuple(map(str, warned or ())))

    def range(self, promql: str, *, start: int, end: int, step: int) -> list[RangeSeries]:
        """Evaluate an expression from `start` to `end` (included), Unix seconds, every `step` seconds.

        Raises:
            PrometheusError: no usable response.

        """
        with self._errors("a range vector"):
            result = self._connect.custom_query_range(
                promql,
                start_time=datetime.fromtimestamp(start, UTC),
                end_time=datetime.fromtimestamp(end, UTC),
                step=str(step),
            )
            return [_series(element) for element in result]

    @contextlib.contextmanager
    def _errors(self, expected: str) -> Iterator[None]:
        """Set the headers of one query, and translate its errors; `expected`: kind of the response."""
        self._connect.headers = self._options.request_headers()
        try:
            with warnings.catch_warnings():
                # The user chose not to check the certificate.
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                yield
        except (PrometheusApiClientException, requests.RequestException, OSError) as cause:
            raise self._translated(cause) from cause
        except _NO_VECTOR as cause:
            reason = f"the response is not {expected} ({type(cause).__name__}); is the URL right?"
            raise self._options.error(reason) from cause
        finally:
            self._last = None

    def close(self) -> None:
        """Close the connections."""
        self._connect.close()

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self._last = response

    def _translated(self, cause: Exception) -> PrometheusError:
        last = self._last
        if last is not None and (
            _STATUS.match(str(cause)) or isinstance(cause, requests.TooManyRedirects)
        ):
            return self._options.status_error(last.status_code, last.content)
        return self._options.error(self._reason(cause))

    def _reason(self, cause: Exception) -> str:
        reason = _innermost(cause)
        match cause:
            case requests.JSONDecodeError():
                reason = "the response is not JSON; is the URL right?"
            case requests.exceptions.RetryError():
                reason = "it keeps failing, or limits queries; see its log, and try later"
            case requests.exceptions.SSLError():
                reason = with_tls_advice(reason)
            case requests.Timeout():
                reason = f"no response within {self._options.timeout_seconds:g} s; is it up?"
                reason = f"{reason} --prometheus-timeout allows more"
            case requests.ConnectionError():
                if _is_no_http(cause):
                    reason = "the response is not HTTP"  # its text would quote it
                reason = f"{reason}; is it up, and is the URL right?"
            case requests.RequestException():
                # Its text may quote a header, and so a secret.
                reason = f"{type(cause).__name__}; are URL and headers right?"
            case _:
                reason = with_tls_advice(reason)
        return reason


class _NamedServer(HTTPAdapter):
    """Checks the server's certificate for another name than the URL's host."""

    def __init__(self, name: str, retries: Any) -> None:
        self._name = name
        super().__init__(max_retries=retries)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """As the base class does, with that name."""
        names = {"server_hostname": self._name, "assert_hostname": self._name}
        super().init_poolmanager(*args, **{**kwargs, **names})


def _sample(element: Mapping[str, Any]) -> Sample:
    at, value = element["value"]
    return Sample(dict(element["metric"]), float(value), float(at))


def _series(element: Mapping[str, Any]) -> RangeSeries:
    points = [(float(at), float(value)) for at, value in element["values"]]
    return RangeSeries(dict(element["metric"]), points)


def _system() -> str | bool:
    """The authorities that the system trusts; requests has a list of its own."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


_NO_VECTOR = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"""What reading JSON as a vector ends in where it is something else."""


def _is_no_http(error: BaseException) -> bool:
    """Whether an error is of a response that cannot be read, not of its connection."""
    seen: list[BaseException] = [error]
    for item in seen:
        if isinstance(item, http.client.HTTPException) and not isinstance(item, OSError):
            return True
        inner = (item.__cause__, item.__context__, getattr(item, "reason", None), *item.args)
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    return False


def _innermost(error: BaseException) -> str:
    """The innermost reason in one short line; the outer ones repeat the URL, and the query with it."""
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or error.__context__
        if inner is None and error.args and isinstance(error.args[0], BaseException):
            inner = error.args[0]
        if inner is None or inner is error:
            break
        error = inner
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return (" ".join(str(error).split()) or type(error).__name__)[:300]

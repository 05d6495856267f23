"""Prometheus text of one pod: fetched, checked, and reduced to the numbers that sizing needs.

The owner of a pod controls its page. Errors name the problem and the line, and quote nothing of a page: they
end in conditions and logs, which others read.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Collection, Container, Iterable, Iterator
from functools import lru_cache
from types import MappingProxyType

import aiohttp

from adapter import errors
from adapter.collector import model_servers
from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers import access, buckets, engines, spelling
from adapter.collector.servers import moments as histograms
from adapter.collector.servers.histogram import Histogram

TIMEOUT_SECONDS = 5.0
PAGE_LIMIT_BYTES = 4 * 1024 * 1024

LINE_LIMIT = 16 * 1024
"""Most characters of a line that is read; others are skipped, whatever their length."""

LINES_LIMIT = 200_000
"""Most lines of a page."""

_READ = spelling.Names()

ACCEPT = "text/plain;version=0.0.4, text/plain;q=0.9, */*;q=0.1"
"""Accept header of scrapes: the text format, because in OpenMetrics counters have other names."""

INLINE_CHARACTERS = 256 * 1024
"""Longest page that is parsed on the event loop; handing a shorter one to a thread takes longer."""

# Possessive throughout: what was read as one part is not tried again as another, so that no line takes more
# than linear time.
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL_NAME = r"[a-zA-Z_][a-zA-Z0-9_]*+"
_END = r"[ \t]++(?P<value>[0-9.eE+-]++|NaN|[+-]?Inf)(?:[ \t]++[0-9.eE+-]++)?+[ \t]*+(?:#.*+)?+"

_FIRST = re.compile(rf"[ \t]*+({_NAME})")

# What servers write, without escapes and blanks.
_PLAIN = re.compile(
    rf"(?P<name>{_NAME})(?:\{{(?P<labels>(?:{_LABEL_NAME}=\"[^\"\\]*+\",?+)*+)\}})?+{_END}"
)
_PLAIN_LABEL = re.compile(rf'({_LABEL_NAME})="([^"\\]*+)"')

# What the format allows.
_BLANK = r"[ \t]*+"
_START = re.compile(rf"(?P<name>{_NAME}){_BLANK}(?P<brace>\{{)?+")
_LABEL = re.compile(rf'{_BLANK}({_LABEL_NAME}){_BLANK}={_BLANK}"((?:[^"\\]++|\\.)*+)"{_BLANK}(,)?+')
_CLOSE = re.compile(rf"{_BLANK}\}}{_BLANK}")
_REST = re.compile(_END)
_ESCAPE = re.compile(r"\\(.)")

_CACHED_LABELS = 512
"""Longest text of labels that is kept parsed."""


NOT_LISTENING = "nothing listens at this port"
"""Said of an address that refuses connections."""


class ScrapeError(errors.InputError):
    """An endpoint gave no usable metrics; names the endpoint and what to look at."""


class PageTooLongError(ScrapeError):
    """A page is longer than the limit."""


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    *,
    limit: int = PAGE_LIMIT_BYTES,
    by: access.Access = access.PLAIN,
) -> tuple[PodMetrics, int]:
    """Fetch and parse the metrics of one endpoint, at most `limit` bytes; give them and their length.

    Raises:
        ScrapeError: it is down, slow, or its response is not a metrics page of a server of this model.

    """
    body = await text(session, url, limit=limit, by=by)
    if len(body) <= INLINE_CHARACTERS:
        return parse(body, model, url), len(body)
    # A long one must not hold up requests.
    return await asyncio.to_thread(parse, body, model, url), len(body)


async def text(
    session: aiohttp.ClientSession,
    url: str,
    *,
    limit: int = PAGE_LIMIT_BYTES,
    by: access.Access = access.PLAIN,
) -> str:
    """Fetch a page of metrics text of at most that many bytes.

    Raises:
        ScrapeError: it is down, slow, or its response is not such a page.

    """
    try:
        async with session.get(
            url,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            # Another address is not the one that was checked.
            allow_redirects=False,
            # A few compressed bytes may be many.
            headers={"Accept-Encoding": "identity", "Accept": ACCEPT, **by.headers(url)},
            ssl=by.tls(url),
            auto_decompress=False,
        ) as response:
            if 300 <= response.status < 400:
                raise ScrapeError(
                    f"{url}: HTTP status {response.status}: redirects are not followed"
                )
            if response.status in {401, 403}:
                fix = (
                    by.withheld(url)
                    or "it wants a token; name its file by --pods-token-file (--gateways-token-file)"
                )
                raise ScrapeError(f"{url}: HTTP status {response.status}: {fix}")
            if response.status != 200:
                raise ScrapeError(f"{url}: HTTP status {response.status}")
            if response.content_type == "text/html":
                raise ScrapeError(f"{url}: returned HTML, not metrics text; is the path right?")
            if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
                raise ScrapeError(f"{url}: returned compressed text, which was not asked for")
            body = await _body(response, limit)
    except access.AccessError as error:
        raise ScrapeError(f"{url}: {error}") from error
    except TimeoutError as error:
        raise ScrapeError(f"{url}: no response within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.InvalidURL, UnicodeError) as error:
        raise ScrapeError(f"{url}: is not a URL that can be requested") from error
    except (aiohttp.ClientConnectorError, OSError) as error:
        raise ScrapeError(f"{url}: {_connection_problem(error)}") from error
    except (aiohttp.ClientError, ValueError) as error:
        # Its text may quote the response.
        raise ScrapeError(f"{url}: the response is not HTTP, or broke off") from error
    if len(body) > limit:
        raise PageTooLongError(f"{url}: more than {_size(limit)} of metrics")
    return body.decode("utf-8-sig", "replace")


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; one byte more than the limit where it is longer."""
    chunks, length = [], 0
    while length <= limit and (chunk := await response.content.read(limit + 1 - length)):
        chunks.append(chunk)
        length += len(chunk)
    return b"".join(chunks)


def _connection_problem(error: OSError) -> str:
    """Why there is no connection, in words of the system, which quote nothing of the other side."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        flags = "--pods-ca-file (--gateways-ca-file)"
        return f"no connection: its certificate is not trusted; name its authority by {flags}"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if cause.errno == errno.ECONNREFUSED:
        return f"no connection: {NOT_LISTENING}"
    return f"no connection: {cause.strerror or type(cause).__name__}"


def _size(limit: int) -> str:
    return f"{limit / 2**20:g} MiB"


def parse(text: str, model: str, url: str) -> PodMetrics:
    """Parse one page of metrics text.

    Raises:
        ScrapeError: it is no metrics text, lacks a model server's series, holds NaN, or is of another
            model.

    """
    read_as: list[tuple[str, str, model_servers.Labels, float]] = []
    models: set[str] = set()
    started_at: float | None = None
    others: list[engines.Sample] = []
    latencies: dict[str, list[str]] = {}
    for written, labels, value in read(text, _READ, url, latencies):
        series_name = spelling.spelled(written)
        if series_name is None:
            others.append((written, labels, value))
            continue
        if series_name.name == model_servers.STARTED:
            started_at = value
            continue
        served = labels.get("model_name", model)
        if series_name.name != model_servers.CACHE_CONFIG:
            models.add(served)
        if served == model:
            read_as.append((series_name.style, series_name.name, labels, value))
    engine = None if models else engines.of(others)
    if engine is not None:
        if problem := engines.refusal(engine):
            raise ScrapeError(f"{url}: {problem}")
        for name, labels, value in engines.translated(engine, others):
            served = labels.get("model_name", model)
            models.add(served)
            if served == model:
                read_as.append((engine.name, name, labels, value))
    if model not in models:
        raise ScrapeError(f"{url}: {_not_served(model, models)}")
    style = spelling.style_of((name, style) for style, name, _, _ in read_as)
    series = [(name, labels, value) for own, name, labels, value in read_as if own == style]
    samples = [sample for sample in series if sample[0] not in model_servers.BUCKETS]
    try:
        totals = dict(model_servers.quantities(model_servers.values(samples)))
        return model_servers.pod_metrics(
            totals,
            started_at=started_at,
            input_moments=histograms.moments(series, model_servers.INPUT_BUCKETS),
            output_moments=histograms.moments(series, model_servers.OUTPUT_BUCKETS),
            ttft_buckets=_latency(model_servers.TTFT_BUCKETS, latencies, style, model, samples),
            itl_buckets=_latency(model_servers.ITL_BUCKETS, latencies, style, model, samples),
            tpot_buckets=_latency(model_servers.TPOT_BUCKETS, latencies, style, model, samples),
        )
    except model_servers.ImplausibleError as error:
        raise ScrapeError(f"{url}: {error}") from error


def _not_served(model: str, models: Collection[str]) -> str:
    """What a page without the model is, by the models that it has."""
    if not models:
        prefixes = " or ".join(model_servers.PREFIXES)
        known = ", ".join(engine.name for engine in engines.ENGINES)
        return f"no {prefixes} metrics in it, and none of {known}; is this a model server?"
    return (
        f"serves {'another model' if len(models) == 1 else f'{len(models)} other models'}, not"
        f" {model!r}; spec.modelID must be the served model name, label model_name of its metrics"
    )


def _latency(
    names: Iterable[str],
    lines: dict[str, list[str]],
    style: str,
    model: str,
    samples: Iterable[engines.Sample],
) -> Histogram | None:
    """The histogram of a latency; None where there is none, or it cannot be read.

    Args:
        names: Names of its buckets, the newest first; of several spellings on a page one is parsed.
        lines: Lines of buckets by name as written.
        style: Style of the page.
        model: Model of the page.
        samples: Samples of servers beside vLLM and SGLang.

    """
    for name in names:
        try:
            bounds, values = _buckets(lines.get(spelling.restyled(name, style), ()), model)
        except ValueError:
            return None
        for other, labels, value in samples:
            if other == name:
                bounds.append(labels.get("le", ""))
                values.append(value)
        if values:
            return buckets.histogram(bounds, values)
    return None


def _buckets(lines: Iterable[str], model: str) -> tuple[list[str], list[float]]:
    """Bounds and values of the buckets of a model.

    The lines of a histogram differ in `le` and their value: of the others only these are parsed.

    Raises:
        ValueError: a line is no sample, or too long.

    """
    bounds: list[str] = []
    values: list[float] = []
    around, served = ("", ""), False
    for line in lines:
        if len(line) > LINE_LIMIT:
            raise ValueError
        before, _, rest = line.partition('le="')
        bound, _, rest = rest.partition('"')
        after, _, value = rest.rpartition("} ")
        if (before, after) == around and value.replace(".", "", 1).isdigit():
            number = float(value)
        else:
            _, labels, number = sample(line.strip())
            served = labels.get("model_name", model) == model
            plain = before.endswith(("{", ",")) and labels.get("le") == bound
            around = (before, after) if plain else ("", "")
            bound = labels.get("le", "")
        if served:
            bounds.append(bound)
            values.append(number)
    return bounds, values


def read(
    text: str, names: Container[str], url: str, aside: dict[str, list[str]] | None = None
) -> Iterator[tuple[str, model_servers.Labels, float]]:
    """Name, labels and value of the series with these names: some fifty lines of hundreds.

    Lines of latency buckets are put into `aside` unparsed, by name, where it is given.

    Raises:
        ScrapeError: a line is no Prometheus text or too long, or there are too many; names its number.

    """
    lines = text.split("\n", LINES_LIMIT)
    if len(lines) > LINES_LIMIT:
        raise ScrapeError(f"{url}: more than {LINES_LIMIT} lines of metrics")
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        # Selecting lines costs less than parsing all.
        first = _FIRST.match(line)
        if first is None or first[1] not in names:
            continue
        if aside is not None and spelling.of_latency(first[1]):
            aside.setdefault(first[1], []).append(line)
            continue
        if len(line) > LINE_LIMIT:
            raise ScrapeError(f"{url}: line {number} has more than {LINE_LIMIT} characters")
        series = line.rpartition(" ")[0]
        if series in seen:
            continue  # shown twice; it is one series, of which Prometheus too takes the first value
        seen.add(series)
        try:
            parsed = sample(line.strip())
        except ValueError:
            raise ScrapeError(f"{url}: line {number} is not Prometheus text") from None
        yield parsed


def sample(line: str) -> tuple[str, model_servers.Labels, float]:
    """Name, labels and value of one line.

    Thousands of pods are scraped every few seconds, so the plain form of a line, which servers write, is read
    at once; any other one part by part.

    Raises:
        ValueError: it is no sample.

    """
    form = _PLAIN.fullmatch(line)
    if form is not None:
        return form["name"], _plain_labels(form["labels"] or ""), float(form["value"])
    start = _START.match(line)
    if start is None:
        raise ValueError
    at = start.end()
    labels: dict[str, str] = {}
    if start["brace"]:
        at, labels = _escaped_labels(line, at)
    # The blank that separates name and value may have been read with the name.
    rest = _REST.fullmatch(f" {line[at:]}")
    if rest is None or (not start["brace"] and line[at - 1 : at] not in {" ", "\t"}):
        raise ValueError
    return start["name"], labels, float(rest["value"])


def _escaped_labels(line: str, at: int) -> tuple[int, dict[str, str]]:
    """Labels from that place on, and where what follows their closing brace begins."""
    labels: dict[str, str] = {}
    comma: str | None = ","
    while (close := _CLOSE.match(line, at)) is None:
        label = _LABEL.match(line, at)
        if label is None or not comma:
            raise ValueError
        labels[label[1]] = _ESCAPE.sub(_unescaped, label[2])
        at, comma = label.end(), label[3]
    return close.end(), labels


def _unescaped(escape: re.Match[str]) -> str:
    return {"n": "\n", "\\": "\\", '"': '"'}.get(escape[1], escape[0])


def _plain_labels(text: str) -> model_servers.Labels:
    return _labels(text) if len(text) <= _CACHED_LABELS else dict(_PLAIN_LABEL.findall(text))


@lru_cache(maxsize=4096)
def _labels(text: str) -> model_servers.Labels:
    """Labels by their text, which the lines and the pages of a model have in common."""
    return MappingProxyType(dict(_PLAIN_LABEL.findall(text)))

"""Prometheus text of one pod: fetched, checked, and reduced to the numbers that sizing needs.

The owner of a pod controls its page. Errors name the problem and the line, and quote nothing of a page: they
end in conditions and logs, which others read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator
from typing import TypeVar

import aiohttp

from adapter import errors
from adapter.collector import model_servers
from adapter.collector.model_servers import PodMetrics
from adapter.collector.pickers import marks
from adapter.collector.servers import buckets, engines, lines, ranks, spelling
from adapter.collector.servers import moments as histograms
from adapter.collector.servers.totals import ImplausibleError
from adapter.collector.transport import access, layouts, wire
from adapter.collector.transport.reading import INLINE_CHARACTERS, PageReader
from adapter.resources.pods import MESH_PATH

TIMEOUT_SECONDS = 5.0
PAGE_LIMIT_BYTES = 4 * 1024 * 1024

CHUNKS, CHUNK_BYTES = 4096, 64
"""Chunks that a page may have in any case, and bytes that further ones must have on average."""

_READ = spelling.Names()
_LAYOUTS = layouts.Layouts(_READ)
_LATENCIES = (model_servers.TTFT_BUCKETS, model_servers.ITL_BUCKETS, model_servers.TPOT_BUCKETS)

Result = TypeVar("Result")

ACCEPT = "text/plain;version=0.0.4, text/plain;q=0.9, */*;q=0.1"
"""Accept header of scrapes: the text format, because in OpenMetrics counters have other names."""

_HEADERS = {"Accept-Encoding": "identity", "Accept": ACCEPT, "Cache-Control": "no-cache"}

_BROKE_OFF = "the response is not HTTP, or broke off"

NOT_LISTENING = "nothing listens at this port"
"""Said of an address that refuses connections."""

_MERGING = "pod annotations prometheus.io/port and prometheus.io/path of the server"
_BY_MESH = {
    errno.ECONNRESET: "; a service mesh that wants mTLS resets plain requests: let Istio merge the page by"
    f" the {_MERGING}, or except its port from mTLS"
}
"""What to do where connections end so."""


class ScrapeError(errors.InputError):
    """An endpoint gave no usable metrics; names the endpoint and what to look at."""


class NoServerError(ScrapeError):
    """No model server answers at an address: nothing does, or something that has no metrics of one."""


class PageTooLongError(ScrapeError):
    """A page is longer than the limit."""


class _ChunksError(Exception):
    """A page comes in too many chunks."""


async def fetch(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    *,
    limit: int = PAGE_LIMIT_BYTES,
    by: access.Access = access.PLAIN,
    reading: PageReader | None = None,
    party: str = "",
) -> tuple[PodMetrics, int]:
    """Fetch and parse the metrics of one endpoint, as `page`; give them and their length."""
    return await page(
        session, url, lambda body: parse(body, model, url),
        limit=limit, by=by, reading=reading, party=party,
    )  # fmt: skip


async def page(
    session: aiohttp.ClientSession,
    url: str,
    read_page: Callable[[str], Result],
    *,
    limit: int = PAGE_LIMIT_BYTES,
    by: access.Access = access.PLAIN,
    reading: PageReader | None = None,
    party: str = "",
) -> tuple[Result, int]:
    """Fetch a page of metrics text, and parse it when it is the turn of its party.

    Args:
        session: for the request.
        url: of the page.
        read_page: parses it; raises ScrapeError.
        limit: most bytes that it may have.
        by: how it is reached.
        reading: turns of those whose pages are read; None: there are no others.
        party: whose page it is.

    Returns:
        What it shows, and its length.

    Raises:
        ScrapeError: it is down, slow, or its response is not such a page.

    """
    reading = reading or PageReader()
    async with contextlib.AsyncExitStack() as held:

        async def place() -> None:
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await held.enter_async_context(reading.long_page(party))
            except TimeoutError:
                raise ScrapeError(
                    f"{url}: a long page, and others were read meanwhile; retrying later"
                ) from None

        body = await _text(session, url, limit, by, place)
        return await reading.parsed(party, read_page, body), len(body)


async def _text(
    session: aiohttp.ClientSession,
    url: str,
    limit: int,
    by: access.Access,
    place: Callable[[], Awaitable[None]],
) -> str:
    """Fetch a page; `place` waits for a place for a long one."""
    try:
        async with session.get(
            url,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            # Another address is not the one that was checked.
            allow_redirects=False,
            # A few compressed bytes may be many, and the copy that a proxy has is of another time.
            headers={**_HEADERS, **by.headers(url)},
            ssl=by.tls(url),
            auto_decompress=False,
        ) as response:
            _refuse_status(url, response.status, by)
            if response.content_type == "text/html":
                raise NoServerError(f"{url}: returned HTML, not metrics text; is the path right?")
            if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
                raise ScrapeError(f"{url}: returned compressed text, which was not asked for")
            with wire.body_of(response, 2 * limit):
                body = await _body(response, limit, place)
    except _ChunksError:
        raise ScrapeError(f"{url}: sends its page in too many small chunks") from None
    except access.AccessError as error:
        raise ScrapeError(f"{url}: {error}") from error
    except TimeoutError as error:
        raise ScrapeError(f"{url}: no response within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.InvalidURL, UnicodeError) as error:
        raise ScrapeError(f"{url}: is not a URL that can be requested") from error
    except (aiohttp.ClientError, OSError) as error:
        raise _broken(url, error) from error
    except ValueError as error:
        # Its text may quote the response.
        raise ScrapeError(f"{url}: {_BROKE_OFF}") from error
    if len(body) > limit:
        raise PageTooLongError(f"{url}: more than {_size(limit)} of metrics")
    return body.decode("utf-8-sig", "replace")


def _broken(url: str, error: aiohttp.ClientError | OSError) -> ScrapeError:
    """The error of a connection that there is not, or that ended before the response."""
    if wire.too_much(error):
        return ScrapeError(f"{url}: {wire.TOO_MUCH}")
    if not isinstance(error, OSError):
        return ScrapeError(f"{url}: {_BROKE_OFF}")  # its text may quote the response
    if _refused(error):
        return NoServerError(f"{url}: no connection: {NOT_LISTENING}")
    return ScrapeError(f"{url}: {_connection_problem(error)}")


def _refuse_status(url: str, status: int, by: access.Access) -> None:
    """Raise where a response is no page: ScrapeError that names the fix."""
    if status == 200:
        return
    shown = f"{url}: HTTP status {status}"
    if status == 404:
        raise NoServerError(f"{shown}: there is no such page; is the path right?")
    if 300 <= status < 400:
        raise ScrapeError(f"{shown}: redirects are not followed")
    if status in {401, 403}:
        missing_token = (
            "it wants a token; name its file by --pods-token-file (--gateways-token-file)"
        )
        raise ScrapeError(f"{shown}: {by.withheld(url) or missing_token}")
    raise ScrapeError(shown)


async def _body(
    response: aiohttp.ClientResponse, limit: int, place: Callable[[], Awaitable[None]]
) -> bytes:
    """The body; more than the limit, and not all of it, where it is longer.

    Raises:
        _ChunksError: it comes in chunks that take more time than their bytes.

    """
    pieces: list[bytes] = []
    length = chunks = 0
    long = False
    while length <= limit and not response.content.at_eof():
        piece, ends = await response.content.readchunk()
        pieces.append(piece)
        length += len(piece)
        chunks += ends
        if chunks > CHUNKS + length // CHUNK_BYTES:
            raise _ChunksError
        if length > INLINE_CHARACTERS and not long:
            await place()
            long = True
    return b"".join(pieces)


def _connection_problem(error: OSError) -> str:
    """Why there is no connection, in words of the system, which quote nothing of the other side."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            "no connection: its certificate is not trusted; name its authority by --pods-ca-file"
            " (--gateways-ca-file)"
        )
    cause = _cause(error)
    shown = f"no connection: {cause.strerror or type(cause).__name__}"
    return shown + _BY_MESH.get(cause.errno or 0, "")


def _refused(error: OSError) -> bool:
    """Whether nothing listens at the port."""
    return _cause(error).errno == errno.ECONNREFUSED


def _cause(error: OSError) -> OSError:
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error


def _size(limit: int) -> str:
    return f"{limit / 2**20:g} MiB"


def parse(text: str, model: str, url: str) -> PodMetrics:
    """Parse one page of metrics text.

    Raises:
        ScrapeError: it is no metrics text, lacks a model server's series, holds NaN, or is of another
            model.

    """
    page = _LAYOUTS.selected(text, model, lambda shown: _selected(shown, model, url))
    samples = [sample for sample in page.series if sample[0] not in model_servers.BUCKETS]
    ttft, itl, tpot = (buckets.histogram(*shown) for shown in page.latencies)
    try:
        totals = dict(model_servers.quantities(model_servers.values(samples)))
        return model_servers.pod_metrics(
            totals,
            started_at=page.started_at,
            input_moments=histograms.moments(page.series, model_servers.INPUT_BUCKETS),
            output_moments=histograms.moments(page.series, model_servers.OUTPUT_BUCKETS),
            ttft_buckets=ttft,
            itl_buckets=itl,
            tpot_buckets=tpot,
            ranks=ranks.of_samples(samples),
        )
    except ImplausibleError as error:
        raise ScrapeError(f"{url}: {error}") from error


def _selected(text: str, model: str, url: str) -> layouts.Selected:
    """What of a page is read, in one style and for one model; raises ScrapeError as `parse`."""
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
        if series_name.name not in model_servers.INFOS:
            models.add(served)
        if served == model:
            read_as.append((series_name.style, series_name.name, labels, value))
    shown = None if models else engines.of(others)
    engine = shown[0] if shown else None
    if shown is not None and engine is not None:
        if problem := engines.refusal(engine):
            raise ScrapeError(f"{url}: {problem}")
        for name, labels, value in engines.translated(engine, shown[1]):
            served = labels.get("model_name", model)
            models.add(served)
            if served == model:
                read_as.append((engine.name, name, labels, value))
    if not models:
        raise NoServerError(f"{url}: {marks.no_server(text) or _no_server(url)}")
    if model not in models:
        raise ScrapeError(f"{url}: {_not_served(model, models)}")
    style = spelling.style_of((name, style) for style, name, _, _ in read_as)
    series = [(name, labels, value) for own, name, labels, value in read_as if own == style]
    return layouts.Selected(
        series,
        tuple(_latency(names, latencies, style, model, series) for names in _LATENCIES),
        started_at,
        by_lines=engine is None,
    )


def _no_server(url: str) -> str:
    """What a page without any known series lacks, and how Istio's gets it."""
    prefixes = " or ".join(model_servers.PREFIXES)
    known = ", ".join(engine.name for engine in engines.ENGINES)
    shown = f"no {prefixes} metrics in it, and none of {known}"
    if url.endswith(MESH_PATH):
        return f"{shown}; Istio merges those of the server by the {_MERGING} on the pod template"
    return f"{shown}; is this a model server?"


def _not_served(model: str, models: Collection[str]) -> str:
    """What a page without the model is, by the models that it has."""
    return (
        f"serves {'another model' if len(models) == 1 else f'{len(models)} other models'}, not"
        f" {model!r}; spec.modelID must be the served model name, label model_name of its metrics"
    )


def _latency(
    names: Iterable[str],
    shown: dict[str, list[str]],
    style: str,
    model: str,
    samples: Iterable[engines.Sample],
) -> tuple[list[str], list[float]]:
    """Bounds and values of the buckets of a latency; empty where there are none, or one cannot be read.

    Args:
        names: Names of its buckets, the newest first.
        shown: Lines of buckets by name as written: of the several spellings on a page one is parsed.
        style: Style of the page.
        model: Model of the page.
        samples: Samples of servers beside vLLM and SGLang.

    """
    for name in names:
        try:
            bounds, values = lines.buckets(shown.get(spelling.restyled(name, style), ()), model)
        except ValueError:
            return [], []
        for other, labels, value in samples:
            if other == name:
                bounds.append(labels.get("le", ""))
                values.append(value)
        if values:
            return bounds, values
    return [], []


def read(
    text: str, names: Container[str], url: str, aside: dict[str, list[str]] | None = None
) -> Iterator[lines.Sample]:
    """Name, labels and value of the series with these names, as `lines.read`.

    Raises:
        ScrapeError: a line is no Prometheus text or too long, or there are too many; names its number.

    """
    try:
        yield from lines.read(text, names, aside)
    except lines.LineError as error:
        raise ScrapeError(f"{url}: {error}") from None

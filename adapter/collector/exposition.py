"""Prometheus text of one pod: fetched, checked, and reduced to the numbers that sizing needs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from functools import lru_cache
from types import MappingProxyType

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from adapter import errors
from adapter.collector import model_servers
from adapter.collector.model_servers import PodMetrics

TIMEOUT_SECONDS = 5.0
PAGE_LIMIT_BYTES = 16 * 1024 * 1024

_READ = (
    model_servers.SERIES
    | model_servers.BUCKETS
    | {model_servers.STARTED, model_servers.CACHE_CONFIG}
)

INLINE_CHARACTERS = 256 * 1024
"""Longest page that is parsed on the event loop; handing a shorter one to a thread takes longer."""

# What servers write, without escapes. Everything else is the library's.
_LABEL_FORM = r'[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*"'
_PLAIN = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{((?:{_LABEL_FORM},?)*)\}})?[ \t]+([0-9.eE+-]+|NaN|[+-]?Inf)[ \t]*"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"')


class ScrapeError(errors.InputError):
    """An endpoint gave no usable metrics; names the endpoint and what to look at."""


async def fetch(session: aiohttp.ClientSession, url: str, model: str) -> PodMetrics:
    """Fetch and parse the metrics of one endpoint.

    Raises:
        ScrapeError: it is down, slow, or its response is not a metrics page of a server of this model.

    """
    body = await text(session, url)
    if len(body) <= INLINE_CHARACTERS:
        return parse(body, model, url)
    # A long one must not hold up requests.
    return await asyncio.to_thread(parse, body, model, url)


async def text(session: aiohttp.ClientSession, url: str) -> str:
    """Fetch a page of metrics text.

    Raises:
        ScrapeError: it is down, slow, or its response is not such a page.

    """
    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with session.get(url, timeout=timeout) as response:
            if response.status != 200:
                raise ScrapeError(f"{url}: HTTP status {response.status}")
            if response.content_type == "text/html":
                raise ScrapeError(f"{url}: returned HTML, not metrics text; is the path right?")
            body = await response.content.read(PAGE_LIMIT_BYTES + 1)
            while len(body) <= PAGE_LIMIT_BYTES:
                more = await response.content.read(PAGE_LIMIT_BYTES + 1 - len(body))
                if not more:
                    break
                body += more
    except TimeoutError as error:
        raise ScrapeError(f"{url}: no response within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ScrapeError(f"{url}: {error}") from error
    if len(body) > PAGE_LIMIT_BYTES:
        raise ScrapeError(f"{url}: more than {PAGE_LIMIT_BYTES // 2**20} MiB of metrics")
    return body.decode("utf-8", "replace")


def parse(text: str, model: str, url: str) -> PodMetrics:
    """Parse one page of metrics text.

    Raises:
        ScrapeError: it is no metrics text, lacks a model server's series, holds NaN, or is of another
            model.

    """
    samples: list[tuple[str, model_servers.Labels, float]] = []
    buckets: list[tuple[str, model_servers.Labels, float]] = []
    models: set[str] = set()
    started_at: float | None = None
    try:
        for name, labels, value in _samples(_read_lines(text)):
            if name == model_servers.STARTED:
                started_at = value
                continue
            if name == model_servers.CACHE_CONFIG:
                samples.append((name, labels, value))
                continue
            served = labels.get("model_name", model)
            models.add(served)
            if served == model:
                kind = buckets if name in model_servers.BUCKETS else samples
                kind.append((name, labels, value))
        if not models:
            raise ScrapeError(f"{url}: {_without_samples(text)}")
    except (ValueError, KeyError, IndexError) as error:
        if isinstance(error, ScrapeError):
            raise
        # The parser answers odd input with any of these.
        raise ScrapeError(f"{url}: not Prometheus text: {error}") from error
    if model not in models:
        raise ScrapeError(
            f"{url}: serves model {', '.join(sorted(models))}, not {model!r}; spec.modelID must be"
            " the served model name"
        )
    try:
        totals = dict(model_servers.quantities(model_servers.values(samples)))
        return model_servers.pod_metrics(
            totals,
            started_at=started_at,
            input_moments=model_servers.moments(buckets, model_servers.INPUT_BUCKETS),
            output_moments=model_servers.moments(buckets, model_servers.OUTPUT_BUCKETS),
        )
    except model_servers.ImplausibleError as error:
        raise ScrapeError(f"{url}: {error}; is this a vLLM or SGLang server?") from error


def _read_lines(text: str) -> list[str]:
    """The lines that are read: some fifty of hundreds; selecting them costs less than parsing all."""
    return [
        line
        for line in text.splitlines()
        if line[:1] != "#" and line.partition("{")[0].partition(" ")[0].rstrip() in _READ
    ]


def _samples(lines: list[str]) -> Iterator[tuple[str, model_servers.Labels, float]]:
    """Name, labels and value of each line.

    Thousands of pods are scraped every few seconds, so the plain form of a line, which servers write, is read
    by a pattern; the library reads all lines as soon as one has another form.
    """
    samples = []
    for line in lines:
        form = _PLAIN.fullmatch(line)
        if form is None:
            break
        samples.append((form[1], _labels(form[2] or ""), float(form[3])))
    else:
        yield from samples
        return
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


@lru_cache(maxsize=4096)
def _labels(text: str) -> model_servers.Labels:
    """Labels by their text, which the lines and the pages of a model have in common."""
    return MappingProxyType(dict(_LABEL.findall(text)))


def _without_samples(text: str) -> str:
    """Why a page has none of the series that are read."""
    names = [family.name for family in text_string_to_metric_families(text)]
    shown = f"; it has {', '.join(names[:3])}, ..." if names else ""
    prefixes = " or ".join(model_servers.PREFIXES)
    return f"no {prefixes} metrics in it; is this a vLLM or SGLang server?{shown}"

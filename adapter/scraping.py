"""One page of metrics text: fetched, checked, and reduced to the numbers that sizing needs."""

from __future__ import annotations

import asyncio

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from adapter import engines, errors
from adapter.engines import Page

TIMEOUT_SECONDS = 5.0
PAGE_LIMIT_BYTES = 16 * 1024 * 1024

_WANTED = engines.SERIES | {engines.STARTED}


class ScrapeError(errors.InputError):
    """An endpoint gave no usable metrics; names the endpoint and what to look at."""


async def fetch(session: aiohttp.ClientSession, url: str, model: str) -> Page:
    """Fetch and parse the metrics of one endpoint.

    Raises:
        ScrapeError: it is down, slow, or its answer is no metrics page of a server of this model.

    """
    body = await text(session, url)
    # Real pages are long: parsing them must not hold up requests.
    return await asyncio.to_thread(parse, body, model, url)


async def text(session: aiohttp.ClientSession, url: str) -> str:
    """Fetch a page of metrics text.

    Raises:
        ScrapeError: it is down, slow, or its answer is no such page.

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
        raise ScrapeError(f"{url}: no answer within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise ScrapeError(f"{url}: {error}") from error
    if len(body) > PAGE_LIMIT_BYTES:
        raise ScrapeError(f"{url}: more than {PAGE_LIMIT_BYTES // 2**20} MiB of metrics")
    return body.decode("utf-8", "replace")


def parse(text: str, model: str, url: str) -> Page:
    """Parse one page of metrics text.

    Raises:
        ScrapeError: it is no metrics text, lacks a model server's series, holds NaN, or is of another
            model.

    """
    samples: list[tuple[str, engines.Labels, float]] = []
    models: set[str] = set()
    started_at: float | None = None
    try:
        for family in text_string_to_metric_families(_wanted(text)):
            for sample in family.samples:
                if sample.name == engines.STARTED:
                    started_at = sample.value
                    continue
                served = sample.labels.get("model_name", model)
                models.add(served)
                if served == model:
                    samples.append((sample.name, sample.labels, sample.value))
        if not models:
            raise ScrapeError(f"{url}: {_nothing(text)}")
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
        totals = dict(engines.quantities(engines.values(samples)))
        return engines.page(totals, started_at=started_at)
    except engines.ImplausibleError as error:
        raise ScrapeError(f"{url}: {error}; is this a vLLM or SGLang server?") from error


def _wanted(text: str) -> str:
    """The lines that are read: of hundreds some twenty, and finding them costs less than parsing all."""
    return "".join(
        f"{line}\n"
        for line in text.splitlines()
        if line[:1] != "#" and line.partition("{")[0].partition(" ")[0].rstrip() in _WANTED
    )


def _nothing(text: str) -> str:
    """What a page is that has no line of ours."""
    names = [family.name for family in text_string_to_metric_families(text)]
    shown = f"; it has {', '.join(names[:3])}, ..." if names else ""
    prefixes = " or ".join(engines.PREFIXES)
    return f"no {prefixes} metrics in it; is this a vLLM or SGLang server?{shown}"

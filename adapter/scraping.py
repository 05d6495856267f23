"""One page of vLLM metrics text: fetched, checked, and reduced to the numbers that sizing needs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from adapter import errors

TIMEOUT_SECONDS = 5.0
PAGE_LIMIT_BYTES = 16 * 1024 * 1024

_ITL_NAMES = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")


class ScrapeError(errors.InputError):
    """An endpoint gave no usable metrics; names the endpoint and what to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one endpoint reports; sums over its engines. Counters only ever grow until a restart.

    Attributes:
        finished: requests that ended, whatever the reason.
        running: requests in service.
        waiting: requests in the queue.
        prompt_tokens: sum and count of input tokens of finished requests; likewise the others
            (`ttft` and `itl` sums in seconds).

    """

    finished: float
    running: float
    waiting: float
    prompt_tokens: tuple[float, float]
    generation_tokens: tuple[float, float]
    ttft: tuple[float, float]
    itl: tuple[float, float]


async def fetch(session: aiohttp.ClientSession, url: str, model: str) -> Page:
    """Fetch and parse the metrics of one endpoint.

    Raises:
        ScrapeError: it is down, slow, or its answer is no vLLM metrics page of this model.

    """
    body = await text(session, url)
    # Real pages have thousands of lines: parsing them must not hold up requests.
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
        ScrapeError: it is no metrics text, lacks vLLM's series, holds NaN, or is of another model.

    """
    totals: dict[str, float] = {}
    models: set[str] = set()
    try:
        for sample in _samples(text):
            served = sample.labels.get("model_name", model)
            models.add(served)
            if served == model and "le" not in sample.labels:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    except (ValueError, KeyError, IndexError) as error:
        # The parser answers odd input with any of these.
        raise ScrapeError(f"{url}: not Prometheus text: {error}") from error
    if not models:
        raise ScrapeError(f"{url}: no vllm: metrics in it; is this a vLLM server?")
    if model not in models:
        raise ScrapeError(
            f"{url}: serves model {', '.join(sorted(models))}, not {model!r}; spec.modelID must be"
            " the served model name"
        )

    def number(name: str) -> float:
        value = totals.get(name, 0.0)
        if not (math.isfinite(value) and value >= 0):
            raise ScrapeError(f"{url}: {name} is {value}")
        return value

    def pair(name: str) -> tuple[float, float]:
        return number(f"{name}_sum"), number(f"{name}_count")

    stocks = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    if missing := [name for name in stocks if name not in totals]:
        raise ScrapeError(f"{url}: {' and '.join(missing)} missing; is this a vLLM server?")
    itl = next((name for name in _ITL_NAMES if f"{name}_count" in totals), _ITL_NAMES[0])
    return Page(
        finished=number("vllm:request_success_total"),
        running=number("vllm:num_requests_running"),
        waiting=number("vllm:num_requests_waiting"),
        prompt_tokens=pair("vllm:request_prompt_tokens"),
        generation_tokens=pair("vllm:request_generation_tokens"),
        ttft=pair("vllm:time_to_first_token_seconds"),
        itl=pair(itl),
    )


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        if family.name.startswith("vllm:"):
            yield from family.samples

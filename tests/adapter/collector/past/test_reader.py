"""The past of one variant from Prometheus: the query in a real one, and answers that are none."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapter.collector.past import reader
from adapter.collector.past.reader import PastReader
from adapter.collector.prometheus import PrometheusError, PrometheusOptions
from tests.fakes import prometheus_api, prometheus_server
from tests.fakes.prometheus_server import Target

NAME = 'v.1"x'
SERIES = (
    ("variant_adapter_observed_arrival_rate_per_minute", "", 90.0),
    ("variant_adapter_observed_latency_milliseconds", ',metric="ttft",quantile="0.95"', 700.0),
    ("variant_adapter_predicted_latency_milliseconds", ',metric="itl"', 21.0),
    ("inferno_desired_replicas", "", 4.0),
    ("variant_adapter_target_held", "", 1.0),
)


def page(namespace: str, factor: float) -> str:
    """Series as the adapter exposes them, of one variant."""
    name = NAME.replace('"', r"\"")
    return "".join(
        f'{series}{{namespace="{namespace}",variant_name="{name}"{more}}} {factor * value}\n'
        for series, more, value in SERIES
    )


@contextlib.asynccontextmanager
async def exposing(*pages: str) -> AsyncIterator[str]:
    """A server of these pages at /0, /1 and so on."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(text=pages[int(request.match_info["number"])])

    app = web.Application()
    app.router.add_get("/{number}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield "{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def reading(url: str) -> AsyncIterator[PastReader]:
    async with aiohttp.ClientSession() as session:
        reading_from = PastReader(session)
        reading_from.connect(PrometheusOptions(url=url))
        yield reading_from


@pytest.mark.slow
@pytest.mark.skipif(prometheus_server.binary() is None, reason=prometheus_server.MISSING)
async def test_a_real_prometheus_gives_what_was_exposed() -> None:
    """Whether the scrape keeps our labels or moves them, and nothing of another namespace's variant."""
    async with (
        exposing(page("team", 1.0) + page("other", 9.0), page("moved", 2.0)) as address,
        prometheus_server.running(
            [Target(address=address, path="/0"),
             Target(address=address, path="/1", namespace="other")]
        ) as server,
        reading(server.url) as reading_from,
    ):  # fmt: skip
        await server.until("count(inferno_desired_replicas offset 2s) == 3")
        pasts = {
            name: await reading_from.read(name, NAME, seconds=60, step=1)
            for name in ("team", "moved", "te.m")
        }
    for name, factor in (("team", 1.0), ("moved", 2.0)):
        past = pasts[name]
        assert past is not None
        assert len(past.times) >= 2
        assert {quantity: values[-1] / factor for quantity, values in past.values.items()} == {
            "offered": 90.0, "ttft_p95": 700.0, "itl_predicted": 21.0, "desired": 4.0,
        }  # fmt: skip
    assert pasts["te.m"] is not None
    assert len(pasts["te.m"].times) == 0


def matrix(*series: tuple[dict[str, str], list[list[Any]]]) -> bytes:
    result = [{"metric": labels, "values": values} for labels, values in series]
    return json.dumps({"status": "success", "data": {"result": result}}).encode()


def test_times_are_those_of_all_series_and_gaps_are_unknown() -> None:
    """Ascending, each once; what is no number is a gap, and foreign series are left out."""
    past = reader.parse(
        matrix(
            ({"__name__": "inferno_desired_replicas"}, [[60, "2"], [180, "3"]]),
            ({"__name__": "variant_adapter_observed_ttft_milliseconds"}, [[120, "NaN"], [60, "5"]]),
            ({"__name__": "up"}, [[90, "1"]]),
        ),
        60.0,
    )
    assert past.times.tolist() == [60.0, 180.0]
    assert past.values["desired"].tolist() == [2.0, 3.0]
    assert past.values["ttft"][0] == 5.0
    assert math.isnan(past.values["ttft"][1])
    assert past.values.keys() == {"desired", "ttft"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b'{"data": 1}', b"<html>", b'{"data": {"result": [{"metric": {}}, 3]}}',
        matrix(({"__name__": "inferno_desired_replicas"}, [["x", "1"]])),
        matrix(({"__name__": "inferno_desired_replicas"}, [[1, "x"], [2]])),
        matrix(({"__name__": "inferno_desired_replicas"}, [[n, "1"] for n in range(1001)])),
        b'{"data": {"result": ' + b"[" * 20_000 + b"}}",
    ],
)  # fmt: skip
async def test_what_is_no_matrix_is_one_error(body: bytes) -> None:
    """Whatever answers, the error names Prometheus."""
    server = prometheus_api.Server(web.Response(body=body))
    async with server.running() as url, reading(url) as reading_from:
        with pytest.raises(PrometheusError, match="not a matrix"):
            await reading_from.read("n", "v", seconds=60, step=1)


async def test_a_long_answer_is_not_read_to_its_end() -> None:
    """More than 2 MiB are refused."""
    server = prometheus_api.Server(web.Response(body=b" " * (reader.LIMIT_BYTES + 1)))
    async with server.running() as url, reading(url) as reading_from:
        with pytest.raises(PrometheusError, match="exceeds 2 MiB"):
            await reading_from.read("n", "v", seconds=60, step=1)
        reading_from.connect(None)
        assert await reading_from.read("n", "v", seconds=60, step=1) is None

"""A Prometheus that answers anything: it ends its own query only, in bounded memory and beside the loop."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from aiohttp import web

from adapter.clock import Clock
from adapter.collector import instant_vector
from adapter.collector.attribution import Attribution
from adapter.collector.instant_vector import InstantVector, Sample
from adapter.collector.lookups.prometheus_api import PrometheusApi
from adapter.collector.prometheus import PrometheusClient, PrometheusError, PrometheusOptions
from adapter.collector.prometheus_scraper import PrometheusScraper
from adapter.planning import fleet
from adapter.resources.variant import VariantSource
from tests.fakes.prometheus_api import Server, failing

MIB = 2**20
HEAD, TAIL = b'{"status":"success","data":{"resultType":"vector","result":[', b"]}}"


def body(*elements: Any, **more: Any) -> bytes:
    data = {"resultType": "vector", "result": elements}
    return json.dumps({"status": "success", "data": data, **more}).encode()


def element(**labels: Any) -> dict[str, Any]:
    return {"metric": labels, "value": [1, "2"]}


@pytest.mark.parametrize("odd", [5, None, True, ["x"], {"x": "y"}, "\ud800"], ids=ascii)
@pytest.mark.parametrize("name", ["__name__", "namespace", "quantity", "le"])
async def test_a_label_that_is_no_text_ends_its_query_only(name: str, odd: Any) -> None:
    """As an error of Prometheus, which a scrape cycle survives; any other would end it for all variants."""
    server = Server()
    async with server.running() as url:
        server.answer = web.Response(body=body(element(**{name: odd})))
        assert "not an instant vector" in await failing(url)


@pytest.mark.parametrize(
    ("kind", "shown"), [("execution", "execution"), ("S3CRET", "unknown"), (["x"], "unknown")]
)
async def test_an_error_with_series_is_an_error(kind: Any, shown: str) -> None:
    """Whatever its HTTP status; of what it says only known kinds are shown."""
    server = Server()
    async with server.running() as url:
        answer = body(element(pod="p"), status="error", errorType=kind, error="S3CRET")
        server.answer = web.Response(body=answer)
        assert (await failing(url)).endswith(f"the query failed: error type {shown}")


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(HEAD + b"{}," * (4 * MIB) + b"{}" + TAIL, id="elements without a value"),
        pytest.param(HEAD + b'{"metric":{' + b'"a":"b",' * MIB + b'"a":"b"}}' + TAIL, id="labels"),
        pytest.param(b'{"data":[' + b"[]," * (4 * MIB) + b"[]]}", id="lists"),
        pytest.param(
            HEAD + TAIL[:-1] + b',"warnings":[' + b"[]," * (4 * MIB) + b"[]]}", id="warnings"
        ),
        pytest.param(
            HEAD + b'{"metric":{},"value":[1,"1"]},' * (MIB // 2) + "\U0001f600".encode(), id="wide"
        ),
        pytest.param(body()[:-1] + b',"warnings":"' + b"w" * 4 * MIB + b'"}', id="one warning"),
    ],
)
def test_what_no_vector_has_becomes_no_objects(odd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes may be 25 times as large as objects, and a wide character makes all others wide."""
    monkeypatch.setattr(instant_vector, "PARTS", 10_000)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, TypeError, KeyError)):
            instant_vector.parse(odd)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(odd)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (body(*[element(pod="p")] * 500), "more series than are read"),
        (body(warnings=["w" * 5 * MIB]), "too much beside its series"),
    ],
)
async def test_what_there_is_too_much_of_is_named(
    answer: bytes, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than the kind of an error."""
    monkeypatch.setattr(instant_vector, "PARTS", 1000)
    server = Server(web.Response(body=answer))
    async with server.running() as url:
        assert f"({shown})" in await failing(url)


def test_a_piece_may_end_within_a_character() -> None:
    """Of a list whose end is in the piece."""
    start = body(element(pod="p"), warnings=[""])[: -len('"]}')]
    piece = instant_vector.ELEMENT_BYTES + 64 * 1024
    text = start + b"x" * (piece - len(HEAD) - 31) + "é".encode() * 60 + b'"]}'
    for shift in (b"", b"y"):
        answer = instant_vector.parse(text[: len(start)] + shift + text[len(start) :])
        assert len(answer.samples) == 1


class Noting(Mapping[str, str]):
    """Labels that note by which thread they are read."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def __getitem__(self, key: str) -> str:
        self.threads.add(threading.current_thread())
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


async def test_series_are_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them take seconds, in which nobody would be answered."""
    labels = Noting()

    async def query(*_: object, **__: object) -> InstantVector:
        return InstantVector(samples=(Sample(labels, 1.0, 1.0),))

    monkeypatch.setattr(PrometheusClient, "query", query)
    scraper = PrometheusScraper(
        None,  # type: ignore[arg-type] # nothing is sent
        Clock(), interval=1.0, window=1.0, latency_window=1.0,
    )  # fmt: skip
    scraper.connect(PrometheusOptions(url="http://p"))
    await scraper.gateways(())
    async for _ in scraper.fleet(Attribution(()), {"n/v"}):
        pass
    assert labels.threads
    assert threading.main_thread() not in labels.threads


async def test_of_many_models_only_those_of_variants_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its history; of pods that no variant has nothing is kept at all."""

    def sample(quantity: str, **labels: str) -> Sample:
        return Sample({"quantity": quantity, "namespace": "n", **labels}, 1.0, 1.0)

    samples = tuple(
        sample(
            quantity, model_name=f"m{index}", endpoint_name=f"p{index}", inference_pool=f"q{index}"
        )
        for index in range(3000)
        for quantity in ("requests", "in flight", "pool models", "saturation")
    )

    async def query(*_: object, **__: object) -> InstantVector:
        return InstantVector(samples=samples)

    monkeypatch.setattr(PrometheusClient, "query", query)
    scraper = PrometheusScraper(
        None,  # type: ignore[arg-type] # nothing is sent
        Clock(), interval=1.0, window=1.0, latency_window=1.0,
    )  # fmt: skip
    scraper.connect(PrometheusOptions(url="http://p"))
    ours = VariantSource(
        namespace="n", name="v", model="m7", service_class="c", profiles=(), targets=fleet.Targets(),
        accelerator="a", endpoints=("http://p8/metrics",), pods=("p8",), replicas=1,
    )  # fmt: skip
    counts, load = await scraper.gateways([ours])
    assert [count.model for count in counts] == ["m7"]
    assert set(load.in_flight) == {("n", "p8")}
    assert set(load.saturation) == {("n", "m7")}


@pytest.mark.parametrize(
    "answer",
    [
        b"S3CRET",
        b"HTTP/1.1 200S3CRET",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 500 S3CRET\r\n\r\nS3CRET",
    ],
    ids=["text", "status", "deep", "error"],
)
@pytest.mark.parametrize("retries", [0, 1])
async def test_a_look_up_of_a_command_quotes_nothing(answer: bytes, retries: int) -> None:
    """Nor does it end in an error that the command does not know."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    def look_up(port: int) -> str:
        options = PrometheusOptions(url=f"http://127.0.0.1:{port}")
        with pytest.raises(PrometheusError) as caught:
            PrometheusApi(options, retries=retries).instant("up")
        return str(caught.value)

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        said = await asyncio.to_thread(look_up, server.sockets[0].getsockname()[1])
    assert "S3CRET" not in said

"""Queries that a Prometheus answers, their order, cancellation and end: over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import math

import pytest
from aiohttp import web

from adapter.collector.instant_vector import InstantVector
from adapter.collector.prometheus import PrometheusError
from tests.fakes.prometheus_api import ONE, QUERY, Server, connected, failing, vector


async def test_an_instant_vector_is_read() -> None:
    """Labels, values and the time of evaluation; what is not a number or infinite is that here too."""
    server = Server(
        vector(
            ({"namespace": "n", "pod": "p"}, "12.5"), ({}, "NaN"), ({}, "+Inf"), ({}, "-Inf"),
            at=1700000000.125,
        )
    )  # fmt: skip
    async with server.running() as url, connected(url) as client:
        answer = await client.query("up")
        assert (client.queries, client.failures) == (1, 0)
    first, *odd = answer.samples
    assert first.labels == {"namespace": "n", "pod": "p"}
    assert (first.value, first.evaluated_at) == (12.5, 1700000000.125)
    assert math.isnan(odd[0].value)
    assert [item.value for item in odd[1:]] == [math.inf, -math.inf]
    assert answer.warnings == ()


async def test_an_empty_vector_is_an_answer() -> None:
    """Nothing that matches is no error."""
    async with Server(vector()).running() as url, connected(url) as client:
        assert await client.query("up") == InstantVector(samples=())


async def test_the_query_travels_in_the_body() -> None:
    """By POST, however long it is; with a time only where one is given; over one connection."""
    server = Server()
    long = QUERY * 50
    async with server.running() as url, connected(url) as client:
        await client.query(long)
        await client.query("up", at=12.3456)
    assert server.methods == ["POST", "POST"]
    assert server.bodies == [{"query": long}, {"query": "up", "time": "12.346"}]
    assert server.paths == ["/api/v1/query"] * 2
    assert len(server.clients) == 1


@pytest.mark.parametrize("status", [405, 501])
async def test_get_is_used_where_post_is_not_allowed(status: int) -> None:
    """At once, and from then on only that."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            return web.Response(status=status)
        return web.json_response(vector((dict(request.query), "1")))

    server = Server(answer)
    async with server.running() as url, connected(url) as client:
        first = await client.query("a + b", at=1.0)
        second = await client.query("up")
        assert client.queries == 2
    assert server.methods == ["POST", "GET", "GET"]
    assert first.samples[0].labels == {"query": "a + b", "time": "1.000"}
    assert second.samples[0].labels == {"query": "up"}


async def test_where_neither_post_nor_get_is_allowed() -> None:
    """Both are tried once, and the status is expected."""
    server = Server(web.Response(status=405))
    async with server.running() as url:
        assert "HTTP status 405: Method Not Allowed" in await failing(url)
    assert server.methods == ["POST", "GET"]


async def test_warnings_come_through() -> None:
    """Those of one response, and not of the next."""
    server = Server(vector(({}, "1"), warnings=["one store did not answer", "another"]))
    async with server.running() as url, connected(url) as client:
        answer = await client.query("up")
        assert answer.warnings == ("one store did not answer", "another")
        assert len(answer.samples) == 1
        server.answer = ONE
        assert (await client.query("up")).warnings == ()


async def test_a_gzipped_answer_is_read() -> None:
    """As a proxy may send it."""
    body = gzip.compress(json.dumps(ONE).encode())
    server = Server(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    async with server.running() as url, connected(url) as client:
        assert (await client.query("up")).samples[0].labels == {"pod": "p"}
    # It was not requested: some proxies compress nevertheless.
    assert server.headers[0]["Accept-Encoding"] == "identity"


async def test_a_large_answer_is_read() -> None:
    """Of many pieces, whole."""
    items = tuple(({"pod": f"p{n}", "filler": 'x"]},{"' * 20}, str(n)) for n in range(20_000))
    compact = json.dumps(vector(*items, warnings=["part"]), separators=(",", ":")).encode()
    spaced = json.dumps(vector(*items, warnings=["part"])).encode()
    assert compact.count(b'"]},{"') == len(items) - 1
    server = Server()
    async with server.running() as url, connected(url) as client:
        for body in (compact, spaced):
            server.answer = web.Response(body=body)
            answer = await client.query("up")
            assert [item.value for item in answer.samples] == list(range(20_000))
            assert answer.samples[7].labels == items[7][0]
            assert answer.warnings == ("part",)


@pytest.mark.parametrize("prefix", ["/prometheus", "/a/b c"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
async def test_the_path_of_the_url_is_kept(prefix: str, slash: str) -> None:
    """With a slash at its end or without."""
    server = Server()
    async with server.running(prefix=prefix) as url, connected(url + slash) as client:
        assert len((await client.query("up")).samples) == 1
    assert server.methods == ["POST"]


# One at a time, and the end.


class HeldAnswer:
    """Answers with the query itself, once it is let go."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.open, self.came = asyncio.Event(), asyncio.Event()
        self.now = self.most = 0
        if is_open:
            self.open.set()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        self.came.set()
        await self.open.wait()
        await asyncio.sleep(0.01)
        self.now -= 1
        query = (await request.post())["query"]
        return web.json_response(vector(({"query": str(query)}, "1")))


@pytest.mark.virtual_time
async def test_queries_run_one_at_a_time() -> None:
    """Each gets its own answer."""
    held_answer = HeldAnswer(is_open=True)
    async with Server(held_answer).running() as url, connected(url) as client:
        answers = await asyncio.gather(*(client.query(f"q{n}") for n in range(6)))
        assert client.queries == 6
    assert [answer.samples[0].labels["query"] for answer in answers] == [f"q{n}" for n in range(6)]
    assert held_answer.most == 1


@pytest.mark.virtual_time
async def test_what_is_cancelled_does_not_spoil_the_next_query() -> None:
    """Neither the running query nor one that waits; the next gets its own answer."""
    held_answer = HeldAnswer()
    server = Server(held_answer)
    async with server.running() as url, connected(url) as client:
        running = asyncio.create_task(client.query("running"))
        await held_answer.came.wait()
        waiting = asyncio.create_task(client.query("waiting"))
        await asyncio.sleep(0.05)
        running.cancel()
        waiting.cancel()
        for task in (running, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        held_answer.open.set()
        assert (await client.query("next")).samples[0].labels == {"query": "next"}
    assert [body["query"] for body in server.bodies] == ["running", "next"]


async def test_the_loop_goes_on_while_a_query_waits() -> None:
    """While an answer is awaited everything else goes on."""
    held_answer = HeldAnswer()
    async with Server(held_answer).running() as url, connected(url) as client:
        query = asyncio.create_task(client.query("up"))
        await held_answer.came.wait()
        assert not query.done()
        held_answer.open.set()
        assert len((await query).samples) == 1


@pytest.mark.virtual_time
async def test_a_query_that_runs_when_the_client_is_closed_still_ends() -> None:
    """It gets its answer; those that wait, and those that come later, an error and no cancellation."""
    held_answer = HeldAnswer()
    async with Server(held_answer).running() as url, connected(url) as client:
        running = asyncio.create_task(client.query("running"))
        await held_answer.came.wait()
        waiting = asyncio.create_task(client.query("waiting"))
        await asyncio.sleep(0.05)
        client.close()
        held_answer.open.set()
        assert len((await running).samples) == 1
        with pytest.raises(PrometheusError, match="no longer in use"):
            await waiting
        with pytest.raises(PrometheusError, match="no longer in use"):
            await client.query("later")
        assert (client.queries, client.failures) == (3, 2)

"""A Prometheus that answers wrongly, too slowly, too much or not at all: over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import web

from adapter.collector import prometheus
from adapter.collector.prometheus import PrometheusError
from tests.fakes.prometheus_api import ONE, QUERY, Server, connected, failing, raw, refused


async def test_a_server_that_is_down() -> None:
    """The reason is one short line, with what to look at."""
    text = await failing(refused())
    assert text.endswith("Connection refused; is it up, and is the URL right?")


async def test_a_name_that_is_not_known() -> None:
    """Likewise."""
    text = await failing("http://prometheus.invalid:9090")
    assert text.endswith("; is it up, and is the URL right?")


@pytest.mark.virtual_time
async def test_a_server_that_is_too_slow() -> None:
    """The error says for how long it was waited for, and which flag makes that longer."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw(silent) as url:
        text = await failing(url, timeout_seconds=0.4)
    assert "no response within 0.4 s" in text
    assert "--prometheus-timeout" in text


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"HTTP/1.1 200 O", b"K", id="status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ", id="body"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b" ", id="body without length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x", id="length of a chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08" + b"\0" * 6,
            b"x",
            id="name of a gzip file",
        ),
        pytest.param(b"HTTP/1.1 503 Busy\r\nContent-Length: 9999\r\n\r\n", b" ", id="an error"),
    ],
)
async def test_a_server_that_trickles(start: bytes, drop: bytes) -> None:
    """Bytes for ever do not hold us for longer than the time of a whole answer."""

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.05)

    async with raw(trickle) as url:
        assert "no response within 0.5 s" in await failing(url, timeout_seconds=0.5)


PROBLEM = {"status": "error", "errorType": "execution", "error": "too many\n  samples"}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {"errorType": "bad_data", "error": "unknown function"},
            "400: error type bad_data; does it support these functions?",
        ),
        (401, "", "401: Unauthorized; set --prometheus-token-file or PROMETHEUS_BEARER_TOKEN"),
        (403, "forbidden\n", "403: Forbidden; the token may not query: bind its account to a role"),
        (404, "404 page not found", "404: Not Found; is the path of the URL right?"),
        (
            422,
            PROBLEM,
            "422: error type execution; the query was understood, but could not be executed",
        ),
        (429, "", "429: Too Many Requests; it limits queries; the next scrape cycle tries again"),
        (500, PROBLEM, "500: error type execution; see its log"),
        (502, "", "502: Bad Gateway; is it starting, or overloaded?"),
        (503, "Service Unavailable", "503: Service Unavailable; is it starting, or overloaded?"),
        (503, [], "503: Service Unavailable; is it starting, or overloaded?"),
        (418, "<p>\n a &amp; b</p>", "418: I'm a Teapot"),
        (400, {"errorType": "secret", "error": f"parse error in {QUERY}"}, "400: Bad Request"),
        (414, f"too long: {QUERY}", f"414: {HTTPStatus(414).phrase}"),
        (500, "\udcff" * 50_000, "500: "),
    ],
)
async def test_an_error_status(status: int, body: Any, expected: str) -> None:
    """The error has the status, the API's kind of error or HTTP's, and what to do; it quotes no body."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode(errors="surrogateescape")
    server = Server(web.Response(status=status, body=data))
    async with server.running() as url:
        assert f": HTTP status {expected}" in await failing(url)
        async with connected(url) as client:
            with pytest.raises(PrometheusError) as caught:
                await client.query("up")
        assert caught.value.code == status
    # Sent once each: the next scrape cycle is the retry.
    assert len(server.methods) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """It would lose the query, or end at a login: the error says so, not where it leads."""
    goal = Server()
    async with goal.running() as other:
        to = f"{other}/login?query=up"
        server = Server(web.Response(status=status, headers={"Location": to}))
        async with server.running() as url:
            text = await failing(url)
    assert f"HTTP status {status}: it redirects; set the URL" in text
    assert other not in text
    assert goal.methods == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        1,
        {"status": "success"},
        {"data": None},
        {"data": {"result": None}},
        {"data": {"result": {}}},
        {"data": {"result": ""}},
        {"data": {"resultType": "scalar", "result": [1.5, "1"]}},
        {"data": {"resultType": "string", "result": [1.5, "text"]}},
        {"data": {"resultType": "matrix", "result": [{"metric": {}, "values": [[1.5, "1"]]}]}},
        {"data": {"result": [{"metric": {}, "histogram": [1.5, {}]}]}},
        {"data": {"result": [{"metric": {}, "value": [1.5, "many"]}]}},
        {"data": {"result": [{"metric": {}, "value": [1.5]}]}},
        {"data": {"result": [{"metric": {}, "value": [1.5, 10**400]}]}},
        {"data": {"result": [{"metric": ["a"], "value": [1.5, "1"]}]}},
        {"data": {"result": [{"value": [1.5, "1"]}]}},
        {"data": {"result": []}, "warnings": 5},
    ],
)
async def test_json_that_is_no_vector(body: Any) -> None:
    """Whatever it is instead, the error says so and asks for the URL."""
    async with Server(web.json_response(body)).running() as url:
        text = await failing(url)
    assert "the response is not an instant vector" in text
    assert text.endswith("is the URL right?")


@pytest.mark.parametrize("body", [b"<html>Login</html>", b"", b"\xff\xfe", b'{"data":'])
async def test_an_answer_that_is_no_json(body: bytes) -> None:
    """HTML with status 200 is what a wrong path or a login gives."""
    async with Server(web.Response(body=body, content_type="text/html")).running() as url:
        assert (await failing(url)).endswith("the response is not JSON; is the URL right?")


async def test_json_that_is_nested_too_deep() -> None:
    """It does not end more than the query."""
    body = b"[" * 200_000
    async with Server(web.Response(body=body)).running() as url:
        assert "the response is not an instant vector (RecursionError)" in await failing(url)


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", id="body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", id="chunks"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n{} ",
            id="no gzip",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="headers"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-SECRET\r\n", id="no HTTP"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nSECRET\r\n{}\r\n",
            id="odd chunks",
        ),
    ],
)
async def test_an_answer_that_breaks_off(response: bytes) -> None:
    """Half a response is none, and the query is not sent again."""
    requests = 0

    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        writer.write(response)
        await writer.drain()

    async with raw(half) as url:
        text = await failing(url)
    assert text.endswith("is the URL right?")
    assert "SECRET" not in text
    assert requests == 1


async def test_a_get_that_breaks_off_is_not_asked_again() -> None:
    """Though a GET could be: the next scrape cycle is the retry."""
    requests = 0

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        if requests == 1:
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    async with raw(talk) as url:
        await failing(url)
    assert requests == 2


async def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than the largest fleet needs."""
    monkeypatch.setattr(prometheus, "RESPONSE_LIMIT_BYTES", 2**20)
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            await asyncio.sleep(0)
            sent += 65536

    async with raw(endless) as url:
        text = await failing(url, timeout_seconds=110)
    assert text.endswith("the response exceeds 1 MiB; is the URL right?")
    assert sent < 32 * 2**20


async def test_an_answer_that_unpacks_to_more_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is of what is unpacked."""
    monkeypatch.setattr(prometheus, "RESPONSE_LIMIT_BYTES", 2**20)
    body = gzip.compress(b" " * (64 * 2**20))
    assert len(body) < 2**20
    server = Server(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    async with server.running() as url:
        assert "the response exceeds 1 MiB" in await failing(url)


async def test_a_failure_does_not_spoil_the_next_query() -> None:
    """What failed is counted; what follows is answered."""
    server = Server(web.Response(status=500, text="broken"))
    async with server.running() as url, connected(url) as client:
        with pytest.raises(PrometheusError):
            await client.query("up")
        server.answer = ONE
        assert len((await client.query("up")).samples) == 1
        assert (client.queries, client.failures) == (2, 1)

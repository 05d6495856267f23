"""A Prometheus that answers, one that answers oddly, and one that does not: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter.collector import prometheus
from adapter.collector.prometheus import Answer, Prometheus, PrometheusError, PrometheusOptions

QUERY = " or ".join(f"sum by (namespace, pod) (vllm:metric_number_{n})" for n in range(40))
"""Longer than any part of an answer that an error repeats."""

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talking = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def vector(*items: tuple[dict[str, str], str], at: float = 1.5, **more: Any) -> dict[str, Any]:
    """An answer as Prometheus gives it."""
    result = [{"metric": labels, "value": [at, value]} for labels, value in items]
    return {
        "status": "success",
        "data": {"resultType": "vector", "result": result},
        **more,
    }


ONE = vector(({"pod": "p"}, "1"))


class Server:
    """Answers `/api/v1/query`, and remembers what it was asked."""

    def __init__(self, answer: Answering | dict[str, Any] | web.Response = ONE) -> None:
        self.answer = answer
        self.methods: list[str] = []
        self.bodies: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.clients: set[Any] = set()

    async def _query(self, request: web.Request) -> web.StreamResponse:
        self.methods.append(request.method)
        self.paths.append(request.path_qs)
        self.bodies.append({key: str(value) for key, value in (await request.post()).items()})
        self.headers.append(dict(request.headers))
        assert request.transport is not None
        self.clients.add(request.transport.get_extra_info("peername"))
        if isinstance(self.answer, dict):
            return web.json_response(self.answer)
        if isinstance(self.answer, web.Response):
            # A response can be sent once.
            sent = self.answer
            return web.Response(status=sent.status, body=sent.body, headers=sent.headers)
        return await self.answer(request)

    @contextlib.asynccontextmanager
    async def running(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield its base URL."""
        app = web.Application()
        app.router.add_route("*", f"{prefix}/api/v1/query", self._query)
        async with TestServer(app) as server:
            yield f"http://127.0.0.1:{server.port}{prefix}"


@contextlib.asynccontextmanager
async def raw(talk: Talking) -> AsyncIterator[str]:
    """A server that says what no HTTP library would: `talk` follows each request; yield its URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
            await reader.readexactly(int(length or 0))
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def asking(url: str, **more: Any) -> AsyncIterator[Prometheus]:
    """A client; closed at the end."""
    found = Prometheus(PrometheusOptions(**{"timeout_seconds": 5.0, **more, "url": url}))
    try:
        yield found
    finally:
        found.close()


async def failing(url: str, *, named: str | None = None, query: str = QUERY, **more: Any) -> str:
    """The text of the error, which has the form that each has."""
    async with asking(url, **more) as found:
        with pytest.raises(PrometheusError) as caught:
            await found.query(query)
        assert (found.queries, found.failures) == (1, 1)
    text = str(caught.value)
    assert text.startswith(f"Prometheus {named or url}: ")
    assert "\n" not in text
    assert len(text) < 500
    assert query not in text
    assert "Max retries" not in text
    return text


async def test_an_instant_vector_is_read() -> None:
    """Labels, values and the time of evaluation; what is not a number or infinite is that here too."""
    server = Server(
        vector(
            ({"namespace": "n", "pod": "p"}, "12.5"), ({}, "NaN"), ({}, "+Inf"), ({}, "-Inf"),
            at=1700000000.125,
        )
    )  # fmt: skip
    async with server.running() as url, asking(url) as found:
        answer = await found.query("up")
        assert (found.queries, found.failures) == (1, 0)
    first, *odd = answer.items
    assert first.labels == {"namespace": "n", "pod": "p"}
    assert (first.value, first.at) == (12.5, 1700000000.125)
    assert math.isnan(odd[0].value)
    assert [item.value for item in odd[1:]] == [math.inf, -math.inf]
    assert answer.warnings == ()


async def test_an_empty_vector_is_an_answer() -> None:
    """Nothing that matches is no error."""
    async with Server(vector()).running() as url, asking(url) as found:
        assert await found.query("up") == Answer(items=())


async def test_the_query_travels_in_the_body() -> None:
    """By POST, however long it is; with a time only where one is given; over one connection."""
    server = Server()
    long = QUERY * 50
    async with server.running() as url, asking(url) as found:
        await found.query(long)
        await found.query("up", at=12.3456)
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
        asked = request.query
        return web.json_response(vector((dict(asked), "1")))

    server = Server(answer)
    async with server.running() as url, asking(url) as found:
        first = await found.query("a + b", at=1.0)
        second = await found.query("up")
        assert found.queries == 2
    assert server.methods == ["POST", "GET", "GET"]
    assert first.items[0].labels == {"query": "a + b", "time": "1.000"}
    assert second.items[0].labels == {"query": "up"}


async def test_where_neither_post_nor_get_is_allowed() -> None:
    """Both are tried once, and the status is told."""
    server = Server(web.Response(status=405))
    async with server.running() as url:
        assert "HTTP status 405: Method Not Allowed" in await failing(url)
    assert server.methods == ["POST", "GET"]


async def test_warnings_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only where there are some is an answer parsed twice."""
    parsed = 0
    parse = requests.Response.json

    def counting(response: requests.Response, **more: Any) -> Any:
        nonlocal parsed
        parsed += 1
        return parse(response, **more)

    monkeypatch.setattr(requests.Response, "json", counting)
    server = Server(vector(({}, "1"), warnings=["one store did not answer", "another"]))
    async with server.running() as url, asking(url) as found:
        answer = await found.query("up")
        assert answer.warnings == ("one store did not answer", "another")
        assert len(answer.items) == 1
        assert parsed == 2
        server.answer = ONE
        assert (await found.query("up")).warnings == ()
        assert parsed == 3


async def test_a_gzipped_answer_is_read() -> None:
    """As a proxy may send it."""
    body = gzip.compress(json.dumps(ONE).encode())
    server = Server(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    async with server.running() as url, asking(url) as found:
        assert (await found.query("up")).items[0].labels == {"pod": "p"}
    # It was not asked for: some proxies pack nevertheless.
    assert server.headers[0]["Accept-Encoding"] == "identity"


async def test_a_large_answer_is_read() -> None:
    """Of many pieces, whole."""
    items = tuple(({"pod": f"p{n}", "filler": "x" * 100}, str(n)) for n in range(20_000))
    async with Server(vector(*items)).running() as url, asking(url, timeout_seconds=60) as found:
        answer = await found.query("up")
    assert [item.value for item in answer.items] == list(range(20_000))


@pytest.mark.parametrize("prefix", ["/prometheus", "/a/b c"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
async def test_the_path_of_the_url_is_kept(prefix: str, slash: str) -> None:
    """With a slash at its end or without."""
    server = Server()
    async with server.running(prefix=prefix) as url, asking(url + slash) as found:
        assert len((await found.query("up")).items) == 1
    assert server.methods == ["POST"]


# What goes wrong.


def refused() -> str:
    """A URL where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_server_that_is_down() -> None:
    """The reason is one short line, with what to look at."""
    text = await failing(refused())
    assert text.endswith("Connection refused; is it up, and is the URL right?")


async def test_a_name_that_is_not_known() -> None:
    """Likewise."""
    text = await failing("http://prometheus.invalid:9090")
    assert text.endswith("; is it up, and is the URL right?")


async def test_a_server_that_is_too_slow() -> None:
    """The error says for how long it was waited for, and which flag makes that longer."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    began = time.monotonic()
    async with raw(silent) as url:
        text = await failing(url, timeout_seconds=0.4)
    assert "no answer within 0.4 s" in text
    assert "--prometheus-timeout" in text
    assert 0.4 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        pytest.param(b"", b"H", id="status line"),
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
        began = time.monotonic()
        assert "no answer within 0.5 s" in await failing(url, timeout_seconds=0.5)
        assert time.monotonic() - began < 2 * 0.5 + 0.5


PROBLEM = {"status": "error", "errorType": "execution", "error": "too many\n  samples"}


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (
            400,
            {"error": "unknown function"},
            "400: unknown function; does it know these functions?",
        ),
        (401, "", "401: Unauthorized; set --prometheus-token-file or PROMETHEUS_BEARER_TOKEN"),
        (403, "forbidden\n", "403: forbidden; the token may not query: bind its account to a role"),
        (404, "404 page not found", "404: 404 page not found; is the path of the URL right?"),
        (422, PROBLEM, "422: too many samples; the query was understood, but not carried out"),
        (429, "", "429: Too Many Requests; it asks for less; the next round tries again"),
        (500, PROBLEM, "500: too many samples; see its log"),
        (502, "", "502: Bad Gateway; is it starting, or overloaded?"),
        (503, "Service Unavailable", "503: Service Unavailable; is it starting, or overloaded?"),
        (503, [], "503: []; is it starting, or overloaded?"),
        (418, "<p>\n a &amp; b</p>", "418: <p> a &amp; b</p>"),
        (400, {"error": f"parse error in {QUERY}"}, "400: parse error in sum by"),
        (414, f"too long: {QUERY}", "414: too long: sum by"),
        (500, "\udcff" * 50_000, "500: "),
    ],
)
async def test_an_error_status(status: int, body: Any, told: str) -> None:
    """The error says the status, what the server says of it in one short line, and what to do."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode(errors="surrogateescape")
    server = Server(web.Response(status=status, body=data))
    async with server.running() as url:
        assert f": HTTP status {told}" in await failing(url)
        async with asking(url) as found:
            with pytest.raises(PrometheusError) as caught:
                await found.query("up")
        assert caught.value.code == status
    # Asked once each: the next round is the retry.
    assert len(server.methods) == 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """It would lose the query, or end at a login: the error says where it leads."""
    goal = Server()
    async with goal.running() as other:
        to = f"{other}/login?query=up"
        server = Server(web.Response(status=status, headers={"Location": to}))
        async with server.running() as url:
            text = await failing(url)
    assert f"HTTP status {status}: sent on to {other}/login; set the URL" in text
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
    assert "the answer is no instant vector" in text
    assert text.endswith("is the URL right?")


@pytest.mark.parametrize("body", [b"<html>Login</html>", b"", b"\xff\xfe", b'{"data":'])
async def test_an_answer_that_is_no_json(body: bytes) -> None:
    """HTML with status 200 is what a wrong path or a login gives."""
    async with Server(web.Response(body=body, content_type="text/html")).running() as url:
        assert (await failing(url)).endswith("the answer is no JSON; is the URL right?")


async def test_json_that_is_nested_too_deep() -> None:
    """It does not end more than the query."""
    body = b"[" * 200_000
    async with Server(web.Response(body=body)).running() as url:
        assert "the answer is no instant vector (RecursionError)" in await failing(url)


@pytest.mark.parametrize(
    "said",
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
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="no HTTP"),
    ],
)
async def test_an_answer_that_breaks_off(said: bytes) -> None:
    """Half an answer is none, and is not asked for again."""
    asked = 0

    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(said)
        await writer.drain()

    async with raw(half) as url:
        text = await failing(url)
    assert text.endswith("is the URL right?")
    assert asked == 1


async def test_a_get_that_breaks_off_is_not_asked_again() -> None:
    """Though a GET could be: the next round is the retry."""
    asked = 0

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    async with raw(talk) as url:
        await failing(url)
    assert asked == 2


async def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than the largest fleet needs."""
    monkeypatch.setattr(prometheus, "ANSWER_LIMIT_BYTES", 2**20)
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    async with raw(endless) as url:
        text = await failing(url, timeout_seconds=30)
    assert text.endswith("more than 1 MiB of answer; is the URL right?")
    assert sent < 32 * 2**20


async def test_an_answer_that_unpacks_to_more_than_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is of what is unpacked."""
    monkeypatch.setattr(prometheus, "ANSWER_LIMIT_BYTES", 2**20)
    body = gzip.compress(b" " * (64 * 2**20))
    assert len(body) < 2**20
    server = Server(web.Response(body=body, headers={"Content-Encoding": "gzip"}))
    async with server.running() as url:
        assert "more than 1 MiB of answer" in await failing(url)


async def test_a_failure_does_not_spoil_the_next_query() -> None:
    """What failed is counted; what follows is answered."""
    server = Server(web.Response(status=500, text="broken"))
    async with server.running() as url, asking(url) as found:
        with pytest.raises(PrometheusError):
            await found.query("up")
        server.answer = ONE
        assert len((await found.query("up")).items) == 1
        assert (found.queries, found.failures) == (2, 1)


# Tokens and headers.


def guarded(*allowed: str) -> Server:
    """A server that asks for one of these tokens."""

    async def answer(request: web.Request) -> web.StreamResponse:
        known = request.headers.get("Authorization") in {f"Bearer {token}" for token in allowed}
        return web.json_response(ONE) if known else web.Response(status=401)

    return Server(answer)


async def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    """A token that was rotated counts from the next query on; it wins over the fixed one."""
    file = tmp_path / "token"
    file.write_text("old\n", encoding="ascii")
    server = guarded("new")
    async with (
        server.running() as url,
        asking(url, token_file=file, token="fixed") as found,
    ):
        with pytest.raises(PrometheusError, match="--prometheus-token-file") as caught:
            await found.query("up")
        assert caught.value.code == 401
        file.write_text("new\n", encoding="ascii")
        assert len((await found.query("up")).items) == 1
    assert [found["Authorization"] for found in server.headers] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory; set --prometheus-token-file or PROMETHEUS_TOKEN_PATH"),
        (b"", "it holds no token"),
        (b" \n", "it holds no token"),
        (b"secret\nsecret", "it holds no token"),
        (b"secret\xc3\xa9", "it holds no token"),
    ],
)
async def test_a_token_file_without_a_token(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    """The error names the file and not what is in it, and nothing is sent."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    server = Server()
    async with server.running() as url:
        text = await failing(url, token_file=file)
    assert text.endswith(f": token file {file}: {told}")
    assert "secret" not in text
    assert server.methods == []


async def test_a_token_that_goes_away_is_not_used_on(tmp_path: Path) -> None:
    """An emptied file is an error, not the token from before."""
    file = tmp_path / "token"
    file.write_text("right", encoding="ascii")
    async with guarded("right").running() as url, asking(url, token_file=file) as found:
        await found.query("up")
        file.write_text("", encoding="ascii")
        with pytest.raises(PrometheusError, match="it holds no token"):
            await found.query("up")


async def test_a_fixed_token() -> None:
    """It is sent as a bearer token; one that cannot be sent is not told."""
    async with guarded("right").running() as url:
        async with asking(url, token="right") as found:
            assert len((await found.query("up")).items) == 1
        text = await failing(url, token="sec\nret")
    assert text.endswith("PROMETHEUS_BEARER_TOKEN: it holds no token")


async def test_extra_headers_are_sent() -> None:
    """With each query, beside the token."""
    server = Server()
    headers = (("X-Scope-OrgID", "team-a|team-b"), ("X-Other", "1"))
    async with server.running() as url, asking(url, headers=headers, token="t") as found:
        await found.query("up")
        await found.query("up")
    for sent in server.headers:
        assert (sent["X-Scope-OrgID"], sent["X-Other"]) == ("team-a|team-b", "1")
        assert sent["Authorization"] == "Bearer t"


async def test_a_header_that_cannot_be_sent() -> None:
    """The error says where to look."""
    async with Server().running() as url:
        text = await failing(url, headers=(("X-Scope-OrgID", "\N{SNOWMAN}"),))
    assert text.endswith("; are URL and headers right?")


async def test_a_netrc_does_not_replace_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do variables of a proxy: what is set is what is used."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login stray password stray\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", refused())
    server = guarded("right")
    async with server.running() as url, asking(url, token="right") as found:
        assert len((await found.query("up")).items) == 1


async def test_a_password_in_the_url_is_sent_and_not_told() -> None:
    """Errors name the URL without it."""
    server = Server(web.Response(status=403))
    async with server.running(prefix="/p") as url:
        text = await failing(url.replace("://", "://me:hush@"), named=url)
    assert "hush" not in text
    assert server.headers[0]["Authorization"] == "Basic bWU6aHVzaA=="


# TLS. Servers in threads: those of asyncio hang up without saying what they miss.


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_POST(self) -> None:
        """Answer with one item."""
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ONE).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _TlsServer(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(request, server_side=True) as secure,
        ):
            super().finish_request(secure, client_address)


@contextlib.asynccontextmanager
async def tls(context: ssl.SSLContext) -> AsyncIterator[str]:
    """A server that answers with one item; yield its URL."""
    server = _TlsServer(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        await asyncio.to_thread(server.shutdown)
        await asyncio.to_thread(server.server_close)
        thread.join()


class Certificates:
    """An authority, its certificate in a file, and what it issues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))

    def serving(self, *names: str, clients: bool = False) -> ssl.SSLContext:
        """Of a server with these names; `clients` asks for certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*names).configure_cert(context)
        if clients:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self) -> tuple[Path, Path, Path]:
        """Files of a client's certificate, its key, and of both."""
        issued = self.authority.issue_cert("client@example.org")
        certificate, key, both = (self._folder / name for name in ("c.pem", "k.pem", "b.pem"))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        issued.private_key_and_cert_chain_pem.write_to_path(str(both))
        return certificate, key, both


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """A new authority."""
    return Certificates(tmp_path)


async def test_an_authority_that_is_not_known(certificates: Certificates) -> None:
    """It is refused with the setting that names it, and accepted when that is set."""
    async with tls(certificates.serving("127.0.0.1")) as url:
        text = await failing(url)
        assert "certificate verify failed" in text
        assert "; set --prometheus-ca-file or PROMETHEUS_CA_CERT_PATH" in text
        async with asking(url, ca_file=certificates.ca_file) as found:
            assert len((await found.query("up")).items) == 1


async def test_authorities_of_the_system_are_trusted(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that OpenSSL trusts, as SSL_CERT_FILE may say."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    async with tls(certificates.serving("127.0.0.1")) as url, asking(url) as found:
        assert len((await found.query("up")).items) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_of_another_name(certificates: Certificates, host: str) -> None:
    """It is refused with the setting for the name, by address too, and accepted under that name only."""
    ca_file = certificates.ca_file
    async with tls(certificates.serving("prometheus.example")) as served:
        url = served.replace("127.0.0.1", host)
        advice = "; set --prometheus-server-name or PROMETHEUS_SERVER_NAME"
        assert advice in await failing(url, ca_file=ca_file)
        assert advice in await failing(url, ca_file=ca_file, server_name="other.example")
        async with asking(url, ca_file=ca_file, server_name="prometheus.example") as found:
            assert len((await found.query("up")).items) == 1


async def test_a_server_name_does_not_replace_the_authority(certificates: Certificates) -> None:
    """The right name under an unknown authority is refused."""
    async with tls(certificates.serving("prometheus.example")) as url:
        assert "--prometheus-ca-file" in await failing(url, server_name="prometheus.example")


@pytest.mark.parametrize("server_name", ["", "wrong.example"])
async def test_an_unchecked_certificate(certificates: Certificates, server_name: str) -> None:
    """Insecure accepts each, and does not warn with every query."""
    async with (
        tls(certificates.serving("prometheus.example")) as url,
        asking(url, insecure=True, server_name=server_name) as found,
    ):
        assert len((await found.query("up")).items) == 1


async def test_the_server_name_is_asked_for(certificates: Certificates) -> None:
    """A proxy that serves several names sees which one is meant, checked or not."""
    seen = []
    context = certificates.serving("prometheus.example")

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen.append(name)

    context.sni_callback = note
    more = {"ca_file": certificates.ca_file, "server_name": "prometheus.example"}
    async with tls(context) as url:
        for insecure in (False, True):
            async with asking(url, insecure=insecure, **more) as found:
                await found.query("up")
    assert seen == ["prometheus.example"] * 2


async def test_a_client_certificate(certificates: Certificates) -> None:
    """Where it is demanded the error says what to set; from two files or one it is presented."""
    certificate, key, both = certificates.client()
    context = certificates.serving("127.0.0.1", clients=True)
    # By 1.3 the server may hang up before its demand is read.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ca_file = certificates.ca_file
    async with tls(context) as url:
        assert "; it wants a client certificate: set --prometheus-client-cert" in await failing(
            url, ca_file=ca_file
        )
        for files in ({"certificate": certificate, "key": key}, {"certificate": both}):
            async with asking(url, ca_file=ca_file, **files) as found:
                assert len((await found.query("up")).items) == 1


async def test_a_client_certificate_by_tls_1_3(certificates: Certificates) -> None:
    """Without it there is no answer either, and with it there is."""
    _, _, both = certificates.client()
    ca_file = certificates.ca_file
    async with tls(certificates.serving("127.0.0.1", clients=True)) as url:
        await failing(url, ca_file=ca_file)
        async with asking(url, ca_file=ca_file, certificate=both) as found:
            assert len((await found.query("up")).items) == 1


async def test_a_certificate_that_has_ended(certificates: Certificates) -> None:
    """No setting of ours mends that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.now(UTC) - timedelta(days=1)
    certificates.authority.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    async with tls(context) as url:
        text = await failing(url, ca_file=certificates.ca_file)
    assert text.endswith("; it must be renewed")


@pytest.mark.parametrize("option", ["ca_file", "certificate", "key"])
@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_that_is_no_certificate(
    certificates: Certificates, tmp_path: Path, option: str, content: str | None
) -> None:
    """The error names the flags; a missing file is named itself."""
    certificate, key, _ = certificates.client()
    file = tmp_path / "odd.pem"
    if content is not None:
        file.write_text(content, encoding="ascii")
    files: dict[str, Any] = {
        "ca_file": certificates.ca_file,
        "certificate": certificate,
        "key": key,
        option: file,
    }
    async with tls(certificates.serving("127.0.0.1")) as url:
        text = await failing(url, **files)
    assert text.endswith("; are --prometheus-ca-file, --prometheus-client-cert and its key right?")
    assert content is not None or str(file) in text


async def test_https_where_there_is_none() -> None:
    """The error asks whether http:// is meant."""
    async with Server().running() as url:
        text = await failing(url.replace("http://", "https://"))
    assert text.endswith("; is it http:// rather than https://?")


async def test_a_rotated_authority_counts_for_new_connections(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Its file is read when a connection is made."""
    file = tmp_path / "used.pem"
    file.write_bytes(trustme.CA().cert_pem.bytes())
    async with (
        tls(certificates.serving("127.0.0.1")) as url,
        asking(url, ca_file=file) as found,
    ):
        with pytest.raises(PrometheusError, match="--prometheus-ca-file"):
            await found.query("up")
        file.write_bytes(certificates.ca_file.read_bytes())
        assert len((await found.query("up")).items) == 1


# One at a time, and the end.


class Gate:
    """Answers with the query that it was asked; each waits until it may."""

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
        return web.json_response(vector(({"asked": str(query)}, "1")))


async def test_queries_are_asked_one_at_a_time() -> None:
    """Each gets its own answer."""
    gate = Gate(is_open=True)
    async with Server(gate).running() as url, asking(url) as found:
        answers = await asyncio.gather(*(found.query(f"q{n}") for n in range(6)))
        assert found.queries == 6
    assert [answer.items[0].labels["asked"] for answer in answers] == [f"q{n}" for n in range(6)]
    assert gate.most == 1


async def test_what_is_cancelled_does_not_spoil_the_next_query() -> None:
    """Neither one that is asked nor one that waits; the next gets its own answer."""
    gate = Gate()
    server = Server(gate)
    async with server.running() as url, asking(url) as found:
        asked = asyncio.create_task(found.query("asked"))
        await gate.came.wait()
        waiting = asyncio.create_task(found.query("waiting"))
        await asyncio.sleep(0.05)
        asked.cancel()
        waiting.cancel()
        for task in (asked, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        gate.open.set()
        assert (await found.query("next")).items[0].labels == {"asked": "next"}
    assert [body["query"] for body in server.bodies] == ["asked", "next"]


async def test_the_loop_is_not_held_up() -> None:
    """While an answer is awaited everything else goes on."""
    gate = Gate()
    async with Server(gate).running() as url, asking(url) as found:
        query = asyncio.create_task(found.query("up"))
        await gate.came.wait()
        await asyncio.sleep(0.05)
        assert not query.done()
        gate.open.set()
        await query


@pytest.mark.parametrize("said", [ONE, {"data": None}])
async def test_close_lets_go(said: dict[str, Any]) -> None:
    """The server sees the connection end, also while somebody still holds an error."""
    ended = asyncio.Event()
    body = json.dumps(said).encode()
    held: list[PrometheusError] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        assert await reader.read() == b""
        ended.set()

    async with raw(talk) as url:
        async with asking(url) as found:
            try:
                await found.query("up")
            except PrometheusError as error:
                held.append(error)
            await asyncio.sleep(0.1)
            assert found._session.last is None, "answers are large"
            assert not ended.is_set()
        await asyncio.wait_for(ended.wait(), 5)
        found.close()
    assert bool(held) == (said is not ONE)


async def test_what_is_asked_when_it_is_closed_still_ends() -> None:
    """What is asked gets its answer; what waits, and what comes later, an error and no cancellation."""
    gate = Gate()
    async with Server(gate).running() as url, asking(url) as found:
        asked = asyncio.create_task(found.query("asked"))
        await gate.came.wait()
        waiting = asyncio.create_task(found.query("waiting"))
        await asyncio.sleep(0.05)
        found.close()
        gate.open.set()
        assert len((await asked).items) == 1
        with pytest.raises(PrometheusError, match="no longer in use"):
            await waiting
        with pytest.raises(PrometheusError, match="no longer in use"):
            await found.query("later")
        assert (found.queries, found.failures) == (3, 2)


async def test_two_clients_have_their_own_settings(certificates: Certificates) -> None:
    """One that does not check does not make another lax."""
    async with (
        tls(certificates.serving("127.0.0.1")) as url,
        asking(url, insecure=True) as lax,
    ):
        await lax.query("up")
        await failing(url)
        await lax.query("up")

"""Tokens, passwords and extra headers of queries."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web

from adapter.collector.prometheus import PrometheusError
from tests.fakes.prometheus_api import ONE, Server, connected, failing, refused


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
        connected(url, token_file=file, token="fixed") as client,
    ):
        with pytest.raises(PrometheusError, match="--prometheus-token-file") as caught:
            await client.query("up")
        assert caught.value.code == 401
        file.write_text("new\n", encoding="ascii")
        assert len((await client.query("up")).samples) == 1
    assert [sent["Authorization"] for sent in server.headers] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file or directory; set --prometheus-token-file or PROMETHEUS_TOKEN_PATH"),
        (b"", "it holds no token"),
        (b" \n", "it holds no token"),
        (b"secret\nsecret", "it holds no token"),
        (b"secret\xc3\xa9", "it holds no token"),
    ],
)
async def test_a_token_file_without_a_token(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    """The error names the file and not what is in it, and nothing is sent."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    server = Server()
    async with server.running() as url:
        text = await failing(url, token_file=file)
    assert text.endswith(f": token file {file}: {expected}")
    assert "secret" not in text
    assert server.methods == []


async def test_a_token_that_goes_away_is_not_used_on(tmp_path: Path) -> None:
    """An emptied file is an error, not the token from before."""
    file = tmp_path / "token"
    file.write_text("right", encoding="ascii")
    async with guarded("right").running() as url, connected(url, token_file=file) as client:
        await client.query("up")
        file.write_text("", encoding="ascii")
        with pytest.raises(PrometheusError, match="it holds no token"):
            await client.query("up")


async def test_a_fixed_token() -> None:
    """It is sent as a bearer token; one that cannot be sent is not expected."""
    async with guarded("right").running() as url:
        async with connected(url, token="right") as client:
            assert len((await client.query("up")).samples) == 1
        text = await failing(url, token="sec\nret")
    assert text.endswith("PROMETHEUS_BEARER_TOKEN: it holds no token")


async def test_extra_headers_are_sent() -> None:
    """With each query, beside the token."""
    server = Server()
    headers = (("X-Scope-OrgID", "team-a|team-b"), ("X-Other", "1"))
    async with server.running() as url, connected(url, headers=headers, token="t") as client:
        await client.query("up")
        await client.query("up")
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
    async with server.running() as url, connected(url, token="right") as client:
        assert len((await client.query("up")).samples) == 1


async def test_a_password_in_the_url_is_sent_and_not_told() -> None:
    """Errors name the URL without it."""
    server = Server(web.Response(status=403))
    async with server.running(prefix="/p") as url:
        text = await failing(url.replace("://", "://me:hush@"), named=url)
    assert "hush" not in text
    assert server.headers[0]["Authorization"] == "Basic bWU6aHVzaA=="

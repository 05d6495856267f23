"""The doctor's look-ups in Prometheus: settings, errors and deadline over real sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from adapter.collector.prometheus import PrometheusOptions
from adapter.diagnostics.configuration import of_prometheus
from tests.fakes.prometheus_api import Server, raw, refused, vector

TARGET = {"model_name": "m", "instance": "i:1", "job": "j"}
POD = {**TARGET, "namespace": "n", "pod": "p"}


def scraped(target: dict[str, str], **more: Any) -> dict[str, Any]:
    """The response on one scraped pod of these labels."""
    running = {**target, "__name__": "vllm:num_requests_running"}
    return vector(({**target, "quantity": "sampled_at"}, "1"), (running, "1"), **more)


async def looked_up(server: Server, **options: object) -> list[tuple[str, str]]:
    """Level and sentence of each finding on model m."""
    async with server.running() as url:
        findings = await of_prometheus(PrometheusOptions(url=url, **options), {"m"})  # type: ignore[arg-type]
        return [(finding.level, finding.what.replace(url, "URL")) for finding in findings]


async def test_all_models_have_metrics() -> None:
    """One query with the token and the extra headers; no finding but that all is well."""
    server = Server(scraped(POD))
    findings = await looked_up(server, token="secret", headers=(("X-Scope-OrgID", "team"),))
    assert findings == [("ok", "Prometheus URL has the metrics of all models")]
    (sent,) = server.headers
    assert (sent["Authorization"], sent["X-Scope-OrgID"]) == ("Bearer secret", "team")


async def test_missing_models_labels_and_warnings_are_reported() -> None:
    """Warnings of the response, series without pod, and models without series."""
    findings = await looked_up(Server(scraped(TARGET, warnings=["store is down"])))
    assert [level for level, _ in findings] == ["warning", "warning"]
    assert findings[0][1] == "Prometheus URL: warnings in its answer: 1"
    assert "series of m have no namespace or pod label" in findings[1][1]
    missing = await looked_up(Server(scraped({**POD, "model_name": "x"})))
    assert missing == [("error", "Prometheus URL has no vLLM or SGLang metrics of m; it has x")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(status=401), "HTTP status 401: Unauthorized; set --prometheus-token-file"),
        (web.Response(status=503), "HTTP status 503: Service Unavailable; is it starting"),
        (web.Response(status=302, headers={"Location": "/login"}), "HTTP status 302: it redirects"),
        (web.Response(text="<html>"), "the response is not JSON; is the URL right?"),
        ({"status": "success", "data": {"result": [1]}}, "the response is not an instant vector"),
    ],
    ids=["401", "503", "redirect", "no JSON", "no vector"],
)
async def test_an_unusable_response_is_an_error(
    answer: web.Response | dict[str, object], said: str
) -> None:
    """One query without retries, and one error that says what to change."""
    server = Server(answer)
    ((level, what),) = await looked_up(server)
    assert level == "error"
    assert said in what
    assert len(server.methods) == 1


async def test_nothing_listens() -> None:
    """The reason is the system's, without the address in it twice."""
    url = refused()
    (finding,) = await of_prometheus(PrometheusOptions(url=url), {"m"})
    assert finding.what == f"Prometheus {url}: Connection refused; is it up, and is the URL right?"


async def test_a_response_without_end_is_given_up() -> None:
    """Bytes that keep arriving do not extend the deadline, and other tasks run meanwhile."""
    sent = 0

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            sent += 1
            await asyncio.sleep(0.02)

    async with raw(drip) as url:
        began = time.monotonic()
        (finding,) = await of_prometheus(PrometheusOptions(url=url, timeout_seconds=0.5), {"m"})
        assert "no response within 0.5 s" in finding.what
        assert time.monotonic() - began >= 0.5
        assert sent > 0

"""Responses of the metrics API that the HPA accepts, and those that leave the replicas unchanged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from emulator import hpa


@pytest_asyncio.fixture
async def answer() -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Address of a server, and what it will answer: body, status, content_type."""
    says: dict[str, Any] = {}

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(**says)

    app = web.Application()
    app.router.add_get("/metric", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/metric", says
    finally:
        await runner.cleanup()


async def after_reading(address: str, before: int) -> hpa.HpaDecision:
    """One sync of an HPA with bounds 1..20 on what is read there."""
    items: list[str] | None
    async with aiohttp.ClientSession() as session:
        try:
            items = await hpa.read_metric(session, address, None)
        except hpa.MetricUnavailable:
            items = None
    scaler = hpa.HorizontalPodAutoscaler(max_replicas=20, stabilization_down_seconds=0)
    return scaler.step(now_seconds=0, items=items, spec_replicas=before, ready_replicas=before)


ITEM: dict[str, Any] = {
    "metricName": "m",
    "metricLabels": {},
    "timestamp": "2026-11-23T23:44:24Z",
    "value": "4",
}


def listing(**changes: Any) -> str:
    return json.dumps({"items": [ITEM | changes]})


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in ITEM.items() if name not in names}


@pytest.mark.parametrize(
    ("item", "before", "after"),
    [
        pytest.param(ITEM, 1, 4, id="as-documented"),
        pytest.param(ITEM | {"value": 4}, 1, 4, id="json-number"),
        pytest.param(ITEM | {"value": 3.5}, 1, 4, id="json-fraction"),
        pytest.param(ITEM | {"value": "4 "}, 1, 4, id="blank-after-it"),
        pytest.param(ITEM | {"metricLabels": None}, 1, 4, id="labels-null"),
        pytest.param(without("metricName"), 1, 4, id="metricName-absent"),
        pytest.param(ITEM | {"more": [1]}, 1, 4, id="unknown-field"),
        pytest.param(ITEM | {"window": 60}, 1, 4, id="window"),
        pytest.param(ITEM | {"timestamp": "2026-11-22T23:44:24Z"}, 1, 4, id="a-day-old"),
        pytest.param(ITEM | {"timestamp": None}, 1, 4, id="timestamp-null"),
        pytest.param(without("timestamp"), 1, 4, id="timestamp-absent"),
        pytest.param(ITEM | {"timestamp": "2026-11-23T23:44:24.5Z"}, 1, 4, id="fractional"),
        pytest.param(ITEM | {"timestamp": "2026-11-23T23:44:24+00:00"}, 1, 4, id="offset"),
        pytest.param(without("value"), 2, 1, id="value-absent-is-0"),
    ],
)
async def test_answers_that_are_taken(
    answer: tuple[str, dict[str, Any]], item: dict[str, Any], before: int, after: int
) -> None:
    """Neither labels, names, unknown fields nor the age of a value matter; kind may be absent."""
    address, says = answer
    says.update(body=json.dumps({"items": [item]}).encode(), content_type="application/json")
    assert (await after_reading(address, before)).replicas == after


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        pytest.param(200, "application/json", '{"items": []}', id="no-items"),
        pytest.param(200, "application/json", '{"items": null}', id="items-null"),
        *(
            pytest.param(status, "application/json", '{"message": "no"}', id=f"status-{status}")
            for status in (403, 404, 500, 503)
        ),
        pytest.param(500, "text/plain", "no", id="status-500-text"),
        pytest.param(200, "text/plain", listing(), id="content-type"),
        pytest.param(200, "application/json", listing(value="NaN"), id="NaN"),
        pytest.param(200, "application/json", listing(value="+Inf"), id="infinite"),
        pytest.param(200, "application/json", listing(timestamp=1), id="timestamp-number"),
    ],
)
async def test_answers_that_leave_the_replicas(
    answer: tuple[str, dict[str, Any]], status: int, content_type: str, body: str
) -> None:
    """Without a value nothing changes, up or down, and the condition says so."""
    address, says = answer
    says.update(status=status, content_type=content_type, body=body.encode())
    decision = await after_reading(address, 2)
    assert (decision.replicas, decision.reason) == (2, "FailedGetExternalMetric")

"""The past on a variant's page: joined with memory, read once in the background, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from adapter.collector.past.reader import Past, PastReader
from adapter.collector.prometheus import PrometheusOptions
from adapter.ui.history import History
from adapter.ui.pages import past as pasts
from adapter.ui.pages.past import Pasts, joined
from adapter.ui.rows import Row
from emulator.demo import scenario
from tests.fakes import fleet_states, prometheus_api

NOW = 1_800_000_000.0
KEY = "team-1/v0001"
RATE = "variant_adapter_observed_arrival_rate_per_minute"


def past_of(start: float, end: float, **values: float) -> Past:
    times = np.arange(start, end, 60.0)
    return Past(
        times=times,
        step=60.0,
        values={name: np.full(len(times), value, np.float32) for name, value in values.items()},
    )


def recorded(*samples: tuple[float, Row]) -> History:
    kept = History()
    for at, row in samples:
        kept.record(at, [row])
    return kept


def test_the_past_fills_what_memory_does_not_have() -> None:
    """Before this process led there is Prometheus, afterwards memory; times ascend, each has one source."""
    follows = [(NOW - 600 + 10 * n, Row(namespace="n", name="v", ready=2)) for n in range(30)]
    leads = [
        (NOW - 300 + 10 * n, Row(namespace="n", name="v", ready=3, offered=50.0)) for n in range(30)
    ]
    memory = recorded(*follows, *leads).series("n/v", now=NOW)
    past = past_of(NOW - 8 * 3600, NOW, offered=40.0, ready=2.0, ttft_p95=7.0)
    shown = joined(memory, past, now=NOW)
    assert shown is not None
    assert np.all(np.diff(shown.times) > 0)
    before, after = shown.times < NOW - 330, shown.times > NOW - 270
    assert set(shown.values["offered"][before]) == {40.0}
    assert set(shown.values["offered"][after]) == {50.0}
    assert set(shown.values["ttft_p95"][before]) == {7.0}
    assert np.isnan(shown.values["ttft_p95"][after]).all()
    assert shown.times[0] >= NOW - 6 * 3600
    assert np.isfinite(shown.values["offered"]).all()


def test_without_a_past_memory_is_shown() -> None:
    """No Prometheus, or one without our series, changes nothing; without memory the past is all."""
    memory = recorded((NOW - 20, Row(namespace="n", name="v", ready=2))).series("n/v", now=NOW)
    assert joined(memory, None, now=NOW) is memory
    assert joined(memory, past_of(NOW, NOW), now=NOW) is memory
    shown = joined(None, past_of(NOW - 120, NOW, offered=1.0), now=NOW)
    assert shown is not None
    assert shown.values["offered"].tolist() == [1.0, 1.0]


class Prometheus:
    """One that counts queries, and answers when it may."""

    def __init__(self) -> None:
        self.queries = 0
        self.may_answer = asyncio.Event()
        self.rate = "40"

    async def __call__(self, _: web.Request) -> web.StreamResponse:
        self.queries += 1
        await self.may_answer.wait()
        values = [[time.time() - 60 * n, self.rate] for n in range(60)]
        series = {"metric": {"__name__": RATE}, "values": values}
        return web.Response(text=json.dumps({"data": {"result": [series]}}))


@contextlib.asynccontextmanager
async def connected(server: Prometheus) -> AsyncIterator[tuple[PastReader, prometheus_api.Server]]:
    stand_in = prometheus_api.Server(server)
    async with stand_in.running() as url, aiohttp.ClientSession() as session:
        reader = PastReader(session)
        reader.connect(PrometheusOptions(url=url))
        yield reader, stand_in


async def test_one_query_for_a_page_and_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages do not wait for a slow Prometheus, ask it once a minute, four at a time, and keep 32 answers."""
    monkeypatch.setattr(pasts, "PATIENCE_SECONDS", 0.01)
    server, now = Prometheus(), [0.0]
    arrived: asyncio.Queue[None] = asyncio.Queue()
    async with connected(server) as (reader, _):
        shown = Pasts(reader, lambda: arrived.put_nowait(None), now=lambda: now[0])
        for _ in range(3):
            assert (await shown.opened("n/v")).pending
        for n in range(10):
            await shown.opened(f"n/{n}")
        assert not shown.known("n/9").pending
        server.may_answer.set()
        for _ in range(pasts.WAITING):
            await arrived.get()
        assert server.queries == pasts.WAITING
        answer = shown.known("n/v")
        assert answer.past is not None
        assert not answer.pending
        await shown.opened("n/v")
        assert server.queries == pasts.WAITING
        now[0] = pasts.FRESH_SECONDS
        monkeypatch.setattr(pasts, "PATIENCE_SECONDS", 60.0)
        await shown.opened("n/v")
        assert server.queries == pasts.WAITING + 1
        for n in range(pasts.MOST_ANSWERS):
            await shown.opened(f"m/{n}")
        assert shown.known("n/v").past is None
        assert shown.known(f"m/{pasts.MOST_ANSWERS - 1}").past is not None
        await shown.close()


async def test_a_failure_keeps_the_last_past_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of Prometheus is a sentence, not an error of the page; what is being read ends with it."""
    monkeypatch.setattr(pasts, "PATIENCE_SECONDS", 60.0)
    server, now = Prometheus(), [0.0]
    server.may_answer.set()
    async with connected(server) as (reader, _):
        shown = Pasts(reader, lambda: None, now=lambda: now[0])
        assert (await shown.opened("n/v")).past is not None
        server.rate, now[0] = "no number", 100.0
        answer = await shown.opened("n/v")
        assert answer.past is not None
        assert "not a matrix" in answer.problem
        server.may_answer.clear()
        monkeypatch.setattr(pasts, "PATIENCE_SECONDS", 0.01)
        assert (await shown.opened("n/w")).pending
        await shown.close()
        assert not shown.known("n/w").pending


async def test_a_fresh_leader_shows_the_past(tmp_path: Path) -> None:
    """The page of a variant has the hours before the process started; updates of it ask nothing more."""
    objects = tmp_path / "variants"
    scenario.write_objects(objects)
    scenario.write_deployment(objects, (), 1)
    server = Prometheus()
    server.may_answer.set()
    stand_in = prometheus_api.Server(server)
    async with (
        fleet_states.served(tmp_path, objects, 5) as endpoints,
        stand_in.running() as url,
        aiohttp.ClientSession() as session,
    ):
        page = f"{endpoints.metrics_url}/ui/variants/{KEY}"
        async with session.get(page) as response:
            assert "From Prometheus" not in await response.text()
        endpoints.loop.collector.past.connect(PrometheusOptions(url=url))
        async with session.get(page) as response:
            text = await response.text()
        # A slow machine's page comes first; its update has the answer.
        async with asyncio.timeout(500):
            while "From Prometheus since" not in text:
                async with session.get(page, headers={"X-Fragment": "1"}) as response:
                    text = await response.text()
        assert "offered last" in text
        assert server.queries == 1
        assert "data-pending" not in text

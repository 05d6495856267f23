"""The loop against real endpoints: it holds on bad data, withdraws in time, and forgets the gone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapter import fleet, folder, planning, scenario
from adapter.clock import Clock
from adapter.collection import CollectionSettings, Collector
from adapter.loop import ControlLoop, LoopSettings
from adapter.offered import RateSettings
from adapter.targets import TargetStore
from optimizer.stabilization import Limits

MODEL = scenario.MODEL


class ManualClock(Clock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def time(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Endpoint:
    """A metrics page that can be made to fail."""

    def __init__(self) -> None:
        self.finished = 0.0
        self.broken = ""

    async def page(self, _: web.Request) -> web.Response:
        if self.broken == "html":
            return web.Response(text="<html></html>", content_type="text/html")
        if self.broken == "error":
            raise web.HTTPServiceUnavailable
        running = "NaN" if self.broken == "nan" else "0"
        label = f'{{model_name="{MODEL}"}}'
        done = self.finished
        return web.Response(
            text=f"vllm:num_requests_running{label} {running}\n"
            f"vllm:num_requests_waiting{label} 0\n"
            f"vllm:request_success_total{label} {done}\n"
            f"vllm:request_generation_tokens_sum{label} {178 * done}\n"
            f"vllm:request_generation_tokens_count{label} {done}\n"
        )


class Harness:
    """A loop with one variant and one endpoint."""

    def __init__(self, objects: Path, url: str, session: aiohttp.ClientSession) -> None:
        scenario.write_deployment(objects, [url], 2)
        self.store, self.clock = TargetStore(), ManualClock()
        collection = CollectionSettings(interval=10, window=60, long_window=0)
        self.loop = ControlLoop(
            collector=Collector(session=session, clock=self.clock, settings=collection),
            store=self.store,
            clock=self.clock,
            planner=self.plan,
            settings=LoopSettings(
                collection=collection,
                rates=RateSettings(anticipate=False),
                limits=Limits(),
                time_to_live=300,
            ),
        )
        self.loop.use(folder.read(objects))

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        return planning.plan(snapshot)

    async def passes(self, endpoint: Endpoint, seconds: int, *, rpm: float) -> None:
        for _ in range(0, seconds, 10):
            self.clock.at += 10
            endpoint.finished += rpm / 6
            await self.loop.collect()
            await self.loop.decide()

    def served(self) -> list[bytes]:
        found = self.store.answer(
            scenario.NAMESPACE, "inferno_desired_replicas", None, now=self.clock.time()
        )
        return [item.encoded for item in found]


@contextlib.asynccontextmanager
async def harness(objects: Path, endpoint: Endpoint) -> AsyncIterator[Harness]:
    app = web.Application()
    app.router.add_get("/metrics", endpoint.page)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield Harness(objects, str(server.make_url("")).rstrip("/"), session)


@pytest.mark.parametrize("broken", ["html", "error", "nan"])
async def test_bad_metrics_hold_the_target_then_withdraw_it(objects: Path, broken: str) -> None:
    """60/min is 2 replicas; when the endpoint breaks the target stays, and goes at its time to live."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        assert running.served() == []
        await running.passes(endpoint, 120, rpm=60)
        assert b'"value":"2"' in running.served()[0]
        endpoint.broken = broken
        await running.passes(endpoint, 60, rpm=0)
        (state,) = running.loop.states.values()
        assert "no fresh metrics of 1 of 1" in state.problem
        assert state.desired == 2
        assert b'"value":"2"' in running.served()[0]
        await running.passes(endpoint, 300, rpm=0)
        assert running.served() == []
        assert running.loop.states["llm-d-sim/vllme-deployment"].desired is None
        endpoint.broken = ""
        await running.passes(endpoint, 120, rpm=60)
        assert b'"value":"2"' in running.served()[0]


async def test_proven_idle_goes_to_the_minimum(objects: Path) -> None:
    """An idle server that answers lowers the target to one replica, not to zero by default."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        await running.passes(endpoint, 120, rpm=60)
        await running.passes(endpoint, 120, rpm=0)
        assert b'"value":"1"' in running.served()[0]


async def test_a_variant_that_is_gone_leaves_nothing(objects: Path) -> None:
    """Once its object is gone nothing of the variant is served."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        await running.passes(endpoint, 120, rpm=60)
        (objects / "variant.yaml").unlink()
        running.loop.use(folder.read(objects))
        assert running.served() == []
        assert running.store.metric_names() == ()


async def test_the_stability_margin_is_a_setting(objects: Path) -> None:
    """With most of a replica's speed kept free, the same load takes more replicas."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.loop.settings = dataclasses.replace(running.loop.settings, stability_margin=0.8)
        await running.passes(endpoint, 120, rpm=60)
        (state,) = running.loop.states.values()
        assert state.desired == 5
        assert "stability bounds a replica" in state.reason

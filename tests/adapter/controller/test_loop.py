"""The loop against real endpoints: it holds targets on bad data and withdraws them in time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.promql import GatewayCount
from adapter.controller.demand import RateSettings
from adapter.controller.loop import ControlLoop
from adapter.controller.settings import LoopSettings
from adapter.controller.state import VariantState
from adapter.planning import fleet
from adapter.planning import plan as planning
from adapter.resources import folder
from adapter.store import TargetStore
from emulator.demo import scenario
from optimizer.stabilization import StabilizationLimits
from tests.fakes.virtual_time import ManualClock

MODEL = scenario.MODEL


class Endpoint:
    """A metrics page that can be made to fail."""

    def __init__(self) -> None:
        self.finished = 0.0
        self.running = 0
        self.broken = ""

    async def page(self, _: web.Request) -> web.Response:
        if self.broken == "html":
            return web.Response(text="<html></html>", content_type="text/html")
        if self.broken == "error":
            raise web.HTTPServiceUnavailable
        if self.broken == "empty":
            return web.Response(text="")
        if self.broken == "cut":
            raise web.HTTPForbidden
        running = "NaN" if self.broken == "nan" else str(self.running)
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
    """A loop with one variant and its endpoints."""

    def __init__(self, objects: Path, urls: list[str], session: aiohttp.ClientSession) -> None:
        scenario.write_deployment(objects, urls, len(urls))
        self.url = urls[0]
        self.store, self.clock = TargetStore(), ManualClock()
        collection = CollectionSettings(interval=10, window=60, long_window=0)
        self.loop = ControlLoop(
            collector=Collector(session=session, clock=self.clock, settings=collection),
            store=self.store,
            clock=self.clock,
            planner=self.plan,
            settings=LoopSettings(
                collection=collection,
                rates=RateSettings(anticipate=False, drain_seconds=0, headroom=0),
                limits=StabilizationLimits(),
                time_to_live=300,
            ),
        )
        self.loop.apply_inputs(folder.read(objects))

    def change_settings(self, **changes: Any) -> None:
        self.loop.apply_settings(dataclasses.replace(self.loop.settings, **changes))

    async def plan(self, snapshot: fleet.Fleet) -> planning.Plan:
        return planning.plan(snapshot)

    async def cycles(self, *endpoints: Endpoint, seconds: int, rpm: float) -> None:
        """`rpm` at each endpoint."""
        for _ in range(0, seconds, 10):
            self.clock.at += 10
            for endpoint in endpoints:
                endpoint.finished += rpm / 6
            await self.loop.scrape()
            await self.loop.reconcile()

    @property
    def state(self) -> VariantState:
        (only,) = self.loop.states.values()
        return only

    def served(self) -> list[bytes]:
        answers = self.store.answer(
            scenario.NAMESPACE, "inferno_desired_replicas", None, now=self.clock.time()
        )
        return [item.encoded for item in answers]


@contextlib.asynccontextmanager
async def harness(objects: Path, *endpoints: Endpoint) -> AsyncIterator[Harness]:
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for endpoint in endpoints:
            app = web.Application()
            app.router.add_get("/metrics", endpoint.page)
            server = await stack.enter_async_context(TestServer(app))
            urls.append(str(server.make_url("")).rstrip("/"))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Harness(objects, urls, session)


@pytest.mark.parametrize("broken", ["html", "error", "nan"])
async def test_bad_metrics_hold_the_target_then_withdraw_it(objects: Path, broken: str) -> None:
    """60/min is 2 replicas; when the endpoint breaks the target stays, and goes at its time to live."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        assert running.served() == []
        await running.cycles(endpoint, seconds=120, rpm=60)
        assert b'"value":"2"' in running.served()[0]
        endpoint.broken = broken
        await running.cycles(endpoint, seconds=60, rpm=0)
        (state,) = running.loop.states.values()
        assert "no fresh metrics from 1 of 1" in state.problem
        assert state.desired == 2
        assert b'"value":"2"' in running.served()[0]
        await running.cycles(endpoint, seconds=300, rpm=0)
        assert running.served() == []
        assert running.loop.states["llm-d-sim/vllme-deployment"].desired is None
        endpoint.broken = ""
        await running.cycles(endpoint, seconds=120, rpm=60)
        assert b'"value":"2"' in running.served()[0]


async def test_the_log_claims_no_last_target_where_there_was_none(objects: Path) -> None:
    """A server that never answered has no target to hold; one that breaks later has."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        with capture_logs() as logs:
            endpoint.broken = "error"
            await running.cycles(endpoint, seconds=60, rpm=0)
            endpoint.broken = ""
            await running.cycles(endpoint, seconds=120, rpm=60)
            endpoint.broken = "error"
            await running.cycles(endpoint, seconds=60, rpm=0)
    said = [line["event"] for line in logs if "target" in line and "why" in line]
    assert said[0] == "no target can be decided; none is served"
    assert said[-1] == "no new target; holding the last one until it expires"


async def test_proven_idle_goes_to_the_minimum(objects: Path) -> None:
    """An idle server that answers lowers the target to one replica, not to zero by default."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        await running.cycles(endpoint, seconds=120, rpm=60)
        await running.cycles(endpoint, seconds=120, rpm=0)
        assert b'"value":"1"' in running.served()[0]


async def test_a_variant_that_is_removed_leaves_nothing(objects: Path) -> None:
    """Once its object is removed nothing of the variant is served."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        await running.cycles(endpoint, seconds=120, rpm=60)
        (objects / "variant.yaml").unlink()
        running.loop.apply_inputs(folder.read(objects))
        assert running.served() == []
        assert running.store.list_external_metrics() == ()


async def test_the_stability_margin_is_a_setting(objects: Path) -> None:
    """With most of a replica's speed kept free, the same load takes more replicas."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.change_settings(stability_margin=0.8)
        await running.cycles(endpoint, seconds=120, rpm=60)
        (state,) = running.loop.states.values()
        assert state.desired == 5
        assert "stability bounds a replica" in state.reason


@pytest.mark.parametrize("broken", ["html", "error", "nan", "empty", "cut"])
async def test_an_incomplete_load_may_raise_a_target_and_never_lower_it(
    objects: Path, broken: str
) -> None:
    """What the other pods show is a lower bound of the load: a higher one applies, a lower one does not."""
    one, two = Endpoint(), Endpoint()
    async with harness(objects, one, two) as running:
        await running.cycles(one, two, seconds=120, rpm=30)
        assert running.state.desired == 2
        two.broken = broken
        await running.cycles(one, two, seconds=60, rpm=3)
        assert running.state.desired == 2
        assert running.state.metrics == "MetricsStale"
        assert "no fresh metrics from 1 of 2" in running.state.problem
        await running.cycles(one, two, seconds=120, rpm=120)
        assert running.state.desired == 4
        assert running.state.metrics == "MetricsStale"
        assert b'"value":"4"' in running.served()[0]


async def test_a_silent_pod_holds_the_target_while_another_is_heard(objects: Path) -> None:
    """It never falls below what it is, however long the pod is silent; without anybody it expires."""
    one, two = Endpoint(), Endpoint()
    async with harness(objects, one, two) as running:
        await running.cycles(one, two, seconds=120, rpm=30)
        two.broken = "error"
        await running.cycles(one, two, seconds=900, rpm=1)
        assert b'"value":"2"' in running.served()[0]
        assert "no fresh metrics from 1 of 2" in running.state.problem
        one.broken = "error"
        await running.cycles(one, two, seconds=400, rpm=1)
        assert running.served() == []


async def test_a_new_pod_that_was_not_scraped_yet_is_no_fault(objects: Path) -> None:
    """Its first metrics come with the next scrape cycle; until then the target and its conditions stay."""
    one = Endpoint()
    async with harness(objects, one) as running:
        await running.cycles(one, seconds=120, rpm=60)
        urls = [*running.loop.inputs.variants[0].endpoints, "http://127.0.0.1:9/metrics"]
        scenario.write_deployment(objects, urls, 2)
        running.loop.apply_inputs(folder.read(objects))
        one.finished += 1
        await running.loop.reconcile()
        assert (running.state.metrics, running.state.problem) == ("MetricsFound", "")
        assert running.state.desired == 2


async def test_zero_needs_proof_for_the_whole_retention(objects: Path) -> None:
    """Idle for less, or with one request that runs and runs, it stays at one."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.change_settings(scale_to_zero=True, retention=300)
        await running.cycles(endpoint, seconds=60, rpm=60)
        await running.cycles(endpoint, seconds=290, rpm=0)
        assert running.state.desired == 1
        await running.cycles(endpoint, seconds=20, rpm=0)
        assert running.state.desired == 0


async def test_a_running_request_is_not_idle(objects: Path) -> None:
    """Nothing finishes and nothing arrives, but a request is in service: it stays at one replica."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.change_settings(scale_to_zero=True, retention=60)
        await running.cycles(endpoint, seconds=60, rpm=60)
        endpoint.running = 1
        await running.cycles(endpoint, seconds=600, rpm=0)
        assert running.state.desired == 1


async def test_annotations_override_scale_to_zero(objects: Path) -> None:
    """Both whether a variant may go to zero, and its retention."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        text = (objects / "variant.yaml").read_text()
        notes = '{llmd.ai/scale-to-zero: "true", llmd.ai/scale-to-zero-retention: 30s}'
        (objects / "variant.yaml").write_text(
            text.replace("metadata:\n", f"metadata:\n  annotations: {notes}\n")
        )
        running.loop.apply_inputs(folder.read(objects))
        await running.cycles(endpoint, seconds=60, rpm=60)
        await running.cycles(endpoint, seconds=60, rpm=0)
        assert running.state.desired == 0


async def test_no_data_is_not_zero(objects: Path) -> None:
    """An idle variant whose metrics vanish keeps its replica, however long: missing data proves nothing."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.change_settings(scale_to_zero=True, retention=120)
        await running.cycles(endpoint, seconds=60, rpm=60)
        await running.cycles(endpoint, seconds=60, rpm=0)
        endpoint.broken = "error"
        await running.cycles(endpoint, seconds=250, rpm=0)
        assert running.state.desired == 1


async def test_requests_at_the_gateway_are_traffic(objects: Path) -> None:
    """Requests queued at the gateway count, and forbid zero, though they never arrive at the pods."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        running.change_settings(scale_to_zero=True, retention=30)
        await running.cycles(endpoint, seconds=60, rpm=30)
        for passed in range(12):
            count = GatewayCount(
                namespace="", model=MODEL, requests=5.0 * passed, waiting=15.0 * passed
            )
            running.loop.waking.window.add("gateway", [count], now=running.clock.at)
            await running.cycles(endpoint, seconds=10, rpm=30)
        assert running.state.desired == 4
        assert "120 req/min arrived at the gateway" in running.state.reason


async def test_objects_may_change_during_a_reconcile_cycle(objects: Path) -> None:
    """A variant that is removed while the others are observed or planned takes no other target with it."""
    endpoint = Endpoint()
    async with harness(objects, endpoint) as running:
        text = (objects / "variant.yaml").read_text()
        other = text.replace(f"name: {scenario.NAME}", "name: zz")
        notes = f"metadata:\n  annotations: {{llmd.ai/metrics-endpoints: '{running.url}'}}\n"
        (objects / "other.yaml").write_text(other.replace("metadata:\n", notes, 1))
        both = folder.read(objects)
        running.loop.apply_inputs(both)
        await running.cycles(endpoint, seconds=60, rpm=60)
        (objects / "other.yaml").unlink()
        after = folder.read(objects)
        for moment in range(12):
            running.loop.apply_inputs(both)
            await running.cycles(endpoint, seconds=30, rpm=60)
            assert len(running.served()) == 2
            cycle = asyncio.create_task(running.loop.reconcile())
            for _ in range(moment):
                await asyncio.sleep(0)
            running.loop.apply_inputs(after)
            await cycle
            assert len(running.served()) == 1
            # And one that is added.
            cycle = asyncio.create_task(running.loop.reconcile())
            for _ in range(moment):
                await asyncio.sleep(0)
            running.loop.apply_inputs(both)
            await cycle

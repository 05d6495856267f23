"""Pods that restart, end or are not scraped, and a real Prometheus that hangs or is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time

import aiohttp
import pytest

from adapter.clock import Clock
from adapter.collector.collector import CollectionSettings, Collector
from adapter.collector.observation import Observation
from adapter.collector.prometheus import PrometheusOptions
from adapter.collector.windows import discovery
from tests.fakes import prometheus_server
from tests.fakes.prometheus_world import (
    INTERVAL,
    MARKS,
    SPARES,
    SPEED,
    STEADY_RPS,
    WINDOW,
    World,
    load,
    rounds,
    traffic,
    until,
    variant,
)

pytestmark = MARKS


async def test_auto_asks_prometheus_for_pods_that_do_not_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods that answer are asked themselves, Prometheus then not for them; the change costs no rate."""
    # On a busy machine the query for further servers would fall due meanwhile.
    monkeypatch.setattr(discovery, "NEW_PODS_SECONDS", math.inf)
    pod = SPARES[0]
    await world.scraped(pod)
    # The same page behind a door of ours: Prometheus comes another way.
    world.pages.pages["door"] = world.pages.pages[pod]
    source = variant("v", {pod: world.pages.url("door")})
    async with world.collecting([source], "auto") as (collector,):

        async def watch(seconds: float) -> Observation:
            async for _ in rounds(seconds):
                await collector.collect()
                observation = collector.observe(source)
                assert observation.metrics == "MetricsFound", observation
                slack = await world.slack(span=4 * INTERVAL)
                assert traffic(observation).arrival_rate_rps == pytest.approx(
                    STEADY_RPS, rel=0.1 + slack
                )
            return observation

        await collector.collect()
        await asyncio.sleep(2 * INTERVAL / SPEED)
        assert (await watch(20)).origin == "direct"
        assert collector.fleet_queries == 0
        world.pages.closed.add("door")
        try:
            observation = await watch(30)
        finally:
            world.pages.closed.discard("door")
        assert (observation.origin, observation.how, observation.complete) == (
            "prometheus",
            "pod",
            True,
        )
        assert collector.fleet_queries > 0
        await until([collector], lambda: collector.observe(source).origin == "direct")
        asked = collector.fleet_queries
        await watch(15)
        assert collector.fleet_queries == asked


async def test_restarts_and_departures_are_no_load(world: World) -> None:
    """A server that begins anew, and one that leaves, neither hide load nor make any, for either source."""
    pods = ("again-0", "again-1")
    everyone = {pod: f"{world.url(pod)}/metrics" for pod in pods}
    source = variant("v", everyone)
    less = dataclasses.replace(source, endpoints=source.endpoints[1:], pods=source.pods[1:])
    rates: list[float] = []
    async with (
        world.emulated(pods[1]),
        world.collecting([source], "direct", "prometheus") as collectors,
    ):

        def good() -> bool:
            """Whether both know all of it; notes what they say."""
            seen = [collector.observe(source) for collector in collectors]
            rates.extend(one.traffic.arrival_rate_rps for one in seen if one.traffic is not None)
            return all(one.metrics == "MetricsFound" and one.complete for one in seen)

        async def after(seconds: float, rates_at_least: int = 0) -> None:
            end = time.monotonic() + seconds / SPEED
            await until(
                collectors,
                lambda: good() and time.monotonic() > end and len(rates) >= rates_at_least,
            )

        async with world.emulated(pods[0]) as process:
            await world.scraped(*pods)
            task = asyncio.create_task(load(world, pods, 120, 1000).run())
            # What was before the load is out of the window then.
            await after(WINDOW + 2 * INTERVAL)
            rates.clear()
            process.kill()
            await process.wait()
        try:
            async with world.emulated(pods[0]):
                await after(30)
                for collector in collectors:
                    collector.use([less])
                source = less
            # A busy machine looks less often; the bounds below are of so many rates.
            await after(WINDOW / 2, rates_at_least=8)
            last = [traffic(item.observe(source)).arrival_rate_rps for item in collectors]
        finally:
            task.cancel()
            await asyncio.wait([task])
    # Requests that the killed server had are sent anew; until it is heard again, or gone, it is taken to
    # get what it got before, which the other one gets by then.
    slack = await world.slack()
    assert min(rates) * 60 > (0.8 - slack) * 120
    assert max(rates) * 60 < (1.5 + slack) * 120
    assert [60 * rate for rate in last] == pytest.approx([120, 120], rel=0.1 + slack)


async def test_a_pod_that_ends_makes_its_variant_stale(world: World) -> None:
    """Prometheus forgets a target that is down at once: stale, with the last load; never seen, missing."""
    source = variant("v", {"ends-0": f"{world.url('ends-0')}/metrics"})
    async with world.collecting([source], "prometheus", stale_after=0.0) as (collector,):
        await until([collector], lambda: "recent series of" in collector.observe(source).problem)
        assert collector.observe(source).metrics == "MetricsMissing"
        async with world.emulated("ends-0"):
            await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
        observation = collector.observe(source)
        assert observation.metrics == "MetricsStale"
        assert "has no recent series of" in observation.problem
        assert not observation.complete
        assert traffic(observation).arrival_rate_rps == 0
        assert observation.age_seconds > 2.5 * INTERVAL


async def test_a_past_without_a_present_is_stale(world: World) -> None:
    """Where Prometheus has nothing now but has of before, the load is that of before, and stale."""
    source = variant("v", {"only": world.pages.url("only")})
    # Enough of a past to have a rate.
    await world.small.until("count_over_time(vllm:num_requests_running[10m]) > 6")
    world.pages.closed.add("only")
    # Its age has to be told by more than a round.
    await world.small.until("sum_over_time(up[1500ms]) == 0")
    async with world.collecting(
        [source], "prometheus", prometheus=world.small, stale_after=0.0
    ) as (collector,):
        await collector.collect()
        observation = collector.observe(source)
    slack = await world.slack(span=6 * INTERVAL)
    assert traffic(observation).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.15 + slack)
    assert (observation.metrics, observation.complete) == ("MetricsStale", False)
    assert observation.age_seconds > INTERVAL


async def test_old_samples_are_stale_although_prometheus_serves_them(world: World) -> None:
    """Samples with a time of their own stay in answers for minutes: their age tells, not the answer's."""
    await world.scraped("old")
    source = variant("v", {"old": world.pages.url("old")}, model="old")
    assert await world.prometheus.ask('vllm:num_requests_running{pod="old"}')
    async with world.collecting([source], "prometheus", stale_after=0.0) as (collector,):
        await collector.collect()
        observation = collector.observe(source)
    assert observation.metrics == "MetricsStale"
    assert not observation.complete


async def test_targets_that_prometheus_no_longer_has_are_stale(world: World) -> None:
    """A target that is taken from Prometheus makes its variant stale, though the pod is there."""
    await world.scraped("leaves")
    source = variant("v", {"leaves": world.pages.url("leaves")})
    async with world.collecting([source], "prometheus", stale_after=0.0) as (collector,):
        await until([collector], lambda: collector.observe(source).metrics == "MetricsFound")
        world.prometheus.scrape(item for item in world.targets if item.pod != "leaves")
        try:
            await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
        finally:
            world.prometheus.scrape(world.targets)
        assert collector.observe(source).metrics == "MetricsStale"
        assert collector.prometheus_problem == ""


async def test_a_prometheus_that_hangs_is_said_and_survived(world: World) -> None:
    """Fresh numbers outlive one failed query; then the error is named, and forgotten once it answers."""
    pod = SPARES[1]
    await world.scraped(pod)
    source = variant("v", {pod: world.pages.url(pod)})
    # The window has to outlast what makes the metrics stale.
    async with world.collecting([source], "prometheus", window=240, timeout_seconds=3) as (
        collector,
    ):
        await until([collector], lambda: collector.observe(source).traffic is not None)
        async with world.prometheus.held():
            await collector.collect()
            assert collector.observe(source).metrics == "MetricsFound"
            assert collector.prometheus_problem
            await until([collector], lambda: collector.observe(source).metrics != "MetricsFound")
            observation = collector.observe(source)
        assert observation.metrics == "PrometheusError"
        assert "no response within 3 s" in observation.problem
        slack = await world.slack()
        assert traffic(observation).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1 + slack)
        await until(
            [collector],
            lambda: (
                collector.observe(source).metrics == "MetricsFound"
                and not collector.prometheus_problem
            ),
        )
        assert traffic(collector.observe(source)).arrival_rate_rps == pytest.approx(
            STEADY_RPS, rel=0.1 + slack
        )


async def test_a_prometheus_that_is_gone_is_said() -> None:
    """No target yet is missing metrics; no Prometheus any more is an error that names its address."""
    source = variant("v", {"p": "http://127.0.0.1:1/metrics"})
    settings = CollectionSettings(interval=INTERVAL, source="prometheus")
    async with aiohttp.ClientSession() as session:
        collector = Collector(session=session, clock=Clock(speed=SPEED), settings=settings)
        collector.use([source])
        async with prometheus_server.running() as server:
            collector.connect(PrometheusOptions(url=server.url))
            # A pod that has just come need not be there yet.
            await until([collector], lambda: "PodMonitor" in collector.observe(source).problem)
            assert collector.observe(source).metrics == "MetricsMissing"
        await collector.collect()
        observation = collector.observe(source)
        collector.close()
    assert observation.metrics == "PrometheusError"
    assert server.url in observation.problem

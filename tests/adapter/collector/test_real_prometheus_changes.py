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
    AGAIN,
    INTERVAL,
    LONG,
    MARKS,
    MODEL,
    SPARES,
    SPEED,
    STEADY_RPS,
    WINDOW,
    Served,
    World,
    rounds,
    steady,
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
    # The windows have to outlast a cycle of a busy machine; what they cover yet is no more.
    async with world.collecting([source], "auto", window=600, stale_after=600) as (collector,):

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
    pods = {pod: world.pages.url(pod) for pod in AGAIN}
    source = variant("v", pods)
    less = dataclasses.replace(source, endpoints=source.endpoints[1:], pods=source.pods[1:])
    again, other = (Served(MODEL) for _ in pods)
    rates: list[float] = []
    # What is older than rates are taken over is stale, as by default.
    async with world.collecting([source], "direct", "prometheus", stale_after=WINDOW) as collectors:

        def shared(*, by_both: bool) -> float:
            """Give both, or the other one alone, all of the load; the time of it."""
            again.gets(STEADY_RPS / 2 if by_both else 0)
            other.gets(STEADY_RPS / 2 if by_both else STEADY_RPS)
            return time.monotonic()

        def observed() -> list[Observation]:
            return [collector.observe(source) for collector in collectors]

        def known(after: float) -> bool:
            """Whether both know all of it up to that time; notes what they say."""
            seen = observed()
            whole = [one for one in seen if one.metrics == "MetricsFound" and one.complete]
            rates.extend(traffic(one).arrival_rate_rps for one in whole)
            oldest = time.monotonic() - max(one.age_seconds for one in seen) / SPEED
            return whole == seen and oldest > after

        for pod, served in zip(pods, (again, other), strict=True):
            served.starts()
            world.pages.pages[pod] = served.page
        began = shared(by_both=True)
        await world.scraped(*pods)
        await until(collectors, lambda: known(began + WINDOW / SPEED))
        rates.clear()  # one that was scraped once has none yet
        world.pages.closed.add(AGAIN[0])
        down = shared(by_both=False)
        unseen = max(one.age_seconds for one in observed())
        await world.prometheus.until(f'up{{pod="{AGAIN[0]}"}} == 0')
        missed = down + 20 / SPEED
        await until(collectors, lambda: not known(math.inf) and time.monotonic() > missed)
        again.starts()
        world.pages.closed.discard(AGAIN[0])
        back = shared(by_both=True)
        await until(collectors, lambda: known(back + WINDOW / SPEED))
        # It serves to the end what it has, and leaves.
        left = shared(by_both=False)
        await until(collectors, lambda: known(left))
        world.pages.closed.add(AGAIN[0])
        for collector in collectors:
            collector.use([less])
        source = less
        await until(collectors, lambda: known(left + WINDOW / 2 / SPEED))
        last = [traffic(one).arrival_rate_rps for one in observed()]
    # What the killed one, with half of the load, counted after it was heard last is lost with it.
    slack = await world.slack(pods="again-.*") + unseen / (2 * WINDOW)
    assert min(rates) > (0.9 - slack) * STEADY_RPS
    # Until a killed server is heard again it is taken to get what it got before, which the other one gets.
    assert max(rates) < (1.5 + slack) * STEADY_RPS
    assert last == pytest.approx([STEADY_RPS] * 2, rel=0.1 + slack)


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
        [source], "prometheus", prometheus=world.small, stale_after=0.0, window=LONG
    ) as (collector,):
        await collector.collect()
        observation = collector.observe(source)
    slack = await world.slack(span=6 * INTERVAL)
    assert traffic(observation).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.15 + slack)
    assert (observation.metrics, observation.complete) == ("MetricsStale", False)
    assert observation.age_seconds > INTERVAL


async def test_old_samples_are_stale_although_prometheus_serves_them(world: World) -> None:
    """Samples with a time of their own stay in answers for minutes: their age tells, not the answer's."""
    # A minute ago; what is older than five is in no answer, and a busy machine may take that long until here.
    minute = f" {int((time.time() - 60) * 1000)}"
    world.pages.pages["old"] = steady("old", timestamp=minute)
    source = variant("v", {"old": world.pages.url("old")}, model="old")
    await world.prometheus.until('vllm:num_requests_running{pod="old"}')
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

"""Load as a real Prometheus has it: the same as the pods say, at rest and under load."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import statistics
import time
from dataclasses import dataclass, field

import aiohttp
import pytest
import pytest_asyncio

from adapter.collector import exposition
from adapter.collector.model_servers import PodMetrics
from adapter.collector.observation import Observation
from adapter.collector.traffic import Traffic
from adapter.resources.variant import VariantSource
from tests.fakes.prometheus_world import (
    HANG_SECONDS,
    INTERVAL,
    LONG,
    MARKS,
    MODEL,
    SPEED,
    WINDOW,
    World,
    load,
    rounds,
    traffic,
    until,
    variant,
)

pytestmark = MARKS


@dataclass
class Scene:
    """What was seen while three emulated servers were under load and a fourth under too much.

    Attributes:
        seen: per round its scenario seconds, and per variant what direct and Prometheus gave.
        between: per look and pod the page before the query, that of Prometheus, and the page after.
        finished: of the fourth server, requests per minute.
        offered: requests per minute that came to each variant, by the servers' own counters.
        slack: how far rates may be off because the machine is busy, as a share.

    """

    variants: dict[str, VariantSource]
    idle: dict[str, list[Traffic]] = field(default_factory=dict)
    seen: list[tuple[float, dict[str, list[Observation]]]] = field(default_factory=list)
    between: list[tuple[str, PodMetrics, PodMetrics, PodMetrics]] = field(default_factory=list)
    late: dict[str, Observation] = field(default_factory=dict)
    quiet: list[tuple[str, PodMetrics, PodMetrics]] = field(default_factory=list)
    finished: float = 0.0
    offered: dict[str, float] = field(default_factory=dict)
    slack: float = 0.0

    def after_a_window(self, name: str) -> list[list[Traffic]]:
        """Of one variant, per round of the load after the first window."""
        return [
            [traffic(item) for item in observations[name]]
            for at, observations in self.seen
            if at > WINDOW + 5
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(world: World) -> Scene:
    """Two variants of one model in one namespace, and one whose server finishes 60 a minute."""
    a, b, full = ("a-0", "a-1"), ("b-0",), ("full-0",)
    variants = {
        name: variant(name, {pod: f"{world.url(pod)}/metrics" for pod in pods})
        for name, pods in (("a", a), ("b", b), ("full", full))
    }
    observed = Scene(variants)
    times = ("--alpha=90", "--beta=2", "--gamma=50", "--delta=0.5", "--max-batch=16")
    # Four requests at 20 tokens after the first: 20 * (180 + 4 * 5) ms = 4 s.
    slow = ("--alpha=180", "--beta=5", "--max-batch=4")
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(
            *(stack.enter_async_context(world.emulated(pod, *times)) for pod in (*a, *b)),
            *(stack.enter_async_context(world.emulated(pod, *slow)) for pod in full),
        )
        await world.scraped(*a, *b, *full)
        await _look_at_idle_servers(world, observed)
        seconds = WINDOW + 40
        # For as long as it is looked at, however slow the machine makes that.
        loads = [
            load(world, a, 60, HANG_SECONDS * SPEED),
            load(world, a, 90, HANG_SECONDS * SPEED, input_tokens=60, output_tokens=40),
            load(world, b, 60, HANG_SECONDS * SPEED),
            load(world, full, 120, HANG_SECONDS * SPEED, output_tokens=21),
        ]
        tasks = [asyncio.create_task(item.run()) for item in loads]
        await _look_at_busy_servers(world, observed, seconds)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await _settled(world)
        pages, through = await _direct_pages(world), await world.sampled()
        for pod, page in pages.items():
            other = through[pod].page
            assert other is not None
            observed.quiet.append((pod, page, other))
        assert [item.failed for item in loads] == [0, 0, 0, 0]
    return observed


async def _direct_pages(world: World) -> dict[str, PodMetrics]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(HANG_SECONDS):

        async def read(pod: str) -> PodMetrics:
            while True:
                # A busy machine may take longer than the limit of one scrape.
                with contextlib.suppress(exposition.ScrapeError):
                    return (await exposition.fetch(session, f"{world.url(pod)}/metrics", MODEL))[0]

        pods = ("a-0", "a-1", "b-0", "full-0")
        pages = await asyncio.gather(*(read(pod) for pod in pods))
        return dict(zip(pods, pages, strict=True))


async def _settled(world: World) -> None:
    """Wait until the servers are idle, and Prometheus has scraped them since."""
    async with asyncio.timeout(HANG_SECONDS):
        while any(page.stock for page in (await _direct_pages(world)).values()):  # noqa: ASYNC110 - it asks
            await asyncio.sleep(0.05)
    idle = time.time()
    series = 'vllm:num_requests_running{pod=~"a-0|a-1|b-0|full-0"}'
    await world.prometheus.until(f"count(timestamp({series}) > {idle}) == 4")


async def _look_at_idle_servers(world: World, scene: Scene) -> None:
    sources = list(scene.variants.values())
    # A window that outlasts a cycle of a busy machine: what is idle is so however long it is looked at.
    async with world.collecting(sources, "direct", "prometheus", window=LONG) as collectors:

        def idle_for_long() -> bool:
            observed = {
                name: [collector.observe(source).traffic for collector in collectors]
                for name, source in scene.variants.items()
            }
            scene.idle = {
                name: [one for one in both if one is not None and one.idle_seconds >= 10]
                for name, both in observed.items()
            }
            return all(len(both) == len(collectors) for both in scene.idle.values())

        await until(collectors, idle_for_long)


async def _look_at_busy_servers(world: World, scene: Scene, seconds: float) -> None:
    sources = list(scene.variants.values())
    async with world.collecting(sources, "direct", "prometheus") as collectors:
        started = None
        async for at in rounds(seconds - INTERVAL):
            await asyncio.gather(*(collector.collect() for collector in collectors))
            scene.seen.append(
                (
                    at,
                    {
                        name: [collector.observe(source) for collector in collectors]
                        for name, source in scene.variants.items()
                    },
                )
            )
            if at % 20 == 0:
                before = await _direct_pages(world)
                through = await world.sampled()
                after = await _direct_pages(world)
                for pod, page in before.items():
                    sampled = through[pod].page
                    assert sampled is not None
                    scene.between.append((pod, page, sampled, after[pod]))
            if at == INTERVAL:
                started = time.monotonic(), await _direct_pages(world)
        assert started is not None
        minutes = (time.monotonic() - started[0]) * SPEED / 60
        pages = await _direct_pages(world)
        scene.finished = (pages["full-0"].finished - started[1]["full-0"].finished) / minutes
        for name, pods in (("a", ("a-0", "a-1")), ("b", ("b-0",)), ("full", ("full-0",))):
            offered = sum(_offered(pages[pod]) - _offered(started[1][pod]) for pod in pods)
            scene.offered[name] = offered / minutes
        scene.slack = await world.slack()
        async with world.collecting(sources, "prometheus") as (late,):
            await late.collect()
            scene.late = {name: late.observe(item) for name, item in scene.variants.items()}


def _offered(page: PodMetrics) -> float:
    return page.finished + page.stock


COUNTERS = ("prompt_tokens", "generation_tokens", "ttft", "itl")


def counters(page: PodMetrics) -> list[float]:
    return [page.finished, *(value for name in COUNTERS for value in getattr(page, name))]


async def test_prometheus_lags_the_pods_and_nothing_else(scene: Scene) -> None:
    """Under load each counter by Prometheus lies between what the pod itself said before and after."""
    assert len(scene.between) >= 12
    grown = 0
    for pod, before, sampled, after in scene.between:
        # Prometheus may have asked an interval before we did: its page is no newer than ours after.
        assert all(
            one <= other + 1e-9
            for one, other in zip(counters(sampled), counters(after), strict=True)
        ), pod
        grown += counters(after) > counters(before)
    assert grown > 0
    looks = [item for item in scene.between if item[0] == "a-0"]
    for (_, earlier, _, _), (_, _, sampled, _) in itertools.pairwise(looks):
        assert all(
            one <= other + 1e-9
            for one, other in zip(counters(earlier), counters(sampled), strict=True)
        )


async def test_pages_at_rest_are_equal(scene: Scene) -> None:
    """Once nothing changes, every field of every pod's page is the same from both sources, to the bit.

    But for what comes of buckets, for which Prometheus is not queried: moments of lengths, latencies.
    """
    assert len(scene.quiet) == 4
    for pod, page, other in scene.quiet:
        assert page.input_moments is not None
        assert page.ttft_buckets is not None
        without = dataclasses.replace(
            page, input_moments=None, output_moments=None, ttft_buckets=None, itl_buckets=None
        )
        assert without == other, pod
        assert page.finished > 10, pod


@pytest.mark.parametrize(
    ("quantity", "share"),
    [
        # One scrape of twelve in the window may be in one and not in the other.
        ("arrival_rate_rps", 0.05),
        ("input_tokens", 0.05),
        ("output_tokens", 0.05),
        ("ttft_ms", 0.1),
        ("itl_ms", 0.02),
    ],
)
async def test_both_sources_agree_under_load(scene: Scene, quantity: str, share: float) -> None:
    """Direct scraping and Prometheus see the same of two pods under load, within the scrapes' offset."""
    skip_if_late(scene, 1.0)
    loads = scene.after_a_window("a")
    assert len(loads) >= 5
    direct, prometheus = (
        statistics.fmean(getattr(pair[index], quantity) for pair in loads) for index in (0, 1)
    )
    assert direct > 0
    assert prometheus == pytest.approx(direct, rel=share + scene.slack)


@pytest.mark.parametrize("name", ["ttft", "itl"])
async def test_percentiles_of_both_sources_agree(scene: Scene, name: str) -> None:
    """Prometheus' growth of the buckets has the percentiles of the pods' own, to about a bucket's width."""
    skip_if_late(scene)
    pairs = [[getattr(one, name) for one in pair] for pair in scene.after_a_window("a")]
    known = [pair for pair in pairs if pair[1].histogram is not None]
    assert len(known) >= len(pairs) / 2
    for share in (0.5, 0.95):
        direct, prometheus = (
            statistics.fmean(pair[index].quantile_ms(share) for pair in known) for index in (0, 1)
        )
        assert prometheus == pytest.approx(direct, rel=0.3)


@pytest.mark.parametrize("name", ["ttft", "itl"])
async def test_percentiles_of_prometheus_are_of_all_pods(scene: Scene, name: str) -> None:
    """No pod's buckets are missing in any query."""
    # One late scrape of a busy machine is a part that is missing in truth.
    skip_if_late(scene, 0.1)
    known = [getattr(pair[1], name) for pair in scene.after_a_window("a")]
    assert all(one.covered == 1.0 for one in known if one.histogram is not None)


@pytest.mark.parametrize("quantity", ["running", "kv_cache"])
async def test_gauges_are_those_that_the_servers_have_shown(scene: Scene, quantity: str) -> None:
    """Of other moments than direct scraping's, but between the least and the most that it ever saw."""
    skip_if_late(scene, 1.0)
    direct = [getattr(pair[0], quantity) for pair in scene.after_a_window("a")]
    prometheus = [getattr(pair[1], quantity) for pair in scene.after_a_window("a")]
    mean = statistics.fmean(prometheus)
    assert 0 < min(direct) <= max(direct)
    assert 0.5 * min(direct) <= mean <= 2 * max(direct)


def skip_if_late(scene: Scene, limit: float = 0.25) -> None:
    """Skip where the load generator was late by more than that share of a window: nothing can be judged."""
    if scene.slack > limit:
        late = f"{scene.slack:.0%} of a window on a busy machine"
        pytest.skip(f"the load generator was late: by {late}")


async def test_what_is_seen_is_what_is_sent(scene: Scene) -> None:
    """Rate, lengths and latencies of both sources are those of the load and of the servers' profiles."""
    skip_if_late(scene)
    for pair in scene.after_a_window("a"):
        for one in pair:
            rate = scene.offered["a"]
            assert one.arrival_rate_rps * 60 == pytest.approx(rate, rel=0.06 + scene.slack)
            # 60 a minute of 30 and 20 tokens, 90 of 60 and 40.
            assert one.input_tokens == pytest.approx(48, rel=0.06 + scene.slack)
            assert one.output_tokens == pytest.approx(32, rel=0.06 + scene.slack)
            assert one.itl_ms is not None
            # alpha at least; what is late on a busy machine is real latency
            assert one.itl_ms > 90
            assert one.ttft_ms is not None
            # gamma + delta * tokens at least
            assert one.ttft_ms > 65
            assert not one.idle


async def test_both_sources_agree_that_nothing_happens(scene: Scene) -> None:
    """Servers without load are idle for both, for about as long, with nothing running or waiting."""
    for direct, prometheus in scene.idle.values():
        for one in (direct, prometheus):
            assert one.idle
            assert (one.arrival_rate_rps, one.running, one.waiting, one.kv_cache) == (0, 0, 0, 0)
            assert one.ttft_ms is one.itl_ms is one.output_tokens is None
        late = 2 * INTERVAL + scene.slack * WINDOW
        assert prometheus.idle_seconds == pytest.approx(direct.idle_seconds, abs=late)


LATE_SLACK = 0.1
"""Lateness of the load generator, as a share of a window, beyond which a full server cannot be judged."""


@pytest.mark.parametrize("index", [0, 1], ids=["direct", "prometheus"])
async def test_a_full_server_shows_what_is_offered(scene: Scene, index: int) -> None:
    """What is offered to a server that finishes half of it is seen, within a tenth, not what it finishes."""
    skip_if_late(scene, LATE_SLACK)
    loads = [pair[index] for pair in scene.after_a_window("full")]
    assert len(loads) >= 5
    assert scene.finished < 0.75 * scene.offered["full"]
    for one in loads:
        rate = scene.offered["full"]
        assert one.arrival_rate_rps * 60 == pytest.approx(rate, rel=0.1 + scene.slack)
        assert one.output_tokens == 21
    # A Prometheus that misses a scrape on a busy machine has no gauges then, and the observation says so.
    looks = [seen["full"][index] for at, seen in scene.seen if at > WINDOW + 5]
    whole = [one for look, one in zip(looks, loads, strict=True) if look.complete]
    assert 2 * len(whole) > len(looks)
    assert {(one.running, one.kv_cache) for one in whole} == {(4, 1)}
    assert whole[-1].waiting > whole[0].waiting


async def test_variants_of_one_model_have_their_own_load(scene: Scene) -> None:
    """Two variants of one model in one namespace each have their own pods' load, by pod."""
    skip_if_late(scene)
    looks = [seen for at, seen in scene.seen if at > WINDOW + 5]
    for name in ("a", "b"):
        # A Prometheus that misses a scrape on a busy machine makes one look incomplete, and says so.
        complete = [seen[name] for seen in looks if seen[name][1].complete]
        assert 2 * len(complete) > len(looks)
        for direct, prometheus in complete:
            assert traffic(prometheus).arrival_rate_rps * 60 == pytest.approx(
                scene.offered[name], rel=0.06 + scene.slack
            )
            assert (prometheus.origin, prometheus.how) == ("prometheus", "pod")
            assert (direct.origin, direct.how) == ("direct", "")


async def test_a_late_collector_has_the_past(scene: Scene) -> None:
    """One that starts under load has the rate after one round, from what Prometheus has of before."""
    skip_if_late(scene)
    for name in ("a", "b"):
        late = scene.late[name]
        assert late.metrics == "MetricsFound"
        assert traffic(late).arrival_rate_rps * 60 == pytest.approx(
            scene.offered[name], rel=0.08 + scene.slack
        )
        assert traffic(late).output_tokens == pytest.approx(
            {"a": 32, "b": 20}[name], rel=0.06 + scene.slack
        )

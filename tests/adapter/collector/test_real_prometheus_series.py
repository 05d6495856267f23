"""Series as a real Prometheus has them: pages of every version, gateways, labels that are missing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import pytest

from adapter.collector import exposition, promql
from adapter.collector.collector import Collector
from adapter.collector.model_servers import PodMetrics
from adapter.collector.pickers.loads import InFlight
from adapter.collector.servers.ranks import Rank
from adapter.resources.variant import VariantSource
from tests.fakes.prometheus_world import (
    BACKFILL,
    FLEET,
    GATEWAY,
    GATEWAYS,
    INTERVAL,
    MARKS,
    RECORDED,
    SPARES,
    STEADY_RPS,
    TEAM,
    World,
    recorded,
    rounds,
    traffic,
    until,
    variant,
)

pytestmark = MARKS


def stocks(engines: Sequence[Rank]) -> dict[str, tuple[float, float]]:
    """Requests in service and in the queue of each engine that a page shows."""
    return {rank.name: (rank.running, rank.waiting) for rank in engines}


@pytest.mark.parametrize("name", sorted(RECORDED))
async def test_promql_reads_a_page_as_the_scraper_does(world: World, name: str) -> None:
    """Every recorded page: engines, ranks, pids, priorities and old names give the same from both."""
    await world.scraped(name)
    model = RECORDED[name]["model"]
    expected = exposition.parse(recorded(name), model, name)
    sampled = (await world.sampled())[name]
    assert (sampled.namespace, sampled.model, sampled.problem) == (TEAM, model, "")
    assert sampled.page is not None
    for item in dataclasses.fields(PodMetrics):
        if item.name.endswith(("_moments", "_buckets")):
            continue  # Prometheus is not queried for buckets
        if item.name == "ranks":
            assert stocks(sampled.page.ranks) == stocks(expected.ranks)  # of fewer numbers each
            continue
        one, other = getattr(sampled.page, item.name), getattr(expected, item.name)
        # Sums of engines are added up in another order.
        assert one == (None if other is None else pytest.approx(other, rel=1e-12)), item.name
        if item.name == "idle_seconds":
            assert one == (40.0 if "sglang" in name else 0.0)
            continue
        written = item.name.replace("kv_cache", "kv_cache_usage")
        known = RECORDED[name][written]
        assert one == (None if known is None else pytest.approx(known)), item.name


@pytest.mark.parametrize("name", sorted(GATEWAYS))
async def test_gateways_count_each_model_once(world: World, name: str) -> None:
    """Requests and queue of the model served in the end, over priorities; two names count once."""
    await world.scraped(name)
    async with world.connected() as client:
        counts = promql.models((await client.query(promql.gateways())).samples)
    ours = {
        item.model: (item.requests, item.waiting)
        for item in counts
        if item.namespace == name and item.model
    }
    assert ours == {"Qwen/Qwen3-8B": (177 + 59, 4 + 1), "sql-lora-2": (42, 0)}


async def test_pools_have_their_load(world: World) -> None:
    """Requests in flight, saturation and what was turned away without a model, as pages have them."""
    name = "epp-0.11"
    await world.scraped(name)
    async with world.connected() as client:
        samples = (await client.query(promql.gateways())).samples
    load = promql.pool_load(samples, {"Qwen/Qwen3-8B"}, None)
    assert load.in_flight[name, "qwen3-0"] == InFlight(13.0, 13300.0)
    assert {space for space, _ in load.in_flight} == {name}
    assert load.saturation[name, "Qwen/Qwen3-8B"]["effective"] == 1.08
    (unnamed,) = [item for item in promql.models(samples) if not item.model]
    assert unnamed.rejected == 15.0


@pytest.mark.parametrize(
    ("pods", "model", "how"),
    [
        pytest.param({"nameless": "http://127.0.0.1:1/"}, "nameless", "pod without namespace"),
        pytest.param({"bare-7": "bare"}, "bare", "address"),
        pytest.param({}, "unknown", "model"),
    ],
)
async def test_series_without_labels_are_attributed(
    world: World, pods: dict[str, str], model: str, how: str
) -> None:
    """Series without namespace or pod are found by name, by address, or by model, and that is said."""
    pods = {
        pod: world.pages.url(url, door=1) if url == "bare" else url for pod, url in pods.items()
    }
    source = variant("v", pods, model=model)
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: collector.observe(source).traffic is not None)
        observation = collector.observe(source)
    assert (observation.origin, observation.how) == ("prometheus", how)
    # Its window begins with what Prometheus has of before, some scrapes at least.
    slack = await world.slack(span=4 * INTERVAL)
    assert traffic(observation).arrival_rate_rps == pytest.approx(STEADY_RPS, rel=0.1 + slack)


async def test_a_pod_that_two_jobs_scrape_counts_once(world: World) -> None:
    """Series of one pod under two jobs are one pod's load, not two pods'."""
    await world.scraped("twice")
    source = variant("v", {"twice": world.pages.url("twice")})
    assert len(await world.prometheus.ask('vllm:num_requests_running{pod="twice"}')) == 2
    async with world.collecting([source], "prometheus") as (collector,):
        await until([collector], lambda: collector.observe(source).traffic is not None)
        async for _ in rounds(20):
            await collector.collect()
            load = traffic(collector.observe(source))
            assert load.running == 1
            # Two pods' load would be twice that.
            assert load.arrival_rate_rps < 1.5 * STEADY_RPS * (1 + await world.slack())


def _all_found(collector: Collector, variants: Sequence[VariantSource]) -> bool:
    return {collector.observe(one).metrics for one in variants} == {"MetricsFound"}


async def test_the_variation_of_lengths_is_read_too(world: World) -> None:
    """Sampled from the histograms: as the pod itself shows it, and none where there are no histograms."""
    await world.scraped("varied")
    sources = [variant(pod, {pod: world.pages.url(pod)}) for pod in ("varied", SPARES[0])]
    async with world.collecting(sources, "prometheus", "direct") as (through, direct):

        def known() -> bool:
            seen = [collector.observe(sources[0]).traffic for collector in (through, direct)]
            return all(one is not None and one.input_cv is not None for one in seen)

        await until([through, direct], known)
        one, other = (traffic(collector.observe(sources[0])) for collector in (through, direct))
        assert one.input_cv == pytest.approx(other.input_cv, abs=0.15)
        assert (one.input_cv or 0.0) > 0.5
        assert one.output_cv == pytest.approx(0.0, abs=0.1)
        bare = traffic(through.observe(sources[1]))
        assert (bare.input_cv, bare.output_cv) == (None, None)


async def test_queries_do_not_grow_with_the_fleet(world: World) -> None:
    """A round of twenty variants asks as often as one of a single variant."""
    await world.scraped(*SPARES)
    everyone = [variant(pod, {pod: world.pages.url(pod)}) for pod in SPARES]
    for variants in (everyone[:1], everyone):
        async with world.collecting(variants, "prometheus") as (collector,):
            await collector.collect()
            asked = collector.counts["queries"]
            # Lengths and latencies have intervals of their own: one more may fall due.
            assert asked - (FLEET + GATEWAY + BACKFILL) in {0, 1}
            for _ in range(3):
                await collector.collect()
            assert collector.counts["queries"] - (asked + 3 * (FLEET + GATEWAY)) in {0, 1, 2}
            await until([collector], functools.partial(_all_found, collector, variants))
            assert collector.counts["scrapes"] == collector.counts["query_failures"] == 0

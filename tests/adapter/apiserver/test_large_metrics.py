"""Metrics of a large fleet: written in parts, between which other requests are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapter import tasks
from adapter.apiserver.probes import PART_SAMPLES, Probes

COUNT = 3 * PART_SAMPLES + 7


class Fleet(Collector):
    """A gauge and a counter of many variants."""

    def collect(self) -> Iterable[Metric]:
        """Both, with a text of several lines."""
        gauge = GaugeMetricFamily("fleet", "One line.\nAnother \\ one.", labels=["name"])
        counter = CounterMetricFamily("scaled", "Decisions.", labels=["name"])
        for number in range(COUNT):
            gauge.add_metric([f'v"{number}'], number / 3)
            counter.add_metric([f"v{number}"], number)
        return gauge, counter


@pytest.fixture
def registry() -> CollectorRegistry:
    """Large families, small ones, and some whose samples stand at the end of the text."""
    registry = CollectorRegistry()
    registry.register(Fleet())
    seconds = Histogram("seconds", "Durations.", ["of"], registry=registry)
    requests = Counter("requests", "Requests.", ["of"], registry=registry)
    for number in range(PART_SAMPLES):
        seconds.labels(str(number)).observe(number)
        requests.labels(str(number)).inc()
    return registry


async def test_the_parts_are_the_whole(registry: CollectorRegistry) -> None:
    """The text is the one that the library writes at once."""
    assert await Probes(registry, {}).metrics() == generate_latest(registry)


async def test_others_have_their_turn_meanwhile(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two parts of one family too."""
    monkeypatch.setattr(tasks, "PIECE_SECONDS", 0.0)
    written = asyncio.create_task(Probes(registry, {}).metrics())
    turns = 0
    while not written.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 2 * tasks.TURNS * (COUNT // PART_SAMPLES)


async def test_who_asks_meanwhile_waits_for_his_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds who ask at once would each have the numbers of the whole fleet in memory."""
    monkeypatch.setattr(tasks, "PIECE_SECONDS", 0.0)
    written, most = 0, 0

    class Watched(Collector):
        """Counts the answers that are being made."""

        def collect(self) -> Iterable[Metric]:
            nonlocal written, most
            written += 1
            most = max(most, written)
            yield GaugeMetricFamily("first", "One.", value=1)
            yield GaugeMetricFamily("last", "Another.", value=2)
            written -= 1

    registry = CollectorRegistry()
    registry.register(Watched())
    probes = Probes(registry, {})
    texts = await asyncio.gather(*(probes.metrics() for _ in range(5)))
    assert texts == 5 * [generate_latest(registry)]
    assert most == 1

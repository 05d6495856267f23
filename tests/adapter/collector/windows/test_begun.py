"""Lengths of the requests that begin, where those that finish are shorter or longer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.totals import LENGTH_BOUNDS, Moments
from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows.begun import weights
from adapter.collector.windows.growth import EMPTY, Growth, Sample, finished, growth_of, mean
from analyzer.replicas import FloatArray

PACE_SECONDS = 0.02
MEAN, CV = 1400.0, 1.1
WINDOW, LONG = 60, 180


def pages(began: FloatArray, tokens: FloatArray, times: range) -> Iterator[tuple[int, PodMetrics]]:
    """Pages of a server whose requests began then, each with a token every `PACE_SECONDS`."""
    for now in times:
        here = began <= now
        made = np.minimum((now - began[here]) / PACE_SECONDS, tokens[here])
        ended = np.sort(tokens[here][made >= tokens[here]])
        total, count = float(ended.sum()), float(ended.size)
        up_to = np.searchsorted(ended, LENGTH_BOUNDS, side="right").astype(float)
        yield (
            now,
            replace(
                EMPTY,
                finished=count,
                running=float(here.sum()) - count,
                prompt_tokens=(100.0 * count, count),
                generation_tokens=(total, count),
                ttft=(0.0, float(here.sum())),
                itl=(float(made.sum()) * PACE_SECONDS, float(made.sum())),
                output_moments=Moments(
                    total, float((ended**2).sum()), count, by_length=tuple(up_to.tolist())
                ),
            ),
        )


def drawn(
    rates: list[tuple[int, float]], seed: int, cv: float = CV
) -> tuple[FloatArray, FloatArray]:
    """Times at which requests began, by lengths of time and their requests per second, and their tokens."""
    random = np.random.default_rng(seed)
    start, parts = 0.0, []
    for seconds, rate in rates:
        parts.append(start + np.sort(random.random(random.poisson(rate * seconds))) * seconds)
        start += seconds
    began: FloatArray = np.concatenate(parts)
    sigma = np.sqrt(np.log(1.0 + cv * cv))
    return began, np.ceil(random.lognormal(np.log(MEAN) - sigma * sigma / 2.0, sigma, began.size))


def estimates(rates: list[tuple[int, float]], at: int, seed: int) -> tuple[float, float]:
    """Mean tokens over the long window at a time: of those that finished, and weighted; one over `MEAN`."""
    began, tokens = drawn(rates, seed)
    shown = list(pages(began, tokens, range(max(at - LONG, 0), at + 1, 15)))
    growths = [
        growth_of("pod", Sample(before, page), after, now, None)
        for (before, page), (now, after) in pairwise(shown)
    ]
    recent = [growth for growth in growths if growth.at > at - WINDOW]
    starts = (at - LONG, at - WINDOW)
    factors = weights(growths, recent, shown[-1][1].running, starts, CV)
    seen = mean([growth.generation_tokens for growth in growths])
    assert factors is not None
    assert seen is not None
    return seen / MEAN, factors[0].mean * seen / MEAN


@pytest.mark.parametrize(
    ("rates", "at", "seen", "weighted"),
    [
        pytest.param([(60, 11.0)], 60, (0.4, 0.7), (0.8, 1.1), id="the first minute"),
        pytest.param(
            [(300, 5.0), (60, 12.0), (60, 19.0), (60, 26.0)],
            480,
            (0.8, 0.93),
            (0.93, 1.07),
            id="rise",
        ),
        pytest.param([(400, 20.0), (180, 5.0)], 520, (1.1, 1.3), (0.93, 1.1), id="fall"),
        pytest.param([(900, 11.0)], 900, (0.93, 1.07), (0.93, 1.07), id="constant"),
    ],
)
def test_the_mean_is_that_of_those_that_begin(
    rates: list[tuple[int, float]],
    at: int,
    seen: tuple[float, float],
    weighted: tuple[float, float],
) -> None:
    """On average over draws: who finishes is shorter in a rise, and longer in a fall."""
    means = np.mean([estimates(rates, at, seed) for seed in range(8)], axis=0)
    assert seen[0] < means[0] < seen[1]
    assert weighted[0] < means[1] < weighted[1]


def growths_of(began: FloatArray, tokens: FloatArray, seconds: int) -> list[Growth]:
    """What its pod counted from its start on."""
    shown = [(0, EMPTY), *pages(began, tokens, range(15, seconds + 1, 15))]
    return [
        growth_of("pod", Sample(before, page), after, now, None)
        for (before, page), (now, after) in pairwise(shown)
    ]


def test_equal_lengths_are_those_of_the_first() -> None:
    """Half of the requests have not finished, and are as long as those that have."""
    began = np.arange(0.0, 60.0, 0.1)
    growths = growths_of(began, np.full(began.size, MEAN), 60)
    assert finished(growths) < 0.6 * began.size
    factors = weights(growths, growths, began.size - finished(growths), (0.0, 0.0), 0.0)
    assert factors is not None
    assert factors[0].mean == 1.0


def test_too_few_or_without_a_histogram() -> None:
    """Nothing is said."""
    began = np.arange(0.0, 60.0, 0.1)
    growths = growths_of(began, np.full(began.size, 10.0), 60)
    bare = [replace(growth, output_moments=Moments(0.0, 0.0, 0.0)) for growth in growths]
    assert weights(bare, bare, 0.0, (0.0, 0.0), CV) is None
    few = growths_of(began[:9], np.full(9, 10.0), 60)
    assert weights(few, few, 0.0, (0.0, 0.0), CV) is None


def test_a_new_pod_counts_since_the_window_began() -> None:
    """Its first sample is since it was started, ten minutes before: load was constant all the same."""
    began, tokens = drawn([(900, 11.0)], seed=2)
    shown = list(pages(began, tokens, range(720, 901, 15)))
    window = TrafficWindow(window_seconds=WINDOW, long_seconds=LONG)
    for now, page in shown:
        window.add("old", page, now=now)
    before = window.traffic(now=900)
    window.add("new", EMPTY, now=900, started=300)
    after = window.traffic(now=900)
    assert before is not None
    assert after is not None
    assert before.steady is not None
    assert after.steady is not None
    assert after.steady.output_tokens == pytest.approx(before.steady.output_tokens, rel=0.02)


def test_a_window_shows_the_lengths_of_those_that_begin() -> None:
    """In its mean, the steady mean, and the variation."""
    began, tokens = drawn([(60, 11.0)], seed=3)
    window = TrafficWindow(window_seconds=WINDOW, long_seconds=LONG)
    for now, page in [(0, EMPTY), *pages(began, tokens, range(15, 61, 15))]:
        window.add("a", page, now=now)
    traffic = window.traffic(now=60)
    assert traffic is not None
    assert traffic.steady is not None
    assert traffic.output_tokens is not None
    seen = mean([page.generation_tokens for _, page in pages(began, tokens, range(60, 61))])
    assert seen is not None
    assert traffic.output_tokens > 1.2 * seen
    assert traffic.steady.output_tokens == pytest.approx(traffic.output_tokens, rel=0.05)


def test_pods_without_a_histogram_are_no_longer_requests() -> None:
    """Half of the pods show no lengths, from the first request on: the others' are those of all."""
    growths = growths_of(*drawn([(90, 11.0)], seed=4), 90)
    bare = [replace(item, output_moments=Moments(0.0, 0.0, 0.0)) for item in growths]
    running = drawn([(90, 11.0)], seed=4)[0].size - finished(growths)
    alone = weights(growths, growths, running, (0.0, 0.0), CV)
    mixed = weights([*growths, *bare], [*growths, *bare], 2.0 * running, (0.0, 0.0), CV)
    assert alone is not None
    assert mixed is not None
    assert mixed[0].mean == pytest.approx(alone[0].mean, rel=0.1)

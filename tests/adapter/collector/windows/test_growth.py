"""Lengths while fewer requests have finished than run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.windows.growth import EMPTY, Growth, Sample, growth_of, longer, most_there

PAGE = replace(
    EMPTY,
    finished=4.0,
    running=16.0,
    generation_tokens=(200.0, 4.0),
    ttft=(2.0, 20.0),
    itl=(30.0, 1180.0),
)


def growth() -> Growth:
    """4 of 20 requests have finished with 50 tokens each; all together have generated 1,200."""
    return growth_of("pod", Sample(0.0, EMPTY), PAGE, 30.0, None)


def test_the_first_to_finish_are_the_short_ones() -> None:
    """1,200 tokens over 4 requests are 300 each, six times 50; at most what their variation allows."""
    assert longer([growth()], 16.0, 50.0, 3.0) == pytest.approx(6.0)
    assert longer([growth()], 16.0, 50.0, 0.8) == pytest.approx(2.6)


def test_equal_lengths_do_not_mislead() -> None:
    """Whoever finishes first then is as long as the others."""
    assert longer([growth()], 16.0, 50.0, 0.0) == 1.0


def test_where_enough_have_finished_their_mean_counts() -> None:
    """As soon as as many as run."""
    assert longer([growth()], 4.0, 50.0, 0.8) == 1.0


def untimed(finished: float) -> PodMetrics:
    """A page of a server that times no tokens, with two requests in service."""
    return replace(
        EMPTY, finished=finished, running=2.0, prompt_tokens=(200.0 * finished, finished)
    )


def test_what_comes_after_copies_of_a_page_came_since_the_first_one() -> None:
    """A proxy keeps each page for 30 s: 15 requests of that time are not those of 10 s."""
    sample = Sample(0.0, untimed(100.0))
    for at in (10.0, 20.0):
        sample = sample.next(untimed(100.0), at)
    grown = growth_of("pod", sample, untimed(115.0), 30.0, None)
    assert (grown.since, grown.arrivals) == (0.0, 15.0)


def test_what_a_page_had_that_stood_ends_when_it_moves() -> None:
    """Two long answers end and more requests come: the page that stood said the truth."""
    sample = Sample(0.0, untimed(100.0)).next(untimed(100.0), 10.0)
    grown = growth_of("pod", sample, replace(untimed(102.0), running=9.0), 20.0, None)
    assert (grown.since, grown.arrivals) == (10.0, 9.0)


def test_the_most_requests_that_were_there_at_once() -> None:
    """Each pod's own page with most of them counts, though it has none now."""
    grown = [
        growth_of(pod, Sample(0.0, EMPTY), replace(EMPTY, waiting=waiting), 10.0, None)
        for pod, waiting in (("a", 30.0), ("a", 0.0), ("b", 5.0))
    ]
    assert most_there(grown) == 35.0


@pytest.mark.parametrize(
    ("total", "count", "grown"),
    [
        (2200.0, 11.0, (200.0, 1.0)),
        (400.0, 2.0, (400.0, 2.0)),
        (2200.0, 2.0, (0.0, 0.0)),
        (400.0, 11.0, (0.0, 0.0)),
    ],
    ids=["both go on", "both began anew", "the count alone", "the sum alone"],
)
def test_a_sum_and_a_count_of_which_one_fell_say_nothing_of_lengths(
    total: float, count: float, grown: tuple[float, float]
) -> None:
    """SGLang's are two series; a histogram that has a new name begins with both."""
    before = replace(EMPTY, finished=10.0, prompt_tokens=(2000.0, 10.0))
    after = replace(before, finished=11.0, prompt_tokens=(total, count))
    assert growth_of("pod", Sample(0.0, before), after, 10.0, None).prompt_tokens == grown

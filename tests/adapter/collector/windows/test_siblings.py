"""Addresses of one pod whose pages do not say when their processes started: one server, or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from adapter.collector.attribution import Attribution
from adapter.collector.model_servers import PodMetrics
from adapter.collector.windows.siblings import Siblings
from tests.adapter.collector.test_servers_in_prometheus import OWN, PAGE, VARIANT, sampled

Done = Callable[[float], float]
"""Requests that a server has finished by a time."""


def page(done: float) -> PodMetrics:
    """A page after so many requests."""
    return dataclasses.replace(
        PAGE, finished=done, generation_tokens=(178.0 * done, done), ttft=(0.05 * done, done)
    )


def servers(first: Done, second: Done, times: Iterable[tuple[float, float]]) -> list[int]:
    """Number of servers that count after each pair of scrapes, at these times."""
    siblings, numbers = Siblings(), []
    for one, other in times:
        rows = [
            dataclasses.replace(sampled(port, None), page=page(done(at)), sampled_at=at)
            for port, done, at in ((8000, first, one), (8001, second, other))
        ]
        attributed = Attribution([VARIANT], siblings).attribute(rows)
        assert attributed[0].endpoint == OWN
        numbers.append(len(attributed))
    return numbers


def every(seconds: float, offset: float, number: int = 12) -> list[tuple[float, float]]:
    """Times of scrapes of two addresses, the second one later by an offset."""
    return [(seconds * at, seconds * at + offset) for at in range(number)]


@pytest.mark.parametrize("offset", [0.0, 2.0, 7.0, 13.0])
@pytest.mark.parametrize("seconds", [5.0, 15.0, 60.0])
def test_one_server_at_two_addresses_counts_once(seconds: float, offset: float) -> None:
    """Whatever lies between the scrapes, and though a page is written a while after its scrape began."""

    def done(at: float) -> float:
        return 2.0 * at

    assert set(servers(done, lambda at: done(at + 3.0), every(seconds, offset))) == {1}


@pytest.mark.parametrize("offset", [0.0, 2.0, 7.0, 13.0])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(lambda at: 1000 + 2 * at, lambda at: 3000 + 2 * at, id="second-is-ahead"),
        pytest.param(lambda at: 3000 + 2 * at, lambda at: 1000 + 2 * at, id="second-is-behind"),
        pytest.param(lambda at: 1000 + 2 * at, lambda _: 500.0, id="second-is-idle"),
    ],
)
def test_two_servers_count_twice_after_a_few_looks(
    first: Done, second: Done, offset: float
) -> None:
    """And go on to."""
    numbers = servers(first, second, every(15.0, offset))
    assert set(numbers[4:]) == {2}


def test_a_restart_between_two_scrapes_is_no_second_server() -> None:
    """Its counters fall at both addresses, at one of them a look earlier."""

    def done(at: float) -> float:
        return 1000 + 2 * at if at < 65 else 2 * (at - 65)

    assert set(servers(done, done, every(15.0, 7.0))) == {1}


@pytest.mark.parametrize("offset", [0.0, 7.0])
@pytest.mark.parametrize("dropped", [("ttft",), ("generation_tokens",), ("ttft", "finished")])
def test_a_job_that_drops_series_shows_no_second_server(
    dropped: tuple[str, ...], offset: float
) -> None:
    """A counter that is not there reads as 0, and is no smaller one."""
    siblings = Siblings()
    for look in range(12):
        first, second = 15.0 * look, 15.0 * look + offset
        whole, part = page(1000 + 2 * first), page(1000 + 2 * second)
        absent: dict[str, Any] = {
            name: 0.0 if name == "finished" else (0.0, 0.0) for name in dropped
        }
        siblings.note("e", "whole", whole, at=first)
        siblings.note("e", "part", dataclasses.replace(part, **absent), at=second)
    assert not siblings.apart("e", "whole", "part")


def test_a_restart_to_zero_at_the_address_that_is_scraped_more_often() -> None:
    """Whose counters have grown again before the other address shows any fall."""

    def done(at: float) -> float:
        return 1000 + 2 * at if at < 62 else max(0.0, 2 * (at - 67))

    siblings = Siblings()
    looks = [(5.0 * number, "often") for number in range(60)]
    looks += [(60.0 * number + 1, "seldom") for number in range(5)]
    for at, address in sorted(looks):
        siblings.note("e", address, page(done(at)), at=at)
    assert not siblings.apart("e", "often", "seldom")


def test_other_pods_are_forgotten() -> None:
    """What is known of a pod goes with it."""
    siblings = Siblings()
    for at in range(6):
        siblings.note("e", "a", page(10.0 * at), at=15.0 * at)
        siblings.note("e", "b", page(1000.0), at=15.0 * at + 7)
    assert siblings.apart("e", "a", "b")
    siblings.retain(["f"])
    assert not siblings.apart("e", "a", "b")

"""Requests in service that only a gauge shows are not counted, and those that are served are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.service import Service
from tests.adapter.collector.servers.gauges.test_queue import BATCH, SECONDS, page

SERVED_SECONDS, TOKENS = 4.0, 100


def idle(pages: Iterable[PodMetrics]) -> list[float]:
    """What each page after the first has in its gauge and not in service, as far as is known."""
    return idle_of(map(with_first_tokens, pages))


def with_first_tokens(one: PodMetrics) -> PodMetrics:
    """A page of one process on which two that have not ended have had a first token."""
    return replace(one, ttft=(one.ttft[0], one.ttft[1] + 2.0), started_at=1.0)


def idle_of(pages: Iterable[PodMetrics]) -> list[float]:
    """The same of these pages as they are."""
    service, (before, *others) = Service(most=2.0), pages
    amounts = []
    for each in others:
        service.note(before, each, seconds=SECONDS, batch=BATCH)
        amounts.append(service.doubted)
        before = each
    return amounts


@pytest.mark.parametrize("running", [8.0, 14.0, 25.0, 60.0])
def test_a_jump_of_requests_in_service_counts_when_they_get_tokens(running: float) -> None:
    """As many are not in prefill at once as first tokens take; who goes on is seen by first tokens."""
    more = running - 2.0
    stands = [page(at, 0.0, running=running if at else 2.0) for at in range(5)]
    assert idle(stands) == [more] * 4
    # Of those that came a moment before the page, the next one has the first tokens.
    serves = [
        replace(one, ttft=(1.0 * at, 5.0 * at + (more if at > 1 else 0.0)))
        for at, one in enumerate(stands)
    ]
    assert idle(serves) == [more, 0.0, 0.0, 0.0]
    assert idle([*stands, page(5, 0.0)])[-1] == 0.0


def test_those_whose_tokens_are_timed_are_in_service() -> None:
    """Whatever became of the count of first tokens."""
    gauge = [page(at, 0.0, running=22.0 if at else 2.0) for at in range(4)]
    timed = [
        replace(one, itl=(one.itl[0] + 20.0 * SECONDS * max(at - 1, 0), one.itl[1]))
        for at, one in enumerate(gauge)
    ]
    assert idle(timed) == [20.0, 0.0, 0.0]


def served(
    rates: Iterable[float], *, prefill: float, errors: float = 0.0, seed: int = 1
) -> Iterator[PodMetrics]:
    """Pages of a server with Poisson arrivals at a rate for each; `errors`: share that ends in prefill."""
    random = np.random.default_rng(seed)
    came = np.sort(
        np.concatenate(
            [
                SECONDS * (at + random.random(random.poisson(rate * SECONDS)))
                for at, rate in enumerate(rates)
            ]
        )
    )
    failed = random.random(len(came)) < errors
    first = came + prefill
    ends = np.where(failed, first, first + SERVED_SECONDS * random.gamma(2.0, 0.5, len(came)))
    for at in range(1, len(list(rates)) + 1):
        now = at * SECONDS
        begun, ended = (first <= now) & ~failed, ends <= now
        decoded = float(np.clip(now - first, 0.0, ends - first).sum())
        yield PodMetrics(
            finished=float(ended.sum()), running=float(((came <= now) & ~ended).sum()), waiting=0.0,
            prompt_tokens=(0.0, 0.0), generation_tokens=(TOKENS * ended.sum(), float(ended.sum())),
            ttft=(prefill * begun.sum(), float(begun.sum())),
            itl=(decoded, TOKENS * decoded / SERVED_SECONDS), kv_cache=0.2, started_at=1.0,
        )  # fmt: skip


@pytest.mark.parametrize("prefill", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("rate", [0.5, 3.0, 20.0])
def test_no_request_of_a_steady_load_is_doubted(rate: float, prefill: float) -> None:
    """By chance more are in prefill at some pages than at others."""
    doubted = [
        amount
        for seed in range(5)
        for amount in idle(served([rate] * 100, prefill=prefill, seed=seed))
    ]
    assert sum(amount > 0 for amount in doubted) <= 1


@pytest.mark.parametrize("prefill", [0.05, 0.5, 2.0])
def test_a_load_that_rises_five_times_counts_at_once(prefill: float) -> None:
    """But for those in prefill, for a page at most."""
    rates = [2.0] * 20 + [10.0] * 10
    for seed in range(5):
        doubted = idle(served(rates, prefill=prefill, seed=seed))
        assert set(doubted[:19]) == set(doubted[20:]) == {0.0}
        assert doubted[19] <= 2.0 * 10.0 * prefill


def test_requests_that_end_in_prefill_hold_nothing_back() -> None:
    """They end without a first token, a tenth of all; what is in service counts within a few pages."""
    rates = [4.0] * 40 + [12.0] * 20
    for seed in range(5):
        doubted = idle(served(rates, prefill=0.2, errors=0.1, seed=seed))
        assert sum(amount > 0 for amount in doubted) <= 6
        assert doubted[-1] == 0.0


@pytest.mark.parametrize("rate", [4.0, 6.0])
def test_first_tokens_that_are_counted_as_requests_end_say_nothing(rate: float) -> None:
    """trtllm-serve counts both at once, and so does Triton without streams: all in service count at once."""
    rates = [2.0] * 20 + [rate] * 20
    for seed in range(5):
        pages = [
            replace(one, ttft=(0.05 * one.finished, one.finished), itl=(0.0, 0.0))
            for one in served(rates, prefill=0.05, seed=seed)
        ]
        assert set(idle_of(pages)) == {0.0}


def test_requests_that_were_preempted_come_back_without_a_first_token() -> None:
    """Twenty wait for most of the time, as the KV cache is full, and are in service again for one page."""
    pages = [
        replace(
            one, running=100.0 if at % 10 == 0 else 80.0, waiting=0.0 if at % 10 == 0 else 20.0,
            ttft=(one.ttft[0], one.ttft[1] + 100.0), preemptions=20.0 * (1 + at // 10),
        )
        for at, one in enumerate(page(at, 0.0) for at in range(40))
    ]  # fmt: skip
    assert set(idle_of(pages)) == {0.0}


def test_a_gauge_that_is_older_than_the_counters_is_no_jump() -> None:
    """SGLang sets it every 40 steps: twelve that came just before a page are in it on the next one."""
    late = [
        replace(one, running=2.0 + 12.0 * (at == 6), ttft=(one.ttft[0], one.ttft[1] + 2.0 + came))
        for at, one in enumerate(page(at, 0.0) for at in range(7))
        for came in [12.0 * (at >= 5)]
    ]
    assert set(idle_of(late)) == {0.0}


def test_prefill_that_takes_long_is_known_from_the_pages_before() -> None:
    """Prompts of seconds: eight are computed where three are usual, and none is done between two pages."""
    pages = [
        replace(
            one, running=12.0 if at == 8 else 5.0, started_at=1.0,
            ttft=(30.0 * min(at, 7), 5.0 * min(at, 7) + 4.0), finished=5.0 * min(at, 7),
        )
        for at, one in enumerate(page(at, 0.0) for at in range(9))
    ]  # fmt: skip
    assert set(idle_of(pages)) == {0.0}


def computed(*caches: float, running: float = 42.0) -> list[float]:
    """What is not in service of a crowd without first tokens, by the cache in use on each page."""
    usual = [replace(page(at, 0.0), kv_cache=0.04) for at in range(6)]
    crowd = [replace(usual[-1], running=running, kv_cache=cache) for cache in caches]
    return idle([*usual, *crowd])[len(usual) - 1 :]


def test_prompts_that_are_computed_side_by_side_count_by_the_cache_they_hold() -> None:
    """Forty of 30,000 tokens, in parts of hundreds: no first token for minutes, and the KV cache fills."""
    assert computed(0.06, 0.09, 0.12, 0.15, 0.18) == [40.0, 0.0, 0.0, 0.0, 0.0]
    # By chance two hold twice as much as usual, or there are none.
    assert computed(0.06, 0.08, 0.08, 0.06, 0.04) == [40.0] * 5


def test_a_crowd_on_an_idle_server_counts_as_soon_as_its_cache_fills() -> None:
    """Nobody else holds any of it; nobody in service has had a first token either."""
    served = [with_first_tokens(replace(page(at, 0.0), kv_cache=0.04)) for at in range(6)]
    done = replace(served[-1], running=0.0, finished=served[-1].ttft[1], kv_cache=0.0)
    crowd = [replace(done, running=40.0, kv_cache=0.001 * (at + 1)) for at in range(4)]
    assert idle_of([*served, done, *crowd])[-4:] == [0.0] * 4
    assert (
        idle_of([*served, done, *(replace(one, kv_cache=0.0) for one in crowd)])[-4:] == [40.0] * 4
    )

"""Requests in service that only a gauge shows are not counted, and those that are served are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.gauges.service import Admissions, Service
from tests.adapter.collector.servers.gauges.test_queue import BATCH, SECONDS, page

SERVED_SECONDS, TOKENS = 4.0, 100


def idle(pages: Iterable[PodMetrics]) -> list[float]:
    """What each page after the first has in its gauge and not in service, as far as is known."""
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


def prompts(
    at: int, *, running: float = 2.0, waiting: float = 0.0, came: float = 0.0
) -> PodMetrics:
    """A page of TGI, which counts prompts as they come: `came` besides those that ended and two."""
    one = page(at, waiting, running=running, kv=None)
    counted = one.finished + 2.0 + came
    return replace(one, prompt_tokens=(100.0 * counted, counted), ttft=(0.0, 0.0), itl=(0.0, 0.0))


def beyond(pages: Iterable[PodMetrics]) -> list[tuple[bool, float, float]]:
    """Whether each page after the first says how many there can be, and what its two gauges have beyond."""
    admissions, (before, *others) = Admissions(), pages
    amounts = []
    for each in others:
        known = admissions.note(before, each)
        amounts.append((known, admissions.left, admissions.idle))
        before = each
    return amounts


def test_gauges_beyond_the_prompts_that_came_are_not_counted() -> None:
    """At servers that count them as they come: of any size, until the gauge is as before."""
    usual = [prompts(at) for at in range(5)]
    assert beyond(usual)[-1] == (True, 0.0, 0.0)
    queue = beyond([*usual, *(prompts(at, waiting=400.0) for at in range(5, 9)), prompts(9)])
    assert queue[4:] == [(True, 400.0, 0.0)] * 4 + [(True, 0.0, 0.0)]
    both = beyond([*usual, *(prompts(at, running=10.0, waiting=5.0) for at in range(5, 8))])
    assert both[4:] == [(True, 5.0, 8.0)] * 3


def test_requests_whose_prompts_came_count_at_once() -> None:
    """A queue or a batch of any size."""
    usual = [prompts(at) for at in range(5)]
    crowd = [prompts(at, running=30.0, waiting=400.0, came=428.0) for at in range(5, 8)]
    assert beyond([*usual, *crowd])[4:] == [(True, 0.0, 0.0)] * 3


def test_prompts_that_are_counted_as_requests_end_say_nothing() -> None:
    """Nor do those of a server whose first pages were read while it had no request."""
    assert not any(known for known, *_ in beyond(prompts(at, came=-2.0) for at in range(9)))
    assert not any(known for known, *_ in beyond(prompts(at, running=0.0) for at in range(9)))

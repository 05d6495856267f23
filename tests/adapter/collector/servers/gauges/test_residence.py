"""Servers without inter-token latencies (TGI, TensorRT-LLM): counts and gauges by Little's law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.plausibility import Plausibility
from tests.adapter.collector.servers.test_plausibility import page as with_latencies

INTERVAL, BATCH = 10.0, 8.0
FAULT = 12
"""Page from which on something is wrong."""


def page(
    finished: float, *, running: float = 2, waiting: float = 0, first: bool = True
) -> PodMetrics:
    """A page of requests with 100 input and 178 output tokens; `first`: with times to first token."""
    timed = with_latencies(finished, running=running, waiting=waiting)
    return replace(timed, ttft=timed.ttft if first else (0.0, 0.0), itl=(0.0, 0.0))


def usual(at: int) -> float:
    """Half a request a second, each of which takes four seconds."""
    return 5.0 * at


def problems(
    faulty: Callable[[int], PodMetrics], *, first: bool = True, number: int = 18
) -> list[str]:
    """What is wrong with each page from the fault on, in short."""
    checks = Plausibility(interval=INTERVAL)
    said = []
    for at in range(number):
        one = faulty(at) if at >= FAULT else page(usual(at), first=first)
        verdict = checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH)
        said.append(verdict.problem)
    assert not any(said[:FAULT])
    return said[FAULT:]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("more", [300.0, 5000.0])
def test_a_count_that_jumps_is_not_what_was_served(more: float, *, first: bool) -> None:
    """Requests take as long as before, so many more would have been in service than a batch holds."""
    jumped, *later = problems(lambda at: page(usual(at) + more, first=first), first=first)
    assert "its counters grew by more than it can have served" in jumped
    assert later[-1] == ""


def test_a_count_that_runs_ahead_is_not_believed_for_some_minutes() -> None:
    """After that it is: requests may have become others."""
    said = problems(
        lambda at: page(usual(FAULT) + 100.0 * (usual(at) - usual(FAULT - 1))), number=60
    )
    assert all("more than it can have served" in problem for problem in said[:12])
    assert said[-1] == ""


def test_busy_servers_are_not_doubted_for_longer() -> None:
    """When requests become twenty times as fast, counters are believed as soon on busy servers."""

    def doubted(rps: float) -> int:
        checks = Plausibility(interval=INTERVAL)
        said, finished = [], 0.0
        for at in range(150):
            finished += rps * INTERVAL * (1.0 if at < 60 else 20.0)
            one = page(finished, running=4 * rps, first=False)
            verdict = checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH)
            said.append(verdict.problem)
        assert not any(said[:60])
        return sum(map(bool, said))

    assert 0 < doubted(10.0) <= doubted(1000.0) <= 30


def test_a_count_of_requests_without_their_lengths_is_not_believed() -> None:
    """TGI counts both as a request ends."""
    normal = page(usual(FAULT), first=False)
    (said, *_) = problems(lambda at: replace(normal, finished=500.0 * at), first=False)
    assert "it has lengths of 5 requests where " in said


@pytest.mark.parametrize("first", [True, False])
def test_load_that_rises_tenfold_counts_at_once(*, first: bool) -> None:
    """Its requests are in service, and many more than the profile's batch may be."""

    def risen(at: int) -> PodMetrics:
        return page(usual(FAULT - 1) + 50.0 * (at - FAULT + 1), running=20, first=first)

    assert not any(problems(risen, first=first))


@pytest.mark.parametrize("first", [True, False])
def test_a_server_that_stands_still_is_named_within_two_pages(*, first: bool) -> None:
    """Its gauges jump once and stay, and of the requests in service none ends."""
    still, hung, *_ = problems(
        lambda _: page(usual(FAULT - 1), running=8, waiting=60, first=first), first=first
    )
    assert "nothing moved since its last page with 68 requests in service" in still
    assert "its numbers stand still with 68 requests in service" in hung


def test_a_few_long_requests_do_not_hang_the_server() -> None:
    """Two requests of a minute each, where all before took four seconds."""
    assert not any(problems(lambda at: page(usual(FAULT - 1) + 2 * ((at - FAULT) // 6))))


def test_tokens_that_stop_while_gauges_jump_are_seen_at_once() -> None:
    """With inter-token latencies one page is enough: requests that ran have had no token since."""

    def timed(one: PodMetrics) -> PodMetrics:
        return replace(one, itl=(0.02 * one.finished * 177, one.finished * 177))

    checks = Plausibility(interval=INTERVAL)
    for at in range(FAULT):
        verdict = checks.assess(
            "a", timed(page(usual(at))), now=at * INTERVAL, started=None, batch=BATCH
        )
        assert verdict.problem == ""
    frozen = timed(page(usual(FAULT - 1), running=8, waiting=60))
    verdict = checks.assess("a", frozen, now=FAULT * INTERVAL, started=None, batch=BATCH)
    assert "nothing moved since its last page with 68 requests in service" in verdict.problem


def test_a_long_answer_alone_is_told_while_its_server_says_nothing() -> None:
    """What comes to it is not known, and not fewer than before; from the next that ends on it is."""
    checks = Plausibility(interval=INTERVAL)
    said = []
    for at in range(FAULT + 12):
        long = FAULT <= at < FAULT + 9
        one = page(usual(min(at, FAULT) if long else at - 9 * (at > FAULT)), running=1, first=False)
        verdict = checks.assess("a", one, now=at * INTERVAL, started=None, batch=BATCH)
        said.append((verdict.silent, checks.note("a")))
    assert not any(silent or note for silent, note in said[:FAULT])
    told = [note for silent, note in said if silent]
    assert len(told) > 3
    assert all(note.startswith("nothing moved for ") for note in told[2:])
    assert said[-1] == (False, "")

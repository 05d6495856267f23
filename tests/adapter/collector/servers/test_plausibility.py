"""Pages that cannot be of one server that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.servers.plausibility import Plausibility

INTERVAL = 15.0


def page(
    finished: float, *, running: float = 0, waiting: float = 0, started_at: float | None = None
) -> PodMetrics:
    """A page of requests with 100 input and 178 output tokens of 21.4 ms."""
    return PodMetrics(
        finished=finished,
        running=running,
        waiting=waiting,
        prompt_tokens=(100 * finished, finished),
        generation_tokens=(178 * finished, finished),
        ttft=(0.05 * finished, finished),
        itl=(177 * 0.0214 * finished, 177 * finished),
        started_at=started_at,
    )


def problems(
    pages: Callable[[int], PodMetrics], number: int = 12, *, batch: float = 0.0
) -> list[str]:
    """What is wrong with each of these pages, one every scrape cycle; Unix time is monotonic time."""
    checks = Plausibility(interval=INTERVAL)
    return [
        checks.assess("a", one, now=at * INTERVAL, started=one.started_at, batch=batch).problem
        for at, one in ((at, pages(at)) for at in range(number))
    ]


def balanced(*bases: float, starts: bool) -> Callable[[int], PodMetrics]:
    """An address behind which servers answer in turn; each finishes 10 requests a minute."""

    def pages(at: int) -> PodMetrics:
        which = at % len(bases)
        start = -1000.0 * (which + 1) if starts else None
        return page(bases[which] + at * 2.5, started_at=start)

    return pages


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("bases", [(50000.0, 48000.0), (300.0, 500.0), (10.0, 4000.0, 900.0)])
def test_two_processes_behind_one_address_are_named(
    bases: tuple[float, ...], *, starts: bool
) -> None:
    """Start times or counters go back and forth: from the second change on the address counts as shared."""
    reported = problems(balanced(*bases, starts=starts))
    assert all("name one URL per replica" in text for text in reported[4:])
    assert sum(not text for text in reported) <= (1 if starts else 2)


def test_a_restart_is_no_problem() -> None:
    """A later start, or counters that begin again near zero, are one server's."""
    assert not any(problems(lambda at: page(at * 5.0 if at < 6 else (at - 6) * 5.0)))
    assert not any(
        problems(
            lambda at: (
                page(1000 + at * 5.0, started_at=-500.0)
                if at < 6
                else page((at - 6) * 5.0, started_at=80.0)
            )
        )
    )


def test_processes_that_end_one_after_another_at_the_same_numbers_do_not_hang() -> None:
    """One request ends each process before any other: each page has a start of its own."""
    assert not any(problems(lambda at: page(3.0, running=2, started_at=at * INTERVAL - 5.0)))
    assert any(problems(lambda _: page(3.0, running=2, started_at=-5.0)))


@pytest.mark.parametrize("finished", [2.0, 40.0, 90.0])
def test_a_fall_as_a_container_started_again_is_a_restart(finished: float) -> None:
    """However often, and whatever came since: Kubernetes says so where a page has no start time."""
    checks = Plausibility(interval=INTERVAL)
    for at in range(12):
        # Each process counts up to 120 within four pages.
        one = page(finished if at % 4 == 0 else 100 + 5.0 * (at % 4), running=4)
        again = INTERVAL * (at - at % 4) - 5
        said = checks.assess("a", one, now=at * INTERVAL, started=again, batch=64)
        assert (said.problem, said.forget) == ("", False)


@pytest.mark.parametrize("again", [-500.0, 20.0, 100.0])
def test_a_container_that_started_at_another_time_proves_no_restart(again: float) -> None:
    """Counters fall between the pages at 30 s and 45 s; later falls have no start of their own."""
    checks = Plausibility(interval=INTERVAL)
    for at, finished in enumerate((1000.0, 1005.0, 1010.0, 700.0)):
        said = checks.assess("a", page(finished), now=at * INTERVAL, started=again)
    assert "its counters fell" in said.problem


def test_counters_that_fall_without_a_restart_are_not_counted() -> None:
    """Until two pages are consistent again; then the server counts on."""
    reported = problems(lambda at: page((1000 if at < 6 else 700) + at * 5.0, started_at=-500.0))
    assert [bool(text) for text in reported] == [False] * 6 + [True] * 2 + [False] * 4
    assert "did not start anew" in reported[6]


def test_growth_beyond_what_a_server_can_do_is_not_counted() -> None:
    """2,000 requests of 178 tokens within 15 s would have been 500 in service at once."""
    reported = problems(lambda at: page((0 if at < 6 else 2000) + at * 5.0))
    assert "grew by more than it can have served" in reported[6]
    assert not any(problems(lambda at: page((0 if at < 6 else 2000) + at * 5.0), batch=256))


def test_a_hung_engine_is_named_within_two_scrapes() -> None:
    """Gauges that stand still with work, while nothing is counted; it counts again when it moves."""
    reported = problems(
        lambda at: (
            page(100 + 5.0 * at, running=8, waiting=60)
            if at < 4 or at > 8
            else page(115, running=8, waiting=60)
        )
    )
    assert [bool(text) for text in reported[:6]] == [False] * 4 + [True] * 2
    assert "its queue is not counted" in reported[4]
    assert "68 requests in service" in reported[5]
    assert not reported[9]


def test_an_idle_server_does_not_hang() -> None:
    """Nothing moves where nothing is to be done."""
    assert not any(problems(lambda _: page(100)))


def test_first_tokens_that_run_ahead_are_named() -> None:
    """Clients that go away leave first tokens behind, but not five times those that stay."""

    def pages(times: float) -> Callable[[int], PodMetrics]:
        def one(at: int) -> PodMetrics:
            done = page(10.0 * at, running=3)
            return replace(done, ttft=(0.05 * times * 10 * at, times * 10.0 * at))

        return one

    assert not any(problems(pages(3)))
    assert "first tokens" in problems(pages(6))[-1]


def test_what_a_counter_lost_may_come_back_at_once() -> None:
    """A counter that fell by 40 of 100 and is right again has not counted 40 requests in between."""

    def pages(at: int) -> PodMetrics:
        return page((60.0 if 4 <= at < 12 else 100.0) + 2.0 * at, started_at=-500.0)

    reported = problems(pages, number=20)
    assert [bool(text) for text in reported[3:7]] == [False, True, True, False]
    assert [bool(text) for text in reported[11:15]] == [False, True, True, False]


def test_lengths_of_more_requests_than_ended_are_named() -> None:
    """The lengths of 4,000 requests do not come from five."""

    def pages(at: int) -> PodMetrics:
        done = page(5.0 * at)
        count = done.generation_tokens[1] + (4000.0 if at >= 5 else 0.0)
        return replace(done, generation_tokens=(107.0 * count, count))

    assert "lengths of 4005 requests where 5 ended" in problems(pages)[5]


@pytest.mark.parametrize("skew", [-600.0, 600.0])
def test_a_restart_on_a_node_with_another_clock_is_a_restart(skew: float) -> None:
    """Ten minutes behind or ahead: counters from near zero and a new start time are one server's."""

    def pages(at: int) -> PodMetrics:
        if at < 6:
            return page(1000 + at * 5.0, started_at=-5000.0 + skew)
        return page((at - 6) * 5.0, started_at=85.0 + skew)

    assert not any(problems(pages))


@pytest.mark.parametrize("later", [-3.0, 3600.0])
def test_a_start_that_moves_while_counters_go_on_is_no_restart(later: float) -> None:
    """A clock was set, backward or forward: what was counted before did not come all at once."""

    def pages(at: int) -> PodMetrics:
        moved = at >= 6
        return page(100.0 + at * 5.0, started_at=6.0 * INTERVAL + later if moved else -500.0)

    reported = problems(pages)
    assert not any(reported[:6])
    assert "is the clock" in reported[6]
    assert not any(reported[8:])


def test_growth_since_copies_of_the_first_page_is_of_an_unknown_time() -> None:
    """A proxy had kept it for nobody knows how long; later pages are as old as they were read again."""
    checks = Plausibility(interval=INTERVAL)
    forgets, parts = [], []
    for at, count in enumerate((100.0, 100.0, 115.0, 115.0, 130.0)):
        assessed = checks.assess("a", page(count, running=2), now=at * INTERVAL, started=None)
        forgets.append(assessed.forget)
        parts.append("copies" in checks.part("a"))
    assert forgets == [False, False, True, False, False]
    assert parts == [False, False, True, True, False]


def test_first_tokens_that_lagged_and_come_at_once_are_none_of_new_requests() -> None:
    """Triton: one of five is missing for a while, and then not; clients that go away make none missing."""

    def untimed(at: int, first: float) -> PodMetrics:
        return replace(page(10.0 * at, running=2), ttft=(0.05 * first, first), itl=(0.0, 0.0))

    def lags(at: int) -> PodMetrics:
        return untimed(at, 8.0 * at + 42.0 if 20 <= at < 30 else 10.0 * at + 2.0)

    def left(at: int) -> PodMetrics:
        return untimed(at, 10.0 * at + (22.0 if at >= 30 else 2.0))

    reported = problems(lags, 36)
    assert not any(reported[:30])
    assert "first tokens at once" in reported[30]
    assert not any(reported[32:])
    assert not any(problems(left, 36))


@pytest.mark.parametrize(("share", "doubted"), [(1e-15, False), (1e-6, True)])
def test_a_sum_that_is_added_up_in_another_order_does_not_fall(
    share: float, *, doubted: bool
) -> None:
    """Prometheus adds up the series of a pod as they come; where nothing happened the last digit differs."""

    def pages(at: int) -> PodMetrics:
        one = page(1000.0)
        return replace(one, itl=(one.itl[0] * (1 - share * (at % 2)), one.itl[1]))

    assert pages(1).itl[0] < pages(0).itl[0]
    assert any(problems(pages)) == doubted


def tokens(page: PodMetrics, *, more_first: float = 0.0, step: float = 1.0) -> PodMetrics:
    """The page with more times of first tokens than requests, of a server that counts its tokens."""
    whole = step * (page.ttft[1] + page.itl[1])
    total, count = page.ttft
    return replace(page, ttft=(total, count + more_first), generated=whole, started_at=1.0)


@pytest.mark.parametrize(
    ("more", "step", "wrong"),
    [
        pytest.param(30.0, 1.0, True, id="thirty-too-many"),
        pytest.param(0.0, 1.0, False, id="none"),
        pytest.param(6.0, 1.0, False, id="a-step-apart"),
        pytest.param(30.0, 0.0, False, id="embeddings-generate-none"),
        pytest.param(30.0, 2.0, False, id="two-tokens-a-step"),
    ],
)
def test_first_tokens_that_were_not_generated_are_named(
    more: float, step: float, *, wrong: bool
) -> None:
    """Few enough for clients that went away: those would have had a token each, which was counted."""
    known = Plausibility(interval=10.0)
    for at in range(1, 4):
        known.assess("e", tokens(page(100.0 * at), step=step), now=10.0 * at, started=None)
    odd = tokens(page(400.0), more_first=more, step=step)
    assessed = known.assess("e", odd, now=40.0, started=None)
    assert ("times of" in assessed.problem) is wrong


def test_tokens_that_are_counted_when_requests_end_are_no_contradiction() -> None:
    """llm-d-inference-sim does so, and has a time of each token as it comes: no such server is held."""
    checks, timed, begun, reported = Plausibility(interval=10.0), 0.0, [0.0], []
    for at in range(1, 16):
        begun.append(begun[-1] + (10.0 if at < 8 else 40.0))
        ended = begun[max(at - 5, 0)]
        running = begun[-1] - ended
        timed += 400 * running
        shown = replace(
            page(ended, running=running, started_at=1.0),
            ttft=(0.1 * begun[-1], begun[-1]),
            itl=(0.02 * timed, timed),
            generation_tokens=(2000 * ended, ended),
            generated=2000 * ended,
        )
        reported.append(checks.assess("e", shown, now=10.0 * at, started=None, batch=256).problem)
    assert not any(reported)


@pytest.mark.parametrize(
    ("more", "waiting", "doubted"), [(1.0, 0.0, True), (0.2, 0.0, False), (1.0, 3.0, False)]
)
def test_more_requests_that_ended_than_began_without_a_queue(
    more: float, waiting: float, *, doubted: bool
) -> None:
    """Who ends had a first token, but for some errors and for clients that give up while they wait."""

    def counted(at: int) -> PodMetrics:
        # As trtllm-serve counts: tokens of all requests, without lengths of each.
        ended = 5.0 * (at + 1 + more * max(at - 4, 0))
        one = page(5.0 * (at + 1), running=2, waiting=waiting)
        tokens = (one.generation_tokens[0], ended)
        return replace(
            one, finished=ended, generation_tokens=tokens, prompt_tokens=tokens, itl=(0.0, 0.0)
        )

    said = problems(counted)
    assert ("requests that ended for" in said[-1]) is doubted
    assert not any(said[:5])

"""First pages of servers: what they count came since their start where that is possible."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter.collector.model_servers import PodMetrics
from adapter.collector.traffic import TrafficWindow
from adapter.collector.windows.growth import EMPTY, Sample, growth_of


def served(ended: float, *, timed: bool, running: float = 2.0) -> PodMetrics:
    """A page after that many requests of 178 tokens, 20 ms each."""
    return replace(
        EMPTY,
        finished=ended,
        running=running,
        prompt_tokens=(100.0 * ended, ended),
        generation_tokens=(178.0 * ended, ended),
        ttft=(0.05 * ended, ended),
        itl=(0.02 * 177.0 * ended, 177.0 * ended) if timed else (0.0, 0.0),
    )


def rate(first: PodMetrics, *, started: float) -> float:
    """Requests per second of a pod with one a second, and another whose first page comes at 30 s."""
    window = TrafficWindow(window_seconds=60)
    for second in range(0, 31, 10):
        window.add("a", served(second, timed=True), now=second)
    window.add("b", first, now=30, started=started)
    traffic = window.traffic(now=30)
    assert traffic is not None
    return traffic.arrival_rate_rps


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("started", [10.0, 25.0, 30.0])
def test_a_start_of_a_moment_ago_does_not_bring_what_days_served(
    started: float, *, timed: bool
) -> None:
    """A proxy that writes the page has a start of its own, or a clock moved."""
    assert rate(served(1e5, timed=timed), started=started) == pytest.approx(1.0)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("running", [0.0, 200.0])
def test_a_new_server_that_is_busy_at_once_counts(running: float, *, timed: bool) -> None:
    """The clock of its node may be some seconds ahead; 300 requests of 3.6 s came within 25."""
    assert rate(served(300.0, timed=timed, running=running), started=12.0) > 10.0


def test_a_restart_in_the_future_came_since_the_last_page() -> None:
    """The clock of its node is an hour ahead: what came within ten seconds did not come at once."""
    before = Sample(0.0, replace(served(100.0, timed=True), started_at=-500.0))
    after = replace(served(5.0, timed=True, running=0.0), started_at=3605.0)
    grown = growth_of("pod", before, after, 10.0, 3605.0)
    assert (grown.since, grown.at, grown.arrivals) == (0.0, 10.0, 5.0)


@pytest.mark.parametrize(
    ("started", "away", "unseen"),
    [(6.0, False, 6.0), (None, False, 10.0), (-2.0, False, 10.0), (6.0, True, 0.0)],
    ids=["known", "not known", "by a clock that is behind", "not listed as ready meanwhile"],
)
def test_what_came_before_a_process_began_anew_is_not_known(
    started: float | None, *, away: bool, unseen: float
) -> None:
    """From the last page until then; of a start that is not known, until the next page."""
    before = Sample(0.0, served(100.0, timed=True))
    grown = growth_of("pod", before, served(2.0, timed=True), 10.0, started, away=away)
    assert (grown.arrivals, grown.unseen) == (4.0, unseen)


@pytest.mark.parametrize(
    ("restarts", "part"), [((33.0,), False), ((39.0,), False), ((36.0, 56.0), True)]
)
def test_the_load_of_servers_that_begin_anew_is_a_part_where_much_is_unseen(
    restarts: tuple[float, ...], *, part: bool
) -> None:
    """Once is little; so is a tenth of the time of all, so that one of ten servers holds no target."""
    for others in (0, 9):
        window = TrafficWindow(window_seconds=60)
        for at in range(0, 61, 10):
            began = max((it for it in restarts if it <= at), default=-1000.0)
            page = served(at - began, timed=False)
            window.add("a", page, now=at, started=began if began > 0 else None)
            for other in range(others):
                window.add(f"b{other}", served(1000.0 + at, timed=False), now=at)
        assert bool(window.part("a", now=60)) is (part and others < 9)


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({10: 9.0, 20: 9.0, 30: 9.0}, id="at once"),
        pytest.param({20: 9.0, 30: 9.0}, id="late"),
        pytest.param({10: 12.0, 20: 12.0, 30: 12.0}, id="by a clock that is ahead"),
    ],
)
def test_a_container_that_started_just_before_a_page_counts_once(known: dict[int, float]) -> None:
    """The page after the start counts from it, and each later page from the page before."""
    window = TrafficWindow(window_seconds=60)
    for at, finished in ((0, 6.0), (10, 1.0), (20, 3.0), (30, 5.0)):
        page = served(finished, timed=False)
        window.add("a", page, now=at, started=known.get(at))
    assert [item.arrivals for item in window._growth] == [3.0, 2.0, 2.0]


def test_a_container_that_ended_after_as_few_requests_as_the_one_before_began_anew() -> None:
    """Both had served 6 when they were read: 6 requests and those in service came, not none."""
    before = Sample(0.0, served(6.0, timed=False))
    assert growth_of("pod", before, served(6.0, timed=False), 10.0, 2.0).arrivals == 8.0
    assert growth_of("pod", before, served(6.0, timed=False), 10.0, None).arrivals == 0.0
    many = Sample(0.0, served(60.0, timed=False))
    assert growth_of("pod", many, served(65.0, timed=False), 10.0, 2.0).arrivals == 5.0
